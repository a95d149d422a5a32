"""The training loop."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from . import metrics as _metrics
from ._device import as_host, get_device, loss_value
from ._training_checks import check_arrays, check_finite, check_objects, try_out
from ._transfer import batches_on
from .callbacks import Callback
from .checkpoint import TrainingState
from .data import MiniBatches
from .history import History
from .reference.scalars import check_integer

_EVALUATION_BATCH = 1024


@dataclass
class Run:
    """What callbacks see of a training run, and the flag by which they end it.

    Attributes
    ----------
    model, optimizer, loss
        As given to `fit`.
    batches : MiniBatches
        The training data.
    history : History
        Its last row is the last finished epoch.
    columns : tuple of str
        The names in a row of the history.
    callbacks : list of Callback
        All of the run, in the order in which they are called.
    epoch : int
        The epoch that is running or has just ended, from 1.
    batch_index : int
        The running batch of the epoch, from 0.
    batch : tuple of ndarray
        Its arrays, on the model's device; those that `fit` copied to a GPU are overwritten by later batches.
    batch_loss : float
        Its loss, before the step. On a GPU reading it waits for the device.
    stop : bool
        Set it to end the run after this batch or epoch.
    """

    model: Any
    optimizer: Any
    loss: Any
    batches: MiniBatches
    history: History
    columns: tuple[str, ...] = ()
    callbacks: list[Callback] = field(default_factory=list)
    epoch: int = 0
    batch_index: int = 0
    batch: tuple[np.ndarray, ...] = ()
    stop: bool = False
    _loss_value: Any = field(default=math.nan, init=False, repr=False)  # a float, or an array that no one has read
    _lr: Any = field(default=None, init=False, repr=False)  # of the epoch's last step so far; likewise

    @property
    def batch_loss(self) -> float:
        return float(self._loss_value)


def fit(
    model,
    optimizer,
    loss,
    train,
    validation=None,
    *,
    epochs: int,
    batch_size: int | None = 128,
    metrics=(),
    callbacks: Iterable[Callback] = (),
    progress: bool | str = True,
    seed: int = 0,
    shuffle: bool = True,
    last: str = "keep",
    prefetch: int = 0,
    resume: str | os.PathLike | None = None,
) -> History:
    """Train a model, validating it after every epoch.

    Ctrl-C stops after the running batch and returns the history so far; a second one stops at once.

    Parameters
    ----------
    model : Sequential
        Changed in place. On a GPU (`Sequential.to`) batches are copied there ahead of their use, and no batch waits
        for the device.
    optimizer
        Made for ``model.parameters()``, after the model was put on its device.
    loss : callable
        ``loss(output, target, weights=None) -> (value, gradient)``, such as `fusedstep.nn.SoftmaxCrossEntropy()`.
    train, validation : tuple or MiniBatches
        ``(X, y)`` or ``(X, y, weights)``: NumPy arrays, or for a model on a GPU CuPy arrays there. As `train`,
        MiniBatches bring their own batch size, seed, order and remainder; of those for `validation` the arrays alone
        are used.
    epochs : int
        How many times to go through the training data, those of a resumed run included; at least 1.
    batch_size : int or None
        Samples in a step; None is the full batch.
    metrics : sequence of str or callable
        ``"accuracy"``, or functions ``(target, output) -> float``; a column ``validation_<name>`` each.
    callbacks : sequence of Callback
    progress : bool or str
        Show a progress bar; a string is its title.
    seed, shuffle, last, prefetch
        As for `fusedstep.data.MiniBatches`.
    resume : str or path, optional
        A file of `fusedstep.callbacks.Checkpoint`: go on from there, with the same arguments, to the bits that the
        run would have had without the interruption. Where early stopping had ended it, nothing more is trained.

    Returns
    -------
    History

    Notes
    -----
    A batch whose weights are all 0 is passed over. Where an epoch has no other batch, which ``last="drop"`` can lead
    to, its `train_loss` is NaN.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, X or y holds NaN or infinity, a label is no class of the model, or a batch would be too
        small for batch normalization. All are checked, and two samples of each data set are tried, before the model is
        changed.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> y = (X[:, 0] > 0).astype(np.int64)
    >>> model = fs.nn.Sequential(fs.nn.Dense(1, 2))
    >>> optimizer = fs.optim.SGD(model.parameters(), lr=0.5)
    >>> history = fs.fit(model, optimizer, fs.nn.SoftmaxCrossEntropy(), (X, y), (X, y), epochs=5, batch_size=8,
    ...                  metrics=["accuracy"], progress=False)
    >>> history.rows[-1]["validation_loss"] < history.rows[0]["validation_loss"]
    True
    """
    epochs = check_integer("fit", "epochs", epochs, 1)
    batches = _training_batches(train, batch_size, shuffle=shuffle, seed=seed, last=last, prefetch=prefetch)
    held_out = None if validation is None else check_arrays("validation", validation)
    measured = _metrics.resolve(metrics)
    check_objects(model, optimizer, loss)
    run = Run(model, optimizer, loss, batches, History(), _columns(held_out is not None, measured))
    run.callbacks = _in_order(callbacks)
    if measured and held_out is None:
        raise ValueError("[fit] 'metrics' are computed on validation data, but 'validation' is None")
    model.check_training_shape((batches.smallest, *batches.arrays[0].shape[1:]))
    for name, arrays in (("train", batches.arrays), ("validation", held_out)):
        if arrays is not None:
            check_finite(name, *arrays[:2])
            try_out(model, loss, name, *arrays)
    for callback in run.callbacks:
        callback.on_train_begin(run)
    if resume is not None:
        _resume(run, resume)
    with get_device(model.device).active():
        _loop(run, epochs, held_out, measured, progress)
    for callback in run.callbacks:
        callback.on_train_end(run)
    return run.history


def evaluate(model, loss, X, y, weights=None, *, metrics=(), batch_size: int | None = _EVALUATION_BATCH) -> dict:
    """Loss and metrics of a model in evaluation mode.

    Parameters
    ----------
    model, loss
        As for `fit`; the model is not changed.
    X, y : array_like
        Samples and targets, of the same length.
    weights : array_like, optional
        One weight a sample, for the loss.
    metrics : sequence of str or callable
        As for `fit`; each sees all targets and outputs at once.
    batch_size : int or None
        How many samples to predict at a time; a remainder joins the batch before it. The loss is the mean over all
        samples, whatever the batch size.

    Returns
    -------
    dict of str to float
        ``"loss"`` and the metrics by name.

    Raises
    ------
    ValueError
        An array is empty, or lengths differ.
    """
    arrays = (X, y) if weights is None else (X, y, weights)
    arrays = check_arrays("data", arrays, where="evaluate")
    measured = _metrics.resolve(metrics)
    outputs, losses = [], _Mean()
    batches = MiniBatches(*arrays, batch_size=batch_size, shuffle=False, last="merge")
    totals = batches.totals(_host_weights(arrays))
    device = get_device(model.device)
    with device.active(), closing(batches_on(device, batches)) as on_device:
        for (x, *target), total in zip(on_device, totals, strict=True):
            output = model.predict(x)
            if total:
                losses.add(loss_value(loss(output, *target)[0]), total)
            if measured:
                outputs.append(as_host(output))
        result = {"loss": losses.value}
    if measured:
        output, target = np.concatenate(outputs), as_host(arrays[1])
        result |= {name: float(metric(target, output)) for name, metric in measured.items()}
    return result


def predict(model, X, *, batch_size: int | None = _EVALUATION_BATCH) -> np.ndarray:
    """The model's outputs in evaluation mode, a NumPy array computed a batch at a time on the model's device.

    A remainder joins the batch before it.
    """
    batches = MiniBatches(X, batch_size=batch_size, shuffle=False, last="merge")
    return np.concatenate([as_host(model.predict(x)) for (x,) in batches_on(get_device(model.device), batches)])


def _host_weights(arrays) -> np.ndarray | None:
    return as_host(arrays[2]) if len(arrays) == 3 else None


class _Mean:
    """The mean loss over samples, from the means of batches; on a GPU summed there, until `value` is read."""

    def __init__(self):
        self._total = self._weight = 0.0

    def add(self, value, weight: float) -> None:
        """A batch's mean, a float or a 0-d array, and what the batch counts."""
        self._total = self._total + value * weight
        self._weight += weight

    @property
    def value(self) -> float:
        return float(self._total / self._weight) if self._weight else math.nan


