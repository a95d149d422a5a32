"""Learning curves."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from ._extras import require
from .history import History

_TRAIN, _VALIDATION, _BEST = "#1f77b4", "#d95f02", "#444444"


def plot_histories(histories: Sequence[History], titles: Sequence[str] = (), *, path: str | os.PathLike | None = None):
    """Draw the loss of one run or of several, a panel each, on common axes.

    Parameters
    ----------
    histories : sequence of History
    titles : sequence of str
        A title for each panel.
    path : str or path, optional
        Also save the figure there; the suffix decides the format.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        matplotlib is missing.
    ValueError
        There is nothing to draw.
    """
    histories = list(histories)
    if not any(history.rows for history in histories):
        raise ValueError("[plot] there is no epoch to draw")
    require("matplotlib", extra="plot")
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    columns = min(3, len(histories))
    lines = math.ceil(len(histories) / columns)
    figure = Figure(figsize=(6.4, 4.4) if columns == 1 else (3.6 * columns, 3.1 * lines + 0.4), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for i, (panel, history) in enumerate(zip(panels, histories, strict=False)):
        _draw(panel, history)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(titles[i] if titles else "", fontsize=11)
        if i % columns == 0:
            panel.set_ylabel("loss (mean over samples)")
        if i + columns >= len(histories):
            panel.set_xlabel("epoch")
            panel.tick_params(labelbottom=True)
    losses = [value for history in histories for value in _finite(history)]
    if losses and min(losses) > 0:
        panels[0].set_yscale("log")  # the panels share it
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    for panel in panels[len(histories) :]:
        panel.remove()
    _legend(figure, panels, len(histories))
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw(panel, history: History) -> None:
    epochs = history.column("epoch")
    # A single epoch has no line, so points are drawn as well.
    marker = "o" if len(epochs) == 1 else None
    panel.plot(epochs, history.column("train_loss"), color=_TRAIN, marker=marker, label="train")
    if history.rows and "validation_loss" in history.rows[0]:
        losses = history.column("validation_loss")
        panel.plot(epochs, losses, color=_VALIDATION, marker=marker, label="validation")
        best = history.best_epoch
        if best is not None:
            panel.axvline(best, color=_BEST, linewidth=1, linestyle=":")
            panel.plot(best, losses[epochs.index(best)], "o", color=_BEST, markersize=6, label="best epoch")
    panel.grid(alpha=0.25)


def _finite(history: History) -> list[float]:
    names = ("train_loss", "validation_loss")
    values = [row[name] for row in history.rows for name in names if name in row]
    return [value for value in values if math.isfinite(value)]


def _legend(figure, panels, used: int) -> None:
    handles, labels = panels[0].get_legend_handles_labels()
    if used == 1:
        panels[0].legend(handles, labels)
    else:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), frameon=False)
