"""Paths on curves and over level lines, and values by step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from itertools import cycle

import numpy as np

from .._extras import require
from ..plot import LINES, room
from .descent import Trajectory, value_at
from .functions import Function
from .noise import Band

_CURVE, _MINIMUM = "#777777", "#222222"
_SMALLEST, _LARGEST = 1e-100, 1e100  # what is beyond counts as 0 or infinite: differences and margins overflow


def plot_steps(function: Function, paths: Mapping[str, Trajectory], *, path: str | os.PathLike | None = None):
    """Draw the points of each path on the curve of a function of one dimension, a panel each.

    Parameters
    ----------
    function : Function
        With a domain.
    paths : dict of str to Trajectory
        By their titles. Where a path leaves the domain, so does its line.
    path : str or path, optional
        Also save the figure there; the suffix decides the format.

    Returns
    -------
    matplotlib.figure.Figure
        Made without pyplot: no window opens and no global state changes.

    Raises
    ------
    ImportError
        matplotlib is missing.
    TypeError, ValueError
        There is nothing to draw, not in one dimension, or the function is finite nowhere in its domain, where what is
        beyond 1e100 counts as infinite.
    """
    ((low, high),) = _domain("plot_steps", function, 1)
    _check_paths("plot_steps", paths, ())
    grid = np.linspace(low, high, 400)
    curve = _finite_values("plot_steps", function, grid)
    columns = min(3, len(paths))
    lines = math.ceil(len(paths) / columns)
    figure = _figure(3.6 * columns, 3.0 * lines)
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for panel, (title, run), (color, _) in zip(panels, paths.items(), cycle(LINES), strict=False):
        panel.plot(grid, curve, color=_CURVE, linewidth=1)
        for x in function.minima:
            panel.plot(x, function.f(x), "*", color=_MINIMUM, markersize=9)
        shown = np.isfinite(run.values) & np.isfinite(run.points)
        panel.plot(run.points[shown], run.values[shown], "o-", color=color, markersize=4, linewidth=1, alpha=0.8)
        panel.plot(run.points[0], run.values[0], "o", color=color, markersize=8, markerfacecolor="white")
        panel.set_title(title, fontsize=11)
        panel.grid(alpha=0.25)
    for panel in panels[len(paths) :]:
        panel.remove()
    bottom, top = np.nanmin(curve), np.nanmax(curve)
    beyond = room(bottom, top, 0.08)
    figure.axes[0].set(xlim=(low, high), ylim=(bottom - beyond, top + beyond))
    for i, panel in enumerate(figure.axes):
        panel.set_ylabel("f(x)" if i % columns == 0 else "")
        if i + columns >= len(paths):
            panel.set_xlabel("x")
            panel.tick_params(labelbottom=True)
    return _saved(figure, path)


def plot_levels(function: Function, paths: Mapping[str, Trajectory], *, path: str | os.PathLike | None = None):
    """Draw paths over the level lines of a function of two dimensions, which lie closer where it is lower.

    Parameters, result and errors as of `plot_steps`. A star marks each minimum, a ring the start; where the function is
    not finite the panel is grey, and where it is constant there are no lines.
    """
    (x_low, x_high), (y_low, y_high) = domain = _domain("plot_levels", function, 2)
    _check_paths("plot_levels", paths, (2,))
    grid = [np.linspace(*ends, 160) for ends in domain]
    heights = _finite_values("plot_levels", function, np.stack(np.meshgrid(*grid), axis=-1))
    heights -= np.nanmin([np.nanmin(heights), *(function.f(x) for x in function.minima)])
    figure = _figure(6.4, 6.4 * min(1.2, max(0.6, (y_high - y_low) / (x_high - x_low))) + 0.4)
    panel = figure.subplots()
    if (nowhere := np.isnan(heights)).any():
        panel.contourf(*grid, nowhere, levels=(0.5, 1.5), colors=_CURVE, alpha=0.2)
    bottom, top = max(np.nanmin(heights), np.nanmax(heights) / 3e3), np.nanmax(heights)
    if bottom < top:
        panel.contour(*grid, heights, levels=np.geomspace(bottom, top, 14), colors=_CURVE, linewidths=0.7, alpha=0.7)
    for x in function.minima:
        panel.plot(*x, "*", color=_MINIMUM, markersize=11, zorder=4)
    few = 60  # markers on more points than that would hide the line
    for (label, run), (color, dashes) in zip(paths.items(), cycle(LINES), strict=False):
        marker = {"marker": "o", "markersize": 3} if run.steps <= few else {}
        panel.plot(*run.points.T, linestyle=dashes, color=color, linewidth=1.4, label=label, **marker)
        panel.plot(*run.points[0], "o", color=color, markersize=8, markerfacecolor="white", zorder=5)
    panel.set(xlim=(x_low, x_high), ylim=(y_low, y_high), xlabel="x", ylabel="y", title=function.name, aspect="equal")
    figure.legend(loc="outside lower center", ncols=min(4, len(paths)), frameon=False)
    return _saved(figure, path)


def plot_values(
    runs: Mapping[str, Trajectory | Band],
    *,
    minimum: float = 0.0,
    log_steps: bool = False,
    path: str | os.PathLike | None = None,
):
    """Draw the function's value against the step, on a logarithmic scale; of bands the median and the area between.

    A line or a band that grows a hundredfold beyond all starts leaves the panel.

    Parameters
    ----------
    runs : dict of str to Trajectory or Band
        By what the legend calls them.
    minimum : float
        What is taken off, the value at the minimum: then a straight line is convergence at a constant rate.
    log_steps : bool
        A logarithmic scale for the steps as well: then a straight line is a power of the step.
    path : str or path, optional
        Also save the figure there; the suffix decides the format.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        matplotlib is missing.
    TypeError, ValueError
        There is nothing to draw.
    """
    _check_runs("plot_values", runs, (Trajectory, Band))
    figure = _figure(6.4, 4.4)
    panel = figure.subplots()
    with np.errstate(over="ignore"):
        lines = {label: (run.median if isinstance(run, Band) else run.values) - minimum for label, run in runs.items()}
        bands = {
            label: (run.lower - minimum, run.upper - minimum) for label, run in runs.items() if isinstance(run, Band)
        }
    limits = _value_limits([*lines.values(), *(edge for edges in bands.values() for edge in edges)])
    for (label, values), (color, dashes) in zip(lines.items(), cycle(LINES), strict=False):
        steps = np.arange(len(values)) + (1 if log_steps else 0)
        panel.plot(steps, _drawable(values), linestyle=dashes, color=color, linewidth=1.4, label=label)
        if label in bands:
            # An edge at 0 or infinity is drawn beyond the panel's, otherwise the band would end before it.
            edges = (np.clip(edge, _SMALLEST**2, _LARGEST**2) for edge in bands[label])
            panel.fill_between(steps, *edges, color=color, alpha=0.2, linewidth=0)
    panel.set(yscale="log", ylim=limits)
    if log_steps:
        panel.set_xscale("log")
    panel.set(xlabel="step, from 1" if log_steps else "step", ylabel="f(x) - minimum" if minimum else "f(x)")
    panel.grid(alpha=0.25)
    panel.legend()
    return _saved(figure, path)


def _finite_values(where: str, function: Function, points: np.ndarray) -> np.ndarray:
    """The function at a grid of points, with NaN where it is as good as infinite; raise where it is so everywhere."""
    shape = points.shape[: len(function.domain)]
    with np.errstate(all="ignore"):
        values = np.array([value_at(where, function.f, points[i]) for i in np.ndindex(shape)]).reshape(shape)
        finite = np.abs(values) < _LARGEST
    if not finite.any():
        known = f"(beyond {_LARGEST:g} counts as infinite)"
        raise ValueError(f"[{where}] 'function' is finite nowhere in its domain {function.domain} {known}")
    return np.where(finite, values, np.nan)


def _drawable(values: np.ndarray) -> np.ndarray:
    """What can be drawn on a logarithmic scale, which has room for its own margins; the rest is NaN."""
    return np.where((values < _LARGEST) & (values > _SMALLEST), values, np.nan)


def _value_limits(series: list[np.ndarray]) -> tuple[float, float]:
    """Ends of the panel: what grows far beyond all starts leaves it, as the rest would be flat beside it."""
    drawn = [_drawable(values) for values in series]
    everything = np.concatenate(drawn)
    if np.isnan(everything).all():
        return 1.0, 10.0
    low, high = np.nanmin(everything), np.nanmax(everything)
    margin = max((high / low) ** 0.05, 1.05)
    starts = [values[0] for values in drawn if values[0] > 0]
    return low / margin, 10 * max(starts) if starts and high > 100 * max(starts) else high * margin


def _figure(width: float, height: float):
    require("matplotlib", extra="plot")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure, path):
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _domain(where: str, function: Function, dimensions: int) -> tuple:
    if not isinstance(function, Function):
        raise TypeError(f"[{where}] 'function' must be a fusedstep.landscape.Function but got {function!r}")
    if function.domain is None or len(function.domain) != dimensions:
        raise ValueError(f"[{where}] 'function' must have a domain of {dimensions} (low, high) but {function.domain!r}")
    return function.domain


def _check_runs(where: str, runs, kinds: tuple) -> None:
    names = " or ".join(kind.__name__ for kind in kinds)
    if not isinstance(runs, Mapping) or not all(isinstance(run, kinds) for run in runs.values()):
        raise TypeError(f"[{where}] takes a dict of names and {names} but got {runs!r}")
    if not runs:
        raise ValueError(f"[{where}] there is nothing to draw")


def _check_paths(where: str, paths, shape: tuple) -> None:
    _check_runs(where, paths, (Trajectory,))
    for name, run in paths.items():
        if run.points is None or run.points.shape[1:] != shape:
            got = "keeps none (keep_points=False)" if run.points is None else f"has those of {run.points.shape[1:]}"
            raise ValueError(f"[{where}] paths must have points of shape {shape} but {name!r} {got}")
