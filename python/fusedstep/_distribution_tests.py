"""The tests behind `distribution_report`: a part against the others."""

from __future__ import annotations

import math

import numpy as np

from ._extras import require

_REACHED = 200  # resamples as extreme as the sample: enough for a p-value that is no small one
_CELLS = 10**6  # of resamples in memory at a time
_EXACT = 10**6  # ks_2samp's exact p-value counts paths: as many steps as the product of the sizes


def chi_square(own: np.ndarray, others: np.ndarray, resamples: int) -> tuple[float, float]:
    """Pearson's statistic of two rows of counts and its p-value.

    The p-value is that of the chi-square distribution where at most a fifth of the expected counts are below 5 and
    none is below 1 (Cochran 1954). Otherwise it comes from random divisions with the same margins, at most
    `resamples`, fewer where a large p-value is plain early (Besag & Clifford 1991).

    >>> chi_square(np.array([40, 60]), np.array([60, 40]), 0)[0]
    8.0
    """
    total = own + others
    total, own = total[total > 0], own[total > 0]
    share = own.sum() / total.sum()
    if len(total) < 2:
        return 0.0, 1.0

    def statistic(counts):
        return ((counts - share * total) ** 2 / (total * (share * (1 - share)))).sum(axis=-1)

    observed = statistic(own)
    expected = np.concatenate([total * share, total * (1 - share)])
    if (expected < 5).mean() <= 0.2 and expected.min() >= 1:
        return float(observed), float(require("scipy.stats", extra="sklearn").chi2.sf(observed, len(total) - 1))
    rng = np.random.default_rng(0)
    drawn = reached = 0
    size = max(1, min(1000, _CELLS // len(total)))
    method = "count" if total.sum() < 10 * len(total) else "marginals"  # the quicker one
    while drawn < resamples and reached < _REACHED:
        counts = rng.multivariate_hypergeometric(total, own.sum(), size=size, method=method)
        reached += int((statistic(counts) >= observed * (1 - 1e-9)).sum())
        drawn += size
    return float(observed), (1 + reached) / (1 + drawn)


def kolmogorov_smirnov(own: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """The two-sample statistic (the greatest distance between the distribution functions) and its p-value.

    >>> kolmogorov_smirnov(np.arange(10.0), np.arange(5, 15.0))[0]
    0.5
    """
    method = "exact" if len(own) * len(others) <= _EXACT else "asymp"
    result = require("scipy.stats", extra="sklearn").ks_2samp(own, others, method=method)
    return float(result.statistic), float(result.pvalue)


def total_variation(own: np.ndarray, others: np.ndarray) -> float:
    """The greatest difference between the probabilities that two rows of counts give to any set of values.

    >>> total_variation(np.array([4, 6]), np.array([6, 4]))
    0.2
    """
    return round(float(np.abs(own / own.sum() - others / others.sum()).sum() / 2), 12)


def resamples_for(n_rows: int, alpha: float) -> int:
    """So many that the least p-value there can be is significant among `n_rows`."""
    return max(10_000, math.ceil(2 * n_rows / alpha))


def holm(p_values) -> list[float]:
    """Adjusted p-values: those below alpha are significant together (Holm 1979).

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    p = np.asarray(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    back = np.empty(len(p))
    back[order] = np.minimum(adjusted, 1)
    return back.tolist()
