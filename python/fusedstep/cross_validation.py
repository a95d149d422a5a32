"""Rotating cross-validation: k models, and a prediction of every sample by one that never saw it."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from . import _checks
from . import metrics as _metrics
from ._blas import blas_threads as _blas_threads
from ._extras import require
from .callbacks import Checkpoint
from .history import History
from .training import evaluate, fit, predict

_PARTS = ("train", "validation", "test")
_OWN = ("seed", "resume", "train", "validation")


@dataclass
class CrossValidationResult:
    """What `cross_validate` returns; printing it gives a table.

    Attributes
    ----------
    rows : list of dict
        One a round: `fold` (from 1), `best_epoch`, and loss and metrics of its final model on all three parts, in
        evaluation mode: `train_loss`, ..., `validation_loss`, ..., `test_loss`, ...
    predictions : ndarray
        The model's output for every sample by the one model that was tested on it; shape (n_samples, ...).
    models : list of Sequential
    preprocessors, target_preprocessors : list
        The fitted transformer of each round, or None.
    histories : list of History
    folds : list of (train, validation, test)
        The sample indices of each round.
    """

    rows: list[dict]
    predictions: np.ndarray
    models: list
    preprocessors: list
    target_preprocessors: list
    histories: list[History]
    folds: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(repr=False)

    @property
    def mean(self) -> dict[str, float]:
        """The mean over the rounds of each number of the rows."""
        return self._over_rounds(np.mean)

    @property
    def std(self) -> dict[str, float]:
        """The standard deviation over the rounds, divided by k as NumPy does (ddof=0)."""
        return self._over_rounds(np.std)

    def __str__(self) -> str:
        names = [name for name in self.rows[0] if name != "fold"]
        heads = [name.replace("_", " ").partition(" ") for name in names]
        lines = [["", *(first for first, _, _ in heads)], ["fold", *(rest for _, _, rest in heads)]]
        lines += [[str(row["fold"]), *(_cell(row[name]) for name in names)] for row in self.rows]
        for label, values in (("mean", self.mean), ("std", self.std)):
            lines.append([label, *(_cell(values[name]) for name in names)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        rule = "-" * len(text[0])
        return "\n".join([*text[:2], rule, *text[2:-2], rule, *text[-2:]])

    def _over_rounds(self, summary: Callable) -> dict[str, float]:
        names = [name for name in self.rows[0] if name != "fold"]
        columns = {name: [np.nan if row[name] is None else row[name] for row in self.rows] for name in names}
        return {name: float(summary(np.array(values, np.float64))) for name, values in columns.items()}


def cross_validate(
    make_model: Callable,
    make_optimizer: Callable,
    loss,
    X,
    y,
    *,
    cv=None,
    stratify=None,
    groups=None,
    preprocess=None,
    preprocess_target=None,
    metrics=(),
    n_jobs: int | None = None,
    random_state: int | np.random.Generator | None = None,
    blas_threads: int | None = 1,
    **fit_options,
) -> CrossValidationResult:
    """Train and test one model a fold.

    The same `random_state` gives the same rows, whatever `n_jobs` and the number of threads of the kernels; the
    matrix products are the BLAS's, so for other `blas_threads`, BLAS builds or machines last bits may differ.

    Parameters
    ----------
    make_model : callable
        A fresh model, from those of these keyword arguments that the function takes: `seed`, another one in each
        round, and `sample_shape`, the shape of one preprocessed sample (one-hot columns may differ by round).
    make_optimizer : callable
        ``make_optimizer(model)``: a fresh optimizer.
    loss : callable
        As for `fusedstep.fit`.
    X, y : array_like
        Samples and targets, of the same length.
    cv : RotatingKFold, optional
        ``RotatingKFold()`` when None. Where it has no random state, its folds follow from `random_state`.
    stratify, groups : array_like, optional
        As for `RotatingKFold.split`.
    preprocess : scikit-learn transformer, optional
        Cloned and fitted in each round, on the training part alone. Floating X keeps its dtype.
    preprocess_target : scikit-learn transformer, optional
        Likewise for `y`, of shape (n_samples, outputs): ``StandardScaler()``, say. Transformed targets have the dtype
        of the samples, and losses are theirs; metrics and predictions are of the target's own unit, in float64.
    metrics : sequence of str or callable
        As for `fusedstep.fit`.
    n_jobs : int, optional
        Rounds that run at a time, in processes of joblib; None and 1 run one after another in this process.
    random_state : None, int or numpy.random.Generator
        Decides folds, initial parameters, dropout and the order of the data.
    blas_threads : int or None
        BLAS threads a round, set through threadpoolctl; None leaves them as they are.
    **fit_options
        For `fusedstep.fit`: `epochs`, `batch_size`, `progress` ... Callbacks are copied for each round, or made by
        a function, ``callbacks=lambda fold: [...]`` (`fold` from 1; the argument may be left out).

    Returns
    -------
    CrossValidationResult

    Raises
    ------
    TypeError, ValueError
        An argument is wrong.
    ImportError
        scikit-learn (for `preprocess`), joblib (for `n_jobs`) or threadpoolctl (for `blas_threads`) is missing.
    KeyboardInterrupt
        Ctrl-C: a part of the rounds is no cross-validation.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> X = np.linspace(-1, 1, 60, dtype=np.float32)[:, None]
    >>> y = (X[:, 0] > 0).astype(np.int64)
    >>> result = fs.model_selection.cross_validate(
    ...     lambda seed: fs.nn.Sequential(fs.nn.Dense(1, 2), seed=seed),
    ...     lambda model: fs.optim.SGD(model.parameters(), lr=1.0),
    ...     fs.nn.SoftmaxCrossEntropy(), X, y, metrics=["accuracy"], random_state=0,
    ...     blas_threads=None, epochs=20, batch_size=8, progress=False)
    >>> len(result.rows), result.predictions.shape, result.mean["test_accuracy"] > 0.9
    (5, (60, 2), True)
    """
    X, y = np.asarray(X), np.asarray(y)
    _checks.same_length("cross_validate", {"X": X, "y": y})
    _check_options(fit_options)
    metrics = list(_metrics.resolve(metrics).values())
    if n_jobs == 0:
        raise ValueError("[cross_validate] 'n_jobs' must be a number of processes, or negative as in joblib, but got 0")
    seeds = _seed_sequence(random_state)
    folds = list(_splitter(cv, seeds).split(X, y, groups, stratify=stratify))
    task = _Task(
        make_model, make_optimizer, loss, X, y, preprocess, preprocess_target, metrics, blas_threads, fit_options
    )
    jobs = [(k + 1, fold, _fold_seed(seeds)) for k, fold in enumerate(folds)]
    with _blas_threads(blas_threads):
        rounds = list(_serial(task, jobs) if n_jobs in (None, 1) else _parallel(task, jobs, n_jobs))
    predictions = np.empty((len(X), *rounds[0].outputs.shape[1:]), rounds[0].outputs.dtype)
    for (_, _, test), done in zip(folds, rounds, strict=True):
        predictions[test] = done.outputs
    return CrossValidationResult(
        rows=[done.row for done in rounds],
        predictions=predictions,
        models=[done.model for done in rounds],
        preprocessors=[done.preprocessor for done in rounds],
        target_preprocessors=[done.target_preprocessor for done in rounds],
        histories=[done.history for done in rounds],
        folds=folds,
    )


@dataclass
class _Round:
    row: dict
    outputs: np.ndarray
    history: History
    preprocessor: Any
    target_preprocessor: Any
    model: Any


@dataclass
class _Task:
    """What all rounds have in common."""

    make_model: Callable
    make_optimizer: Callable
    loss: Any
    X: np.ndarray
    y: np.ndarray
    preprocess: Any
    preprocess_target: Any
    metrics: list
    blas_threads: int | None
    fit_options: dict
    seen: list = field(default_factory=list)  # models of earlier rounds

    def run(self, number: int, fold, seed: int, progress: bool | str) -> _Round:
        with _blas_threads(self.blas_threads):
            preprocessor, inputs = self._prepare(self.preprocess, self.X, fold, self.y[fold[0]])
            target_preprocessor, targets = self._prepare(self.preprocess_target, self.y, fold)
            if target_preprocessor is not None:
                targets = [target.astype(inputs[0].dtype, copy=False) for target in targets]
            data = {part: both for part, *both in zip(_PARTS, inputs, targets, strict=True)}
            metrics = _in_own_unit(self.metrics, target_preprocessor)
            model = _call(self.make_model, seed=seed, sample_shape=inputs[0].shape[1:])
            if any(model is other for other in self.seen):  # it would be tested on what it was trained on
                raise ValueError(f"[cross_validate] 'make_model' returned the same model again for fold {number}")
            self.seen.append(model)
            options = self.fit_options | {"callbacks": self._callbacks(number), "progress": progress, "seed": seed}
            optimizer = self.make_optimizer(model)
            history = fit(model, optimizer, self.loss, data["train"], data["validation"], metrics=metrics, **options)
            if history.interrupted:
                raise KeyboardInterrupt
            row = {"fold": number, "best_epoch": history.best_epoch}
            for part in _PARTS:
                result = evaluate(model, self.loss, *data[part], metrics=metrics)
                row |= {f"{part}_{name}": value for name, value in result.items()}
            outputs = predict(model, data["test"][0])
            if target_preprocessor is not None:
                outputs = target_preprocessor.inverse_transform(np.float64(outputs))
            return _Round(row, outputs, history, preprocessor, target_preprocessor, model)

    @staticmethod
    def _prepare(transformer, array: np.ndarray, fold, *target) -> tuple[Any, list[np.ndarray]]:
        """A transformer fitted on the training part, and all parts transformed."""
        inputs = [array[indices] for indices in fold]
        if transformer is None:
            return None, inputs
        require("sklearn", extra="sklearn")
        from sklearn.base import clone

        fitted = clone(transformer).fit(inputs[0], *target)
        outputs = [np.asarray(fitted.transform(x)) for x in inputs]
        if array.dtype.kind == "f":
            outputs = [output.astype(array.dtype, copy=False) for output in outputs]
        return fitted, outputs

    def _callbacks(self, number: int) -> list:
        callbacks = self.fit_options.get("callbacks", ())
        return _call(callbacks, fold=number) if callable(callbacks) else copy.deepcopy(callbacks)


def _in_own_unit(metrics: list, transformer) -> list:
    """Metrics of transformed targets and outputs that are those of the targets as they were."""
    if transformer is None:
        return metrics

    def back(metric):
        @functools.wraps(metric)
        def measured(target, output):
            # in float64: an offset of 1e9 leaves float32 no digits
            return metric(*(transformer.inverse_transform(np.float64(values)) for values in (target, output)))

        return measured

    return [back(metric) for metric in metrics]


def _serial(task: _Task, jobs) -> Iterator[_Round]:
    progress = task.fit_options.get("progress", True)
    for number, fold, seed in jobs:
        yield task.run(number, fold, seed, progress and f"fold {number}/{len(jobs)}")


def _parallel(task: _Task, jobs, n_jobs: int) -> Iterator[_Round]:
    joblib = require("joblib", extra="sklearn")
    rounds = joblib.Parallel(n_jobs=n_jobs, return_as="generator")(
        joblib.delayed(task.run)(*job, progress=False) for job in jobs
    )
    hidden = not task.fit_options.get("progress", True)
    return iter(tqdm(rounds, total=len(jobs), disable=hidden, unit="fold"))


def _splitter(cv, seeds: np.random.SeedSequence):
    from .model_selection import RotatingKFold

    if cv is None:
        cv = RotatingKFold()
    elif not hasattr(cv, "split"):
        raise TypeError(f"[cross_validate] 'cv' must be a RotatingKFold but got {cv!r}")
    if getattr(cv, "random_state", 0) is None:
        cv = copy.copy(cv)
        cv.random_state = _fold_seed(seeds)
    return cv


def _seed_sequence(random_state) -> np.random.SeedSequence:
    if isinstance(random_state, np.random.Generator):
        random_state = int(random_state.integers(2**63))
    return np.random.SeedSequence(random_state)


def _fold_seed(seeds: np.random.SeedSequence) -> int:
    return int(seeds.spawn(1)[0].generate_state(1)[0])


def _check_options(options: dict) -> None:
    for name in _OWN:
        if name in options:
            hint = "; use 'random_state'" if name == "seed" else ""
            raise TypeError(f"[cross_validate] '{name}' differs from round to round and cannot be given{hint}")
    callbacks = options.get("callbacks", ())
    if not callable(callbacks) and any(isinstance(callback, Checkpoint) for callback in _as_list(callbacks)):
        raise ValueError(
            "[cross_validate] all rounds would write the same checkpoint: "
            "callbacks=lambda fold: [Checkpoint(f'fold-{fold}.safetensors')] gives each its own"
        )


def _as_list(callbacks) -> list:
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _call(make: Callable, **options):
    """Call with those keyword arguments that the function takes."""
    parameters = inspect.signature(make).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return make(**options)
    return make(**{name: value for name, value in options.items() if name in parameters})


def _cell(value) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
