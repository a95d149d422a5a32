"""Prints the polynomials of erf and tanh in csrc/math/functions.h and reference/functions.py (needs mpmath).

erf(x) = x P(x^2) for |x| <= 1, and 1 - exp(-x^2) Q((x - 3) / (x + 3)) for 1 <= x <= 6: Chebyshev
fits with 40 digits, rounded to double. P is off by 1.3e-19, Q by 5.3e-18, both far below an ulp.
tanh(x) = x T(x^2) for |x| <= 0.55.
"""

import mpmath as mp

mp.mp.dps = 40


def fit(function, low, high, terms):
    coefficients, error = mp.chebyfit(function, [low, high], terms, error=True)
    print(f"error {float(error):.1e}, from the constant up:")
    for c in reversed(coefficients):
        print(f"    {float(c)!r},")


def small(u):
    return mp.erf(mp.sqrt(u)) / mp.sqrt(u) if u > 0 else 2 / mp.sqrt(mp.pi)


def tail(t):
    x = 3 * (1 + t) / (1 - t)
    return mp.exp(x * x) * mp.erfc(x)


fit(small, 0, 1, 13)
fit(tail, -mp.mpf(1) / 2, mp.mpf(1) / 3, 16)
fit(lambda u: mp.tanh(mp.sqrt(u)) / mp.sqrt(u) if u > 0 else mp.mpf(1), 0, mp.mpf("0.3025"), 13)
