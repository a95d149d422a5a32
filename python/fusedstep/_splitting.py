"""How samples are dealt to folds and parts: by class, by group, in fair shares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np


def class_indices(where: str, labels, n_samples: int, n_parts: int) -> np.ndarray:
    """The class of each sample as an index from 0; all 0 without labels.

    Warns of classes with fewer members than parts: some part then has none of them.
    """
    if labels is None:
        return np.zeros(n_samples, np.int64)
    labels = np.asarray(labels)
    if labels.shape != (n_samples,):
        raise ValueError(
            f"[{where}] 'stratify' must be one label a sample, shape ({n_samples},), but has shape {labels.shape}"
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(f"[{where}] 'stratify' has NaN at index {int(np.isnan(labels).argmax())}")
    if labels.dtype.kind == "O":  # mixed types and None cannot be sorted
        labels = labels.astype(str)
    names, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    small = sizes < n_parts
    if small.any():
        shown = ", ".join(f"{name} ({size})" for name, size in zip(names[small][:5], sizes[small][:5], strict=True))
        more = f" and {small.sum() - 5} more" if small.sum() > 5 else ""
        warnings.warn(
            f"[{where}] classes with fewer than {n_parts} members will be absent from some parts: {shown}{more}",
            UserWarning,
            stacklevel=4,
        )
    return classes.reshape(-1).astype(np.int64)


def group_indices(where: str, groups, n_samples: int, n_parts: int) -> np.ndarray:
    """The group of each sample as an index from 0."""
    groups = np.asarray(groups)
    if groups.shape != (n_samples,):
        raise ValueError(
            f"[{where}] 'groups' must be one group a sample, shape ({n_samples},), but has shape {groups.shape}"
        )
    if groups.dtype.kind == "O":
        groups = groups.astype(str)
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < n_parts:
        raise ValueError(f"[{where}] needs at least {n_parts} groups but 'groups' has {len(names)}")
    return index.reshape(-1)


def deal_evenly(classes: np.ndarray, n_parts: int, rng: np.random.Generator | None) -> np.ndarray:
    """A part for each sample. Parts differ by at most one sample, over all and in each class.

    The classes are dealt one after another, each starting where the one before ended. Without `rng` the samples
    of a class keep their order: one class alone gives contiguous blocks.
    """
    parts = np.empty(len(classes), np.int64)
    start = 0
    for members in _members(classes, rng):
        parts[members] = np.sort(np.arange(start, start + len(members)) % n_parts)
        start += len(members)
    return parts


def deal_shares(classes: np.ndarray, shares: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """A part for each sample. In each class, a part's count is less than one away from its share.

    Each class gets the whole part of its quota (largest-remainder method). What remains of it goes to the parts
    that lag furthest behind over all classes so far, so that the sizes of the parts come out right as well.
    """
    parts = np.empty(len(classes), np.int64)
    shares = np.asarray(shares)
    lag = np.zeros(len(shares))
    for members in _members(classes, rng):
        quota = len(members) * shares
        counts = np.floor(quota + 1e-9).astype(np.int64)  # 10 * 0.3 is a little over 3, 0.7 * 10 a little under 7
        lag += quota - counts
        # A part without a remainder in this class would get more than its share.
        open_parts = np.flatnonzero(quota - counts > 1e-9)
        chosen = open_parts[np.argsort(-lag[open_parts], kind="stable")][: len(members) - counts.sum()]
        counts[chosen] += 1
        lag[chosen] -= 1
        parts[members] = np.repeat(np.arange(len(shares)), counts)
    return parts


def deal_groups(
    groups: np.ndarray, classes: np.ndarray, shares: Sequence[float], rng: np.random.Generator | None
) -> np.ndarray:
    """A part for each sample, the same for all of a group.

    Groups go, the largest first, to the part that is least full relative to its share, judged by the classes that
    the group brings; of equally full ones to that with the larger share.
    """
    counts = np.zeros((groups.max() + 1, classes.max() + 1))
    np.add.at(counts, (groups, classes), 1)
    quota = np.outer(shares, counts.sum(axis=0))
    filled = np.zeros_like(quota)
    part_of_group = np.empty(len(counts), np.int64)
    order = np.arange(len(counts)) if rng is None else rng.permutation(len(counts))
    for group in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        fullness = (filled / quota) @ counts[group]
        overall = filled.sum(axis=1) / quota.sum(axis=1)
        part = np.lexsort((-np.asarray(shares), overall.round(9), fullness.round(9)))[0]
        part_of_group[group] = part
        filled[part] += counts[group]
    return part_of_group[groups]


def check_partition(where: str, parts: Sequence[np.ndarray], n_samples: int) -> None:
    """Every sample is in exactly one part, and no part is empty."""
    for number, part in enumerate(parts):
        if not len(part):
            raise ValueError(f"[{where}] part {number} of {len(parts)} would be empty: too few samples or groups")
    times = np.bincount(np.concatenate(parts), minlength=n_samples)
    if len(times) != n_samples or not (times == 1).all():
        raise AssertionError(f"[{where}] the parts are not disjoint or do not cover all samples")


def _members(classes: np.ndarray, rng: np.random.Generator | None):
    """The samples of each class in turn, shuffled when `rng` is given."""
    order = np.argsort(classes, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(classes))[:-1]):
        yield members if rng is None else rng.permutation(members)
