"""How samples are dealt to folds and parts: by class, by several columns, by group, in fair shares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from . import _columns
from ._columns import Column
from ._iterative import deal_iteratively
from ._quota import round_quota


def deal(
    columns: Sequence[Column],
    n_samples: int,
    shares: Sequence[float] | int,
    groups: np.ndarray | None,
    rng: np.random.Generator | None,
) -> np.ndarray:
    """A part for each sample, such that the classes of every column are in all parts in equal shares.

    One column, or the joint cells of several where each has at least as many members as there are parts, are dealt
    cell by cell; smaller cells go by iterative stratification, and groups whole.

    Parameters
    ----------
    columns : sequence of categorical Column
    shares : sequence of float, or int
        Of the parts, or the number of equal parts.
    groups : int array or None
        The group of each sample, counted from 0.
    rng : Generator or None
        None keeps the order of samples.
    """
    if isinstance(shares, int):
        shares = [1 / shares] * shares
    codes = [column.values for column in columns] or [np.zeros(n_samples, np.int64)]
    if groups is not None:
        return deal_groups(groups, codes, shares, rng)
    if len(codes) == 1:
        return deal_shares(codes[0], shares, rng)
    cells = _joint(codes)
    if np.bincount(cells).min() < len(shares):
        return deal_iteratively(codes, shares, rng)
    return deal_shares(cells, shares, rng, codes)


def warn_of_small_classes(
    where: str, columns: Sequence[Column], n_parts: int, groups: np.ndarray | None, stacklevel: int
) -> None:
    """One warning of all classes with fewer members, or groups that have any, than parts: some part has none."""
    small = []
    for column in columns:
        codes = column.values
        if groups is not None:
            codes = np.unique(np.stack([codes, groups]), axis=1)[0]
        sizes = np.bincount(codes)
        prefix = f"{column.name} = " if column.name else ""
        small += [f"{prefix}{column.classes[i]} ({sizes[i]})" for i in np.flatnonzero(sizes < n_parts)]
    if small:
        what = "members" if groups is None else "groups"
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        warnings.warn(
            f"[{where}] classes with fewer than {n_parts} {what} will be absent from some parts: "
            f"{', '.join(small[:5])}{more}",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def group_indices(where: str, groups, n_samples: int, n_parts: int) -> np.ndarray | None:
    """The group of each sample as an index from 0; None without groups."""
    if groups is None:
        return None
    names, index, _ = _columns.distinct(where, "'groups'", groups, n_samples)
    if len(names) < n_parts:
        raise ValueError(f"[{where}] needs at least {n_parts} groups but 'groups' has {len(names)}")
    return index


def deal_shares(
    classes: np.ndarray,
    shares: Sequence[float],
    rng: np.random.Generator | None,
    columns: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """A part for each sample. In each class, a part's count is less than one away from its share.

    Each class gets the whole part of its quota (largest-remainder method). What remains of it goes to the parts
    that lag furthest behind over all classes so far, so that the sizes of the parts come out right as well: parts of
    equal shares differ by at most one sample. Of `columns`, whose joint cells the classes are, the values count too:
    dealt by the sizes alone, the cells of one value could all give their remainders to the same part. Without `rng`
    the samples of a class keep their order: one class alone gives contiguous blocks.
    """
    parts = np.empty(len(classes), np.int64)
    shares = np.asarray(shares)
    lag = np.zeros(len(shares))
    lags = [np.zeros((codes.max() + 1, len(shares))) for codes in columns]
    # As much as all columns together; of equal shares the columns break ties.
    weight = max(1, len(columns)) if np.ptp(shares) else 1e6
    for members in _members(classes, rng):
        behind = [lag_of[codes[members[0]]] for lag_of, codes in zip(lags, columns, strict=True)]
        quota = len(members) * shares
        counts = round_quota(quota, len(members), sum(behind, weight * lag.round(9)))
        for some in (lag, *behind):
            some += quota - counts
        parts[members] = np.repeat(np.arange(len(shares)), counts)
    return parts


def deal_groups(
    groups: np.ndarray, columns: Sequence[np.ndarray], shares: Sequence[float], rng: np.random.Generator | None
) -> np.ndarray:
    """A part for each sample, the same for all of a group.

    Groups go, the largest first, to the part that is least full relative to its share, judged by the classes (the
    values of all columns) that the group brings; of equally full ones to that with the larger share. One that has its
    share of the samples gets no more: by rare classes alone, which no part has yet, all parts would become alike.
    """
    starts = np.cumsum([0, *(classes.max() + 1 for classes in columns)])
    labels = np.stack(columns, axis=1) + starts[:-1]
    shares = np.asarray(shares)
    # No table of groups and classes: with many of both it would not fit into the memory.
    wanted = np.outer(np.bincount(labels.ravel()), shares)
    filled = np.zeros_like(wanted)
    sizes = np.zeros(len(shares))
    part = np.empty(len(groups), np.int64)
    members_of = list(_members(groups, None))
    order = np.arange(len(members_of)) if rng is None else rng.permutation(len(members_of))
    for group in order[np.argsort(-np.bincount(groups)[order], kind="stable")]:
        members = members_of[group]
        brought = labels[members].ravel()
        fullness = (filled[brought] / wanted[brought]).sum(axis=0)
        overall = (sizes / (len(groups) * shares)).round(9)
        target = np.lexsort((-shares, overall, fullness.round(9), overall >= 1))[0]
        part[members] = target
        np.add.at(filled, (brought, target), 1)
        sizes[target] += len(members)
    return part


def generator(where: str, random_state) -> np.random.Generator:
    """That of a seed, or the one given."""
    try:
        return np.random.default_rng(random_state)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"[{where}] 'random_state' must be None, an integer of at least 0 or a numpy.random.Generator "
            f"but got {random_state!r}"
        ) from None


def length(where: str, argument: str, samples) -> int:
    """How many samples there are; sparse matrices have a shape but no length."""
    if shape := getattr(samples, "shape", ()):
        return shape[0]
    try:
        return len(samples)
    except TypeError:
        raise TypeError(f"[{where}] '{argument}' must have one entry a sample but got {samples!r}") from None


def check_partition(where: str, parts: Sequence[np.ndarray], n_samples: int) -> None:
    """Every sample is in exactly one part, and no part is empty."""
    for number, part in enumerate(parts):
        if not len(part):
            raise ValueError(f"[{where}] part {number} of {len(parts)} would be empty: too few samples or groups")
    times = np.bincount(np.concatenate(parts), minlength=n_samples)
    if len(times) != n_samples or not (times == 1).all():
        raise AssertionError(f"[{where}] the parts are not disjoint or do not cover all samples")


def _joint(columns: Sequence[np.ndarray]) -> np.ndarray:
    """The joint cell of each sample, counted from 0; cells without a sample are left out."""
    cells = np.zeros(len(columns[0]), np.int64)
    for codes in columns:
        _, cells = np.unique(cells * (codes.max() + 1) + codes, return_inverse=True)
    return cells


def _members(classes: np.ndarray, rng: np.random.Generator | None):
    """The samples of each class in turn, shuffled when `rng` is given."""
    order = np.argsort(classes, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(classes))[:-1]):
        yield members if rng is None else rng.permutation(members)
