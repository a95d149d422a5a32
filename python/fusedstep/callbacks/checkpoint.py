"""Runs that survive a kill."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from .._extras import require
from .._files import remove_leftovers
from ..checkpoint import save_run
from ..reference.scalars import check_integer, check_range
from .base import Callback

if TYPE_CHECKING:
    from ..training import Run


class Checkpoint(Callback):
    """Save all that the rest of the run depends on, so that `fit(..., resume=path)` goes on to the same bits.

    The file holds model, optimizer, averages, accumulated gradients, history, the place in the data order, the dropout
    counter and the state of the other callbacks, the best parameters among them. It is replaced in one step: a kill
    during a save leaves the one before. A run that starts anew replaces the file of an earlier one at its first save.

    Parameters
    ----------
    path : str or path
        A safetensors file. Its folder must exist.
    every : int
        Save after every so many epochs, and when Ctrl-C ends the run; at least 1.
    every_batches : int, optional
        Also save after every so many batches of an epoch, for epochs that take long.
    min_seconds : float
        Pass over a save that is due less than so many seconds after the last, for epochs that take less time than a
        save. What Ctrl-C or another callback ends is always saved.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range.
    FileNotFoundError, ImportError
        At the start of training: the folder does not exist, or safetensors is missing.
    """

    runs_last = True

    def __init__(
        self, path: str | os.PathLike, every: int = 1, every_batches: int | None = None, min_seconds: float = 0.0
    ):
        self.path = path
        self.every = check_integer("Checkpoint", "every", every, 1)
        if every_batches is not None:
            every_batches = check_integer("Checkpoint", "every_batches", every_batches, 1)
        self.every_batches = every_batches
        self.min_seconds = check_range("Checkpoint", "min_seconds", min_seconds, 0)
        self._saved = 0.0

    def on_train_begin(self, run: Run) -> None:
        folder = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"[Checkpoint] the folder of 'path' does not exist: {folder}")
        require("safetensors")  # better known now than after an epoch
        remove_leftovers(self.path)
        self._saved = time.monotonic()

    def on_batch_end(self, run: Run) -> None:
        due = self.every_batches and (run.batch_index + 1) % self.every_batches == 0
        if run.history.interrupted or (due and self._is_time()):
            self._save(run)

    def on_epoch_end(self, run: Run) -> None:
        if run.stop or run.history.interrupted or (run.epoch % self.every == 0 and self._is_time()):
            self._save(run)

    def _is_time(self) -> bool:
        return time.monotonic() - self._saved >= self.min_seconds

    def _save(self, run: Run) -> None:
        save_run(self.path, run)
        self._saved = time.monotonic()
