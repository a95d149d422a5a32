"""Dropout by counter-based random bits (Salmon et al. 2011): the mask depends on (seed, offset, index) alone."""

from __future__ import annotations

import math
import operator

import numpy as np

from .arrays import (
    WITH_HALF,
    arithmetic_type,
    check_array,
    check_dense,
    check_distinct,
    check_elementwise,
    check_gradient_pair,
    check_overlap,
    check_same_layout,
    scalar_arrays,
)
from .scalars import check_dropout, check_flag, dropout_scalars

_MASK32 = np.uint64(0xFFFFFFFF)


def philox4x32(counter, key):
    """Philox4x32-10 on arrays: four counter words and two key words (uint64 holding 32 bits) -> four words."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = (int(k) for k in key)
    for _ in range(10):
        product0 = c0 * np.uint64(0xD2511F53)
        product1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            product1 & _MASK32,
            (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            product0 & _MASK32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def random_lanes(n: int, seed: int, offset: int) -> np.ndarray:
    """The 16-bit lane of each index below n: lane i % 8 of block i // 8, little-endian."""
    block = np.arange(-(-n // 8), dtype=np.uint64)
    counter = (block & _MASK32, block >> np.uint64(32), offset & 0xFFFFFFFF, offset >> 32)
    words = np.stack(np.broadcast_arrays(*philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))), axis=-1)
    return words.astype("<u4").view("<u2").reshape(-1)[:n]


def check_mask_shape(shape) -> tuple[int, ...]:
    try:
        sizes = (operator.index(shape),) if hasattr(shape, "__index__") else tuple(map(operator.index, shape))
    except TypeError:
        raise TypeError(f"'shape' must be an integer or a tuple of integers but got {shape!r}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"'shape' must not be negative but got {shape!r}")
    return sizes


def check_mask_output(out, shape, packed, offset=None) -> None:
    """`out` must be what dropout_mask would make, apart from an `offset` that is an array; None passes."""
    if out is None:
        return
    check_array("out", out, accepted=("uint8",) if packed else ("bool",), writable=True)
    expected = (-(-math.prod(shape) // 8),) if packed else shape
    if out.shape != expected:
        raise ValueError(f"'out' has shape {out.shape} but the mask has shape {expected}")
    if not out.flags.c_contiguous:
        raise ValueError(f"'out' is not C-contiguous (strides {out.strides}); pass numpy.ascontiguousarray(out)")
    check_overlap([("out", out)], scalar_arrays(offset=offset))


def dropout_mask(shape, p, *, seed, offset=0, packed=False, out=None):
    """The keep mask, as bools, or packed 8 to a byte with the first in the lowest bit."""
    check_dropout(p, seed, offset)
    check_flag("Dropout", "packed", packed)
    shape = check_mask_shape(shape)
    check_mask_output(out, shape, packed, offset)
    threshold, _ = dropout_scalars(float(p))
    keep = random_lanes(math.prod(shape), int(seed), int(offset)) >= threshold
    mask = np.packbits(keep, bitorder="little") if packed else keep.reshape(shape)
    if out is None:
        return mask
    out[...] = mask
    return out


def dropout(x, p, *, seed, offset=0, relu=False, out=None):
    """y = x * 65536 / (65536 - threshold) where kept, +0 elsewhere; after a ReLU when asked."""
    check_dropout(p, seed, offset)
    check_flag("Dropout", "relu", relu)
    return _apply("x", x, p, seed, offset, relu, out)


def _apply(name, x, p, seed, offset, relu, out):
    out = check_elementwise(name, x, out, accepted=WITH_HALF, scalars=scalar_arrays(offset=offset))
    check_distinct("out", out)
    _, scale = dropout_scalars(float(p))
    keep = dropout_mask(x.shape, p, seed=seed, offset=offset)
    kind = arithmetic_type(x.dtype)
    with np.errstate(all="ignore"):
        z = x.astype(kind)
        if relu:
            z = np.where(z <= 0, 0, z)
        out[...] = np.where(keep, z * kind(scale), 0)
    return out


def dropout_backward(dy, p, *, seed, offset=0, y=None, out=None):
    """dx = dy * scale where kept, +0 elsewhere; with `y`, the output of dropout(relu=True), where y > 0."""
    check_dropout(p, seed, offset)
    if y is None:
        return _apply("dy", dy, p, seed, offset, False, out)
    out = check_gradient_pair("dy", dy, "y", y, out, accepted=WITH_HALF)
    check_dense("dy", dy)
    check_same_layout("y", y, "dy", dy)
    check_same_layout("out", out, "dy", dy)
    _, scale = dropout_scalars(float(p))
    kind = arithmetic_type(dy.dtype)
    with np.errstate(all="ignore"):
        out[...] = np.where(y.astype(kind) <= 0, 0, dy.astype(kind) * kind(scale))
    return out
