"""What happened in a training run, epoch by epoch."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field

from ._files import atomic_write


@dataclass(repr=False)
class History:
    """One row an epoch, and how the run ended.

    Attributes
    ----------
    rows : list of dict
        `epoch` (from 1), `train_loss` (mean over the samples as they were trained on, dropout included),
        `validation_loss` and `validation_<metric>` (evaluation mode, only with validation data), `lr` (the
        rate of the last step) and `seconds` (validation included).
    stopped_by : str or None
        Which callback ended the run early, and why.
    interrupted : bool
        Ctrl-C ended the run.
    restored_epoch : int or None
        The epoch whose parameters early stopping put back into the model.

    Examples
    --------
    >>> from fusedstep import History
    >>> rows = [{"epoch": 1, "validation_loss": 0.7}, {"epoch": 2, "validation_loss": 0.4}]
    >>> History(rows).best_epoch
    2
    >>> History(rows)
    History(2 epochs, best 2 with a validation loss of 0.4)
    """

    rows: list[dict] = field(default_factory=list)
    stopped_by: str | None = None
    interrupted: bool = False
    restored_epoch: int | None = None

    def __repr__(self) -> str:
        parts = [f"{len(self.rows)} epoch{'s' * (len(self.rows) != 1)}"]
        best = next((row for row in self.rows if row["epoch"] == self.best_epoch), {})
        if "validation_loss" in best:
            parts.append(f"best {best['epoch']} with a validation loss of {best['validation_loss']:.4g}")
        elif self.rows and "train_loss" in self.rows[-1]:
            parts.append(f"last train loss {self.rows[-1]['train_loss']:.4g}")
        parts += [self.stopped_by] if self.stopped_by else []
        return f"History({', '.join(parts)}{', interrupted' * self.interrupted})"

    @property
    def best_epoch(self) -> int | None:
        """The epoch that early stopping restored, otherwise the one with the smallest validation loss.

        None without validation data.
        """
        if self.restored_epoch is not None:
            return self.restored_epoch
        judged = [row for row in self.rows if not math.isnan(row.get("validation_loss", math.nan))]
        return min(judged, key=lambda row: row["validation_loss"])["epoch"] if judged else None

    def column(self, name: str) -> list:
        """The values of one column, an epoch each.

        Raises
        ------
        KeyError
            There is no such column.
        """
        return [row[name] for row in self.rows]

    def plot(self, path: str | os.PathLike | None = None):
        """Draw train and validation loss by epoch, and the validation metrics below.

        The best epoch is marked, and from there on the area is shaded where the two losses part (overfitting): where
        the validation loss lies above the train loss and above its own minimum.

        Parameters
        ----------
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
        """
        from .plot import plot_histories

        return plot_histories([self], path=path)

    def to_dict(self) -> dict:
        """The history as plain lists, dicts, numbers and strings; NaN and infinities as strings, as JSON has none."""
        return {
            "rows": [{name: to_json_value(value) for name, value in row.items()} for row in self.rows],
            "best_epoch": to_json_value(self.best_epoch),
            "stopped_by": self.stopped_by,
            "interrupted": self.interrupted,
            "restored_epoch": to_json_value(self.restored_epoch),
        }

    @classmethod
    def from_dict(cls, data: dict) -> History:
        """The inverse of `to_dict`."""
        rows = [{name: from_json_value(value) for name, value in row.items()} for row in data["rows"]]
        return cls(rows, data["stopped_by"], data["interrupted"], data["restored_epoch"])

    def to_json(self, path: str | os.PathLike) -> None:
        """Write the history to a JSON file, replacing an old one only when all is written."""
        atomic_write(path, json.dumps(self.to_dict(), indent=1, allow_nan=False).encode())

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> History:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            The file is not a history; names the path.
        """
        try:
            with open(path, encoding="utf-8") as file:
                return cls.from_dict(json.load(file))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{os.fspath(path)}: not a history: {error!r}") from error


def to_json_value(value):
    """NaN and infinities as strings, as JSON has none; numbers of NumPy as Python's; anything else as it is."""
    value = value.item() if hasattr(value, "item") else value  # a callback may have put one of NumPy there
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def from_json_value(value):
    """The inverse of `to_json_value`, for numbers."""
    return float(value) if isinstance(value, str) else value
