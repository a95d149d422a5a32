"""What may happen at fixed points of a training run."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np

from . import _checks
from ._device import all_finite
from .reference.scalars import check_integer, check_range

if TYPE_CHECKING:
    from .training import Run


class Callback:
    """Base class: override what is needed.

    Every hook receives the `fusedstep.training.Run`, may read its model, optimizer, loss, history, epoch and
    batch, and may set `run.stop`.

    Examples
    --------
    >>> import fusedstep as fs
    >>> class PrintLoss(fs.callbacks.Callback):
    ...     def on_epoch_end(self, run):
    ...         print(run.epoch, run.history.rows[-1]["train_loss"])
    """

    runs_last = False
    """Whether to run after the others at the end of an epoch, as one does that saves what they keep."""

    def on_train_begin(self, run: Run) -> None:
        """Before the first epoch; forget what an earlier run left."""

    def before_step(self, run: Run) -> None:
        """After each backward pass, before the optimizer's step, which `run.stop` cancels."""

    def on_epoch_end(self, run: Run) -> None:
        """After the epoch's row was added to `run.history`."""

    def on_train_end(self, run: Run) -> None:
        """After the last epoch, however the run ended, unless by an exception."""

    def state_dict(self) -> dict:
        """What a resumed run needs to know: nested dicts and lists of arrays, numbers, strings and None."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` gave, after `on_train_begin`."""


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
            self._best = run.model.state_dict() if self.restore_best else None
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


class Checkpoint(Callback):
    """Save all that the rest of the run depends on, so that `fit(..., resume=path)` goes on to the same bits.

    The file holds model, optimizer, history, data order, the dropout counter and the state of the other
    callbacks. It is replaced in one step: a kill during a save leaves the one before.

    Parameters
    ----------
    path : str or path
        A safetensors file. Its folder must exist.
    every : int
        Save after every so many epochs; at least 1.

    Raises
    ------
    TypeError, ValueError
        `every` is out of range.
    FileNotFoundError
        At the start of training: the folder does not exist.
    """

    runs_last = True

    def __init__(self, path: str | os.PathLike, every: int = 1):
        self.path = path
        self.every = check_integer("Checkpoint", "every", every, 1)

    def on_train_begin(self, run: Run) -> None:
        folder = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"[Checkpoint] the folder of 'path' does not exist: {folder}")

    def on_epoch_end(self, run: Run) -> None:
        from .checkpoint import save_checkpoint

        if run.epoch % self.every == 0:
            save_checkpoint(
                self.path, run.model, run.optimizer, history=run.history, data=run.batches, callbacks=run.callbacks
            )


class StopOnNaN(Callback):
    """Stop at the first loss, parameter or buffer that is NaN or infinite, and say where it is.

    The loss is looked at before each step, so the model keeps the parameters that it had; parameters and
    buffers are looked at after each epoch. `history.stopped_by` names the first place, in the order in which
    values flow: the batch, the parameters and buffers in the order of the layers, the gradients. On a GPU each
    look at the loss waits for the device.
    """

    def before_step(self, run: Run) -> None:
        if not math.isfinite(run.batch_loss):
            where = _first_nonfinite(_named_values(run)) or "the loss itself"
            self._stop(run, f"the loss of batch {run.batch_index + 1} of epoch {run.epoch} is {run.batch_loss}", where)

    def on_epoch_end(self, run: Run) -> None:
        where = _first_nonfinite(_model_values(run.model))
        if where:
            self._stop(run, f"epoch {run.epoch}", where)

    def _stop(self, run: Run, when: str, where: str) -> None:
        run.stop = True
        run.history.stopped_by = f"StopOnNaN: {when}; first value that is not finite: {where}"


def _named_values(run: Run):
    for name, array in zip(("X", "y", "weights"), run.batch, strict=False):
        yield f"{name} of the batch", array
    yield from _model_values(run.model)
    # The chain rule runs from the last layer to the first.
    for parameter in reversed(run.model.parameters()):
        yield f"gradient of {parameter.name}", parameter.grad


def _model_values(model):
    buffers = model.buffers()
    layer = None
    for parameter in model.parameters():
        layer = parameter.name.rpartition(".")[0]
        yield f"parameter {parameter.name}", parameter.array
        for name in [name for name in buffers if name.rpartition(".")[0] == layer]:
            yield f"buffer {name}", buffers.pop(name)
    for name, array in buffers.items():
        yield f"buffer {name}", array


def _first_nonfinite(named) -> str | None:
    return next((name for name, array in named if array.dtype.kind == "f" and not all_finite(array)), None)
