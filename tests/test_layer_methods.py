"""LARS and LAMB: the papers' formulas, norms of each parameter, and those that are spared."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from bits import assert_same_bits
from fusedstep import ops, optim
from small_optimizers import assert_equal, bits, model, parameters, set_gradients, train

STEPS = 100


def agree(params, expected) -> None:
    """To what test_like_torch allows: 1e-12 of the largest value, after as many steps in float64."""
    for p, e in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.array, e, rtol=0, atol=1e-12 * np.abs(e).max())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_is_the_paper_s_equation(weight_decay):
    """Equation 6 of You et al. 2017; lr is constant, so that it does not matter on which side of v it stands."""
    lr, mu, eta, eps = 0.5, 0.9, 0.02, 1e-8
    params = parameters(dtype=np.float64)
    optimizer = optim.LARS(params, lr, mu, weight_decay, eta, eps)
    theta = [p.array.copy() for p in params]
    v = [np.zeros_like(a) for a in theta]
    for t in range(STEPS):
        set_gradients(params, t)
        optimizer.step()
        for p, w, b in zip(params, theta, v, strict=True):
            local = eta * np.linalg.norm(w) / (np.linalg.norm(p.grad) + weight_decay * np.linalg.norm(w) + eps)
            b[...] = mu * b + lr * local * (p.grad + weight_decay * w)
            w -= b
    agree(params, theta)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_is_the_paper_s_algorithm(weight_decay):
    """Algorithm 2 of You et al. 2020 with phi(z) = z."""
    lr, b1, b2, eps = 0.05, 0.9, 0.99, 1e-6
    params = parameters(dtype=np.float64)
    optimizer = optim.LAMB(params, lr, (b1, b2), eps, weight_decay)
    theta = [p.array.copy() for p in params]
    m, v = ([np.zeros_like(a) for a in theta] for _ in range(2))
    for t in range(1, STEPS + 1):
        set_gradients(params, t)
        optimizer.step()
        for p, x, a, b in zip(params, theta, m, v, strict=True):
            a[...] = b1 * a + (1 - b1) * p.grad
            b[...] = b2 * b + (1 - b2) * p.grad**2
            update = (a / (1 - b1**t)) / (np.sqrt(b / (1 - b2**t)) + eps) + weight_decay * x
            x -= lr * np.linalg.norm(x) / np.linalg.norm(update) * update
    agree(params, theta)


@pytest.mark.parametrize(("method", "op"), [(optim.LARS, "lars_step"), (optim.LAMB, "lamb_step")])
def test_a_model_is_one_call_with_an_array_for_each_parameter(monkeypatch, method, op):
    """Not the arena as one, as the other optimizers take it."""
    given, function = [], getattr(ops, op)
    monkeypatch.setattr(ops, op, lambda params, *a, **k: (given.append(params), function(params, *a, **k))[1])
    params = model().parameters()
    method(params).step()
    assert [len(arrays) for arrays in given] == [len(params)]


def test_what_is_spared_takes_steps_without_a_ratio():
    """`decay_1d=False` is the groups that it stands for; LARS without a ratio is momentum."""
    params, grouped, alone = parameters(), parameters(), parameters()
    optimizer = optim.LARS(params, weight_decay=0.1, decay_1d=False)
    assert [(g["adapt"], g["weight_decay"]) for g in optimizer.param_groups] == [(True, 0.1), (False, 0.0)]
    wide, narrow = ([p for p in grouped if (p.array.ndim >= 2) == w] for w in (True, False))
    groups = [{"params": wide}, {"params": narrow, "weight_decay": 0.0, "adapt": False}]
    train(params, optimizer)
    train(grouped, optim.LARS(groups, weight_decay=0.1))
    train(alone, optim.Momentum(alone, lr=1.0))
    assert_equal(params, grouped)
    for p, q in zip(params, alone, strict=True):
        assert np.array_equal(p.array, q.array) == (p.array.ndim < 2)


def test_lamb_without_a_ratio_is_adam_but_for_the_order():
    params, alone = parameters(dtype=np.float64), parameters(dtype=np.float64)
    train(params, optim.LAMB(params, lr=0.01, weight_decay=0.0, adapt=False), STEPS)
    train(alone, optim.Adam(alone, lr=0.01, eps=1e-6), STEPS)
    agree(params, [p.array for p in alone])


@pytest.mark.parametrize("module", [fs.ops, fs.reference], ids=["ops", "reference"])
def test_the_ratio_is_1_where_a_norm_is_0(module):
    for p, g in [(np.zeros(3), np.array([1.0, -2.0, 0.5])), (np.array([1.0, -2.0, 0.5]), np.zeros(3))]:
        for adapt in (True, False):
            a, b = p.copy(), p.copy()
            module.lars_step(a, g, np.zeros(3), lr=0.5, adapt=adapt)
            module.lamb_step(b, g, np.zeros(3), np.zeros(3), lr=0.5, step=1, eps=0.5, adapt=adapt)
            assert_same_bits("LARS", a, p - 0.5 * g)
            assert_same_bits("LAMB", b, p - 0.5 * (g / (np.abs(g) + 0.5)))


def test_nan_spoils_its_own_array_alone():
    params = [np.ones(3), np.ones(3)]
    grads = [np.array([1.0, np.nan, 1.0]), np.ones(3)]
    fs.ops.lars_step(params, grads, [np.zeros(3), np.zeros(3)], lr=0.1)
    assert np.isnan(params[0]).all() and np.isfinite(params[1]).all()


def test_a_step_scale_free_in_the_gradient():
    """What LARS is for: the first step has the same size whatever the gradients are multiplied by."""
    moved = []
    for scale in (1e-3, 1.0, 1e6):
        params = parameters(dtype=np.float64)
        before = [p.array.copy() for p in params]
        set_gradients(params, 0, scale)
        optim.LARS(params, trust_coefficient=0.01, eps=0.0).step()
        moved.append([np.linalg.norm(p.array - b) / np.linalg.norm(b) for p, b in zip(params, before, strict=True)])
    np.testing.assert_allclose(moved, 0.01, rtol=1e-12)


@pytest.mark.parametrize("method", [optim.LARS, optim.LAMB])
def test_a_skipped_step_writes_nothing(method):
    params = parameters()
    optimizer = method(params, skip_nonfinite=True, max_norm=1.0, ema_decay=0.9)
    train(params, optimizer, 2)
    before = bits(params, optimizer)[0]
    params[0].grad.flat[0] = np.inf
    optimizer.step()
    assert bits(params, optimizer)[0] == before and optimizer.skipped == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_that_dies_stays_finite(dtype):
    """The averages decay until the direction's norm is the smallest there is; the ratio then is the largest."""
    p = fs.nn.Parameter(np.array([0.5, -0.25, 1.0], dtype), np.full(3, 1e-2, dtype), "p")
    optimizer = fs.optim.LAMB([p], weight_decay=0.0)
    optimizer.step()
    p.grad[...] = 0
    with np.errstate(under="ignore"):
        for _ in range(2000):
            optimizer.step()
    assert np.isfinite(p.array).all()