def _loop(run: Run, epochs: int, held_out, measured, progress) -> None:
    title = progress if isinstance(progress, str) else None
    total = epochs * len(run.batches)
    bar = tqdm(total=total, initial=run.epoch * len(run.batches), desc=title, disable=not progress, unit="batch")
    with bar, _stop_on_ctrl_c(run):
        try:
            while run.epoch < epochs and not run.stop and not run.history.interrupted:
                run.epoch += 1
                start = time.perf_counter()
                train_loss = _train_epoch(run, bar)
                if train_loss is None:
                    return
                row = {"epoch": run.epoch, "train_loss": train_loss}
                if held_out is not None:
                    result = evaluate(run.model, run.loss, *held_out, metrics=measured.values())
                    row |= {f"validation_{name}": value for name, value in result.items()}
                lr = float(run.optimizer.lr if run._lr is None else run._lr)
                row |= {"lr": lr, "seconds": time.perf_counter() - start}
                run.history.rows.append(row)
                bar.set_postfix(_shown(row), refresh=False)
                for callback in run.callbacks:
                    callback.on_epoch_end(run)
        except KeyboardInterrupt:
            run.history.interrupted = True


def _train_epoch(run: Run, bar) -> float | None:
    """Train one epoch and give its mean loss; None when it was broken off."""
    losses = _Mean()
    totals = run.batches.totals(_host_weights(run.batches.arrays))
    run._lr = None
    with closing(batches_on(get_device(run.model.device), run.batches)) as batches:
        for index, (batch, total) in enumerate(zip(batches, totals, strict=True)):
            run.batch_index, run.batch = index, batch
            if not total:  # no sample of weight above 0: there is neither loss nor gradient
                bar.update()
                continue
            x, *target = batch
            output = run.model.forward(x, training=True)
            value, gradient = run.loss(output, *target)
            run.model.backward(gradient, input_gradient=False)
            run._loss_value = loss_value(value)
            for callback in run.callbacks:
                callback.before_step(run)
            if run.stop:
                return None
            run._lr = run.optimizer.lr
            run.optimizer.step()
            losses.add(run._loss_value, total)
            bar.update()
            if run.history.interrupted:
                return None
    return losses.value


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


