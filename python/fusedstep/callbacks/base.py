"""What all callbacks share: the hooks of a training run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training import Run


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

    changes_lr = False
    """Whether it sets the optimizer's step size."""

    def on_train_begin(self, run: Run) -> None:
        """Before the first epoch; forget what an earlier run left."""

    def on_epoch_begin(self, run: Run) -> None:
        """Before the first batch of an epoch."""

    def before_step(self, run: Run) -> None:
        """After each backward pass, before its gradients are used in a step, which `run.stop` cancels."""

    def on_batch_end(self, run: Run) -> None:
        """After each batch, its step included; also after the batch in which Ctrl-C came."""

    def on_epoch_end(self, run: Run) -> None:
        """After the epoch's row was added to `run.history`."""

    def on_train_end(self, run: Run) -> None:
        """After the last epoch, however the run ended, unless by an exception."""

    def state_dict(self) -> dict:
        """What a resumed run needs to know: nested dicts and lists of arrays, numbers, strings and None."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` gave, after `on_train_begin`."""


def as_callbacks(where: str, callbacks) -> list[Callback]:
    """A list of one callback, or of several."""
    listed = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for callback in listed:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"[{where}] 'callbacks' must be instances of fusedstep.callbacks.Callback but got {callback!r}"
            )
    return listed
