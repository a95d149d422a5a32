"""The ends of a symmetric matrix's spectrum from its products with vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def spectrum_ends(
    product: Callable, n: int, *, tol: float, max_products: int, seed: int
) -> tuple[float, float, float, float, int]:
    """The largest and the smallest eigenvalue of a symmetric matrix (Lanczos 1950).

    All basis vectors are kept, and each new one is made orthogonal to them twice: without that, copies of eigenvalues
    come up. An eigenvalue lies within the error bound of each value found, ``|beta_m s_m|`` (Parlett 1998, theorem
    13.2.1). After `n` products both are exact but for rounding.

    Parameters
    ----------
    product : callable
        Takes and gives a float64 vector of length `n`.
    n : int
    tol : float
        Ends when both bounds are at most `tol` times its own value, or what rounding leaves of the larger one.
    max_products : int
    seed : int
        Of the start vector.

    Returns
    -------
    largest, smallest, largest's error bound, smallest's, products taken

    Raises
    ------
    ValueError
        A product is not finite.
    """
    most = min(n, max_products)
    basis = np.empty((most, n))  # memory that is not yet written costs nothing
    alphas, betas = np.empty(most), np.empty(most)
    w = np.random.default_rng(seed).standard_normal(n)
    beta = np.linalg.norm(w)
    for m in range(1, most + 1):
        known = basis[:m]
        known[-1] = w / beta
        w = product(known[-1])
        alphas[m - 1] = known[-1] @ w
        if not np.isfinite(alphas[m - 1]):
            raise ValueError(
                "[curvature] the curvature is not finite: the model, the data or the loss holds NaN or infinity"
            )
        for _ in range(2):
            w = w - known.T @ (known @ w)
        beta = betas[m - 1] = np.linalg.norm(w)
        if m > 20 and m % 5 and m < most:  # the small problem costs m**3
            continue
        off = betas[: m - 1]
        values, vectors = np.linalg.eigh(np.diag(alphas[:m]) + np.diag(off, 1) + np.diag(off, -1))
        small, large = values[0], values[-1]
        rounding = np.finfo(np.float64).eps * m * max(abs(small), abs(large))
        if beta <= rounding or m == n:  # the basis holds all that the start vector reaches
            return large, small, rounding, rounding, m
        large_error, small_error = (max(abs(beta * vectors[-1, i]), rounding) for i in (-1, 0))
        if large_error <= max(tol * abs(large), rounding) and small_error <= max(tol * abs(small), rounding):
            break
    return large, small, large_error, small_error, m
