"""The end of a run that no longer gets better, at the parameters of the validation minimum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .. import _checks
from ..reference.scalars import check_integer, check_range
from .base import Callback

if TYPE_CHECKING:
    from ..training import Run


class EarlyStopping(Callback):
    """Stop when the monitored value no longer improves, and go back to the best epoch.

    Parameters
    ----------
    patience : int
        Stop after this many epochs in a row without improvement; at least 1.
    restore_best : bool
        At the end of training, however it came, put the parameters and the buffers (running statistics) of
        the best epoch back into the model. Until then they are kept in the host's memory.
    monitor : str
        A column of the history.
    mode : {"min", "max"}
        Whether smaller or larger is better.
    min_delta : float
        What a value must gain on the best one to count as an improvement; not negative. NaN never does.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range; at the start of training, `monitor` is not a column of the history.
    """

    def __init__(self, patience=10, restore_best=True, monitor="validation_loss", mode="min", min_delta=0.0):
        self.patience = check_integer("EarlyStopping", "patience", patience, 1)
        self.restore_best = bool(restore_best)
        self.monitor = monitor
        self.mode = _checks.choice("EarlyStopping", "mode", mode, ("min", "max"))
        self.min_delta = check_range("EarlyStopping", "min_delta", min_delta, 0)
        self._forget()

    def on_train_begin(self, run: Run) -> None:
        if self.monitor not in run.columns:
            hint = "; give fit validation data" if self.monitor.startswith("validation_") else ""
            raise ValueError(
                f"[EarlyStopping] 'monitor' must be one of {', '.join(map(repr, run.columns))} "
                f"but got {self.monitor!r}{hint}"
            )
        self._forget()

    def on_epoch_end(self, run: Run) -> None:
        value = run.history.rows[-1][self.monitor]
        gain = self.best_value - value if self.mode == "min" else value - self.best_value
        if gain > self.min_delta or (self.best_epoch is None and not math.isnan(value)):
            self.best_value, self.best_epoch, self.waited = value, run.epoch, 0
            self._best = run.model_state() if self.restore_best else None
            return
        self.waited += 1
        if self.waited >= self.patience:
            run.stop = True
            run.history.stopped_by = f"EarlyStopping: no better {self.monitor} for {self.patience} epochs"

    def on_train_end(self, run: Run) -> None:
        if self._best is not None:
            run.model.load_state_dict(self._best)
            run.history.restored_epoch = self.best_epoch

    def state_dict(self) -> dict:
        return {
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "best": self._best,
        }

    def load_state_dict(self, state: dict) -> None:
        self.best_value, self.best_epoch = state["best_value"], state["best_epoch"]
        self.waited, self._best = state["waited"], state["best"]

    def _forget(self) -> None:
        self.best_value = math.inf if self.mode == "min" else -math.inf
        self.best_epoch: int | None = None
        self.waited = 0
        self._best: dict[str, np.ndarray] | None = None
