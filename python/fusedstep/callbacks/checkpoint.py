"""Runs that survive a kill."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..reference.scalars import check_integer
from .base import Callback

if TYPE_CHECKING:
    from ..training import Run


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
        from ..checkpoint import save_checkpoint

        if run.epoch % self.every == 0:
            save_checkpoint(
                self.path, run.model, run.optimizer, history=run.history, data=run.batches, callbacks=run.callbacks
            )
