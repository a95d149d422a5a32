"""The reference's batch norm against finite differences, closed forms and torch; moments where naive ones fail.

The compiled kernels have the reference's bits (test_bits.py); here they run too, as `fs.ops`.
"""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs

BOTH = pytest.mark.parametrize("module", [fs.ops, fs.reference], ids=["ops", "reference"])


@BOTH
@pytest.mark.parametrize("shape", [(4096, 3), (64, 3, 700), (1_000_000, 1)])
@pytest.mark.parametrize("first", ["typical", "outlier"])
def test_variance_beside_a_large_mean(module, shape, first):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) + 1e4).astype(np.float32)
    if first == "outlier":
        x[0] = 0  # a shift by the first value alone would not help here
    _, saved = module.batch_norm(x)
    exact = np.var(x.astype(np.float64), axis=tuple(a for a in range(x.ndim) if a != 1))
    np.testing.assert_allclose(saved.var, exact, rtol=1e-3)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.1, -1e30, 3e-39, 12345.678])
def test_constant_channel_has_exactly_zero_variance(module, dtype, value):
    x = np.full((1001, 2, 3), value, dtype)
    weight, bias = np.array([2, 3], dtype), np.array([0.5, -1], dtype)
    y, saved = module.batch_norm(x, weight, bias)
    assert (saved.var == 0).all()
    assert (saved.mean == dtype(value)).all()
    assert (y == bias[:, None]).all()
    gradients = module.batch_norm_backward(np.ones_like(x), x, saved)
    assert all(np.isfinite(g).all() for g in gradients)


@BOTH
def test_against_two_pass_moments(module):
    """Each leaf and each merge adds a few roundings: 32 lanes of 16 values, 5 halvings, log2(leaves) merges.

    To first order the relative error of a sum of positive terms in this tree is below (16 + 5 + log2(leaves) + 3) u.
    """
    rng = np.random.default_rng(0)
    for dtype, u in [(np.float32, 2.0**-24), (np.float64, 2.0**-53)]:
        x = rng.normal(size=(200, 7, 300)).astype(dtype)
        _, saved = module.batch_norm(x)
        wide = x.astype(np.longdouble)
        exact = wide.var(axis=(0, 2))
        bound = (16 + 5 + np.ceil(np.log2(200 * 300 / 512)) + 8) * u
        assert (np.abs(saved.var - exact) <= bound * exact).all()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dropout", [None, (0.4, 3, 1)])
def test_gradients_by_central_differences(affine, training, relu, dropout):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 3, 4))
    weight, bias = (rng.normal(size=3), rng.normal(size=3)) if affine else (None, None)
    running = rng.normal(size=3), rng.uniform(0.5, 2, size=3)
    dy = rng.normal(size=x.shape)

    def loss():
        y, saved = fs.reference.batch_norm(
            x, weight, bias, *(r.copy() for r in running), training=training, relu=relu, dropout=dropout
        )
        return float((y * dy).sum()), saved

    gradients = fs.reference.batch_norm_backward(dy, x, loss()[1])
    h = 1e-6
    for array, gradient in zip((x, weight, bias), gradients, strict=True):
        if array is None:
            continue
        numeric = np.empty_like(array)
        for i in np.ndindex(array.shape):
            kept = array[i]
            array[i] = kept + h
            above = loss()[0]
            array[i] = kept - h
            below = loss()[0]
            array[i] = kept
            numeric[i] = (above - below) / (2 * h)
        # Truncation is of order h**2, rounding of order 1e-16 / h.
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


@BOTH
@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics(module, unbiased):
    rng = np.random.default_rng(0)
    mean, var = np.zeros(2), np.ones(2)
    total_mean, total_var = np.zeros(2), np.ones(2)
    batches = rng.normal(size=(4, 10, 2))
    for t, x in enumerate(batches, start=1):
        module.batch_norm(x, None, None, mean, var, momentum=0.25, unbiased_running_var=unbiased)
        module.batch_norm(
            x, None, None, total_mean, total_var, momentum=None, num_batches=t, unbiased_running_var=unbiased
        )
    expected_mean, expected_var = np.zeros(2), np.ones(2)
    for x in batches:
        expected_mean = 0.75 * expected_mean + 0.25 * x.mean(axis=0)
        expected_var = 0.75 * expected_var + 0.25 * x.var(axis=0, ddof=unbiased)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-12)
    np.testing.assert_allclose(var, expected_var, rtol=1e-12)
    np.testing.assert_allclose(total_mean, batches.mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(total_var, batches.var(axis=1, ddof=unbiased).mean(axis=0), rtol=1e-12)


@BOTH
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(50, 6), (8, 6, 5, 7)])
def test_against_torch(module, shape, training):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, *shape))
    weight, bias, mean = rng.normal(size=(3, 6))
    var = rng.uniform(0.5, 2, size=6)
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, weight, bias))
    tmean, tvar = torch.tensor(mean), torch.tensor(var)
    ty = torch.relu(torch.nn.functional.batch_norm(tx, tmean, tvar, tw, tb, training, 0.1, 1e-5))
    ty.backward(torch.tensor(dy))
    y, saved = module.batch_norm(x, weight, bias, mean, var, training=training, relu=True)
    dx, dweight, dbias = module.batch_norm_backward(dy, x, saved)
    for ours, theirs in [(y, ty), (mean, tmean), (var, tvar), (dx, tx.grad), (dweight, tw.grad), (dbias, tb.grad)]:
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10, atol=1e-12)


@BOTH
def test_evaluation_in_place_and_saved(module):
    x = np.random.default_rng(0).normal(size=(5, 3))
    mean, var = np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])
    expected = (x - mean) / np.sqrt(var + 1e-5)
    y, saved = module.batch_norm(x, None, None, mean, var, training=False, out=x)
    assert y is x
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    mean[:] = 0
    assert (saved.mean == [1, 2, 3]).all() and not saved.training and saved.eps == 1e-5


@BOTH
def test_dx_may_be_dy_and_gradients_may_be_given(module):
    x, dy = np.random.default_rng(0).normal(size=(2, 9, 4))
    _, saved = module.batch_norm(x, relu=True, dropout=(0.5, 1, 2))
    expected = module.batch_norm_backward(dy, x, saved)
    dweight, dbias = np.empty(4), np.empty(4)
    result = module.batch_norm_backward(dy, x, saved, dx=dy, dweight=dweight, dbias=dbias)
    assert result[0] is dy and result[1] is dweight and result[2] is dbias
    for a, b in zip(result, expected, strict=True):
        assert np.array_equal(a, b)
