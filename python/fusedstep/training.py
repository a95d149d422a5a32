"""The training loop."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import metrics as _metrics
from ._class_weight import class_weights
from ._device import all_finite, get_device, host_copy
from ._loop import Progress, averaged, run_epochs
from ._training_checks import check_arrays, check_finite, check_objects, check_weights, finite_on_disk, try_out
from ._transfer import batches_ahead
from .callbacks import Callback, Checkpoint
from .callbacks.base import as_callbacks
from .checkpoint import TrainingState
from .data import MiniBatches
from .data.memory import check_batch_fits
from .evaluation import judge, try_metrics
from .history import History
from .reference.scalars import check_integer


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
        Its arrays, on the model's device; those that `fit` gathered or copied there are overwritten by later
        batches.
    batch_loss : float
        Its loss, before the step. On a GPU reading it waits for the device.
    stop : bool
        Set it to end the run after this batch or epoch.
    progress : object
        How far the running epoch is, for `fusedstep.callbacks.Checkpoint`.
    averaged : bool
        Validation judges the averages of the weights that the optimizer keeps.
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
    averaged: bool = False
    progress: Progress | None = field(default=None, repr=False)
    _loss_value: Any = field(default=math.nan, init=False, repr=False)  # a float, or an array that no one has read

    @property
    def batch_loss(self) -> float:
        return float(self._loss_value)

    def model_state(self) -> dict[str, np.ndarray]:
        """What validation judges: copies of all parameters, averaged where it judges averages, and buffers."""
        state = self.model.state_dict()
        if self.averaged:
            state |= {name: host_copy(average) for name, average in self.optimizer.averages().items()}
        return state


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
    prefetch: int | None = None,
    resume: str | os.PathLike | None = None,
    class_weight: str | dict | None = None,
    accumulate: int = 1,
    validate_averages: bool | None = None,
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
        ``(X, y)`` or ``(X, y, weights)``: NumPy arrays in any memory order, memory maps, HDF5 and Zarr datasets, or
        whatever else `fusedstep.data.Source` reads; for a model on a GPU CuPy arrays there, too. As `train`,
        MiniBatches bring their own batch size, seed, order and remainder; of those for `validation` the arrays alone
        are used.
    epochs : int
        How many times to go through the training data, those of a resumed run included; at least 1.
    batch_size : int or None
        Samples in a step; 1 is one example at a time, None the full batch.
    metrics : str, callable, dict, or a sequence of these
        ``"accuracy"``, ``"f1_macro"``, ``"roc_auc"``, ``"rmse"``, ``"r2"`` (`fusedstep.metrics`), functions
        ``(target, output) -> float``, or ``{name: function}``; a column ``validation_<name>`` each.
    callbacks : sequence of Callback
    progress : bool or str
        Show a progress bar; a string is its title.
    seed, shuffle, last, prefetch
        As for `fusedstep.data.MiniBatches`.
    resume : str or path, optional
        A file of `fusedstep.callbacks.Checkpoint`: go on from there, with the same arguments, to the bits that the
        run would have had without the interruption. Where early stopping had ended it, nothing more is trained. Where
        there is no such file yet, but one of `callbacks` is to write it, the run starts anew: the same call serves
        both.
    class_weight : "balanced" or dict, optional
        ``{class: weight}``, 1 for those that it does not name, or n_samples / (n_classes * members) for each class
        (King & Zeng 2001): what the training samples of a class count, times their own weights. Integer labels only.
    accumulate : int
        Batches whose gradients are averaged before a step, each by what it counts: the step of a batch so many times
        as large, in the memory of one (batch normalization still sees the small ones). What is left at the end of an
        epoch makes a step of its own. Schedules count steps.
    validate_averages : bool, optional
        Validate the averages of the weights, which an optimizer with `ema_decay` keeps, in place of the
        weights, and leave the averages in the model at the end (Polyak & Juditsky 1992). Buffers are not averaged.
        None: where there are averages and validation data.

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
        small for batch normalization or too large for the memory (the message says how large one can be). All are
        checked, and two samples of each data set and the metrics are tried, before the model is changed; what is on
        disk is checked when it is read.

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
    options = {"batch_size": batch_size, "shuffle": shuffle, "seed": seed, "last": last, "prefetch": prefetch}
    batches = _training_batches(train, class_weight, options)
    held_out = None if validation is None else check_arrays("validation", validation)
    measured = _metrics.resolve(metrics)
    check_objects(model, optimizer, loss)
    run = Run(model, optimizer, loss, batches, History(), _columns(held_out is not None, measured))
    run.callbacks = sorted(as_callbacks("fit", callbacks), key=lambda callback: callback.runs_last)
    if measured and held_out is None:
        raise ValueError("[fit] 'metrics' are computed on validation data, but 'validation' is None")
    accumulate = check_integer("fit", "accumulate", accumulate, 1)
    if accumulate > 1 and getattr(optimizer, "needs_batch", False):
        raise ValueError(f"[fit] 'accumulate' must be 1 with {type(optimizer).__name__}, which looks at one batch")
    run.averaged = _judges_averages(validate_averages, optimizer, held_out)
    run.progress = Progress(model, accumulate)
    _check_shape(model, batches)
    for name, arrays in (("train", batches.arrays), ("validation", held_out)):
        if arrays is not None:
            check_finite(name, *arrays[:2])
            try_out(model, loss, name, *arrays)
    if measured:
        try_metrics(model, loss, held_out, measured)
    device = get_device(model.device)
    windows = batches.window_bytes() if device.name == "cpu" else 0
    shape, ahead = batches.arrays[0].shape[1:], batches_ahead(device, batches)
    check_batch_fits(model, shape, batches.largest, ahead, windows)
    for callback in run.callbacks:
        callback.on_train_begin(run)
    if resume is not None and not _starts_anew(run, resume):
        _resume(run, resume)

    def validate() -> dict:
        with averaged(model, optimizer) if run.averaged else nullcontext():
            return judge(model, loss, held_out, measured, None, finite_on_disk("validation"))

    with device.active():
        run_epochs(run, epochs, None if held_out is None else validate, progress)
    if run.averaged:
        model.load_state_dict(run.model_state())
    for callback in run.callbacks:
        callback.on_train_end(run)
    _warn_of_divergence(run)
    return run.history


def _starts_anew(run: Run, path) -> bool:
    """Whether the file to resume from has still to be written, by this run."""
    written = [os.path.abspath(c.path) for c in run.callbacks if isinstance(c, Checkpoint)]
    return not os.path.exists(path) and os.path.abspath(path) in written


def _resume(run: Run, path) -> None:
    state = TrainingState.read(path)
    saved = [name for name, _ in state.callbacks]
    names = [type(callback).__name__ for callback in run.callbacks]
    if saved != names:
        raise ValueError(f"{os.fspath(path)}: was saved with callbacks {saved} but fit got {names}")
    if state.progress is None:
        raise ValueError(f"{os.fspath(path)}: does not tell how far its epoch was, as files of callbacks.Checkpoint do")
    kept = state.progress.get("accumulate", run.progress.accumulate)
    if kept != run.progress.accumulate:
        raise ValueError(
            f"{os.fspath(path)}: was saved with accumulate={kept} but fit got accumulate={run.progress.accumulate}"
        )
    try:
        for callback, (_, callback_state) in zip(run.callbacks, state.callbacks, strict=True):
            callback.load_state_dict(callback_state)
        run.batches.load_state_dict(state.data or {})
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    own_lr = any(callback.changes_lr for callback in run.callbacks)
    _warn_of_other_options(path, run.optimizer, state.optimizer, {"params", "lr"} if own_lr else {"params"})
    state.restore(run.model, run.optimizer)
    run.history = state.history
    run.history.interrupted = False
    run.epoch = len(run.history.rows)
    run.progress.load_state_dict(state.progress, run.batches.position)
    run.stop = run.history.stopped_by is not None


def _warn_of_other_options(path, optimizer, saved: dict, expected: set[str]) -> None:
    """The saved hyper-parameters count: without them the run would not go on to its own bits."""
    for own, kept in zip(optimizer.param_groups, saved.get("param_groups", ()), strict=False):
        for name in sorted(own.keys() & kept.keys() - expected):
            plain = all(isinstance(value, (bool, int, float, str)) for value in (own[name], kept[name]))
            if plain and own[name] != kept[name]:
                warnings.warn(
                    f"[fit] {os.fspath(path)} was saved with {name}={kept[name]!r}, which goes on; "
                    f"the optimizer's {name}={own[name]!r} is left aside",
                    UserWarning,
                    stacklevel=4,
                )


def _warn_of_divergence(run: Run) -> None:
    if run.history.stopped_by is None and not all(all_finite(p.array) for p in run.model.parameters()):
        warnings.warn(
            "[fit] the training diverged: parameters are NaN or infinite. A smaller lr or the optimizer's max_norm=1.0 "
            "may help; fusedstep.callbacks.StopOnNaN() stops before that and names the layer",
            RuntimeWarning,
            stacklevel=3,
        )


def _training_batches(train, class_weight, options: dict) -> MiniBatches:
    arrays = check_arrays("train", train)
    if class_weight is None:
        return train if isinstance(train, MiniBatches) else MiniBatches(*arrays, **options)
    if isinstance(train, MiniBatches):
        raise TypeError("[fit] 'class_weight' needs 'train' as (X, y); MiniBatches take weights as their third array")
    x, y, *own = arrays
    weights = class_weights("fit", class_weight, y, *own)
    check_weights(f"[fit] 'class_weight'{' times the weights of the samples' if own else ''}", weights)
    return MiniBatches(x, y, weights, **options)


def _check_shape(model, batches: MiniBatches) -> None:
    for size in (batches.largest, batches.smallest):
        shape = (size, *batches.arrays[0].shape[1:])
        try:
            model.check_training_shape(shape)
        except ValueError as error:
            hint = "; fit's last='merge' does as well" if "last='merge'" in str(error) else ""
            raise ValueError(f"[fit] batches of 'train X' have the shape {shape}: {error}{hint}") from error


def _judges_averages(validate_averages: bool | None, optimizer, held_out) -> bool:
    kept = getattr(optimizer, "ema_decay", None) is not None
    if validate_averages is None:
        return kept and held_out is not None
    if validate_averages and not kept:
        raise ValueError("[fit] 'validate_averages' is True but the optimizer keeps none: give it ema_decay=0.999, say")
    return bool(validate_averages)


def _columns(validated: bool, measured: Iterable[str]) -> tuple[str, ...]:
    names = ("loss", *measured) if validated else ()
    return ("epoch", "train_loss", *(f"validation_{name}" for name in names), "lr", "seconds")
