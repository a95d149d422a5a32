"""The end of a run that no longer gets better, at the parameters of the validation minimum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..reference.scalars import check_integer
from .monitor import Monitor

if TYPE_CHECKING:
    from ..training import Run


class EarlyStopping(Monitor):
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
    mode : {"min", "max"}, optional
        Whether smaller or larger is better. None: smaller for losses and "rmse", larger for the other metrics of
        `fusedstep.metrics`; to be given for others.
    min_delta : float
        What a value must gain on the best one to count as an improvement; not negative. NaN never does.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range; at the start of training, `monitor` is not a column of the history.
    """

    def __init__(self, patience=10, restore_best=True, monitor="validation_loss", mode=None, min_delta=0.0):
        self.patience = check_integer("EarlyStopping", "patience", patience, 1)
        self.restore_best = bool(restore_best)
        super().__init__(monitor, mode, min_delta)

    def on_epoch_end(self, run: Run) -> None:
        if self.improves(run):
            self._best = run.model_state() if self.restore_best else None
        elif self.waited >= self.patience:
            run.stop = True
            run.history.stopped_by = f"EarlyStopping: no better {self.monitor} for {self.patience} epochs"

    def on_train_end(self, run: Run) -> None:
        if self._best is not None:
            run.model.load_state_dict(self._best)
            run.history.restored_epoch = self.best_epoch

    def state_dict(self) -> dict:
        return super().state_dict() | {"best": self._best}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._best = state["best"]

    def _forget(self) -> None:
        super()._forget()
        self._best: dict[str, np.ndarray] | None = None
