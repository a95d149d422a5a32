"""Iterative stratification: parts that keep the distribution of many columns where their joint cells are too small.

Sechidis, Tsoumakas & Vlahavas 2011, "On the Stratification of Multi-label Data", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._quota import TINY, round_quota


def deal_iteratively(
    columns: Sequence[np.ndarray], shares: Sequence[float], rng: np.random.Generator | None
) -> np.ndarray:
    """A part for each sample; part sizes are less than one sample away from their shares.

    The labels are the values of all columns. Again and again the label with the fewest samples left (but some) is
    dealt, each of its samples to the part that wants that label most: its share of the label, less what it has.
    The algorithm leaves open in which order the samples of a label go and lets ties fall to the part that wants most
    samples; here wants that differ by less than one sample are ties too, and those samples go in an order that spreads
    every joint cell evenly. Both take all of a label in one step. The labels that come last have few samples left to
    choose from; what is amiss at the end is mended by moving single samples until the sizes are right, and by swapping
    pairs while a label is more than one sample above its share and a swap helps.

    Parameters
    ----------
    columns : sequence of int arrays
        The class of each sample, counted from 0 without gaps, in each column.
    shares : sequence of float
        Of the parts, with sum 1.
    rng : Generator or None
        For the order of samples and for ties; without it samples keep their order, and the first part gets a tie.
    """
    shares = np.asarray(shares, np.float64)
    labels, column_of = _label_matrix(columns, rng)
    left = np.bincount(labels.ravel())
    wants = np.outer(left, shares)
    settled = np.zeros((len(columns), len(shares)))  # what labels without a sample left still want
    order = np.arange(len(labels)) if rng is None else rng.permutation(len(labels))
    order = order[np.lexsort(labels[order].T[::-1])]  # joint cells side by side
    members_of = [members for j in range(len(columns)) for members in _members(labels[order, j], order)]
    part = np.full(len(labels), -1)
    never = len(labels) + 1  # in place of 0, so that the minimum finds labels with samples alone
    while left.min() < never:
        label = left.argmin()
        column = column_of[label]
        members = members_of[label][part[members_of[label]] < 0]
        ties = np.arange(len(shares)) if rng is None else rng.permutation(len(shares))
        counts = round_quota(_level(wants[label], len(members)), len(members), settled[column], ties)
        part[members] = _spread(counts, rng)
        touched = labels[members]
        np.subtract.at(wants, (touched, part[members][:, None]), 1)
        np.subtract.at(left, touched, 1)
        done = np.unique(touched[left[touched] == 0])
        left[done] = never
        np.add.at(settled, column_of[done], wants[done])
    _mend_sizes(part, labels, wants, shares, order)
    _mend_labels(part, labels, wants, column_of, members_of)
    return part


def _label_matrix(columns: Sequence[np.ndarray], rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """(the labels of each sample, numbered on from column to column; the column of each label).

    With `rng` the values of a column are numbered at random, so that neighbours among the cells change too.
    """
    labels, column_of, start = [], [], 0
    for j, codes in enumerate(columns):
        size = codes.max() + 1
        numbers = np.arange(size) if rng is None else rng.permutation(size)
        labels.append(start + numbers[codes])
        column_of.append(np.full(size, j))
        start += size
    return np.stack(labels, axis=1), np.concatenate(column_of)


def _members(labels: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """The samples of each label of one column, in the order given."""
    counts = np.bincount(labels - labels.min())
    return np.split(order[np.argsort(labels, kind="stable")], np.cumsum(counts)[:-1])


def _level(wants: np.ndarray, total: int) -> np.ndarray:
    """What each part gets of `total` when the one that wants most is served until its want is that of the next."""
    ranked = np.sort(wants)[::-1]
    levels = (np.cumsum(ranked) - total) / np.arange(1, len(wants) + 1)
    served = np.flatnonzero(ranked > levels)[-1]
    return np.maximum(wants - levels[served], 0)


def _spread(counts: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """A sequence of parts with these counts, in which each part comes at even distances."""
    parts = np.repeat(np.arange(len(counts)), counts)
    offset = 0.5 if rng is None else rng.random(len(parts))
    place = (np.arange(len(parts)) - np.repeat(np.cumsum(counts) - counts, counts) + offset) / counts[parts]
    return parts[np.argsort(place, kind="stable")]


def _mend_sizes(part: np.ndarray, labels: np.ndarray, wants: np.ndarray, shares: np.ndarray, order: np.ndarray) -> None:
    """Move samples from parts that have too many to parts that have too few, until all are within one of their share.

    Each move makes the sum of squared differences smaller, so it ends.
    """
    excess = np.bincount(part, minlength=len(shares)) - len(part) * shares
    while excess.max() > 1 - TINY or excess.min() < TINY - 1:
        source, target = excess.argmax(), excess.argmin()
        gain = wants[:, target] - wants[:, source]
        moved = _best(order[part[order] == source], gain, labels)
        _move(moved, target, part, labels, wants)
        excess[source] -= 1
        excess[target] += 1


def _mend_labels(
    part: np.ndarray, labels: np.ndarray, wants: np.ndarray, column_of: np.ndarray, members_of: list[np.ndarray]
) -> None:
    """Swap samples of two parts while a label is more than one sample above its share and a swap helps.

    The label goes to the part that wants it most, for that label of its column which is best exchanged. Each swap makes
    the sum of the squared wants smaller by 1e-9 or more, so it ends.
    """
    swapped = True
    while swapped:
        swapped = False
        for label, source in np.argwhere(wants < -1 - TINY):
            while wants[label, source] < -1 - TINY:
                target = wants[label].argmax()
                gain = wants[:, target] - wants[:, source]
                same_column = np.flatnonzero(column_of == column_of[label])
                other = same_column[gain[same_column].argmin()]
                given = members_of[label][part[members_of[label]] == source]
                taken = members_of[other][part[members_of[other]] == target]
                if not len(taken):
                    break
                given, taken = _best(given, gain, labels), _best(taken, -gain, labels)
                differ = labels[given] != labels[taken]  # column by column; what they share stays as it is
                if (4 - 2 * gain[labels[given]] + 2 * gain[labels[taken]])[differ].sum() > -TINY:
                    break
                _move(given, target, part, labels, wants)
                _move(taken, source, part, labels, wants)
                swapped = True


def _best(samples: np.ndarray, gain: np.ndarray, labels: np.ndarray) -> int:
    """The sample whose labels gain most."""
    return samples[gain[labels[samples]].sum(axis=1).argmax()]


def _move(sample: int, target: int, part: np.ndarray, labels: np.ndarray, wants: np.ndarray) -> None:
    wants[labels[sample], part[sample]] += 1
    wants[labels[sample], target] -= 1
    part[sample] = target
