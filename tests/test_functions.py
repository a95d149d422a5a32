"""exp, log, log1p, tanh, sigmoid and erf of the reference against 40 digits: at most 2 ulp off, in double.

Float32 goes through double and is rounded once more, so it is off by little more than half an ulp. The kernels'
twins are compared with these bit for bit in test_bits.py, through the activations and losses.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusedstep.reference import functions

mpmath = pytest.importorskip("mpmath")
mp = mpmath.mp

RNG = np.random.default_rng(0)
WIDE = np.concatenate([RNG.uniform(-20, 20, 2000), RNG.uniform(-1.2, 1.2, 2000), 10 ** RNG.uniform(-300, 0, 500)])
POINTS = {
    "exp": np.concatenate([RNG.uniform(-745, 709, 2000), RNG.uniform(-1, 1, 1000), RNG.uniform(-745, -700, 500)]),
    "log": np.concatenate([10 ** RNG.uniform(-320, 308, 2000), RNG.uniform(0.4, 2.1, 2000), 1 + WIDE[:500] * 1e-7]),
    "log1p": np.concatenate(
        [10 ** RNG.uniform(-300, 0, 1500), RNG.uniform(0, 1, 1500), 10 ** RNG.uniform(0, 300, 300)]
    ),
    "tanh": WIDE,
    "sigmoid": WIDE,
    "erf": np.concatenate([WIDE / 3, RNG.uniform(0.9, 1.1, 1000)]),
}
EXACT = {name: getattr(mpmath, name, None) for name in POINTS}
EXACT["sigmoid"] = lambda x: 1 / (1 + mpmath.exp(-x))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", POINTS)
def test_error_in_ulp(name, dtype):
    with np.errstate(over="ignore"):
        points = POINTS[name].astype(dtype)
    points = points[np.isfinite(points)]
    if name == "log":
        points = points[points > 0]
    values = getattr(functions, name)(points)
    assert values.dtype == dtype
    bound = 2 if dtype == np.float64 else 0.501
    with mp.workdps(40):
        for x, value in zip(points.tolist(), values.tolist(), strict=True):
            exact = EXACT[name](mpmath.mpf(x))
            with np.errstate(over="ignore"):
                rounded = dtype(exact)
            if not np.isfinite(rounded) or exact == 0:
                assert value == rounded
            else:
                ulp = math.ulp(float(rounded)) if dtype == np.float64 else float(np.spacing(np.abs(rounded)))
                assert abs(mpmath.mpf(value) - exact) <= bound * ulp, (name, x)


def test_gelu_is_half_x_times_one_plus_erf():
    x = np.linspace(-6, 6, 401)
    with mp.workdps(40):
        exact = [float(mpmath.mpf(v) * mpmath.ncdf(v)) for v in x]
        slope = [float(mpmath.ncdf(v) + mpmath.mpf(v) * mpmath.npdf(v)) for v in x]
    # 1 + erf cancels below 0: an error of 2 ulp of 1 in it, times |x| / 2 <= 3, and rounding.
    np.testing.assert_allclose(functions.gelu(x), exact, rtol=0, atol=8 * np.finfo(float).eps)
    np.testing.assert_allclose(functions.gelu_gradient(x), slope, rtol=0, atol=8 * np.finfo(float).eps)


@pytest.mark.parametrize(
    "name, x, expected",
    [
        ("exp", [-np.inf, np.inf, 800.0, -800.0, -0.0], [0.0, np.inf, np.inf, 0.0, 1.0]),
        ("log", [0.0, -0.0, np.inf, -1.0, 1.0], [-np.inf, -np.inf, np.inf, np.nan, 0.0]),
        ("log1p", [0.0, 1e-320, np.inf], [0.0, 1e-320, np.inf]),
        ("tanh", [-0.0, np.inf, -np.inf, 1e308], [-0.0, 1.0, -1.0, 1.0]),
        ("sigmoid", [-0.0, np.inf, -np.inf, -1e308], [0.5, 1.0, 0.0, 0.0]),
        ("erf", [-0.0, np.inf, -np.inf, 5e-324], [-0.0, 1.0, -1.0, 5e-324]),
    ],
)
def test_special_values(name, x, expected):
    function = getattr(functions, name)
    np.testing.assert_array_equal(function(np.array(x)), expected)
    np.testing.assert_array_equal(np.signbit(function(np.array(x))), np.signbit(expected))
    assert np.isnan(function(np.array([np.nan])))[0]
