"""What callbacks share that judge a run by one column of its history."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING

from .. import _checks
from ..metrics import LARGER_IS_BETTER
from ..reference.scalars import check_range
from .base import Callback

if TYPE_CHECKING:
    from ..training import Run


class Monitor(Callback):
    """Follow a column of the history: its best value, the epoch of that, and how many epochs have passed since.

    The first value that is not NaN is an improvement, and so is each that gains more than `min_delta` on the best one.
    Without a mode, losses and errors are to fall and the other metrics of `fusedstep.metrics` to grow.
    """

    def __init__(self, monitor: str, mode: str | None, min_delta: float):
        where = type(self).__name__
        self.monitor = monitor
        self.mode = mode if mode is None else _checks.choice(where, "mode", mode, ("min", "max"))
        self._direction = self.mode or "min"  # told by the monitored column, once there is a run
        self.min_delta = check_range(where, "min_delta", min_delta, 0)
        self._forget()

    def on_train_begin(self, run: Run) -> None:
        if self.monitor not in run.columns:
            near = difflib.get_close_matches(str(self.monitor).replace("val_", "validation_"), run.columns, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if str(self.monitor).startswith("validation_"):
                validated = "validation_loss" in run.columns
                hint = "; name the metric in fit's 'metrics'" if validated else "; give fit validation data"
            raise ValueError(
                f"[{type(self).__name__}] 'monitor' must be one of {', '.join(map(repr, run.columns))} "
                f"but got {self.monitor!r}{hint}"
            )
        self._direction = self.mode or self._usual_mode()
        self._forget()

    def _usual_mode(self) -> str:
        name = self.monitor.removeprefix("validation_")
        if name not in LARGER_IS_BETTER and name not in ("loss", "train_loss"):
            raise ValueError(
                f"[{type(self).__name__}] 'mode' must be 'min' or 'max' to judge {self.monitor!r}, but is None"
            )
        return "max" if LARGER_IS_BETTER.get(name) else "min"

    def improves(self, run: Run) -> bool:
        """Whether the epoch that has just ended is the best so far; otherwise it is counted in `waited`."""
        value = run.history.rows[-1][self.monitor]
        if self._direction == "min":  # rounded as torch does
            better = value < self.best_value - self.min_delta
        else:
            better = value > self.best_value + self.min_delta
        if better or (self.best_epoch is None and not math.isnan(value)):
            self.best_value, self.best_epoch, self.waited = value, run.epoch, 0
            return True
        self.waited += 1
        return False

    def state_dict(self) -> dict:
        return {"best_value": self.best_value, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: dict) -> None:
        self.best_value, self.best_epoch, self.waited = state["best_value"], state["best_epoch"], state["waited"]

    def _forget(self) -> None:
        self.best_value = -math.inf if self._direction == "max" else math.inf
        self.best_epoch: int | None = None
        self.waited = 0
