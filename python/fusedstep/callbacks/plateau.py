"""A smaller step size where a run no longer gets better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..reference.scalars import check_finite, check_integer, check_range
from .monitor import Monitor
from .rates import check_rates, set_rates

if TYPE_CHECKING:
    from ..training import Run


class ReduceOnPlateau(Monitor):
    """Multiply the step size by `factor` when the monitored value no longer improves.

    As torch.optim.lr_scheduler.ReduceLROnPlateau: `patience` epochs in a row without improvement are let pass, the one
    after them lowers the step size of all parameter groups, and the count begins anew. It differs in that an
    improvement is a gain of more than `min_delta`, as for `EarlyStopping`, where torch asks for a gain of 1e-4 times
    the best value by default (``threshold=min_delta, threshold_mode="abs"`` is the same), and in that no reduction is
    too small to be made (``eps=0``). The step size stays lowered after the run.

    Parameters
    ----------
    factor : float
        In (0, 1).
    patience : int
        Epochs in a row without improvement after which the next one lowers the step size; not negative.
    monitor : str
        A column of the history.
    mode : {"min", "max"}, optional
        Whether smaller or larger is better. None: smaller for losses and "rmse", larger for the other metrics of
        `fusedstep.metrics`; to be given for others.
    min_delta : float
        What a value must gain on the best one to count as an improvement; not negative. NaN never does.
    cooldown : int
        Epochs after a reduction in which none is counted; not negative.
    min_lr : float
        No step size is lowered below it; not negative.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range; at the start of training, `monitor` is not a column of the history, the
        optimizer's `lr` is a function, or another callback sets the step size too.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> model = fs.nn.Sequential(fs.nn.Dense(1, 1))
    >>> optimizer = fs.optim.SGD(model.parameters(), lr=1.0)
    >>> plateau = fs.callbacks.ReduceOnPlateau(factor=0.5, patience=0, monitor="train_loss", min_delta=100.0)
    >>> history = fs.fit(model, optimizer, fs.nn.MeanSquaredError(), (X, X), epochs=3, callbacks=plateau,
    ...                  progress=False)
    >>> history.column("lr"), optimizer.lr
    ([1.0, 1.0, 0.5], 0.25)
    """

    changes_lr = True

    def __init__(
        self,
        factor=0.1,
        patience=10,
        monitor="validation_loss",
        mode=None,
        min_delta=0.0,
        cooldown=0,
        min_lr=0.0,
    ):
        self.factor = check_range("ReduceOnPlateau", "factor", factor, 0, 1)
        if self.factor == 0:
            raise ValueError(f"[ReduceOnPlateau] 'factor' must be greater than 0 but got {factor!r}")
        self.patience = check_integer("ReduceOnPlateau", "patience", patience, 0)
        self.cooldown = check_integer("ReduceOnPlateau", "cooldown", cooldown, 0)
        self.min_lr = check_finite("ReduceOnPlateau", "min_lr", check_range("ReduceOnPlateau", "min_lr", min_lr, 0))
        super().__init__(monitor, mode, min_delta)

    def on_train_begin(self, run: Run) -> None:
        check_rates("ReduceOnPlateau", run)
        super().on_train_begin(run)

    def on_epoch_end(self, run: Run) -> None:
        self.improves(run)
        if self.cooling:
            self.cooling -= 1
            self.waited = 0
        if self.waited > self.patience:
            # A step size that is below the limit from the start is left there.
            set_rates(run.optimizer, lambda lr: min(lr, max(lr * self.factor, self.min_lr)))
            self.waited, self.cooling = 0, self.cooldown

    def state_dict(self) -> dict:
        return super().state_dict() | {"cooling": self.cooling}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.cooling = state["cooling"]

    def _forget(self) -> None:
        super()._forget()
        self.cooling = 0
