"""Step sizes as functions of the epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..reference.scalars import check_range
from .base import Callback
from .rates import check_rates, set_rates

if TYPE_CHECKING:
    from ..training import Run


class EpochSchedule(Callback):
    """Set the step size at the beginning of each epoch.

    A schedule by step is given to the optimizer itself, as its `lr`. The schedule gives the step size, not a factor, so
    all parameter groups get the same one. What it gave last stays after the run.

    Parameters
    ----------
    schedule : callable
        ``schedule(epoch) -> lr`` with the epoch counted from 0: one of `fusedstep.optim.schedules`, or any function
        whose value depends on the epoch alone, as a resumed run asks for the epochs that are left.

    Raises
    ------
    TypeError
        `schedule` is no function.
    ValueError
        At the start of training: the optimizer's `lr` is a function, or another callback sets the step size too; at
        the beginning of an epoch: the schedule gives no finite number of 0 or more.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> model = fs.nn.Sequential(fs.nn.Dense(1, 1))
    >>> optimizer = fs.optim.SGD(model.parameters(), lr=0.0)
    >>> halve = fs.callbacks.EpochSchedule(fs.optim.schedules.exponential(1.0, 0.5))
    >>> fs.fit(model, optimizer, fs.nn.MeanSquaredError(), (X, X), epochs=3, callbacks=halve,
    ...        progress=False).column("lr")
    [1.0, 0.5, 0.25]
    """

    changes_lr = True

    def __init__(self, schedule: Callable[[int], float]):
        if not callable(schedule):
            raise TypeError(f"[EpochSchedule] 'schedule' must be a function of the epoch but got {schedule!r}")
        self.schedule = schedule

    def on_train_begin(self, run: Run) -> None:
        check_rates("EpochSchedule", run)

    def on_epoch_begin(self, run: Run) -> None:
        lr = check_range("EpochSchedule", f"schedule({run.epoch - 1})", self.schedule(run.epoch - 1), 0)
        set_rates(run.optimizer, lambda _: lr)
