"""exp, log, log1p, tanh, sigmoid and erf: one definition, with its twin in csrc/math/functions.h.

NumPy's own change with the instruction set. All compute in double; a float32 argument is widened
and the result rounded once. Errors in double, against 40 digits (tests/test_functions.py): at most 2 ulp.
"""

from __future__ import annotations

import numpy as np

_LOG2E = 1.4426950408889634
_LN2_HIGH = 0.6931471803691238  # 33 bits of ln 2, so that n * _LN2_HIGH is exact for |n| < 2**20
_LN2_LOW = 1.9082149292705877e-10  # the rest
_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer, which then stands in the low bits
_EXP = tuple(1 / float(f) for f in (2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600, 6227020800))
_LOG = tuple(2 / float(k) for k in range(3, 25, 2))
_TANH_SMALL = (
    1.0,
    -0.3333333333333333,
    0.13333333333333003,
    -0.05396825396801301,
    0.021869488527004526,
    -0.008863235322687681,
    0.0035921250169695033,
    -0.0014558047961475027,
    0.0005898278970977121,
    -0.00023819725675641452,
    9.393182361286203e-05,
    -3.292280539245796e-05,
    7.425664457521806e-06,
)
_ERF_SMALL = (
    1.1283791670955126,
    -0.3761263890318375,
    0.11283791670954879,
    -0.026866170645076792,
    0.0052239776248180145,
    -0.000854832698083379,
    0.0001205533111164271,
    -1.4925595266831182e-05,
    1.6461000484121368e-06,
    -1.6350312701054695e-07,
    1.4659775274047436e-08,
    -1.1372848856791674e-09,
    5.957176147748911e-11,
)
_ERF_TAIL = (
    0.17900115118138996,
    -0.3262335600430372,
    0.24560380171233487,
    -0.15011593650077898,
    0.07166583719747308,
    -0.024392499318915004,
    0.004269136356961225,
    0.0007077464666941425,
    -0.0005970624964924544,
    4.525434558991009e-05,
    6.406279226046039e-05,
    -1.2845780030775907e-05,
    -8.00978093907608e-06,
    2.0135111426447427e-06,
    1.2755818949624478e-06,
    3.381355142042904e-09,
)


def _in_double(function):
    """Let `function` of float64 arrays take float32 too: widen, compute, round once."""

    def widened(x):
        x = np.asarray(x)
        with np.errstate(all="ignore"):
            return function(x.astype(np.float64)).astype(x.dtype)

    widened.__name__, widened.__doc__ = function.__name__.strip("_"), function.__doc__
    return widened


def _horner(x, coefficients):
    result = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result * x + c
    return result


def _power_of_two(n):
    """2**n for whole n in [-1022, 1023]: the exponent is shifted into place."""
    return ((n + 1023.0 + _ROUND).view(np.int64) << 52).view(np.float64)


def _reduce(x):
    """(n, r) with x = n ln 2 + r and |r| <= ln(2) / 2."""
    n = (x * _LOG2E + _ROUND) - _ROUND
    return n, (x - n * _LN2_HIGH) - n * _LN2_LOW


def _exp(x):
    """e**x. In two factors, so that overflow and denormal results come out right."""
    clamped = np.where(x > 710.0, 710.0, np.where(x < -746.0, -746.0, x))
    n, r = _reduce(clamped)
    half = (n * 0.5 + _ROUND) - _ROUND
    value = 1.0 + (r + (r * r) * _horner(r, _EXP))
    value = (value * _power_of_two(half)) * _power_of_two(n - half)
    return np.where(x != x, x, value)


def _log(x):
    """Natural logarithm: x = 2**e m with m near 1, log m = 2 artanh((m - 1) / (m + 1))."""
    denormal = x < 2.2250738585072014e-308
    bits = np.where(denormal, x * 18014398509481984.0, x).view(np.uint64)
    above = bits - np.uint64(0x3FE6A09E667F3BCD) + np.uint64(1024 << 52)  # from sqrt(1/2), biased to stay positive
    e = ((above >> np.uint64(52)) | np.uint64(0x4330000000000000)).view(np.float64) - 4503599627370496.0 - 1024.0
    m = (bits - (above & np.uint64(0xFFF << 52)) + np.uint64(1024 << 52)).view(np.float64)
    e = np.where(denormal, e - 54.0, e)
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    half_square = (0.5 * f) * f
    rest = s * (half_square + z * _horner(z, _LOG))
    value = e * _LN2_HIGH - ((half_square - (rest + e * _LN2_LOW)) - f)
    value = np.where(x == 0, -np.inf, np.where(x < 0, np.nan, value))
    return np.where((x == np.inf) | (x != x), x, value)


def _log1p(x):
    """log(1 + x) for x >= 0: the rounding of 1 + x is divided out again (Kahan)."""
    w = 1.0 + x
    return np.where((w == 1.0) | (x == np.inf), x, _log(w) * (x / np.where(w == 1.0, 1.0, w - 1.0)))


def _tanh(x):
    """A polynomial up to 0.55; beyond, 1 - 2 q / (1 + q) with q = e**(-2 |x|)."""
    magnitude = np.abs(x)
    small = magnitude * _horner(magnitude * magnitude, _TANH_SMALL)
    q = _exp(-2.0 * magnitude)
    value = np.where(magnitude <= 0.55, small, 1.0 - (q + q) / (1.0 + q))
    return np.where(x != x, x, np.copysign(value, x))


def _sigmoid(x):
    """1 / (1 + e**-x), without overflow on either side."""
    e = _exp(-np.abs(x))
    return np.where(x < 0, e, np.where(x != x, x, 1.0)) / (1.0 + e)


def _erf(x):
    """The error function; polynomials by tools/fit_polynomials.py."""
    magnitude = np.abs(x)
    small = magnitude * _horner(magnitude * magnitude, _ERF_SMALL)
    far = np.where(magnitude > 6.0, 6.0, magnitude)
    tail = 1.0 - _exp(-(far * far)) * _horner((far - 3.0) / (far + 3.0), _ERF_TAIL)
    return np.where(x != x, x, np.copysign(np.where(magnitude <= 1.0, small, tail), x))


def _gelu(x):
    """x times the normal distribution function (Hendrycks & Gimpel 2016), by erf.

    Absolute error below 8 * 2**-53 * max(1, |x|): far below zero, 1 + erf cancels.
    """
    return (0.5 * x) * (1.0 + _erf(x * 0.7071067811865476))


def _gelu_gradient(x):
    density = _exp((-0.5 * x) * x) * 0.3989422804014327
    return 0.5 * (1.0 + _erf(x * 0.7071067811865476)) + x * density


exp, log, log1p, tanh, sigmoid, erf, gelu, gelu_gradient = map(
    _in_double, (_exp, _log, _log1p, _tanh, _sigmoid, _erf, _gelu, _gelu_gradient)
)
