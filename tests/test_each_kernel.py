"""Every kernel once or twice in every type, small: what sanitizers can go through. The bits are the reference's."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from bits import ALL_DTYPES, DTYPES, HALF_DTYPES, assert_same_bits, at_offset, counted
from test_bits import LAYER_RULES, RULES, rule_id

PAIRS = [(dtype, dtype) for dtype in ALL_DTYPES] + [(dtype, np.float32) for dtype in HALF_DTYPES]


def both(function) -> None:
    """The arrays that `function` gives with fs.ops and with fs.reference are the same."""
    for place, (actual, expected) in enumerate(zip(function(fs.ops), function(fs.reference), strict=True)):
        assert_same_bits(f"result {place}", np.asarray(actual), np.asarray(expected))


def values(seed, shape, dtype, *, positive=False) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=shape) * 2
    return (np.abs(drawn) if positive else drawn).astype(dtype)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(np.dtype(d).name for d in pair))
@pytest.mark.parametrize("rule", [*RULES, *LAYER_RULES], ids=rule_id)
def test_steps(rule, pair):
    op, states, options = rule

    def run(module):
        # A short table of arrays, then a long one; one array is off the alignment, and one is empty.
        results = []
        for sizes in ((1030, 37), (5, 0, 260, *[3] * 12)):
            columns = [
                [at_offset(values(k, n, kind, positive=k > 1), i % 2) for i, n in enumerate(sizes)]
                for k, kind in enumerate([pair[0]] * 2 + [pair[1]] * (len(states) + 1))
            ]
            params, grads, *rest, average = columns
            named = dict(zip(states, rest, strict=True))
            getattr(module, op)(params, grads, **named, **options, **counted(op, 3), ema_params=average, ema_decay=0.9)
            results += [a for column in columns for a in column]
        return results

    both(run)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_norm_and_prepare_step(dtype):
    def run(module):
        norm, nonfinite, skip = np.zeros(()), np.zeros((), np.int32), np.ones((), np.int32)
        step, skipped, multiplier = np.zeros((), np.int64), np.zeros((), np.int64), np.zeros(())
        for arrays in ([values(k, n, dtype) for k, n in enumerate((33000, 700, 1, 0))], [np.full(3, np.inf, dtype)]):
            module.global_norm(arrays, out=norm, nonfinite=nonfinite)
            module.prepare_step(
                step,
                multiplier,
                skip,
                norm=norm,
                nonfinite=nonfinite,
                max_norm=1.0,
                grad_multiplier=-0.5,
                skipped=skipped,
            )
        assert (step, skipped, skip, nonfinite) == (1, 1, 1, 1)
        return [norm, multiplier]

    both(run)


# Planes and rows; whole vectors of channels or values, and not; several leaves and blocks.
@pytest.mark.parametrize("shape", [(3, 2, 20, 24), (2, 3, 35), (600, 40), (530, 3), (9000, 8)], ids=str)
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_batch_norm(dtype, shape):
    kept = np.float32 if dtype in HALF_DTYPES else dtype

    def run(module):
        results = []
        for options in ({"relu": True, "dropout": (0.4, 1, 2)}, {"relu": False}, {"training": False}):
            weight, bias, mean = (values(k, shape[1], kept) for k in range(3))
            var = values(3, shape[1], dtype, positive=True)
            x, dy = values(4, shape, dtype), values(5, shape, dtype)
            y, saved = module.batch_norm(x, weight, bias, mean, var, **options)
            results += [y, saved.mean, saved.var, mean, var, *module.batch_norm_backward(dy, x, saved)]
        return results

    both(run)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_dropout(dtype):
    def run(module):
        x = at_offset(values(0, 1100, dtype), 1)
        wide = values(1, (7, 9, 11), dtype)
        seeds = {"seed": 5, "offset": np.array(3)}
        y = module.dropout(x, 0.3, relu=True, **seeds)
        results = [y, module.dropout(wide, 0.3, **seeds), module.dropout(wide[:, ::2].T, 0.6, **seeds)]
        results.append(module.dropout_backward(x, 0.3, **seeds))
        results.append(module.dropout_backward(values(2, 1100, dtype), 0.3, y=y, **seeds))
        return results

    both(run)


def test_dropout_mask():
    for n in (1, 8, 1003):
        np.testing.assert_array_equal(fs.ops.dropout_mask(n, 0.3, seed=1), fs.reference.dropout_mask(n, 0.3, seed=1))
        packed = fs.ops.dropout_mask(n, 0.3, seed=1, packed=True)
        np.testing.assert_array_equal(packed, fs.reference.dropout_mask(n, 0.3, seed=1, packed=True))


@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(dtype, activation):
    def run(module):
        results = []
        for shape in ((530, 36), (3, 5)):
            x, dy, bias = values(0, shape, dtype), values(1, shape, dtype), values(2, shape[1], dtype)
            results.append(module.bias_activation(x, bias, activation=activation))
            results += module.bias_activation_backward(dy, x, activation=activation)
            results.append(module.bias_activation(x, activation=activation))
            results.append(module.bias_activation_backward(dy, x, activation=activation, bias=False)[0])
        return results

    both(run)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses(dtype, weighted):
    def run(module):
        results = []
        for shape in ((6, 1100), (40, 3)):
            x, labels = values(0, shape, dtype), np.arange(shape[0]) % shape[1]
            weights = values(1, shape[0], np.float64, positive=True) if weighted else None
            results += module.softmax_cross_entropy(x, labels, weights)
            results += module.mean_squared_error(x, values(2, shape, dtype), weights)
            results += module.sigmoid_cross_entropy(x, (values(2, shape, dtype) > 0).astype(dtype), weights)
        return results

    both(run)
