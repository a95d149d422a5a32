"""Paths on curves and over level lines, and values by step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from itertools import cycle

import numpy as np

from .._extras import require
from ..plot import LINES
from .descent import Trajectory
from .functions import Function
from .noise import Band

_CURVE, _MINIMUM = "#777777", "#222222"


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
        There is nothing to draw, or not in one dimension.
    """
    ((low, high),) = _domain("plot_steps", function, 1)
    _check_paths("plot_steps", paths, ())
    grid = np.linspace(low, high, 400)
    curve = np.array([function.f(x) for x in grid])
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
    room = 0.08 * (curve.max() - curve.min())
    figure.axes[0].set(xlim=(low, high), ylim=(curve.min() - room, curve.max() + room))
    for i, panel in enumerate(figure.axes):
        panel.set_ylabel("f(x)" if i % columns == 0 else "")
        if i + columns >= len(paths):
            panel.set_xlabel("x")
            panel.tick_params(labelbottom=True)
    return _saved(figure, path)


def plot_levels(function: Function, paths: Mapping[str, Trajectory], *, path: str | os.PathLike | None = None):
    """Draw paths over the level lines of a function of two dimensions, which lie closer where it is lower.

    Parameters, result and errors as of `plot_steps`. A star marks each minimum, a ring the start.
    """
    (x_low, x_high), (y_low, y_high) = domain = _domain("plot_levels", function, 2)
    _check_paths("plot_levels", paths, (2,))
    grid = [np.linspace(*ends, 160) for ends in domain]
    heights = np.array([[function.f(np.array([x, y])) for x in grid[0]] for y in grid[1]])
    lowest = min([heights.min(), *(function.f(x) for x in function.minima)])
    heights = heights - lowest
    figure = _figure(6.4, 6.4 * min(1.2, max(0.6, (y_high - y_low) / (x_high - x_low))) + 0.4)
    panel = figure.subplots()
    levels = np.geomspace(heights.max() / 3e3, heights.max(), 14)
    panel.contour(*grid, heights, levels=levels, colors=_CURVE, linewidths=0.7, alpha=0.7)
    for x in function.minima:
        panel.plot(*x, "*", color=_MINIMUM, markersize=11, zorder=4)
    few = 60  # markers on more points than that would hide the line
    for (label, run), (color, dashes) in zip(paths.items(), cycle(LINES), strict=False):
        marker = {"marker": "o", "markersize": 3} if run.steps <= few else {}
        panel.plot(*run.points.T, dashes, color=color, linewidth=1.4, label=label, **marker)
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

    A line that grows a hundredfold beyond all starts leaves the panel.

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
    for (label, run), (color, dashes) in zip(runs.items(), cycle(LINES), strict=False):
        values = _above(run.median if isinstance(run, Band) else run.values, minimum)
        steps = np.arange(len(values)) + (1 if log_steps else 0)
        panel.plot(steps, values, dashes, color=color, linewidth=1.4, label=label)
        if isinstance(run, Band):
            edges = _above(run.lower, minimum), _above(run.upper, minimum)
            panel.fill_between(steps, *edges, color=color, alpha=0.2, linewidth=0)
    panel.set_yscale("log")
    _leave_out_divergence(panel)
    if log_steps:
        panel.set_xscale("log")
    panel.set(xlabel="step, from 1" if log_steps else "step", ylabel="f(x) - minimum" if minimum else "f(x)")
    panel.grid(alpha=0.25)
    panel.legend()
    return _saved(figure, path)


def _above(values: np.ndarray, minimum: float) -> np.ndarray:
    """What can be drawn on a logarithmic scale, which has room for its own margins; the rest is NaN."""
    above = values - minimum
    return np.where((above < 1e100) & (above > 1e-100), above, np.nan)


def _leave_out_divergence(panel) -> None:
    """A line that grows far beyond all starts leaves the panel, in which the others would be flat."""
    drawn = [line.get_ydata() for line in panel.get_lines()]
    starts = [values[0] for values in drawn if values[0] > 0]
    if starts and max(np.nanmax(values, initial=0) for values in drawn) > 100 * max(starts):
        panel.set_ylim(top=10 * max(starts))


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
