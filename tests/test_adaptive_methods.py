"""Adamax, Lion, NAdam and RAdam beyond what all optimizers share: their papers' formulas, and special values."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fusedstep as fs
from bits import assert_same_bits
from fusedstep import optim
from fusedstep.reference.scalars import nadam_scalars, radam_scalars
from small_optimizers import parameters, set_gradients


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lion_is_the_paper_s_algorithm(weight_decay):
    """Algorithm 2 of Chen et al. 2023, line by line; what is rounded once there is rounded twice here."""
    b1, b2, lr = 0.9, 0.99, 0.01
    params = parameters(dtype=np.float64)
    optimizer = optim.Lion(params, lr=lr, betas=(b1, b2), weight_decay=weight_decay)
    theta = [p.array.copy() for p in params]
    m = [np.zeros_like(a) for a in theta]
    for t in range(200):
        set_gradients(params, t)
        optimizer.step()
        for p, a, b in zip(params, theta, m, strict=True):
            a -= lr * (np.sign(b1 * b + (1 - b1) * p.grad) + weight_decay * a)
            b[...] = b2 * b + (1 - b2) * p.grad
    for p, a in zip(params, theta, strict=True):
        np.testing.assert_allclose(p.array, a, rtol=0, atol=200 * 4 * 2.0**-53 * np.abs(a).max())


def test_the_sign_of_zero_is_zero_and_of_nan_is_nan():
    p = np.array([1.0, -0.0, 2.0, 3.0])
    fs.ops.lion_step(p, np.array([0.0, -0.0, np.nan, np.inf]), np.zeros(4), lr=0.5)
    assert_same_bits("p", p, np.array([1.0, -0.0, np.nan, 2.5]))


def test_nan_passes_through_adamax_s_maximum():
    for g, u in [(np.nan, 1.0), (1.0, np.nan)]:
        arrays = np.ones(1), np.array([g]), np.ones(1), np.array([u])
        fs.ops.adamax_step(*arrays, lr=0.1, step=1)
        assert np.isnan(arrays[0]) and np.isnan(arrays[3])


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("decay", [0.0, 4e-3, 1.0, 1e6])
def test_nadam_s_momenta(beta1, decay):
    """The product over all steps, ended early where it no longer counts, against the whole one.

    integer_power is off by at most a unit in the last place a factor, and the momenta as much as that by what 0.96**x
    is of them; 1 - product is at least 1/4 here.
    """
    mu = lambda t: beta1 * (1 - 0.5 * 0.96 ** (t * decay))  # noqa: E731
    product = 1.0
    for step in range(1, 3001):
        product *= mu(step)
        if step not in (1, 2, 10, 399, 3000):
            continue
        average, gradient, root = nadam_scalars(0.1, step, beta1, 0.999, decay)
        bound = 8 * (step + 2) * 2.0**-53
        assert average == pytest.approx(0.1 * mu(step + 1) / (1 - product * mu(step + 1)), rel=bound)
        assert gradient == pytest.approx(0.1 * (1 - mu(step)) / (1 - product), rel=bound / (1 - beta1))
        assert root == pytest.approx(1 / math.sqrt(1 - 0.999**step), rel=bound * 1000)


def test_radam_is_momentum_until_the_variance_can_be_had():
    """With beta2 = 0.999 the sixth step is the first that is rectified; with 2/3 and below none is."""
    assert [radam_scalars(0.1, t, 0.9, 0.999)[1] for t in (1, 5, 6, 7, 10**6)] == [False, False, True, True, True]
    assert radam_scalars(0.1, 10**6, 0.9, 0.999)[0] == pytest.approx(0.1, rel=1e-9)
    assert not any(radam_scalars(0.1, t, 0.9, 2 / 3)[1] for t in (1, 10, 1000))


def test_an_infinite_variance_leaves_radam_s_momentum_alone():
    """Gradients whose squares overflow: before the rectification they count as momentum, behind it not at all."""
    for step, expected in [(5, -np.float32(0.1) / np.float32(1 - 0.9**5) * np.float32(1e19)), (6, 0.0)]:
        p, g = np.zeros(1, np.float32), np.full(1, 1e20, np.float32)
        fs.ops.radam_step(p, g, np.zeros(1, np.float32), np.zeros(1, np.float32), lr=0.1, step=step)
        assert p[0] == pytest.approx(expected, rel=1e-6)
