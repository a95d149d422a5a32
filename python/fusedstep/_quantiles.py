"""Quantiles of values among which some are infinite: runs that diverged are data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .reference.scalars import check_integer, check_range


def quantiles(values, levels: Sequence[float]) -> np.ndarray:
    """The quantiles along the first axis, linear between neighbours; NaN counts as infinite.

    NumPy's own are NaN wherever an infinite value is a neighbour, even with a weight of 0.

    >>> quantiles([1.0, 2.0, np.inf, np.nan, 0.0], (0, 0.5, 0.6, 1)).tolist()
    [0.0, 2.0, inf, inf]
    """
    values = np.asarray(values, np.float64)
    ordered = np.sort(np.where(np.isnan(values), np.inf, values), axis=0)
    result = np.empty((len(levels), *ordered.shape[1:]))
    for i, level in enumerate(levels):
        place = level * (len(ordered) - 1)
        place = round(place) if abs(place - round(place)) < 1e-9 else place  # 0.55 * 100 is a little above 55
        below = int(place)
        weight = place - below
        result[i] = ordered[below] if weight == 0 else (1 - weight) * ordered[below] + weight * ordered[below + 1]
    return result


def check_levels(where: str, levels) -> tuple[float, float, float]:
    """Three rising levels in [0, 1]: lower edge, middle and upper edge of a band."""
    if not np.iterable(levels):
        raise TypeError(f"[{where}] 'quantiles' must be three rising levels such as (0.1, 0.5, 0.9) but got {levels!r}")
    levels = tuple(check_range(where, "quantiles", level, 0, 1, closed=True) for level in levels)
    if len(levels) != 3 or not levels[0] < levels[1] < levels[2]:
        raise ValueError(f"[{where}] 'quantiles' must be three rising levels such as (0.1, 0.5, 0.9) but got {levels}")
    return levels


def check_seeds(where: str, seeds) -> list[int]:
    """The seeds 0, 1, ... where `seeds` is their number, otherwise different seeds as they are given."""
    if not np.iterable(seeds):
        return list(range(check_integer(where, "seeds", seeds, 1, 31)))
    seeds = [check_integer(where, "seeds", seed, 0) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"[{where}] 'seeds' must be a number of seeds, or different seeds, but got {seeds}")
    return seeds
