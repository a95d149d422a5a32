"""Large results of batch norm, which are written around the cache, have the bits of those that are not."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from bits import ALL_DTYPES, assert_same_bits
from fusedstep import backend

STREAMED = 64 << 20  # bytes of a result from which it is written around the cache

compiled = pytest.mark.skipif(backend.native() is None, reason="FUSEDSTEP_BACKEND=reference")


def memory_in_use(shape, dtype, offset):
    """An array that was written before and begins `offset` values behind where NumPy would put it."""
    size = int(np.prod(shape))
    return np.full(size + offset, 7, dtype)[offset:].reshape(shape)


def small_batch(shape, dtype):
    """(x, dy, weight, bias) with values of few different magnitudes, and a NaN and an infinity in single channels."""
    rng = np.random.default_rng(0)
    x = np.resize(rng.normal(1, 2, 10_007).astype(dtype), shape)
    dy = np.resize(rng.normal(0, 1, 9_973).astype(dtype), shape)
    x.reshape(x.shape[0], x.shape[1], -1)[-1, 1, -1] = np.nan
    x.reshape(x.shape[0], x.shape[1], -1)[0, 2, 0] = np.inf
    return x, dy, *(rng.normal(size=shape[1]).astype(dtype) for _ in range(2))


# Channels a row and planes that end inside lines and pieces, a little above the limit and just below it.
def large_shape(layout, dtype):
    values = STREAMED // np.dtype(dtype).itemsize
    return {
        "rows": (values // 1023 + 1, 1023),
        "planes": (values // (37 * 1541) + 1, 37, 23, 67),
        "below": (values // 40 // 49, 40, 49),
    }[layout]


@compiled
@pytest.mark.parametrize(
    "dtype, layout, offset",
    [
        (np.float32, "rows", 1),
        (np.float32, "planes", 2),
        (np.float32, "below", 0),
        *((dtype, "planes" if dtype == np.float64 else "rows", 3) for dtype in ALL_DTYPES if dtype != np.float32),
    ],
)
def test_large_results(isa, dtype, layout, offset):
    if isa == "cuda":
        pytest.skip("of the CPU's kernels alone; too slow in the emulator")
    shape = large_shape(layout, dtype)
    x, dy, weight, bias = small_batch(shape, dtype)
    used = memory_in_use(shape, dtype, offset)
    y, saved = fs.ops.batch_norm(x, weight, bias, relu=True, out=used)
    again, _ = fs.ops.batch_norm(x, weight, bias, relu=True)
    assert_same_bits("y into new memory", again, y)
    # In evaluation the same moments give the same values, and they may be written over x: never streamed.
    inside = x.copy()
    fs.ops.batch_norm(inside, weight, bias, saved.mean, saved.var, training=False, relu=True, out=inside)
    assert_same_bits("y in place", inside, y)
    del inside, again

    dx = memory_in_use(shape, dtype, offset + 1)
    _, dweight, dbias = fs.ops.batch_norm_backward(dy, x, saved, dx=dx)
    over = dy.copy()
    _, *vectors = fs.ops.batch_norm_backward(over, x, saved, dx=over)
    assert_same_bits("dx over dy", over, dx)
    for name, a, b in zip(("dweight", "dbias"), vectors, (dweight, dbias), strict=True):
        assert_same_bits(name, a, b)
