"""One round of a cross-validation: a model for a fold."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._extras import require
from .._jobs import check_fresh, threads
from ..callbacks.base import as_callbacks
from ..data.sources import Samples, Source
from ..evaluation import evaluate, predict
from ..history import History
from ..training import fit
from .folder import FoldFolder, check_same_method, describe_method

_PARTS = ("train", "validation", "test")


@dataclass
class Round:
    """What a round gives."""

    row: dict
    outputs: np.ndarray
    history: History
    preprocessor: Any
    target_preprocessor: Any
    model: Any
    method: dict


@dataclass
class Task:
    """What all rounds have in common; it goes to other processes.

    `kernel_threads` is how many threads the kernels of one round may take, so that rounds at the same time share the
    cores; None leaves them as they are.
    """

    make_model: Callable
    make_optimizer: Callable
    loss: Any
    X: Samples
    y: Samples
    preprocess: Any
    preprocess_target: Any
    metrics: dict[str, Callable]
    blas_threads: int | None
    kernel_threads: int | None
    folder: FoldFolder | None
    fit_options: dict

    def run(self, number: int, fold: Sequence[np.ndarray], seed: int, progress: bool | str) -> Round:
        """Train and test the model of fold `number`, from 1, or take up what the folder has of it."""
        if self.folder is not None and self.folder.is_done(number):
            return self._taken_up(number, seed)
        with threads(self.kernel_threads, self.blas_threads):
            done = self._run(number, fold, seed, progress)
        if self.folder is not None:
            self.folder.write(number, **vars(done))
        return done

    def _run(self, number: int, fold: Sequence[np.ndarray], seed: int, progress: bool | str) -> Round:
        preprocessor, inputs = _prepare("preprocess", self.preprocess, self.X, fold, lambda: _at(self.y, fold[0]))
        target_preprocessor, targets = _prepare("preprocess_target", self.preprocess_target, self.y, fold)
        if target_preprocessor is not None:
            targets = [target.astype(inputs[0].dtype, copy=False) for target in targets]
        data = {part: both for part, *both in zip(_PARTS, inputs, targets, strict=True)}
        metrics = _in_own_unit(self.metrics, target_preprocessor)
        sample_shape = inputs[0].shape[1:]
        model = self._model(seed, sample_shape)
        check_fresh("cross_validate", model, f" for fold {number}")  # it would be tested on what it was trained on
        optimizer, method = self._optimizer(model, sample_shape)
        options = self.fit_options | {"callbacks": self._callbacks(number), "progress": progress, "seed": seed}
        if self.folder is not None:
            options["callbacks"] += self.folder.callbacks(number, method)
            options["resume"] = self.folder.checkpoint_of(number)
        history = fit(model, optimizer, self.loss, data["train"], data["validation"], metrics=metrics, **options)
        if history.interrupted:
            raise KeyboardInterrupt
        row = {"fold": number, "best_epoch": history.best_epoch}
        for part in _PARTS:
            result = evaluate(model, self.loss, *data[part], metrics=metrics)
            row |= {f"{part}_{name}": value for name, value in result.items()}
        outputs = predict(model, data["test"][0])
        if target_preprocessor is not None:
            outputs = _back(target_preprocessor, outputs)
        return Round(row, outputs, history, preprocessor, target_preprocessor, model, method)

    def _model(self, seed: int, sample_shape: tuple[int, ...]):
        return call(self.make_model, "make_model", seed=seed, sample_shape=sample_shape)

    def _optimizer(self, model, sample_shape: tuple[int, ...]) -> tuple:
        """(optimizer, what describes it and the model)"""
        optimizer = self.make_optimizer(model)
        return optimizer, describe_method(model, optimizer, sample_shape)

    def _taken_up(self, number: int, seed: int) -> Round:
        done = Round(**self.folder.read(number))
        sample_shape = tuple(done.method["sample_shape"])
        _, method = self._optimizer(self._model(seed, sample_shape), sample_shape)
        try:
            check_same_method(done.method, method)
        except ValueError as error:
            raise ValueError(f"{self.folder.path}: fold {number} {error}") from None
        return done

    def _callbacks(self, number: int) -> list:
        callbacks = self.fit_options.get("callbacks", ())
        made = call(callbacks, "callbacks", fold=number) if callable(callbacks) else copy.deepcopy(callbacks)
        return as_callbacks("cross_validate", made)


def call(make: Callable, name: str, **options):
    """Call with those keyword arguments that the function takes; one of another name is the first of them.

    >>> call(lambda seed: seed, "make_model", seed=1, sample_shape=(2,))
    1
    >>> call(lambda s: s, "make_model", seed=1, sample_shape=(2,))
    1
    """
    parameters = inspect.signature(make).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return make(**options)
    taken = {key: value for key, value in options.items() if key in parameters}
    required = [p for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    other = [p.name for p in required if p.name not in options]
    if not other:
        return make(**taken)
    first = next(iter(options))
    if len(other) > 1 or first in parameters or required[0].name != other[0]:
        known = " and ".join(map(repr, options))
        raise TypeError(f"[cross_validate] '{name}' is called with {known} but asks for {other[-1]!r}, too")
    taken.pop(first, None)
    return make(options[first], **taken)


def _at(samples: Samples, indices: np.ndarray) -> Samples:
    # joblib hands large arrays to its processes as memory maps, so where arrays are must not be asked here.
    return Source(samples, indices) if isinstance(samples, Source) else samples[indices]


def _prepare(name: str, transformer, samples: Samples, fold, *target: Callable) -> tuple[Any, list[Samples]]:
    """A transformer fitted on the training part, and all parts transformed."""
    inputs = [_at(samples, indices) for indices in fold]
    if transformer is None:
        return None, inputs
    if isinstance(samples, Source):
        raise ValueError(
            f"[cross_validate] '{name}' needs samples in memory, and these are on disk; "
            "a class with a length and slices can transform what it reads, see fusedstep.data.Source"
        )
    require("sklearn", extra="sklearn")
    from sklearn.base import clone

    fitted = clone(transformer).fit(inputs[0], *(values() for values in target))
    outputs = [np.asarray(fitted.transform(x)) for x in inputs]
    if samples.dtype.kind == "f":
        outputs = [output.astype(samples.dtype, copy=False) for output in outputs]
    return fitted, outputs


def _back(transformer, values) -> np.ndarray:
    """Targets or outputs in their own unit; NaN where they are infinite, which scikit-learn refuses."""
    values = np.float64(values)  # an offset of 1e9 leaves float32 no digits
    return transformer.inverse_transform(np.where(np.isinf(values), np.nan, values))


def _in_own_unit(metrics: dict[str, Callable], transformer) -> dict[str, Callable]:
    """Metrics of transformed targets and outputs that are those of the targets as they were."""
    if transformer is None:
        return metrics

    def back(metric):
        @functools.wraps(metric)
        def measured(target, output):
            return metric(_back(transformer, target), _back(transformer, output))

        return measured

    return {name: back(metric) for name, metric in metrics.items()}
