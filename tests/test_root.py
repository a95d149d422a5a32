"""The root that AVX-512 steps take (csrc/cpu/register.h) is the correctly rounded one, on every processor.

Let u = 2^-24, x in [1, 4) and y = (1 + e) / sqrt(x) the estimate, with |e| <= 2^-14 as the instruction promises. The
Newton step leaves g = (1 + a) sqrt(x) and h = (1 + b) / (2 sqrt(x)) with |a|, |b| <= 3/2 e^2 + u/2 + u < 1.6 u. The
last line adds h times the residual x - g*g, itself rounded (a relative u of it, which is 2a): before its own rounding
it is sqrt(x) (1 + c) with |c| <= a^2 / 2 + |a b| + |a| u < 6 u^2. So it rounds as sqrt(x) does unless a rounding
boundary lies within 6 u^2. A boundary is k u with k odd, and sqrt(x) lies that near to it only where
|x - (k u)^2| <= 48 u^2: few x, and for those all estimates are tried here. Other exponents differ by powers of 4, which
change no digit.
"""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from bits import as_bits

U = 2.0**-24


def roots_are_right(x: np.ndarray) -> bool:
    """Whether the compiled step divides by the root of each x: it divides that root by its own, and gets 1.

    By AMSGrad, whose maxima may be subnormal: of x and half of it, the square of the gradient.
    """
    with np.errstate(all="ignore"):
        root = np.sqrt(x)
        gradients = np.where(np.isfinite(root), root, np.float32(1))
        expected = 0 - gradients / root
        weights, m, v = np.zeros((3, x.size), np.float32)
        options = {"betas": (0.0, 0.5), "eps": 0.0, "amsgrad": True, "bias_correction": False}
        fs.ops.adam_step(weights, gradients, m, v, x.copy(), lr=1.0, step=1, **options)
    return np.array_equal(as_bits(weights), as_bits(expected))


def test_every_float_of_two_binades():
    first = np.float32(1).view(np.int32)
    for begin in range(0, 2 << 23, 1 << 21):
        assert roots_are_right((first + np.arange(begin, begin + (1 << 21), dtype=np.int32)).view(np.float32))


@pytest.mark.parametrize("lane", range(16))
def test_every_exponent_and_what_is_no_number(lane):
    bits = np.random.default_rng(lane).integers(0, 2**31, 1 << 16).astype(np.int32)
    x = bits.view(np.float32)
    special = np.float32([0, np.inf, np.nan, 1e-45, 1.2e-38, 2.0**-100, 2.0**100, 3.4e38])
    x[lane::997] = np.resize(special, x[lane::997].size)
    assert roots_are_right(np.nextafter(np.float32(2.0**-100), np.float32([0, 1] * 8)))
    assert roots_are_right(np.nextafter(np.float32(2.0**100), np.float32([0, np.inf] * 8)))
    assert roots_are_right(x)


def fused(a, b, c):
    """a*b + c of float32 arrays, rounded once: by way of float64, rounded to odd."""
    product = a.astype(np.float64) * b.astype(np.float64)  # exact
    c = np.broadcast_to(c, product.shape).astype(np.float64)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    even = total.view(np.int64) % 2 == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & even, np.nextafter(total, toward), total).astype(np.float32)


def hard_roots() -> np.ndarray:
    """All x in [1, 4) of 24 bits with |x - (k u)^2| <= 48 u^2 for an odd k."""
    k = np.arange(2**24 + 1, 2**25, 2, dtype=np.int64)
    found = []
    for low, spacing in ((1.0, 2), (2.0, 4)):  # floats in [1, 2) are multiples of 2u, in [2, 4) of 4u
        unit = spacing * 2**24  # in units of u^2
        nearest = (k * k + unit // 2) // unit
        x = nearest[np.abs(nearest * unit - k * k) <= 48] * (spacing * U)
        found.append(x[(x >= low) & (x < 2 * low)])
    return np.concatenate(found).astype(np.float32)


def test_the_hard_roots_are_right_for_every_estimate():
    hard = hard_roots()
    assert 10 < len(hard) < 200
    half = np.float32(0.5)
    for x in hard:
        exact = 1 / np.sqrt(np.float64(x))
        low, high = np.float32(exact * (1 - 2.0**-14)), np.float32(exact * (1 + 2.0**-14))
        y = np.arange(low.view(np.int32) - 1, high.view(np.int32) + 2, dtype=np.int32).view(np.float32)
        assert len(y) > 1000
        xs = np.full_like(y, x)
        g, h = xs * y, y * half
        r = fused(-h, g, half)
        g, h = fused(g, r, g), fused(h, r, h)
        assert (fused(fused(-g, g, xs), h, g) == np.sqrt(x)).all(), x
