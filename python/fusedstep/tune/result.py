"""What a sweep gives."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass

from .._files import atomic_write
from .._quantiles import check_levels, quantiles
from ..history import from_json_value, to_json_value
from ..reference.scalars import check_finite, check_range

_LOSSES = ("validation_loss", "best_validation_loss")
_NOT_FINITE = ("inf", "-inf", "nan")  # as `to_json` writes them
_KINDS = {
    "optimizer": (str, "a name"),
    "lr": ((int, float), "a number"),
    "seed": (int, "an integer"),
    **dict.fromkeys(_LOSSES, ((int, float), "a number")),
    "best_epoch": ((int, type(None)), "an integer or null"),
    "diverged": (bool, "true or false"),
}
"""What a row is made of: the types, and what a message calls them."""


@dataclass(repr=False)
class StepSizeSweep:
    """What `step_size_sweep` returns; printing it gives a table.

    Attributes
    ----------
    rows : list of dict
        One a run: `optimizer`, `lr`, `seed`, `validation_loss` (of the last epoch; infinite where the run diverged),
        `best_validation_loss` and `best_epoch` (of the epochs before that), `diverged`. Optimizers in the order they
        were given, then step sizes that rise, then seeds.

    Examples
    --------
    >>> losses = {1e-3: 2.0, 1e-2: 1.0, 1e-1: 1.05, 1.0: float("inf")}
    >>> sweep = StepSizeSweep([{"optimizer": "SGD", "lr": lr, "seed": 0, "validation_loss": loss,
    ...                         "diverged": loss == float("inf")} for lr, loss in losses.items()])
    >>> sweep
    optimizer     lr  lower  median  upper  diverged
    SGD        0.001      2       2      2        0%
    SGD         0.01      1       1      1        0%
    SGD          0.1   1.05    1.05   1.05        0%
    SGD            1    inf     inf    inf      100%
    >>> sweep.best()["SGD"]["lr"], sweep.width(tolerance=0.1)
    (0.01, {'SGD': 1.1})
    """

    rows: list[dict]

    @property
    def optimizers(self) -> list[str]:
        """Their names, in the order they were given."""
        return list(dict.fromkeys(row["optimizer"] for row in self.rows))

    def summary(self, quantiles: tuple[float, float, float] = (0.1, 0.5, 0.9)) -> list[dict]:
        """Over the seeds: `optimizer`, `lr`, the quantiles of the final validation loss, and how many runs diverged.

        Parameters
        ----------
        quantiles : three floats
            Which ones `lower`, `median` and `upper` are. A run that diverged counts as infinite.

        Returns
        -------
        list of dict
            Rows with `optimizer`, `lr`, `lower`, `median`, `upper` and `diverged`, a share; optimizers in the order
            they were given, step sizes that rise.
        """
        levels = check_levels("StepSizeSweep", quantiles)
        cells: dict[str, dict[float, list[dict]]] = {}
        for row in self.rows:
            cells.setdefault(row["optimizer"], {}).setdefault(row["lr"], []).append(row)
        # Of rows in whatever order: `width` and `plot` go from one step size to the next.
        return [_summary(name, lr, own[lr], levels) for name, own in cells.items() for lr in sorted(own)]

    def best(self) -> dict[str, dict | None]:
        """For each optimizer the row of `summary` with the lowest median; None where every step size diverged."""
        return {name: _lowest(self._valley(name)) for name in self.optimizers}

    def width(self, tolerance: float = 0.1) -> dict[str, float]:
        """How wide the valley of good step sizes is, in decades: the wider, the easier the optimizer is to tune.

        Parameters
        ----------
        tolerance : float
            Good is a median loss of at most (1 + tolerance) times the optimizer's own best.

        Returns
        -------
        dict of str to float
            Of the step sizes around the best one that are good without a gap; between the last good one and the first
            that is not, the loss is taken as linear in log(lr). A valley that reaches an end of the grid may be wider.
            0 where every step size diverged.
        """
        tolerance = check_finite("StepSizeSweep", "tolerance", check_range("StepSizeSweep", "tolerance", tolerance, 0))
        return {name: _width(self._valley(name), tolerance) for name in self.optimizers}

    def _valley(self, name: str) -> list[dict]:
        return [cell for cell in self.summary() if cell["optimizer"] == name]

    def plot(self, path: str | os.PathLike | None = None):
        """Draw the final validation loss against the step size: median and band over the seeds of each optimizer.

        Crosses at the upper edge are step sizes at which the median run diverged.

        Parameters
        ----------
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
            There is no run.
        """
        from .drawing import plot_sweep

        return plot_sweep(self, path)

    def to_json(self, path: str | os.PathLike) -> None:
        """Write the rows to a JSON file, replacing an old one only when all is written; infinities as strings."""
        rows = [{name: to_json_value(value) for name, value in row.items()} for row in self.rows]
        atomic_write(path, json.dumps({"rows": rows}, indent=1, allow_nan=False).encode())

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> StepSizeSweep:
        """Read what `to_json` wrote; ValueError naming the path, and what is wrong, where it is no sweep."""
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
            if not isinstance(data, dict) or not isinstance(data.get("rows"), list):
                raise ValueError("it has no list of 'rows'")
            return cls([_read(number, row) for number, row in enumerate(data["rows"])])
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: not a sweep: {error}") from error

    def __repr__(self) -> str:
        cells = self.summary()
        head = ["optimizer", "lr", "lower", "median", "upper", "diverged"]
        lines = [head, *([_text(name, cell[name]) for name in head] for cell in cells)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ([cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
        names = [line[0].ljust(widths[0]) for line in lines]
        return "\n".join("  ".join([name, *text[1:]]) for name, text in zip(names, texts, strict=True))


def _read(number: int, row) -> dict:
    """A row as it was before `to_json`; ValueError for what a sweep has no row of."""
    if not isinstance(row, dict):
        raise ValueError(f"row {number} is {row!r}")
    if missing := [name for name in _KINDS if name not in row]:
        raise ValueError(f"row {number} lacks {', '.join(map(repr, missing))}")
    row = row | {name: from_json_value(row[name]) for name in _LOSSES if row[name] in _NOT_FINITE}
    for name, (kinds, described) in _KINDS.items():
        # true is an int to Python
        if not isinstance(row[name], kinds) or (isinstance(row[name], bool) and kinds is not bool):
            raise ValueError(f"{name!r} of row {number} must be {described} but is {row[name]!r}")
    if not 0 < row["lr"] < math.inf:
        raise ValueError(f"'lr' of row {number} must be greater than 0 but is {row['lr']!r}")
    return row


def _summary(optimizer: str, lr: float, rows: list[dict], levels) -> dict:
    lower, median, upper = quantiles([row["validation_loss"] for row in rows], levels).tolist()
    diverged = sum(row["diverged"] for row in rows) / len(rows)
    return {"optimizer": optimizer, "lr": lr, "lower": lower, "median": median, "upper": upper, "diverged": diverged}


def _lowest(valley: list[dict]) -> dict | None:
    best = min(valley, key=lambda cell: cell["median"])
    return best if math.isfinite(best["median"]) else None


def _width(valley: list[dict], tolerance: float) -> float:
    best = _lowest(valley)
    if best is None:
        return 0.0
    limit = best["median"] + tolerance * abs(best["median"])
    place = valley.index(best)
    return _reach(valley[place:], limit) + _reach(valley[place::-1], limit)


def _reach(cells: list[dict], limit: float) -> float:
    """Decades from the first of `cells`, which is good, to where the loss crosses `limit`."""
    decades = [abs(math.log10(cell["lr"] / cells[0]["lr"])) for cell in cells]
    for i, cell in enumerate(cells):
        if not cell["median"] <= limit:
            low = cells[i - 1]["median"]
            return decades[i - 1] + (decades[i] - decades[i - 1]) * (limit - low) / (cell["median"] - low)
    return decades[-1]


def _text(name: str, value) -> str:
    if name == "diverged":
        return f"{value:.0%}"
    return value if isinstance(value, str) else f"{value:.4g}"
