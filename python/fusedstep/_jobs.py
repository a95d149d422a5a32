"""Many trainings, one after another or at the same time: their threads, their processes and their progress bar."""

from __future__ import annotations

import pickle
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from . import backend
from ._blas import blas_threads
from ._extras import require
from .nn import Sequential
from .reference.scalars import check_integer

_TRAINED: weakref.WeakSet = weakref.WeakSet()
"""The models of earlier trainings in this process: a worker gets a task anew with each, but keeps what modules hold."""
_LOCK = threading.Lock()


def check_fresh(where: str, model, what_for: str = "") -> None:
    """Raise for what `make_model` gave if it is no model, or one that was trained before and would go on from there."""
    if not isinstance(model, Sequential):
        raise TypeError(f"[{where}] 'make_model' must return a fusedstep.nn.Sequential but returned {model!r}")
    with _LOCK:
        if model in _TRAINED:
            raise ValueError(f"[{where}] 'make_model' returned the same model again{what_for}")
        _TRAINED.add(model)


def check_n_jobs(where: str, n_jobs: int | None, blas: int | None) -> tuple[int | None, int | None]:
    """Both as plain integers; raise for what is no `n_jobs` of joblib's, or no number of threads of the BLAS."""
    if n_jobs is not None and (n_jobs := check_integer(where, "n_jobs", n_jobs, -(2**31))) == 0:
        raise ValueError(f"[{where}] 'n_jobs' must be a number of processes, or negative as in joblib, but got 0")
    return n_jobs, None if blas is None else check_integer(where, "blas_threads", blas, 1)


def count_workers(n_jobs: int | None, jobs: int) -> int:
    """How many of `jobs` run at a time."""
    if n_jobs in (None, 1):
        return 1
    return min(require("joblib", extra="sklearn").effective_n_jobs(n_jobs), jobs)


def share_of_threads(workers: int) -> int | None:
    """How many threads the kernels of each worker may take, so that all share the cores; None: as they are."""
    return None if workers == 1 else max(1, backend.get_num_threads() // workers)


@contextmanager
def threads(kernels: int | None, blas: int | None) -> Iterator[None]:
    """A while in which kernels and BLAS run on so many threads, None as they are; then the kernels' are put back."""
    before = backend.get_num_threads()
    if kernels is not None:
        backend.set_num_threads(kernels)
    try:
        with blas_threads(blas):
            yield
    finally:
        backend.set_num_threads(before)


def run_all(
    where: str, run: Callable, jobs: Sequence[tuple], n_jobs: int | None, *, progress: bool | str, unit: str
) -> list:
    """``run(*job)`` of each job, in their order: one after another in this process where `n_jobs` is None or 1,
    otherwise in processes of joblib or wherever a backend in use takes them.

    Raises
    ------
    TypeError
        An argument cannot be pickled.
    """
    from tqdm import tqdm

    results = (run(*job) for job in jobs) if n_jobs in (None, 1) else _in_parallel(where, run, jobs, n_jobs)
    return list(tqdm(results, total=len(jobs), disable=not progress, unit=unit))


def _in_parallel(where: str, run: Callable, jobs: Sequence[tuple], n_jobs: int) -> Iterator:
    joblib, workers = require("joblib", extra="sklearn"), count_workers(n_jobs, len(jobs))
    try:
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator")
    except ValueError:  # processes of multiprocessing, and so Ray's, give all results at once
        parallel = joblib.Parallel(n_jobs=workers)
    try:
        yield from parallel(joblib.delayed(run)(*job) for job in jobs)
    except pickle.PicklingError as error:
        raise TypeError(
            f"[{where}] with 'n_jobs' all arguments must be such that they can be pickled, which an HDF5 dataset "
            "cannot: give a class with slices that opens the file itself, or threads, "
            f"joblib.parallel_config(backend='threading'): {error}"
        ) from error
