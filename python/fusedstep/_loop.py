"""The epochs of a training run: batches, steps, validation, and where callbacks come in."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ._device import as_host, get_device, host_copy, loss_value
from ._training_checks import finite_on_disk
from ._transfer import batches_on

if TYPE_CHECKING:
    from .training import Run

_SHOW_EVERY = 0.2  # seconds


class Mean:
    """The mean loss over samples, from the means of batches; on a GPU summed there, until `value` is read."""

    def __init__(self, total=0.0, weight: float = 0.0):
        self.total, self.weight = total, weight

    def add(self, value, weight: float) -> None:
        """A batch's mean, a float or a 0-d array, and what the batch counts."""
        self.total = self.total + value * weight
        self.weight += weight

    @property
    def value(self) -> float:
        return float(self.total / self.weight) if self.weight else math.nan


class GradientSum:
    """The gradients of the batches since the last step, each times what its batch counts."""

    def __init__(self, model):
        self._parameters = model.parameters()
        self._device = get_device(model.device)
        self._sums: list | None = None
        self.batches = 0
        self._weight = 0.0

    def add(self, weight: float) -> None:
        """Take the gradients that the model has now, those of a batch; they are overwritten."""
        if self._sums is None:
            self._sums = [self._device.xp.zeros_like(p.grad) for p in self._parameters]
        for p, total in zip(self._parameters, self._sums, strict=True):
            p.grad *= weight
            total += p.grad
        self.batches += 1
        self._weight += weight

    def give(self) -> None:
        """Let their mean be the model's gradients, and begin anew."""
        for p, total in zip(self._parameters, self._sums, strict=True):
            p.grad[...] = total
            p.grad /= self._weight
            total.fill(0)
        self.batches, self._weight = 0, 0.0

    def state_dict(self) -> dict:
        sums = [host_copy(total) for total in self._sums] if self.batches else None
        return {"sums": sums, "batches": self.batches, "weight": self._weight}

    def load_state_dict(self, state: dict) -> None:
        self.batches, self._weight = state["batches"], state["weight"]
        if self.batches:
            self._sums = [self._device.put(total) for total in state["sums"]]


class Progress:
    """What an epoch that is under way has gathered, beside the model and the optimizer.

    Attributes
    ----------
    position : int
        Batches of the epoch that are done; 0 between epochs.
    losses : Mean
    lr : float or None
        Of the epoch's last step so far; on a GPU it may be an array that nobody has read.
    accumulate : int
        Batches in a step.
    gradients : GradientSum
    """

    def __init__(self, model, accumulate: int = 1):
        self.accumulate = accumulate
        self.gradients = GradientSum(model)
        self.forget()

    def forget(self) -> None:
        """Begin an epoch."""
        self.position, self.losses, self.lr = 0, Mean(), None

    def state_dict(self) -> dict:
        return {
            "loss_total": float(self.losses.total),
            "loss_weight": float(self.losses.weight),
            "lr": None if self.lr is None else float(self.lr),
            "accumulate": self.accumulate,
            "gradients": self.gradients.state_dict(),
        }

    def load_state_dict(self, state: dict, position: int) -> None:
        """Go on in the midst of an epoch, after its first `position` batches."""
        self.position, self.lr = position, state["lr"]
        self.losses = Mean(state["loss_total"], state["loss_weight"])
        self.gradients.load_state_dict(state["gradients"])


