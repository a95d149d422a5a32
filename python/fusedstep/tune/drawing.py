"""Losses against step sizes."""

from __future__ import annotations

import math
import os
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from .._extras import require
from ..plot import LINES, room

if TYPE_CHECKING:
    from .range_test import RangeTest
    from .result import StepSizeSweep

_RAW = "#999999"


def plot_sweep(sweep: StepSizeSweep, path: str | os.PathLike | None):
    """See `StepSizeSweep.plot`."""
    if not sweep.rows:
        raise ValueError("[StepSizeSweep] there is no run to draw")
    figure, panel = _figure()
    cells = sweep.summary()
    scale, bottom, top = _loss_axis(cells)
    # An infinite edge is drawn beyond the panel's upper one, otherwise the band would end before it.
    beyond = top + 1e3 * (top - bottom)
    for name, (color, dashes) in zip(sweep.optimizers, cycle(LINES), strict=False):
        own = [cell for cell in cells if cell["optimizer"] == name]
        lrs = [cell["lr"] for cell in own]
        lower, median, upper = (
            np.minimum([cell[which] for cell in own], beyond) for which in ("lower", "median", "upper")
        )
        panel.fill_between(lrs, lower, upper, color=color, alpha=0.18, linewidth=0)
        finite = [math.isfinite(cell["median"]) for cell in own]
        values = np.where(finite, median, np.nan)
        panel.plot(lrs, values, linestyle=dashes, marker="o", markersize=4, color=color, label=name)
        gone = [cell["lr"] for cell in own if not math.isfinite(cell["median"])]
        panel.plot(gone, [0.97] * len(gone), "x", color=color, transform=panel.get_xaxis_transform())
    panel.set(xscale="log", xlabel="step size", ylabel="validation loss after the last epoch")
    panel.set(yscale=scale, ylim=(bottom, top))
    return _finished(figure, panel, path)


def plot_range_test(test: RangeTest, path: str | os.PathLike | None):
    """See `RangeTest.plot`."""
    figure, panel = _figure()
    (color, _), (marked, _) = LINES[:2]
    panel.plot(test.lrs, test.losses, color=_RAW, linewidth=0.8, alpha=0.6, label="each batch")
    # Drawn where it is, as an explosion does not lag; what is suggested lies before where the curve shows it.
    late = f", {test.lag} batches late" if test.lag else ""
    panel.plot(test.lrs, test.smoothed, color=color, label=f"smoothed{late}")
    for lr, dashes, label in ((test.steepest, "--", "steepest descent"), (test.tenth_of_minimum, ":", "minimum / 10")):
        if lr is not None:
            panel.axvline(lr, color=marked, linestyle=dashes, linewidth=1.2, label=f"{label}: {lr:.2g}")
    panel.set(xscale="log", xlabel="step size", ylabel="training loss")
    finite = test.smoothed[np.isfinite(test.smoothed)].tolist()
    if finite:
        low, high = min(finite), min(max(finite), finite[0] + abs(finite[0]))
        beyond = room(low, high, 0.1)
        panel.set_ylim(low - beyond, high + beyond)
    return _finished(figure, panel, path)


def _loss_axis(cells: list[dict]) -> tuple[str, float, float]:
    """Scale and ends of the axis of the losses: one far beyond the others is as good as infinite."""
    lower, medians = ([cell[which] for cell in cells if math.isfinite(cell[which])] for which in ("lower", "median"))
    if not lower + medians:
        return "linear", 0.0, 1.0
    lowest, highest = min(lower + medians), max(medians or lower)
    if lowest > 0:
        return "log", lowest / 1.3, min(highest, 1e3 * lowest) * 1.3
    beyond = room(lowest, highest, 0.05)
    return "linear", lowest - beyond, highest + beyond


def _figure():
    require("matplotlib", extra="plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    return figure, figure.subplots()


def _finished(figure, panel, path):
    panel.grid(alpha=0.25)
    panel.legend()
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