def _resume(run: Run, path) -> None:
    state = TrainingState.read(path)
    saved = [name for name, _ in state.callbacks]
    names = [type(callback).__name__ for callback in run.callbacks]
    if saved != names:
        raise ValueError(f"{os.fspath(path)}: was saved with callbacks {saved} but fit got {names}")
    run.batches.load_state_dict(state.data or {})
    for callback, (_, callback_state) in zip(run.callbacks, state.callbacks, strict=True):
        callback.load_state_dict(callback_state)
    state.restore(run.model, run.optimizer)
    run.history = state.history
    run.history.interrupted = False
    run.epoch = len(run.history.rows)
    run.stop = run.history.stopped_by is not None


def _training_batches(train, batch_size, **options) -> MiniBatches:
    arrays = check_arrays("train", train)
    return train if isinstance(train, MiniBatches) else MiniBatches(*arrays, batch_size=batch_size, **options)


def _in_order(callbacks) -> list[Callback]:
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(f"[fit] 'callbacks' must be instances of fusedstep.callbacks.Callback but got {callback!r}")
    return sorted(callbacks, key=lambda callback: callback.runs_last)


def _columns(validated: bool, measured: Iterable[str]) -> tuple[str, ...]:
    names = ("loss", *measured) if validated else ()
    return ("epoch", "train_loss", *(f"validation_{name}" for name in names), "lr", "seconds")


def _shown(row: dict) -> dict[str, str]:
    hidden = ("lr", "seconds")
    shown = {name.replace("validation", "val"): value for name, value in row.items() if name not in hidden}
    return {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in shown.items()}
