"""Dropout: the random bits against Random123's known answers, the mask's statistics, and the closed form."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from bits import ALL_DTYPES, assert_same_bits, at_offset
from fusedstep.reference.dropout import philox4x32

BOTH = pytest.mark.parametrize("module", [fs.ops, fs.reference], ids=["ops", "reference"])
ONES = 0xFFFFFFFF
STREAMED = 64 << 20  # bytes of a result from which it is written around the cache


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert tuple(int(w) for w in philox4x32(counter, key)) == expected


@BOTH
def test_mask_is_the_lanes_of_the_known_answer(module):
    lanes = [0xE8D5, 0x6627, 0xC58D, 0xE169, 0xAC4C, 0xBC57, 0xDBD8, 0x9B00]
    for lane, p in [(0x6627, 0x6627 / 65536), (0x6628, 0x6628 / 65536), (0xFFFF, 0xFFFF / 65536)]:
        expected = [value >= lane for value in lanes]
        assert module.dropout_mask(8, p, seed=0).tolist() == expected
        packed = module.dropout_mask((2, 4), p, seed=0, packed=True)
        assert packed.tolist() == [sum(bit << i for i, bit in enumerate(expected))]


@BOTH
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_independence(module, p):
    n = 1 << 20
    keep = module.dropout_mask(n, p, seed=3, offset=5).astype(float)
    deviation = np.sqrt(p * (1 - p) / n)
    assert abs(keep.mean() - (1 - p)) < 5 * deviation + 2**-17
    for other in (module.dropout_mask(n, p, seed=3, offset=6), module.dropout_mask(n, p, seed=4, offset=5)):
        assert abs(np.corrcoef(keep, other)[0, 1]) < 5 / np.sqrt(n)
    for lag in (1, 8):
        assert abs(np.corrcoef(keep[:-lag], keep[lag:])[0, 1]) < 5 / np.sqrt(n)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values(module, dtype):
    x = np.random.default_rng(0).normal(size=(7, 9)).astype(dtype)
    keep = module.dropout_mask(x.shape, 0.3, seed=1, offset=2)
    scale = dtype(65536 / (65536 - 19661))  # round(0.3 * 65536) = 19661
    assert np.array_equal(module.dropout(x, 0.3, seed=1, offset=2), np.where(keep, x * scale, 0))
    y = module.dropout(x, 0.3, seed=1, offset=2, relu=True)
    assert np.array_equal(y, np.where(keep & (x > 0), x * scale, 0))
    dy = x[::-1].copy()
    expected = np.where(keep & (x > 0), dy * scale, 0)
    assert np.array_equal(module.dropout_backward(dy, 0.3, seed=1, offset=2, y=y), expected)


@BOTH
def test_extremes_and_nan(module):
    x = np.array([np.nan, np.inf, -1.0, -0.0])
    assert np.array_equal(module.dropout(x, 0.0, seed=0), x, equal_nan=True)
    nothing = module.dropout(x, 1.0, seed=0)
    assert (nothing == 0).all() and not np.signbit(nothing).any()
    assert np.array_equal(module.dropout(x, 2.0**-18, seed=0), x, equal_nan=True)  # rounds to 0


@BOTH
def test_in_place_and_offset_changes_the_mask(module):
    x = np.ones(1000)
    first = module.dropout(x, 0.5, seed=1, offset=0)
    assert not np.array_equal(first, module.dropout(x, 0.5, seed=1, offset=1))
    assert module.dropout(x, 0.5, seed=1, offset=0, out=x) is x
    assert np.array_equal(x, first)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_large_results(isa, dtype):
    """Those written around the cache, into memory in use and into new memory, have the bits of those in place."""
    if isa == "cuda":
        pytest.skip("of the CPU's kernels alone; too slow in the emulator")
    size = STREAMED // np.dtype(dtype).itemsize
    values = np.linspace(-4, 4, 1003).astype(dtype)
    for n, offset, relu in ((size - 1, 0, False), (size, 0, True), (size + 1029, 1, False), (size + 5, 13, True)):
        x = np.resize(values, n)
        used = at_offset(x, offset)
        given = {"seed": n, "offset": 2**63 + 7, "relu": relu}
        fs.ops.dropout(x, 0.3, **given, out=used)
        new = fs.ops.dropout(x, 0.3, **given)
        assert fs.ops.dropout(x, 0.3, **given, out=x) is x
        for name, y in {"used": used, "new": new}.items():
            assert (y.view(f"u{y.itemsize}") == x.view(f"u{y.itemsize}")).all(), (name, n)
        assert_same_bits("first", used[:5000], fs.reference.dropout(np.resize(values, 5000), 0.3, **given))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("seed, offset", [(0, 0), (2**64 - 1, 2**64 - 1), (2**32, 2**32 - 1), (2**63 + 5, 2**40 + 3)])
def test_pieces_that_begin_anywhere(dtype, seed, offset, isa, threads):
    """The kernel's pieces begin where a line of the result does, whatever the index in a block of random bits."""
    x = np.random.default_rng(0).normal(size=40_007).astype(dtype)
    expected = fs.reference.dropout(x, 0.5, seed=seed, offset=offset)
    for begin in (0, 1, 2, 3, 7, 8, 15, 17, 31, 32):
        memory = np.full(x.size + 64, 7, dtype)
        out = memory[begin : begin + x.size]
        fs.ops.dropout(x, 0.5, seed=seed, offset=offset, out=out)
        assert_same_bits(f"from {begin}", out, expected)
        assert (memory[:begin] == 7).all() and (memory[begin + x.size :] == 7).all()
