"""How many threads the BLAS behind NumPy's matrix products uses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from ._extras import require


def blas_threads(n: int | None) -> AbstractContextManager:
    """Context in which the BLAS of this process runs on `n` threads; None changes nothing.

    The last bits of a matrix product depend on the number of BLAS threads, so a run that is to repeat
    bit for bit fixes it.

    Raises
    ------
    ImportError
        threadpoolctl is missing and `n` is not None.
    """
    if n is None:
        return nullcontext()
    return require("threadpoolctl", extra="sklearn").threadpool_limits(limits=n, user_api="blas")
