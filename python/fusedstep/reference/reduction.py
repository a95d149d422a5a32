"""Sums in a tree whose shape depends on the number of values alone: the twin of csrc/math/tree.h.

The values are cut into leaves of 512. In a leaf, lane j of 32 adds the values j, j + 32, ... in order;
the lanes are then halved: 16 + 16, 8 + 8, ... Leaves are added pairwise, neighbours first, level by level;
one without a partner moves up as it is.
"""

from __future__ import annotations

import numpy as np

LEAF = 512
LANES = 32


def to_leaves(values):
    """(..., n) -> (..., leaves, 16, 32), filled up with zeros."""
    n = values.shape[-1]
    leaves = -(-n // LEAF)
    full = np.zeros((*values.shape[:-1], leaves * LEAF), values.dtype)
    full[..., :n] = values
    return full.reshape(*values.shape[:-1], leaves, LEAF // LANES, LANES)


def sum_leaves(leaves):
    """(..., leaves, 16, 32) -> (..., leaves)."""
    lanes = np.zeros((*leaves.shape[:-2], LANES), leaves.dtype)
    for row in range(leaves.shape[-2]):
        lanes += leaves[..., row, :]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def merge_pairwise(nodes, merge):
    """Merge along the last axis of each array in `nodes`, neighbours first; `merge(left, right)`."""
    while nodes[0].shape[-1] > 1:
        even = nodes[0].shape[-1] // 2 * 2
        merged = merge([a[..., 0:even:2] for a in nodes], [a[..., 1:even:2] for a in nodes])
        nodes = [np.concatenate([m, a[..., even:]], axis=-1) for m, a in zip(merged, nodes, strict=True)]
    return [a[..., 0] for a in nodes]


def tree_sum(values):
    """The sum over the last axis; 0 where it is empty."""
    if values.shape[-1] == 0:
        return np.zeros(values.shape[:-1], values.dtype)
    with np.errstate(all="ignore"):
        return merge_pairwise([sum_leaves(to_leaves(values))], lambda a, b: [a[0] + b[0]])[0]


def sum_of_squares(array) -> float:
    """Of all values, in float64 and in their order in memory."""
    with np.errstate(all="ignore"):
        wide = np.ravel(array, order="K").astype(np.float64)
        return float(tree_sum(wide * wide))


def moments(values):
    """Mean and sum of squared deviations over the last axis, in the array's dtype.

    Shifted by the first value (a constant row has exactly zero deviation); each leaf subtracts its own
    mean before it squares; leaves are merged by Chan, Golub & LeVeque (1983), equation 2.1.
    """
    n = values.shape[-1]
    kind = values.dtype.type
    with np.errstate(all="ignore"):
        first = values[..., :1]
        shifted = to_leaves(values - first)
        counts = np.full(shifted.shape[-3], LEAF, np.int64)
        counts[-1] = n - LEAF * (len(counts) - 1)
        means = sum_leaves(shifted) / counts.astype(values.dtype)
        deviations = shifted - means[..., None, None]
        deviations.reshape(*values.shape[:-1], -1)[..., n:] = 0
        squares = sum_leaves(deviations * deviations)

        def chan(left, right):
            (count, mean, square), (count2, mean2, square2) = left, right
            total = (count + count2).astype(np.float64)
            delta = mean2 - mean
            share = (count2 / total).astype(values.dtype)
            weight = (count.astype(np.float64) * count2 / total).astype(values.dtype)
            return [count + count2, mean + delta * share, (square + square2) + (delta * delta) * weight]

        _, mean, square = merge_pairwise([counts, means, squares], chan)
        return first[..., 0] + mean, square, kind(n)
