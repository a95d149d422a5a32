"""Rotating cross-validation: k models, and a prediction of every sample by one that never saw it."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from .. import _checks
from .. import metrics as _metrics
from .._extras import require
from .._jobs import check_n_jobs, count_workers, run_all, share_of_threads, threads
from .._training_checks import refuse_nonfinite
from ..callbacks import Checkpoint
from ..callbacks.base import as_callbacks
from ..data.sources import Samples, Source, as_samples, is_on_disk
from ..reference.scalars import check_integer
from .folder import FoldFolder
from .result import CrossValidationResult
from .rounds import Task

_OWN = ("seed", "resume", "train", "validation")


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
    folder: str | os.PathLike | None = None,
    trusted=(),
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
        Samples and targets, of the same length; what is on disk is read as `fusedstep.fit` reads it.
    cv : int or RotatingKFold, optional
        An int is the number of folds, 5 when None. Where it has no random state, its folds follow from `random_state`.
    stratify, groups : array_like, optional
        As for `RotatingKFold.split`.
    preprocess : scikit-learn transformer, optional
        Cloned and fitted in each round, on the training part alone. Floating X keeps its dtype.
    preprocess_target : scikit-learn transformer, optional
        Likewise for `y`, of shape (n_samples, outputs): ``StandardScaler()``, say. Transformed targets have the dtype
        of the samples, and losses are theirs; metrics and predictions are of the target's own unit, in float64.
    metrics : str, callable, dict, or a sequence of these
        As for `fusedstep.fit`.
    n_jobs : int, optional
        Rounds that run at a time, in processes of joblib, or wherever a joblib backend that is in use takes them (Dask,
        Ray); None and 1 run one after another in this process. The threads of the kernels are shared out.
    random_state : None, int or numpy.random.Generator
        Decides folds, initial parameters, dropout and the order of the data.
    blas_threads : int or None
        BLAS threads a round, set through threadpoolctl; None leaves them as they are.
    folder : str or path, optional
        Keep each finished fold there, and the checkpoint of those under way: the same call, after a kill or Ctrl-C,
        takes them up and ends with the bits that it would have had. Without `random_state` that of the folder goes on.
        Data, folds, options, layers and hyper-parameters that differ are refused; of data on disk parts are looked at,
        of schedules what they give at some steps, and of other functions the names. On a cluster all machines must see
        the folder.
    trusted : sequence of str
        Types of your own that transformers in the folder may be made of, "my_module.MyTransformer", say.
    **fit_options
        For `fusedstep.fit`: `epochs`, `batch_size`, `progress` ... Callbacks are copied for each round, or made by
        a function, ``callbacks=lambda fold: [...]`` (`fold` from 1; the argument may be left out).

    Returns
    -------
    CrossValidationResult

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, X or y holds NaN or infinity (X may where it is preprocessed), or `folder` is of another
        cross-validation.
    RuntimeError
        Another cross-validation is under way in `folder`.
    ImportError
        scikit-learn (for `preprocess`), skops (to keep it in `folder`), safetensors (for `folder`), joblib (for
        `n_jobs`) or threadpoolctl (for `blas_threads`) is missing.
    KeyboardInterrupt
        Ctrl-C: a part of the rounds is no cross-validation; `folder` keeps it.

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
    where = "cross_validate"
    X, y = _samples(X), _samples(y)
    _checks.same_length(where, {"X": X, "y": y})
    _check_options(fit_options)
    for name, make in (("make_model", make_model), ("make_optimizer", make_optimizer)):
        if not callable(make):
            raise TypeError(f"[{where}] '{name}' must be a function, which is called for each fold, but got {make!r}")
    for name, samples, transformer in (("X", X, preprocess), ("y", y, preprocess_target)):
        if isinstance(transformer, type):
            raise TypeError(f"[{where}] transformers must be instances, {transformer.__name__}(), but got the class")
        if transformer is None and not isinstance(samples, Source):
            refuse_nonfinite(where, name, samples)
    metrics = _metrics.resolve(metrics)
    n_jobs, blas_threads = check_n_jobs(where, n_jobs, blas_threads)
    if isinstance(trusted, str):
        raise TypeError(f"[{where}] 'trusted' must be a sequence of names but got {trusted!r}")
    if folder is not None:
        require("safetensors")  # better known before a round than after it
    kept = None if folder is None else FoldFolder(Path(folder), tuple(trusted))
    seeds = _seed_sequence(random_state, kept)
    folds = list(_splitter(cv, seeds).split(X, y, groups, stratify=stratify))
    with nullcontext() if kept is None else kept.held():
        if kept is not None:
            options = fit_options | {"loss": loss, "metrics": list(metrics), "blas_threads": blas_threads}
            options |= {"preprocess": preprocess, "preprocess_target": preprocess_target}
            kept.begin(seeds, folds, X, y, {name: value for name, value in options.items() if name != "progress"})
        workers = count_workers(n_jobs, len(folds))
        task = Task(
            make_model,
            make_optimizer,
            loss,
            X,
            y,
            preprocess,
            preprocess_target,
            metrics,
            blas_threads,
            share_of_threads(workers),
            kept,
            fit_options,
        )
        progress = fit_options.get("progress", True)
        own = progress and n_jobs in (None, 1)  # whether each round has a bar of its own, or all have one
        jobs = [(k + 1, fold, _fold_seed(seeds), own and f"fold {k + 1}/{len(folds)}") for k, fold in enumerate(folds)]
        with threads(None, blas_threads):  # rounds in threads of this process put back what others had set
            rounds = run_all(where, task.run, jobs, n_jobs, progress=progress and not own, unit="fold")
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


def _samples(array) -> Samples:
    samples = as_samples(array)
    return Source(samples) if is_on_disk(samples) and samples.ndim > 1 else samples


def _splitter(cv, seeds: np.random.SeedSequence):
    from ..model_selection import RotatingKFold

    if cv is None:
        cv = RotatingKFold()
    elif isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        cv = RotatingKFold(cv)
    elif not hasattr(cv, "split") or "stratify" not in inspect.signature(cv.split).parameters:  # scikit-learn's, say
        raise TypeError(f"[cross_validate] 'cv' must be a number of folds or a RotatingKFold but got {cv!r}")
    if getattr(cv, "random_state", 0) is None:
        cv = copy.copy(cv)
        cv.random_state = _fold_seed(seeds)
    return cv


def _seed_sequence(random_state, kept: FoldFolder | None) -> np.random.SeedSequence:
    if isinstance(random_state, np.random.Generator):
        random_state = int(random_state.integers(2**63))
    elif random_state is not None:
        random_state = check_integer("cross_validate", "random_state", random_state, 0, 128)
    elif kept is not None:
        random_state = kept.random_state()
    return np.random.SeedSequence(random_state)


def _fold_seed(seeds: np.random.SeedSequence) -> int:
    return int(seeds.spawn(1)[0].generate_state(1)[0])


def _check_options(options: dict) -> None:
    for name in _OWN:
        if name in options:
            hint = {"seed": "; use 'random_state'", "resume": "; use 'folder'"}.get(name, "")
            raise TypeError(f"[cross_validate] '{name}' differs from round to round and cannot be given{hint}")
    if "callbacks" in options and not callable(options["callbacks"]):
        options["callbacks"] = as_callbacks("cross_validate", options["callbacks"])
        if any(isinstance(callback, Checkpoint) for callback in options["callbacks"]):
            raise ValueError("[cross_validate] all rounds would write the same checkpoint: 'folder' gives each its own")