def run_epochs(run: Run, epochs: int, validate: Callable[[], dict] | None, progress) -> None:
    """Train until `epochs` epochs are done, or something ends the run."""
    from tqdm import tqdm  # here, as its import takes as long as that of this package's models and optimizers

    title = progress if isinstance(progress, str) else None
    total, done = epochs * len(run.batches), run.epoch * len(run.batches) + run.progress.position
    bar = tqdm(total=total, initial=done, desc=title, disable=not progress, unit="batch")
    with bar, _stop_on_ctrl_c(run):
        try:
            while run.epoch < epochs and not run.stop and not run.history.interrupted:
                run.epoch += 1
                start = time.perf_counter()
                if not run.progress.position:
                    for callback in run.callbacks:
                        callback.on_epoch_begin(run)
                if not _train_epoch(run, bar):
                    return
                row = {"epoch": run.epoch, "train_loss": run.progress.losses.value}
                if validate is not None:
                    row |= {f"validation_{name}": value for name, value in validate().items()}
                lr = float(run.optimizer.lr if run.progress.lr is None else run.progress.lr)
                row |= {"lr": lr, "seconds": time.perf_counter() - start}
                run.history.rows.append(row)
                run.progress.forget()
                bar.set_postfix(_shown(row), refresh=False)
                for callback in run.callbacks:
                    callback.on_epoch_end(run)
        except KeyboardInterrupt:
            run.history.interrupted = True


def _train_epoch(run: Run, bar) -> bool:
    """Train what is left of an epoch; False when it was broken off."""
    state, accumulate = run.progress, run.progress.accumulate
    totals = run.batches.totals(host_weights(run.batches.arrays))
    device = get_device(run.model.device)
    shown = time.perf_counter()
    with closing(batches_on(device, run.batches, finite_on_disk("train"))) as batches:
        for index, (batch, total) in enumerate(zip(batches, totals, strict=True), start=run.batches.position):
            run.batch_index, run.batch = index, batch
            if total:  # otherwise no sample has a weight above 0: there is neither loss nor gradient
                _forward_and_backward(run, batch)
                if run.stop:
                    return False
                state.losses.add(run._loss_value, total)
                if accumulate > 1:
                    state.gradients.add(total)
                if accumulate == 1 or state.gradients.batches == accumulate:
                    _step(run)
            state.position = index + 1
            bar.update()
            if (
                device.name == "cpu" and bar.n and time.perf_counter() - shown > _SHOW_EVERY
            ):  # a GPU would be waited for
                shown = time.perf_counter()
                last = run.history.rows[-1] if run.history.rows else {}
                lr = {} if state.lr is None else {"lr": state.lr}
                bar.set_postfix(_shown({**last, "epoch": run.epoch, "train_loss": state.losses.value, **lr}), False)
            for callback in run.callbacks:
                callback.on_batch_end(run)
            if run.history.interrupted or run.stop:
                return False
    if state.gradients.batches:
        _step(run)
    return True


def _forward_and_backward(run: Run, batch: tuple) -> None:
    x, *target = batch
    output = run.model.forward(x, training=True)
    value, gradient = run.loss(output, *target)
    run.model.backward(gradient, input_gradient=False)
    run._loss_value = loss_value(value)
    for callback in run.callbacks:
        callback.before_step(run)


def _step(run: Run) -> None:
    if run.progress.accumulate > 1:
        run.progress.gradients.give()
    run.progress.lr = run.optimizer.lr
    if getattr(run.optimizer, "needs_batch", False):
        run.optimizer.step(run.model, run.loss, *run.batch)
    else:
        run.optimizer.step()


@contextmanager
def averaged(model, optimizer):
    """A while in which the model has the averages of its weights that `optimizer` keeps."""
    averages = optimizer.averages()
    parameters = [p for p in model.parameters() if p.name in averages]
    device = get_device(model.device)
    with device.active():
        kept = [p.array.copy() for p in parameters]
        for p in parameters:
            p.array[...] = averages[p.name]
        try:
            yield
        finally:
            for p, values in zip(parameters, kept, strict=True):
                p.array[...] = values


def host_weights(arrays) -> np.ndarray | None:
    """The weights of the samples on the host, where (X, y, weights) has any."""
    return as_host(arrays[2]) if len(arrays) == 3 else None


@contextmanager
def _stop_on_ctrl_c(run: Run):
    """Let Ctrl-C finish the batch. Only Python's own handler is replaced, and only the main thread may."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is not signal.default_int_handler:
        yield
        return

    def ask_to_stop(signum, frame):
        run.history.interrupted = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, ask_to_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _shown(row: dict) -> dict[str, str]:
    shown = {name.replace("validation", "val"): value for name, value in row.items() if name != "seconds"}
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in shown.items()}
