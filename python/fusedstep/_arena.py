"""Aligned, staggered buffers: parameters, gradients and optimizer states each live in one flat arena."""

from __future__ import annotations

import itertools

import numpy as np

ALIGNMENT = 64
"""Bytes: one cache line, and the width of an AVX-512 load."""

_PAGE = 4096
_STAGGER = 5 * ALIGNMENT  # odd in cache lines, so that 64 successive buffers start in 64 different lines of a page
_slots = itertools.count()


def aligned_zeros(size: int, dtype) -> np.ndarray:
    """A zeroed vector of `size` values, 64-byte aligned.

    Successive buffers start at different offsets in a page: a step reads and writes several of
    them at the same index, and equal page offsets cost up to a third of its bandwidth.
    """
    dtype = np.dtype(dtype)
    length = size * dtype.itemsize
    return placed(np.zeros(length + _PAGE + ALIGNMENT, np.uint8), length).view(dtype)


def placed(raw: np.ndarray, length: int) -> np.ndarray:
    """The part of `raw` in which the next buffer of `length` bytes lies, somewhere in its first page."""
    start = -raw.ctypes.data % ALIGNMENT + next(_slots) * _STAGGER % _PAGE
    return raw[start : start + length]


def padded(size: int, dtype) -> int:
    """`size` rounded up so that the next array of a flat arena starts on a cache line."""
    step = ALIGNMENT // np.dtype(dtype).itemsize
    return -(-size // step) * step
