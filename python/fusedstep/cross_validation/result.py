"""What a cross-validation gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..history import History


@dataclass(repr=False)
class CrossValidationResult:
    """What `cross_validate` returns; printing it gives a table.

    Attributes
    ----------
    rows : list of dict
        One a round: `fold` (from 1), `best_epoch`, and loss and metrics of its final model on all three parts, in
        evaluation mode: `train_loss`, ..., `validation_loss`, ..., `test_loss`, ...
    predictions : ndarray
        The model's output for every sample by the one model that was tested on it; shape (n_samples, ...).
    models : list of Sequential
    preprocessors, target_preprocessors : list
        The fitted transformer of each round, or None.
    histories : list of History
    folds : list of (train, validation, test)
        The sample indices of each round.
    """

    rows: list[dict]
    predictions: np.ndarray
    models: list
    preprocessors: list
    target_preprocessors: list
    histories: list[History]
    folds: list[tuple[np.ndarray, np.ndarray, np.ndarray]]

    @property
    def mean(self) -> dict[str, float]:
        """The mean over the rounds of each number of the rows."""
        return self._over_rounds(np.mean)

    @property
    def std(self) -> dict[str, float]:
        """The standard deviation over the rounds, divided by k as NumPy does (ddof=0)."""
        return self._over_rounds(np.std)

    def __str__(self) -> str:
        names = [name for name in self.rows[0] if name != "fold"]
        heads = [name.replace("_", " ").partition(" ") for name in names]
        lines = [["", *(first for first, _, _ in heads)], ["fold", *(rest for _, _, rest in heads)]]
        lines += [[str(row["fold"]), *(_cell(row[name]) for name in names)] for row in self.rows]
        for label, values in (("mean", self.mean), ("std", self.std)):
            lines.append([label, *(_cell(values[name]) for name in names)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        rule = "-" * len(text[0])
        return "\n".join([*text[:2], rule, *text[2:-2], rule, *text[-2:]])

    __repr__ = __str__

    def plot(self, path: str | os.PathLike | None = None):
        """Draw the losses of each round, a panel each.

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
        """
        from ..plot import plot_histories

        return plot_histories(self.histories, [f"fold {row['fold']}" for row in self.rows], path=path)

    def _over_rounds(self, summary: Callable) -> dict[str, float]:
        names = [name for name in self.rows[0] if name != "fold"]
        columns = {name: [np.nan if row[name] is None else row[name] for row in self.rows] for name in names}
        return {name: float(summary(np.array(values, np.float64))) for name, values in columns.items()}


def _cell(value) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
