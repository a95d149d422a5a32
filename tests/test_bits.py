"""The compiled kernels give the bits of the NumPy reference: every instruction set, thread count, size and offset.

Nothing here is a tolerance.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

import fusedstep as fs
from bits import ALL_DTYPES, DTYPES, HALF_DTYPES, SIZES, assert_same_bits, at_offset, counted, difficult

STEPS = 3
HALF_SIZES = (0, 1, 7, 8, 9, 31, 33, 97, 1000)
# (dtype of parameters or values, dtype of what is kept beside them)
HALF_PAIRS = [(half, kept) for half in HALF_DTYPES for kept in (half, np.float32)]
PAIRS = [*((dtype, dtype) for dtype in DTYPES), *HALF_PAIRS]


def pair_id(pair):
    return "-".join(np.dtype(dtype).name for dtype in pair)


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
    ("nadam_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 2e-3}),
    ("nadam_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 2e-3, "weight_decay": 0.1, "momentum_decay": 0.3, "eps": 0.0}),
    ("nadam_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 2e-3, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("radam_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 1e-3}),
    ("radam_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 1e-3, "betas": (0.9, 0.5), "weight_decay": 0.1}),
    ("radam_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 1e-3, "betas": (0.5, 0.999), "grad_multiplier": 1e3}),
    ("adamax_step", ("exp_avgs", "exp_infs"), {"lr": 2e-3}),
    ("adamax_step", ("exp_avgs", "exp_infs"), {"lr": 2e-3, "eps": 0.0, "weight_decay": 0.1, "maximize": True}),
    ("adadelta_step", ("square_avgs", "acc_deltas"), {"lr": 1.0}),
    ("adadelta_step", ("square_avgs", "acc_deltas"), {"lr": 0.5, "eps": 0.0, "rho": 0.5, "weight_decay": 0.1}),
    ("lion_step", ("exp_avgs",), {"lr": 1e-4}),
    ("lion_step", ("exp_avgs",), {"lr": 1e-2, "betas": (0.0, 0.5), "weight_decay": 0.1}),
    ("lion_step", ("exp_avgs",), {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("lars_step", ("momentum_buffers",), {"lr": 0.1, "adapt": False, "weight_decay": 0.1}),
    ("lamb_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 1e-2, "adapt": False, "weight_decay": 0.1}),
]
SIGNED_STATES = ("momentum_buffers", "exp_avgs", "grad_avgs")


def rule_id(rule):
    return "-".join([rule[0], *rule[1][1:], *(k for k in rule[2] if k != "lr")])


@functools.cache
def step_case(rule_index: int, dtype, state_dtype, size: int):
    """(input arrays, gradients of each step, arrays after the reference's steps)"""
    op, states, options = RULES[rule_index]
    rng = np.random.default_rng([rule_index, size])
    params = difficult(rng, size, dtype)
    arrays = {name: difficult(rng, size, state_dtype, positive=name not in SIGNED_STATES) for name in states}
    average = difficult(rng, size, state_dtype)
    grads = [difficult(rng, size, dtype) for _ in range(STEPS)]
    start = [params, *arrays.values(), average]
    return start, grads, run_steps(fs.reference, op, states, options, start, grads, 0)


def run_steps(module, op, states, options, start, grads, offset):
    """Copies of `start` after one step for each of `grads`."""
    params, *arrays, average = (at_offset(a, offset) for a in start)
    for t, g in enumerate(grads, start=1):
        getattr(module, op)(
            params,
            at_offset(g, offset),
            **dict(zip(states, arrays, strict=True)),
            **options,
            **counted(op, t + 7),
            ema_params=average,
            ema_decay=0.99,
        )
    return [params, *arrays, average]


def check_steps(rule_index, pair, sizes, offsets):
    op, states, options = RULES[rule_index]
    for size in sizes:
        start, grads, expected = step_case(rule_index, *pair, size)
        for offset in offsets:
            actual = run_steps(fs.ops, op, states, options, start, grads, offset)
            for name, a, e in zip(("params", *states, "ema_params"), actual, expected, strict=True):
                assert_same_bits(f"{op} {name}, {size} values at offset {offset}", a, e)


EVERY_RULE = pytest.mark.parametrize("rule_index", range(len(RULES)), ids=[rule_id(r) for r in RULES])


@pytest.mark.parametrize("dtype", DTYPES)
@EVERY_RULE
def test_steps(rule_index, dtype, isa, threads):
    check_steps(rule_index, (dtype, dtype), SIZES, (0, 1))


@pytest.mark.parametrize("pair", HALF_PAIRS, ids=pair_id)
@EVERY_RULE
def test_half_steps(rule_index, pair, isa):
    check_steps(rule_index, pair, HALF_SIZES, (0, 1))


@functools.cache
def list_case(dtype, state_dtype):
    """(parameters, gradients and states of several sizes, the same after steps of the reference)"""
    rng = np.random.default_rng(0)
    sizes = [*SIZES, 50_000, 3, 200_000]
    dtypes = (dtype, dtype, state_dtype, state_dtype)
    start = [[difficult(rng, n, kind, positive=k == 3) for n in sizes] for k, kind in enumerate(dtypes)]
    return start, run_list(fs.reference, start)


def run_list(module, start):
    arrays = [[a.copy() for a in column] for column in start]
    for t in (1, 2, 1000):
        module.adam_step(*arrays, lr=1e-3, step=t, weight_decay=0.01)
    return arrays


@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
def test_step_over_a_list_spread_over_threads(pair, isa, threads):
    start, expected = list_case(*pair)
    for column, wanted in zip(run_list(fs.ops, start), expected, strict=True):
        for a, e in zip(column, wanted, strict=True):
            assert_same_bits(f"list, {a.size} values", a, e)


# As RULES, of steps whose norms spread one difficult value over the whole array: on normal values.
LAYER_RULES = [
    ("lars_step", ("momentum_buffers",), {"lr": 0.1, "trust_coefficient": 0.02}),
    (
        "lars_step",
        ("momentum_buffers",),
        {"lr": 0.1, "momentum": 0.0, "eps": 0.0, "weight_decay": 0.1, "grad_multiplier": -0.3},
    ),
    (
        "lars_step",
        ("momentum_buffers",),
        {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ),
    ("lamb_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 0.01}),
    ("lamb_step", ("exp_avgs", "exp_avg_sqs"), {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3, "maximize": True}),
    (
        "lamb_step",
        ("exp_avgs", "exp_avg_sqs"),
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "bias_correction": False},
    ),
]


@functools.cache
def layer_case(rule_index, dtype, state_dtype):
    """(arrays of several sizes, one of them in another order of its axes, one zero, one wild; after the steps)"""
    rng = np.random.default_rng(rule_index)
    sizes = [0, 1, 31, 33, 511, 512, 513, 1000, 32_768, 32_769, 70_001]
    kinds = [dtype, dtype, *[state_dtype] * (len(LAYER_RULES[rule_index][1]) + 1)]
    start = [[np.abs(rng.normal(size=n)).astype(kind) for n in sizes] for kind in kinds]
    for k, (column, kind) in enumerate(zip(start, kinds, strict=True)):
        column[8] = np.asfortranarray(column[8].reshape(64, 512))
        column.append(difficult(rng, 700, kind, positive=k > 2))
        column.append(np.zeros(40, kind) if k == 0 else np.ones(40, kind))
    return start, run_layers(fs.reference, rule_index, start, 0)


def run_layers(module, rule_index, start, offset):
    op, _, options = LAYER_RULES[rule_index]
    arrays = [[at_offset(a, offset) if a.ndim == 1 else a.copy(order="K") for a in column] for column in start]
    for t in (1, 2, 30):
        *kept, average = arrays
        getattr(module, op)(*kept, **options, **counted(op, t), ema_params=average, ema_decay=0.9)
    return arrays


@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
@pytest.mark.parametrize("rule_index", range(len(LAYER_RULES)), ids=[rule_id(r) for r in LAYER_RULES])
def test_steps_with_a_ratio_for_each_array(rule_index, pair, isa, threads):
    start, expected = layer_case(rule_index, *pair)
    for offset in (0, 1):
        actual = run_layers(fs.ops, rule_index, start, offset)
        for column, wanted in zip(actual, expected, strict=True):
            for a, e in zip(column, wanted, strict=True):
                assert_same_bits(f"{LAYER_RULES[rule_index][0]}, {a.size} values at offset {offset}", a, e)
        assert all(np.isfinite(a.astype(np.float64)).all() for column in actual for a in column[:11])


@functools.cache
def norm_case(dtype):
    """(arrays, the norm of the first n of them for each n)"""
    rng = np.random.default_rng(0)
    arrays = [at_offset(rng.normal(size=n).astype(dtype), 1) for n in (*SIZES, 512, 511, 513, 1_500_001)]
    return arrays, [fs.reference.global_norm(arrays[:n]) for n in range(len(arrays) + 1)]


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_global_norm(dtype, isa, threads):
    arrays, norms = norm_case(dtype)
    for n, expected in enumerate(norms):
        out, nonfinite = np.empty((), np.float64), np.array(7, np.int32)
        assert fs.ops.global_norm(arrays[:n], out=out, nonfinite=nonfinite) == expected == out
        assert nonfinite == 0
    wild = difficult(np.random.default_rng(0), 1000, dtype)
    expected = np.array(fs.reference.global_norm(wild))
    assert_same_bits("norm", np.array(fs.ops.global_norm([wild, arrays[3]], nonfinite=nonfinite)), expected)
    assert nonfinite == 1


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
HALF_BATCHES = [
    ((2, 1), 1),
    ((1025, 33), 1),
    ((4, 16, 7), 1),
    ((3, 2, 5, 700), 1),
    ((40, 31, 29, 3), -1),
    ((6, 0, 5), 1),
]
BATCH_OPTIONS = [
    {"relu": True},
    {"relu": False, "momentum": None, "num_batches": 3, "unbiased_running_var": False, "affine": False},
    {"relu": True, "dropout": (0.3, 7, 11)},
    {"relu": False, "dropout": (0.5, 2**63 + 1, 2**64 - 1), "training": False},
    {"relu": True, "training": False, "eps": 0.0},
]


def batch_case(shape, axis, dtype, kept_dtype, special, affine):
    rng = np.random.default_rng(len(shape))
    channels = shape[axis]
    x = (rng.normal(size=shape) * 3 + 100).astype(dtype)
    if special and x.size:
        x.reshape(-1)[: x.size // 2] = difficult(rng, x.size // 2, dtype)
    dy = (difficult(rng, x.size, dtype) if special else rng.normal(size=x.size).astype(dtype)).reshape(shape)
    weight, bias, mean = (rng.normal(size=channels).astype(kept_dtype) for _ in range(3))
    var = rng.uniform(0.5, 2, size=channels).astype(kept_dtype)
    return x, dy, (weight, bias) if affine else (None, None), mean, var


def run_batch_norm(module, option, case, shape, axis):
    option = dict(option)
    x, dy, affine, mean, var = batch_case(shape, axis, *case, option.pop("affine", True))
    if x.size == 0 and option.get("training", True):
        return []
    y, saved = module.batch_norm(x, *affine, mean, var, channel_axis=axis, **option)
    gradients = module.batch_norm_backward(dy, x, saved)
    return [y, saved.mean, saved.var, mean, var, *gradients]


@functools.cache
def expected_batch_norm(case, shape, axis):
    return [run_batch_norm(fs.reference, option, case, shape, axis) for option in BATCH_OPTIONS]


def check_batch_norm(case, shape, axis):
    """case: (dtype, dtype of weights and running statistics, whether there are special values)"""
    names = ("y", "mean", "var", "running_mean", "running_var", "dx", "dweight", "dbias")
    for option, wanted in zip(BATCH_OPTIONS, expected_batch_norm(case, shape, axis), strict=True):
        for name, a, e in zip(names, run_batch_norm(fs.ops, option, case, shape, axis), wanted, strict=False):
            assert_same_bits(f"{name} with {option}", a, e)


@pytest.mark.parametrize("special", [False, True], ids=["normal", "special"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, axis", BATCHES, ids=str)
def test_batch_norm(shape, axis, dtype, special, isa, threads):
    check_batch_norm((dtype, dtype, special), shape, axis)


@pytest.mark.parametrize("special", [False, True], ids=["normal", "special"])
@pytest.mark.parametrize("pair", HALF_PAIRS, ids=pair_id)
@pytest.mark.parametrize("shape, axis", HALF_BATCHES, ids=str)
def test_half_batch_norm(shape, axis, pair, special, isa, threads):
    check_batch_norm((*pair, special), shape, axis)


@pytest.mark.parametrize("dtype", [np.float32, *HALF_DTYPES])
def test_batch_norm_gives_the_same_bits_in_every_layout(dtype, isa):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 9, 5, 31, 29)).astype(dtype)
    results = []
    for axes in [(0, 1, 2, 3), (0, 2, 3, 1)]:  # NCHW and channels-last memory, both with NCHW axes
        back = np.argsort(axes)
        a, b = (np.ascontiguousarray(v.transpose(axes)).transpose(back) for v in (x, dy))
        y, saved = fs.ops.batch_norm(a, relu=True, dropout=(0.4, 1, 2))
        assert y.strides == a.strides
        results.append([y, saved.mean, saved.var, *fs.ops.batch_norm_backward(b, a, saved)])
    for actual, expected in zip(*results, strict=True):
        assert_same_bits("channels-last", actual, expected)


DROPOUT_KEY = {"seed": 2**64 - 3, "offset": 12345678901}


def dropout_case(dtype, size):
    rng = np.random.default_rng(size)
    return difficult(rng, size, dtype), difficult(rng, size, dtype)


def run_dropout(module, dtype, size, p, offset):
    """Everything that dropout does to vectors that begin `offset` values into their memory."""
    x, dy = (at_offset(a, offset) for a in dropout_case(dtype, size))
    plain, relu = (module.dropout(x, p, relu=relu, **DROPOUT_KEY) for relu in (False, True))
    masks = [module.dropout_mask(size, p, packed=packed, **DROPOUT_KEY) for packed in (False, True)]
    return {
        "dropout": plain,
        "dropout behind ReLU": relu,
        "backward": module.dropout_backward(dy, p, **DROPOUT_KEY),
        "backward of both": module.dropout_backward(dy, p, y=relu, **DROPOUT_KEY),
        "mask": masks[0].view(np.uint8),
        "packed mask": masks[1],
    }


@functools.cache
def expected_dropout(dtype, size, p):
    return run_dropout(fs.reference, dtype, size, p, 0)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_dropout(dtype, isa, threads):
    sizes = (*HALF_SIZES, 1025, 100003) if dtype in HALF_DTYPES else (*SIZES, 1023, 1025, 400_000)
    for size in sizes:
        for p in (0.0, 0.2, 0.5, 1.0):
            actual, expected = run_dropout(fs.ops, dtype, size, p, 1), expected_dropout(dtype, size, p)
            for name in expected:
                assert_same_bits(f"{name} {p} of {size}", actual[name], expected[name])


@pytest.mark.parametrize("dtype", [np.float32, *HALF_DTYPES])
def test_dropout_of_any_strides(dtype, isa, threads):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 70, 11)).astype(dtype)
    for view in (np.asfortranarray(x), x.transpose(2, 0, 1), x[::2, ::-3], x[:, :0], x[3, 5, 2, ...], x[:, :, 4]):
        expected = fs.reference.dropout(view.copy(order="C"), 0.3, seed=5)
        assert_same_bits("strided", fs.ops.dropout(view, 0.3, seed=5), expected)
        out = np.zeros((*view.shape, 2), dtype)[..., 0]
        assert_same_bits("strided out", fs.ops.dropout(view, 0.3, seed=5, out=out), expected)


ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu")
MATRICES = [(0, 5), (1, 1), (33, 10), (513, 15), (1030, 17), (128, 128), (3, 100003), (700, 0)]


def run_activation(module, activation, dtype, rows, columns):
    """y, dx and dbias with a bias; then y and dx without one."""
    rng = np.random.default_rng([rows, columns])
    x, dy = (difficult(rng, rows * columns, dtype).reshape(rows, columns) for _ in range(2))
    x[: rows // 2] = rng.normal(size=(rows // 2, columns)) * 4
    results = []
    for bias in (rng.normal(size=columns).astype(dtype), None):
        y = module.bias_activation(x, bias, activation=activation)
        saved = x if activation == "gelu" else y
        gradients = module.bias_activation_backward(dy, saved, activation=activation, bias=bias is not None)
        results += [a for a in (y, *gradients) if a is not None]
    return results


@functools.cache
def expected_activation(*case):
    return run_activation(fs.reference, *case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_activation(activation, dtype, isa, threads):
    for shape in MATRICES:
        expected = expected_activation(activation, dtype, *shape)
        for a, e in zip(run_activation(fs.ops, activation, dtype, *shape), expected, strict=True):
            assert_same_bits(f"{activation} {shape}", a, e)


def run_losses(module, dtype, weighted, rows, columns):
    """Values and gradients on normal and on wild input."""
    rng = np.random.default_rng([rows, columns])
    weights = rng.uniform(size=rows) if weighted else None
    labels = rng.integers(0, columns, rows)
    wild = difficult(rng, rows * columns, dtype).reshape(rows, columns)
    normal = (rng.normal(size=(rows, columns)) * 5).astype(dtype)
    target = rng.uniform(size=(rows, columns)).astype(dtype)
    results = []
    for x in (normal, wild):
        results += module.softmax_cross_entropy(x, labels, weights)
        results += module.sigmoid_cross_entropy(x, target, weights)
        results += module.mean_squared_error(x, target, weights)
    return [np.asarray(a) for a in results]


@functools.cache
def expected_losses(*case):
    return run_losses(fs.reference, *case)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses(dtype, weighted, isa, threads):
    for shape in [(1, 1), (33, 10), (513, 3), (7, 1500), (3000, 100)]:
        expected = expected_losses(dtype, weighted, *shape)
        for i, (a, e) in enumerate(zip(run_losses(fs.ops, dtype, weighted, *shape), expected, strict=True)):
            assert_same_bits(f"result {i} of {shape}", a, e)


def test_flush_to_zero_set_by_the_caller_changes_nothing(isa, threads):
    """torch sets the mode on this thread, and on OpenMP's threads that it shares with the module."""
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("no flush-to-zero on this processor")
    try:
        tiny = np.full(3, np.finfo(np.float32).tiny, np.float32)
        assert (tiny * np.float32(0.25)).max() == 0, "the mode is not set"
        for rule_index, pair in itertools.product(range(len(RULES)), [PAIRS[0], *HALF_PAIRS]):
            op, states, options = RULES[rule_index]
            torch.set_flush_denormal(False)
            start, grads, expected = step_case(rule_index, *pair, 1000)
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
