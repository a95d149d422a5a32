"""The compiled kernels give the bits of the NumPy reference: every instruction set, thread count, size and offset.

Nothing here is a tolerance.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

import fusedstep as fs
from bits import DTYPES, SIZES, assert_same_bits, at_offset, difficult

STEPS = 3

# (op, names of the states, hyper-parameters); `step` is given where the op takes it.
RULES = [
    ("sgd_step", (), {"lr": 0.1}),
    ("sgd_step", (), {"lr": 0.1, "weight_decay": 0.01, "maximize": True, "grad_multiplier": 0.3}),
    ("sgd_step", ("momentum_buffers",), {"lr": 0.1, "momentum": 0.9}),
    ("sgd_step", ("momentum_buffers",), {"lr": 0.1, "momentum": 0.9, "dampening": 0.9, "weight_decay": 0.1}),
    ("sgd_step", ("momentum_buffers",), {"lr": 0.1, "momentum": 0.9, "nesterov": True, "dampening": 0.1}),
    (
        "sgd_step",
        ("momentum_buffers",),
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    ("adagrad_step", ("state_sums",), {"lr": 0.1, "lr_decay": 0.3}),
    ("adagrad_step", ("state_sums",), {"lr": 0.1, "eps": 0.0, "weight_decay": 0.1, "maximize": True}),
    ("rmsprop_step", ("square_avgs",), {"lr": 0.01}),
    ("rmsprop_step", ("square_avgs",), {"lr": 0.01, "weight_decay": 0.1, "grad_multiplier": 2.7}),
    ("rmsprop_step", ("square_avgs", "momentum_buffers"), {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    ("rmsprop_step", ("square_avgs", "momentum_buffers"), {"lr": 0.01, "momentum": 0.9, "alpha": 0.5}),
    ("rmsprop_step", ("square_avgs", "grad_avgs"), {"lr": 0.01, "centered": True}),
    ("rmsprop_step", ("square_avgs", "grad_avgs"), {"lr": 0.01, "centered": True, "weight_decay": 0.1}),
    (
        "rmsprop_step",
        ("square_avgs", "momentum_buffers", "grad_avgs"),
        {"lr": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    (
        "rmsprop_step",
        ("square_avgs", "momentum_buffers", "grad_avgs"),
        {"lr": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    ),
    ("adam_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 1e-3}),
    ("adam_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 1e-3, "bias_correction": False, "weight_decay": 0.1}),
    (
        "adam_step",
        ("exp_avgs", "exp_avg_sqs"),
        {"lr": 1e-3, "eps_mode": "inside", "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    ("adam_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 1e-3, "eps_mode": "inside", "weight_decay": 0.1}),
    ("adam_step", ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"), {"lr": 1e-3, "amsgrad": True, "maximize": True}),
    ("adam_step", ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"), {"lr": 1e-3, "amsgrad": True, "weight_decay": 0.1}),
    (
        "adam_step",
        ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"),
        {"lr": 1e-3, "amsgrad": True, "eps_mode": "inside", "betas": (0.0, 0.5), "eps": 0.0},
    ),
    (
        "adam_step",
        ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"),
        {"lr": 1e-3, "amsgrad": True, "eps_mode": "inside", "weight_decay": 0.1, "grad_multiplier": 1e-3},
    ),
]
SIGNED_STATES = ("momentum_buffers", "exp_avgs", "grad_avgs")


def rule_id(rule):
    return "-".join([rule[0], *rule[1][1:], *(k for k in rule[2] if k != "lr")])


@functools.cache
def step_case(rule_index: int, dtype, size: int):
    """(input arrays, gradients of each step, arrays after the reference's steps)"""
    op, states, options = RULES[rule_index]
    rng = np.random.default_rng([rule_index, size])
    params = difficult(rng, size, dtype)
    arrays = {name: difficult(rng, size, dtype, positive=name not in SIGNED_STATES) for name in states}
    average = difficult(rng, size, dtype)
    grads = [difficult(rng, size, dtype) for _ in range(STEPS)]
    start = [params, *arrays.values(), average]
    return start, grads, run_steps(fs.reference, op, states, options, start, grads, 0)


def run_steps(module, op, states, options, start, grads, offset):
    """Copies of `start` after one step for each of `grads`."""
    params, *arrays, average = (at_offset(a, offset) for a in start)
    for t, g in enumerate(grads, start=1):
        counted = {} if op in ("sgd_step", "rmsprop_step") else {"step": t + 7}
        getattr(module, op)(
            params,
            at_offset(g, offset),
            **dict(zip(states, arrays, strict=True)),
            **options,
            **counted,
            ema_params=average,
            ema_decay=0.99,
        )
    return [params, *arrays, average]


def check_steps(rule_index, dtype, sizes, offsets):
    op, states, options = RULES[rule_index]
    for size in sizes:
        start, grads, expected = step_case(rule_index, dtype, size)
        for offset in offsets:
            actual = run_steps(fs.ops, op, states, options, start, grads, offset)
            for name, a, e in zip(("params", *states, "ema_params"), actual, expected, strict=True):
                assert_same_bits(f"{op} {name}, {size} values at offset {offset}", a, e)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule_index", range(len(RULES)), ids=[rule_id(r) for r in RULES])
def test_steps(rule_index, dtype, isa, threads):
    check_steps(rule_index, dtype, SIZES, (0, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_over_a_list_spread_over_threads(dtype, isa, threads):
    rng = np.random.default_rng(0)
    sizes = [*SIZES, 50_000, 3, 200_000]
    arrays = [[difficult(rng, n, dtype, positive=k == 3) for n in sizes] for k in range(4)]
    copies = [[a.copy() for a in column] for column in arrays]
    for t in (1, 2, 1000):
        fs.ops.adam_step(*arrays, lr=1e-3, step=t, weight_decay=0.01)
        fs.reference.adam_step(*copies, lr=1e-3, step=t, weight_decay=0.01)
    for column, expected in zip(arrays, copies, strict=True):
        for a, e in zip(column, expected, strict=True):
            assert_same_bits(f"list, {a.size} values", a, e)


@pytest.mark.parametrize("dtype", DTYPES)
def test_global_norm(dtype, isa, threads):
    rng = np.random.default_rng(0)
    arrays = [at_offset(rng.normal(size=n).astype(dtype), 1) for n in (*SIZES, 512, 511, 513, 1_500_001)]
    for n in range(len(arrays) + 1):
        out = np.empty((), np.float64)
        norm = fs.ops.global_norm(arrays[:n], out=out)
        assert norm == fs.reference.global_norm(arrays[:n]) == out
    wild = difficult(rng, 1000, dtype)
    assert_same_bits("norm", np.array(fs.ops.global_norm(wild)), np.array(fs.reference.global_norm(wild)))


# (shape, channel axis): values a channel straddle lanes (32) and leaves (512); channels straddle blocks of 16.
BATCHES = [
    ((2, 1), 1),
    ((33, 1), 1),
    ((97, 15), 1),
    ((512, 17), 1),
    ((1025, 33), 1),
    ((3000, 130), 1),
    ((2, 3, 1), 1),
    ((4, 16, 7), 1),
    ((31, 5, 33), 1),
    ((3, 2, 5, 700), 1),
    ((7, 40, 31, 29), 1),
    ((40, 31, 29, 3), -1),
    ((3, 1000), 0),
    ((1, 1, 5000), 1),
    ((6, 0, 5), 1),
]


def batch_case(dtype, shape, axis, special, affine):
    rng = np.random.default_rng(len(shape))
    channels = shape[axis]
    x = (rng.normal(size=shape) * 3 + 100).astype(dtype)
    if special and x.size:
        x.reshape(-1)[: x.size // 2] = difficult(rng, x.size // 2, dtype)
    dy = (difficult(rng, x.size, dtype) if special else rng.normal(size=x.size).astype(dtype)).reshape(shape)
    weight, bias, mean = (rng.normal(size=channels).astype(dtype) for _ in range(3))
    var = rng.uniform(0.5, 2, size=channels).astype(dtype)
    return x, dy, (weight, bias) if affine else (None, None), mean, var


@pytest.mark.parametrize("special", [False, True], ids=["normal", "special"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, axis", BATCHES, ids=str)
def test_batch_norm(shape, axis, dtype, special, isa, threads):
    options = [
        {"relu": True},
        {"relu": False, "momentum": None, "num_batches": 3, "unbiased_running_var": False, "affine": False},
        {"relu": True, "dropout": (0.3, 7, 11)},
        {"relu": False, "dropout": (0.5, 2**63 + 1, 2**64 - 1), "training": False},
        {"relu": True, "training": False, "eps": 0.0},
    ]
    for option in options:
        option = dict(option)
        x, dy, affine, mean, var = batch_case(dtype, shape, axis, special, option.pop("affine", True))
        if x.size == 0 and option.get("training", True):
            continue
        results = []
        for module in (fs.ops, fs.reference):
            running = mean.copy(), var.copy()
            y, saved = module.batch_norm(x, *affine, *running, channel_axis=axis, **option)
            gradients = module.batch_norm_backward(dy, x, saved)
            results.append([y, saved.mean, saved.var, *running, *gradients])
        names = ("y", "mean", "var", "running_mean", "running_var", "dx", "dweight", "dbias")
        for name, actual, expected in zip(names, *results, strict=True):
            assert_same_bits(f"{name} with {option}", actual, expected)


def test_batch_norm_gives_the_same_bits_in_every_layout(isa):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 9, 5, 31, 29)).astype(np.float32)
    results = []
    for axes in [(0, 1, 2, 3), (0, 2, 3, 1)]:  # NCHW and channels-last memory, both with NCHW axes
        back = np.argsort(axes)
        a, b = (np.ascontiguousarray(v.transpose(axes)).transpose(back) for v in (x, dy))
        y, saved = fs.ops.batch_norm(a, relu=True, dropout=(0.4, 1, 2))
        assert y.strides == a.strides
        results.append([y, saved.mean, saved.var, *fs.ops.batch_norm_backward(b, a, saved)])
    for actual, expected in zip(*results, strict=True):
        assert_same_bits("channels-last", actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype, isa, threads):
    rng = np.random.default_rng(0)
    for size in (*SIZES, 1023, 1025, 400_000):
        x, dy = difficult(rng, size, dtype), difficult(rng, size, dtype)
        for p in (0.0, 0.2, 0.5, 1.0):
            key = {"seed": 2**64 - 3, "offset": 12345678901}
            for relu in (False, True):
                expected = fs.reference.dropout(x, p, relu=relu, **key)
                actual = fs.ops.dropout(at_offset(x, 1), p, relu=relu, **key)
                assert_same_bits(f"dropout {p} of {size}", actual, expected)
            backward = fs.ops.dropout_backward(dy, p, y=expected, **key)
            assert_same_bits("backward", backward, fs.reference.dropout_backward(dy, p, y=expected, **key))
            backward = fs.ops.dropout_backward(dy, p, **key)
            assert_same_bits("backward", backward, fs.reference.dropout_backward(dy, p, **key))
            for packed in (False, True):
                mask = fs.ops.dropout_mask(size, p, packed=packed, **key)
                assert np.array_equal(mask, fs.reference.dropout_mask(size, p, packed=packed, **key))


def test_dropout_of_any_strides(isa, threads):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 70, 11)).astype(np.float32)
    for view in (np.asfortranarray(x), x.transpose(2, 0, 1), x[::2, ::-3], x[:, :0], x[3, 5, 2, ...], x[:, :, 4]):
        expected = fs.reference.dropout(view.copy(order="C"), 0.3, seed=5)
        assert_same_bits("strided", fs.ops.dropout(view, 0.3, seed=5), expected)
        out = np.zeros((*view.shape, 2), np.float32)[..., 0]
        assert_same_bits("strided out", fs.ops.dropout(view, 0.3, seed=5, out=out), expected)


ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_activation(activation, dtype, isa, threads):
    rng = np.random.default_rng(0)
    for rows, columns in [(0, 5), (1, 1), (33, 10), (513, 15), (1030, 17), (128, 128), (3, 100003), (700, 0)]:
        x, dy = (difficult(rng, rows * columns, dtype).reshape(rows, columns) for _ in range(2))
        x[: rows // 2] = rng.normal(size=(rows // 2, columns)) * 4
        bias = rng.normal(size=columns).astype(dtype)
        for b in (bias, None):
            actual = fs.ops.bias_activation(x, b, activation=activation)
            expected = fs.reference.bias_activation(x, b, activation=activation)
            assert_same_bits(f"{activation} {x.shape}", actual, expected)
            saved = x if activation == "gelu" else expected
            arguments = {"activation": activation, "bias": b is not None}
            actual = fs.ops.bias_activation_backward(dy, saved, **arguments)
            expected = fs.reference.bias_activation_backward(dy, saved, **arguments)
            assert_same_bits(f"dx of {activation} {x.shape}", actual[0], expected[0])
            if b is not None:
                assert_same_bits(f"dbias of {activation} {x.shape}", actual[1], expected[1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses(dtype, weighted, isa, threads):
    rng = np.random.default_rng(0)
    for rows, columns in [(1, 1), (33, 10), (513, 3), (7, 1500), (3000, 100)]:
        weights = rng.uniform(size=rows) if weighted else None
        labels = rng.integers(0, columns, rows)
        wild = difficult(rng, rows * columns, dtype).reshape(rows, columns)
        normal = (rng.normal(size=(rows, columns)) * 5).astype(dtype)
        target = rng.uniform(size=(rows, columns)).astype(dtype)
        for x in (normal, wild):
            for op, t in [
                ("softmax_cross_entropy", labels),
                ("sigmoid_cross_entropy", target),
                ("mean_squared_error", target),
            ]:
                value, gradient = getattr(fs.ops, op)(x, t, weights)
                expected_value, expected = getattr(fs.reference, op)(x, t, weights)
                assert_same_bits(f"{op} {x.shape}", gradient, expected)
                assert_same_bits(f"{op} {x.shape} value", np.array(value), np.array(expected_value))


def test_flush_to_zero_set_by_the_caller_changes_nothing(isa, threads):
    """torch sets the mode on this thread, and on OpenMP's threads that it shares with the module."""
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("no flush-to-zero on this processor")
    try:
        tiny = np.full(3, np.finfo(np.float32).tiny, np.float32)
        assert (tiny * np.float32(0.25)).max() == 0, "the mode is not set"
        for rule_index in range(len(RULES)):
            op, states, options = RULES[rule_index]
            torch.set_flush_denormal(False)
            start, grads, expected = step_case(rule_index, np.float32, 1000)
            torch.set_flush_denormal(True)
            actual = run_steps(fs.ops, op, states, options, start, grads, 1)
            assert torch.set_flush_denormal(False)
            for a, e in zip(actual, expected, strict=True):
                assert_same_bits(op, a, e)
        x = np.random.default_rng(0).normal(size=(600, 700)).astype(np.float32) * np.float32(1e-38)
        expected = fs.reference.batch_norm(x, eps=0.0)
        torch.set_flush_denormal(True)
        actual = fs.ops.batch_norm(x, eps=0.0)
        assert (tiny * np.float32(0.25)).max() == 0, "the caller's mode was not put back"
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits("batch norm", actual[0], expected[0])
    assert_same_bits("batch norm variance", actual[1].var, expected[1].var)
