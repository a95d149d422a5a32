"""Many step sizes and seeds: the final validation loss of each, which says how wide the good valley is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._jobs import check_fresh, check_n_jobs, count_workers, run_all, share_of_threads, threads
from .._quantiles import check_seeds
from .._training_checks import check_arrays
from ..callbacks import Callback, Checkpoint, StopOnNaN
from ..callbacks.base import as_callbacks
from ..data import MiniBatches
from ..reference.scalars import check_integer, check_positive
from ..training import fit
from .result import StepSizeSweep

_WHERE = "step_size_sweep"
_OWN = {"seed": "; use 'seeds'", "resume": ""}


def step_size_sweep(
    make_model: Callable,
    optimizers: Mapping[str, Callable],
    loss,
    train,
    validation,
    *,
    lrs: Sequence[float] | None = None,
    seeds: int | Sequence[int] = 3,
    epochs: int,
    n_jobs: int | None = None,
    blas_threads: int | None = 1,
    progress: bool = True,
    **fit_options,
) -> StepSizeSweep:
    """Train with each optimizer, step size and seed, and keep the validation loss at the end.

    A learning curve shows one step size; how much worse the others are shows how hard the method is to tune. The same
    seeds give the same rows, whatever `n_jobs` and the number of threads of the kernels; the matrix products are the
    BLAS's, so for other `blas_threads`, BLAS builds or machines last bits may differ.

    Parameters
    ----------
    make_model : callable
        ``make_model(seed)``: a fresh model.
    optimizers : dict of str to callable
        ``optimizer(params, lr)``, called with ``model.parameters()``: a class of `fusedstep.optim`, or
        ``lambda params, lr: fs.optim.Momentum(params, lr, momentum=0.9)``.
    loss, train, validation
        As for `fusedstep.fit`; no MiniBatches.
    lrs : sequence of float, optional
        The step sizes, greater than 0; None: 9 from 1e-4 to 1, half a decade apart.
    seeds : int or sequence of int
        How many, from 0, or which; each decides initial parameters, dropout and the order of the data.
    epochs : int
        Of each run.
    n_jobs : int, optional
        Runs at a time, in processes of joblib, or wherever a joblib backend that is in use takes them; None and 1: one
        after another in this process. The threads of the kernels are shared out.
    blas_threads : int or None
        BLAS threads a run, set through threadpoolctl; None leaves them as they are.
    progress : bool
        Show a bar of the runs.
    **fit_options
        For `fusedstep.fit`: `batch_size`, ... Callbacks are copied for each run, or made by a function without
        arguments; no `Checkpoint`.

    Returns
    -------
    StepSizeSweep
        A run that diverges ends there, and is a row with an infinite loss: no error and no warning.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; what `fusedstep.fit` refuses is refused by the first run.
    ImportError
        joblib (for `n_jobs`) or threadpoolctl (for `blas_threads`) is missing.
    KeyboardInterrupt
        Ctrl-C: a part of the grid is no sweep.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> sweep = fs.tune.step_size_sweep(
    ...     lambda seed: fs.nn.Sequential(fs.nn.Dense(1, 1), seed=seed), {"SGD": fs.optim.SGD, "Adam": fs.optim.Adam},
    ...     fs.nn.MeanSquaredError(), (X, X), (X, X), lrs=[1e-3, 1e-1, 1e2],
    ...     epochs=40, batch_size=8, blas_threads=None, progress=False)
    >>> len(sweep.rows), sweep.best()["SGD"]["lr"], [row["diverged"] for row in sweep.rows[:9:3]]
    (18, 0.1, [False, False, True])
    """
    _check(make_model, optimizers, fit_options)
    for name, data in (("train", train), ("validation", validation)):
        if isinstance(data, MiniBatches):
            raise TypeError(f"[{_WHERE}] '{name}' must be (X, y) or (X, y, weights), as runs share no MiniBatches")
        check_arrays(name, data, _WHERE)
    lrs, seeds = _check_lrs(lrs), check_seeds(_WHERE, seeds)
    epochs = check_integer(_WHERE, "epochs", epochs, 1)
    n_jobs, blas_threads = check_n_jobs(_WHERE, n_jobs, blas_threads)
    options = {"callbacks": (), **fit_options, "epochs": epochs}
    if not callable(options["callbacks"]):
        options["callbacks"] = _callbacks(options["callbacks"])
    jobs = [(name, lr, seed) for name in optimizers for lr in lrs for seed in seeds]
    kernels = share_of_threads(count_workers(n_jobs, len(jobs)))
    data = (train, validation)
    task = _Task(make_model, dict(optimizers), loss, *data, kernels, blas_threads, options)
    with threads(None, blas_threads):
        return StepSizeSweep(run_all(_WHERE, task.run, jobs, n_jobs, progress=progress, unit="run"))


@dataclass
class _Task:
    """What all runs have in common; it goes to other processes."""

    make_model: Callable
    optimizers: dict[str, Callable]
    loss: Any
    train: tuple
    validation: tuple
    kernel_threads: int | None
    blas_threads: int | None
    fit_options: dict

    def run(self, name: str, lr: float, seed: int) -> dict:
        """The row of one run."""
        with threads(self.kernel_threads, self.blas_threads), np.errstate(all="ignore"):
            model = self.make_model(seed)
            check_fresh(_WHERE, model)
            optimizer = self.optimizers[name](model.parameters(), lr)
            options = self.fit_options | {"callbacks": self._callbacks(), "progress": False, "seed": seed}
            history = fit(model, optimizer, self.loss, self.train, self.validation, **options)
        if history.interrupted:
            raise KeyboardInterrupt
        stopped = (history.stopped_by or "").startswith(StopOnNaN.__name__)
        losses = [row["validation_loss"] for row in history.rows]
        final = math.inf if stopped or not losses else losses[-1]
        diverged = not math.isfinite(final)
        return {
            "optimizer": name,
            "lr": lr,
            "seed": seed,
            "validation_loss": math.inf if diverged else final,
            "best_validation_loss": min((value for value in losses if math.isfinite(value)), default=math.inf),
            "best_epoch": history.best_epoch,
            "diverged": diverged,
        }

    def _callbacks(self) -> list[Callback]:
        given = self.fit_options["callbacks"]
        return [StopOnNaN(), *(_callbacks(given()) if callable(given) else copy.deepcopy(given))]


def _check(make_model, optimizers, options: dict) -> None:
    if not callable(make_model):
        raise TypeError(f"[{_WHERE}] 'make_model' must be a function of the seed but got {make_model!r}")
    if not isinstance(optimizers, Mapping) or not all(map(callable, optimizers.values())):
        raise TypeError(
            f"[{_WHERE}] 'optimizers' must be a dict of names and functions (params, lr), not {optimizers!r}"
        )
    if not optimizers:
        raise ValueError(f"[{_WHERE}] 'optimizers' is empty")
    for name, hint in _OWN.items():
        if name in options:
            raise TypeError(f"[{_WHERE}] '{name}' is no option of a sweep's runs{hint}")


def _callbacks(callbacks) -> list[Callback]:
    callbacks = as_callbacks(_WHERE, callbacks)
    if any(isinstance(callback, Checkpoint) for callback in callbacks):
        raise ValueError(f"[{_WHERE}] all runs would write the same checkpoint")
    return callbacks


def _check_lrs(lrs) -> list[float]:
    if lrs is None:
        lrs = np.geomspace(1e-4, 1, 9)
    if not np.iterable(lrs) or isinstance(lrs, str):
        raise TypeError(f"[{_WHERE}] 'lrs' must be a sequence of step sizes but got {lrs!r}")
    lrs = [check_positive(_WHERE, "lrs", lr) for lr in lrs]
    if not lrs or len(set(lrs)) < len(lrs):
        raise ValueError(f"[{_WHERE}] 'lrs' must be different step sizes but got {lrs}")
    return sorted(lrs)
