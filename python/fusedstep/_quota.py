"""Whole numbers for fair shares: the largest-remainder method."""

from __future__ import annotations

import numpy as np

TINY = 1e-9
"""10 * 0.3 is a little over 3, 0.7 * 10 a little under 7."""


def round_quota(quota: np.ndarray, total: int, behind: np.ndarray, ties: np.ndarray | None = None) -> np.ndarray:
    """A whole count for each part, less than one away from its quota, with sum `total`.

    Each gets the whole part of its quota. What remains goes to those parts with a remainder that lag furthest behind,
    this remainder included; of equal ones to that which comes first in `ties`.

    >>> round_quota(np.array([1.8, 0.6, 0.6]), 3, np.zeros(3)).tolist()
    [2, 1, 0]
    >>> round_quota(np.array([1.8, 0.6, 0.6]), 3, np.array([-0.5, 0.0, 0.5])).tolist()
    [1, 1, 1]
    """
    counts = np.floor(quota + TINY).astype(np.int64)
    rest = quota - counts
    candidates = np.arange(len(quota)) if ties is None else ties
    candidates = candidates[rest[candidates] > TINY]  # one without a remainder would get more than its share
    ranked = candidates[np.argsort(-(behind + rest)[candidates].round(9), kind="stable")]
    counts[ranked[: total - counts.sum()]] += 1
    return counts
