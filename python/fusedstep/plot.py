"""Learning curves."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence

from ._extras import require
from .history import History

LINES = (  # the colours differ in brightness too, and the dashes are for those who print in black or see few colours
    ("#00539c", "-"),
    ("#d95f02", "--"),
    ("#2f7d4f", "-."),
    ("#8c1c6a", ":"),
    ("#6b6b6b", (0, (6, 1, 1, 1, 1, 1))),
    ("#c9a200", (0, (3, 1))),
)
"""Colour and dashes of the lines of a panel, one method each."""
(_TRAIN, _), (_VALIDATION, _), *_others = LINES
_METRICS = tuple((color, dashes) for (color, _), (_, dashes) in zip(_others, LINES, strict=False))
_TRAIN_LINE, _BEST = "--", "#444444"


def room(low: float, high: float, share: float) -> float:
    """What an axis leaves beyond both its ends; where they are one, what does not vanish beside it in rounding."""
    return share * (high - low) or 0.05 * abs(low) or 1.0


def plot_histories(histories: Sequence[History], titles: Sequence[str] = (), *, path: str | os.PathLike | None = None):
    """Draw the loss of one run or of several, a panel each, on common axes; of one, its metrics below.

    The best epoch is marked. From there on, where the validation loss lies above the train loss and above its own
    minimum, the area between the two is shaded as overfitting. Metrics in [0, 1] share a panel, and every other one has
    its own.

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
        There is nothing to draw, or the titles are not as many as the histories.
    """
    histories = list(histories)
    if not any(history.rows for history in histories):
        raise ValueError("[plot] there is no epoch to draw")
    if titles and len(titles) != len(histories):
        raise ValueError(f"[plot] 'titles' must be one for each of {len(histories)} histories but got {len(titles)}")
    require("matplotlib", extra="plot")
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    one = len(histories) == 1
    figure, panels, below = _one(Figure, histories[0]) if one else _several(Figure, len(histories))
    columns = min(3, len(histories))
    for i, (panel, history) in enumerate(zip(panels, histories, strict=True)):
        _draw(panel, history)
        panel.set_title(titles[i] if titles else "", fontsize=11)
        if i % columns == 0:
            panel.set_ylabel("loss (mean over samples)")
        if i + columns >= len(histories) and not below:
            panel.set_xlabel("epoch")
            panel.tick_params(labelbottom=True)
    for panel in (*panels, *below):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(alpha=0.25)
    losses = [value for history in histories for value in _finite(history)]
    if losses and min(losses) > 0:
        panels[0].set_yscale("log")  # the panels share it
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    _legend(figure, panels)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _several(Figure, number: int):
    """A figure with a panel for each of several runs."""
    columns = min(3, number)
    lines = math.ceil(number / columns)
    figure = Figure(figsize=(3.6 * columns, 3.1 * lines + 0.4), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for panel in panels[number:]:
        panel.remove()
    return figure, panels[:number], []


def _one(Figure, history: History):
    """A figure of one run: the panel of its loss, and below it those of its metrics, which are drawn."""
    groups = _metric_groups(history)
    heights = [4.4, *([2.0] * len(groups))]
    figure = Figure(figsize=(6.4, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    panel, *below = grid[:, 0]
    styles = itertools.cycle(_METRICS)
    epochs, best = history.column("epoch"), history.best_epoch
    for metric_panel, names in zip(below, groups, strict=True):
        for name, (color, line) in zip(names, styles, strict=False):
            values = history.column(name)
            shown = name.removeprefix("validation_")
            metric_panel.plot(epochs, values, linestyle=line, color=color, label=shown, **_points(values))
        if best is not None:
            metric_panel.axvline(best, color=_BEST, linewidth=1, linestyle=":")
        if len(names) == 1:
            metric_panel.set_ylabel(f"validation {shown}")
        else:
            metric_panel.set_ylabel("validation metrics")
            metric_panel.legend()
    if below:
        below[-1].set_xlabel("epoch")
    return figure, [panel], below


def _metric_groups(history: History) -> list[list[str]]:
    """The columns of metrics, a list for each panel."""
    names = [n for n in history.rows[0] if n.startswith("validation_") and n != "validation_loss"]
    shares, others = [], []
    for name in names:
        finite = [value for value in history.column(name) if math.isfinite(value)]
        (shares if all(0 <= value <= 1 for value in finite) else others).append(name)
    return [group for group in (shares, *([name] for name in others)) if group]


def _points(values: list) -> dict:
    """How points are drawn where a finite value has no finite neighbour that a line could join it to."""
    finite = [False, *map(math.isfinite, values), False]
    alone = [i - 1 for i in range(1, len(finite) - 1) if finite[i] and not finite[i - 1] and not finite[i + 1]]
    return {"marker": "o", "markevery": alone} if alone else {}


def _draw(panel, history: History) -> None:
    epochs = history.column("epoch")
    train = history.column("train_loss")
    panel.plot(epochs, train, _TRAIN_LINE, color=_TRAIN, label="train", **_points(train))
    if history.rows and "validation_loss" in history.rows[0]:
        losses = history.column("validation_loss")
        panel.plot(epochs, losses, color=_VALIDATION, label="validation", **_points(losses))
        best = history.best_epoch
        if best is not None:
            _shade(panel, epochs, train, losses, epochs.index(best))
            panel.axvline(best, color=_BEST, linewidth=1, linestyle=":")
            panel.plot(best, losses[epochs.index(best)], "o", color=_BEST, markersize=6, label="best epoch")


def _shade(panel, epochs: list, train: list, validation: list, best: int) -> None:
    """Where the two part: from the minimum on, or from a best epoch after it, which another column has decided."""
    lowest = min((value for value in validation if not math.isnan(value)), default=None)
    if lowest is None:
        return
    start = max(best, validation.index(lowest))
    epochs, train, validation = epochs[start:], train[start:], validation[start:]
    above = [v > t for t, v in zip(train, validation, strict=True)]
    if any(apart and v > lowest for apart, v in zip(above, validation, strict=True)):
        panel.fill_between(
            epochs,
            train,
            validation,
            where=above,
            interpolate=True,
            color=_VALIDATION,
            alpha=0.2,
            linewidth=0,
            label="overfitting",
        )


def _finite(history: History) -> list[float]:
    names = ("train_loss", "validation_loss")
    values = [row[name] for row in history.rows for name in names if name in row]
    return [value for value in values if math.isfinite(value)]


def _legend(figure, panels) -> None:
    found = {}  # a run may lack what another has
    for panel in panels:
        found = dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True)) | found
    if len(panels) == 1:
        panels[0].legend(found.values(), found.keys())
    else:
        figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=len(found), frameon=False)
