"""Hyper-parameters, labels, weights and empty batches: refused by name, with one message for both backends."""

from __future__ import annotations

import dataclasses
import inspect
import re

import numpy as np
import pytest

from bits import counted
from fusedstep import backend, ops, reference
from valid_calls import COUNTED, STATES, STEPS, Call, calls, check_refused, make, refusal

compiled = pytest.mark.skipif(backend.native() is None, reason="FUSEDSTEP_BACKEND=reference")
NAN, INF = float("nan"), float("inf")
RANGES = {  # name: (values out of range, the range in words)
    "lr": ((-0.1, NAN, INF, 10**400), "[0, inf)"),
    "weight_decay": ((-1, NAN, INF), "[0, inf)"),
    "momentum": ((-0.1, NAN, INF), "[0, inf)"),
    "lr_decay": ((-0.1, NAN, INF), "[0, inf)"),
    "eps": ((-1e-8, NAN, INF), "[0, inf)"),
    "momentum_decay": ((-0.1, NAN, INF), "[0, inf)"),
    "trust_coefficient": ((-0.1, NAN, INF), "[0, inf)"),
    "alpha": ((-0.1, 1.5, NAN, INF), "[0, 1]"),
    "rho": ((-0.1, 1.5, NAN, INF), "[0, 1]"),
    "ema_decay": ((-0.1, 1.5, NAN, INF), "[0, 1]"),
    "p": ((-0.1, 1.5, NAN), "[0, 1]"),
    "beta1": ((-0.1, 1.0, 1.5, NAN), "[0, 1)"),
    "beta2": ((-0.1, 1.0, 1.5, NAN), "[0, 1)"),
    "negative_slope": ((-0.1, NAN, INF), "[0, inf)"),
    "step": ((0, -1, 2**63), "[1, 2**63)"),
    "num_batches": ((0, -1), "[1, 2**63)"),
    "seed": ((-1, 2**64), "[0, 2**64)"),
    "offset": ((-1, 2**64), "[0, 2**64)"),
}
INTEGERS = ("step", "num_batches", "seed", "offset")
ARRAYS = ("lr", "step", "offset")  # may be 0-d arrays
COMMON = ("lr", "weight_decay", "ema_decay")
MOMENTS = ("beta1", "beta2", "eps", "step")
HYPER = {
    "sgd_step": ("SGD", (*COMMON, "momentum")),
    "adagrad_step": ("Adagrad", (*COMMON, "lr_decay", "eps", "step")),
    "rmsprop_step": ("RMSprop", (*COMMON, "alpha", "eps", "momentum")),
    "adam_step": ("Adam", (*COMMON, *MOMENTS)),
    "adadelta_step": ("Adadelta", (*COMMON, "rho", "eps")),
    "adamax_step": ("Adamax", (*COMMON, *MOMENTS)),
    "lion_step": ("Lion", (*COMMON, "beta1", "beta2")),
    "nadam_step": ("NAdam", (*COMMON, *MOMENTS, "momentum_decay")),
    "radam_step": ("RAdam", (*COMMON, *MOMENTS)),
    "lars_step": ("LARS", (*COMMON, "momentum", "trust_coefficient", "eps")),
    "lamb_step": ("LAMB", (*COMMON, *MOMENTS)),
    "dropout": ("Dropout", ("p", "seed", "offset")),
    "dropout_backward": ("Dropout", ("p", "seed", "offset")),
    "dropout_backward, relu": ("Dropout", ("p", "seed", "offset")),
    "batch_norm": ("BatchNorm", ("momentum", "eps", "num_batches")),
    "bias_activation": ("LeakyReLU", ("negative_slope",)),
    "bias_activation_backward": ("LeakyReLU", ("negative_slope",)),
}


def with_option(key, name, value) -> Call:
    call = calls()[key]
    if name in ("beta1", "beta2"):
        name, value = "betas", (value, 0.9) if name == "beta1" else (0.9, value)
    call.options = {**call.options, name: value}
    if name == "num_batches":
        call.options["momentum"] = None
    return call


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, (_, names) in HYPER.items() for name in names])
def test_hyper_parameters(key, name):
    method = HYPER[key][0]
    values, words = RANGES[name]
    if key == "batch_norm" and name == "momentum":
        words, values = "[0, 1]", (*values, 1.5)
    for value in values:
        message = f"[{method}] '{name}' must be in {words} but got {value!r}"
        assert refusal(with_option(key, name, value), ops) == (ValueError, message)
        check_refused(with_option(key, name, value), ValueError, message)
    kind = "an integer" if name in INTEGERS else "a number"
    arrays = () if name in ARRAYS else (np.array([0.1]),)
    for value in ("0.1", 1j, [0.1], *arrays, *((1.0,) if name in INTEGERS else ())):
        message = f"[{method}] '{name}' must be {kind} but got {value!r}"
        check_refused(with_option(key, name, value), TypeError, message)


@pytest.mark.parametrize("key", STEPS)
def test_flags_are_bools(key):
    flags = flags_of(key)
    assert {"maximize", "decoupled_weight_decay"} <= set(flags)
    for name in flags:
        for value in ("no", 1, 0.0, None, [], np.array(True)):
            message = f"[{HYPER[key][0]}] '{name}' must be True or False but got {value!r}"
            check_refused(with_option(key, name, value), TypeError, message)


OTHER_FLAGS = {
    "batch_norm": "BatchNorm",
    "bias_activation_backward": "bias_activation_backward",
    "dropout": "Dropout",
    "dropout_mask": "Dropout",
    "ewma": "ewma",
}


def flags_of(op):
    return [name for name, p in inspect.signature(getattr(ops, op)).parameters.items() if isinstance(p.default, bool)]


def test_no_flag_is_forgotten():
    assert {op for op in ops.__all__ if callable(getattr(ops, op)) and flags_of(op)} <= {*STEPS, *OTHER_FLAGS}


@pytest.mark.parametrize(("op", "name"), [(op, name) for op in OTHER_FLAGS for name in flags_of(op)])
def test_other_flags_are_bools(op, name):
    others = {"dropout_mask": ((3, 0.5), {"seed": 0}), "ewma": (([1.0], 0.5), {})}
    for value in ("no", 1, 0.0, None, [], np.array(True)):
        message = f"[{OTHER_FLAGS[op]}] '{name}' must be True or False but got {value!r}"
        if op not in others:
            check_refused(with_option(op, name, value), TypeError, message)
            continue
        args, options = others[op]
        for place in (ops, reference):
            with pytest.raises(TypeError, match=re.escape(message)):
                getattr(place, op)(*args, **options, **{name: value})


OTHER_OPTIONS = [
    (STEPS, {"grad_multiplier": NAN}, ValueError, "'grad_multiplier' must be finite but got nan"),
    (STEPS, {"grad_multiplier": INF}, ValueError, "'grad_multiplier' must be finite but got inf"),
    (STEPS, {"grad_multiplier": None}, TypeError, "'grad_multiplier' must be a number but got None"),
    (STEPS, {"lr": None}, TypeError, "'lr' must be a number but got None"),
    (STEPS, {"ema_decay": None}, ValueError, "'ema_params' needs 'ema_decay'"),
    (STEPS, {"ema_params": None}, ValueError, "'ema_decay' needs 'ema_params'"),
    (["sgd_step"], {"dampening": NAN}, ValueError, "[SGD] 'dampening' must be finite but got nan"),
    (["sgd_step"], {"momentum_buffers": None}, ValueError, "'momentum_buffers' must be given when 'momentum'"),
    (["sgd_step"], {"nesterov": True, "momentum": 0.0}, ValueError, "[SGD] 'nesterov' needs a 'momentum' > 0"),
    (["rmsprop_step"], {"momentum_buffers": None}, ValueError, "'momentum_buffers' must be given when 'momentum'"),
    (["rmsprop_step"], {"centered": False}, ValueError, "'grad_avgs' must be given when, and only when, 'centered'"),
    (["rmsprop_step"], {"grad_avgs": None}, ValueError, "'grad_avgs' must be given when, and only when, 'centered'"),
    (["adam_step"], {"amsgrad": False}, ValueError, "'max_exp_avg_sqs' must be given when, and only when"),
    (["adam_step"], {"betas": 0.9}, ValueError, "[Adam] 'betas' must be a pair of numbers but got 0.9"),
    (["lion_step"], {"betas": 0.9}, ValueError, "[Lion] 'betas' must be a pair of numbers but got 0.9"),
    (["adam_step"], {"betas": (0.9,)}, ValueError, "[Adam] 'betas' must be a pair of numbers but got (0.9,)"),
    (["adam_step"], {"eps_mode": "under"}, ValueError, "'eps_mode' must be 'outside' or 'inside' but got 'under'"),
    (["batch_norm"], {"channel_axis": 2}, ValueError, "[BatchNorm] 'channel_axis' must be in [-2, 2) but got 2"),
    (["batch_norm"], {"channel_axis": 1.0}, TypeError, "[BatchNorm] 'channel_axis' must be an integer but got 1.0"),
    (["batch_norm"], {"momentum": None}, ValueError, "'num_batches' must be given when 'momentum' is None"),
    (["batch_norm"], {"dropout": 0.5}, ValueError, "[BatchNorm] 'dropout' must be (p, seed, offset) but got 0.5"),
    (["batch_norm"], {"dropout": (1.5, 0, 0)}, ValueError, "[Dropout] 'p' must be in [0, 1] but got 1.5"),
    (["batch_norm"], {"running_var": None}, ValueError, "'running_mean' and 'running_var' must be given together"),
    (["batch_norm, evaluation"], {"running_var": None, "running_mean": None}, ValueError, "'training' is False"),
    (["batch_norm_backward"], {"saved": {}}, TypeError, "'saved' must be what batch_norm returned but got dict"),
    (["bias_activation", "bias_activation_backward"], {"activation": "swish"}, ValueError, "'activation' must be one"),
]


DROPOUTS = ["dropout", "dropout_backward", "dropout_backward, relu"]
FLOATS, COUNTS = "accepted are float32 and float64", "accepted are int32 and int64"
ARRAY_OPTIONS = [
    *(
        case
        for name in ("lr", "grad_multiplier")
        for case in [
            (STEPS, {name: np.array([0.1])}, ValueError, f"'{name}' must be 0-dimensional but has shape (1,)"),
            (STEPS, {name: np.array(1)}, TypeError, f"'{name}' has dtype int64; {FLOATS}"),
            (STEPS, {name: np.array(1, np.float16)}, TypeError, f"'{name}' has dtype float16; {FLOATS}"),
            (STEPS, {name: np.array(1, ">f8")}, TypeError, f"'{name}' has dtype >f8; {FLOATS}"),
        ]
    ),
    (STEPS, {"lr": np.array(-1.0)}, ValueError, "'lr' must be in [0, inf) but got -1.0"),
    (STEPS, {"lr": np.array(NAN)}, ValueError, "'lr' must be in [0, inf) but got nan"),
    (STEPS, {"grad_multiplier": np.array(INF)}, ValueError, "'grad_multiplier' must be finite but got inf"),
    (COUNTED, {"step": np.array([1])}, ValueError, "'step' must be 0-dimensional but has shape (1,)"),
    (COUNTED, {"step": np.array(1.0)}, TypeError, f"'step' has dtype float64; {COUNTS}"),
    (COUNTED, {"step": np.array(1, np.uint64)}, TypeError, f"'step' has dtype uint64; {COUNTS}"),
    (COUNTED, {"step": np.array(0)}, ValueError, "'step' must be in [1, 2**63) but got 0"),
    (STEPS, {"skip": 1}, TypeError, "'skip' must be an array but got int"),
    (STEPS, {"skip": np.array(0)}, TypeError, "'skip' has dtype int64; accepted is int32"),
    (STEPS, {"skip": np.zeros(1, np.int32)}, ValueError, "'skip' must be 0-dimensional but has shape (1,)"),
    (DROPOUTS, {"offset": np.array([1])}, ValueError, "'offset' must be 0-dimensional but has shape (1,)"),
    (DROPOUTS, {"offset": np.array(1, np.int32)}, TypeError, "'offset' has dtype int32; accepted is int64"),
    (DROPOUTS, {"offset": np.array(-1)}, ValueError, "[Dropout] 'offset' must be in [0, 2**64) but got -1"),
    (
        ["batch_norm"],
        {"dropout": (0.5, 0, np.array([1]))},
        ValueError,
        "'offset' must be 0-dimensional but has shape (1,)",
    ),
    (["global_norm"], {"out": np.array(0)}, TypeError, f"'out' has dtype int64; {FLOATS}"),
    (["global_norm"], {"nonfinite": np.array(0)}, TypeError, "'nonfinite' has dtype int64; accepted is int32"),
    (["global_norm"], {"nonfinite": np.zeros(2, np.int32)}, ValueError, "'nonfinite' must be 0-dimensional"),
    (["global_norm"], {"nonfinite": 0}, TypeError, "'nonfinite' must be an array but got int"),
]


@pytest.mark.parametrize(("keys", "options", "error", "words"), [*OTHER_OPTIONS, *ARRAY_OPTIONS])
def test_other_options(keys, options, error, words):
    for key in keys:
        call = calls()[key]
        call.arrays = {n: a for n, a in call.arrays.items() if n not in options}
        call.options = {**call.options, **options}
        call.saved = None if "saved" in options else call.saved
        check_refused(call, error, words)


def test_multiplier_that_is_not_finite():
    arrays = {"step": np.array(0), "multiplier": np.array(1.0)}
    call = Call("prepare_step", arrays, (), {"grad_multiplier": np.array(INF)})
    check_refused(call, ValueError, "[prepare_step] 'grad_multiplier' must be finite but got inf")


@pytest.mark.parametrize("name", ["out", "nonfinite"])
def test_read_only_results_of_the_norm(name):
    array = np.zeros((), np.float64 if name == "out" else np.int32)
    array.flags.writeable = False
    call = calls()["global_norm"]
    call.options = {name: array}
    check_refused(call, ValueError, f"'{name}' is read-only and would be written")


@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize(
    ("out", "options", "error", "words"),
    [
        ([True] * 12, {}, TypeError, "'out' must be an array but got list"),
        (np.zeros((3, 4), np.uint8), {}, TypeError, "'out' has dtype uint8; accepted is bool"),
        (np.zeros(2, bool), {"packed": True}, TypeError, "'out' has dtype bool; accepted is uint8"),
        (np.zeros(12, bool), {}, ValueError, r"'out' has shape \(12,\) but the mask has shape \(3, 4\)"),
        (np.zeros(3, np.uint8), {"packed": True}, ValueError, r"'out' has shape \(3,\) but the mask has shape \(2,\)"),
        (np.zeros((4, 3), bool).T, {}, ValueError, "'out' is not C-contiguous"),
        (np.zeros((3, 8), bool)[:, ::2], {}, ValueError, "'out' is not C-contiguous"),
        (np.broadcast_to(np.zeros(4, bool), (3, 4)), {}, ValueError, "'out' is read-only and would be written"),
    ],
)
def test_masks_that_do_not_fit(module, out, options, error, words):
    with pytest.raises(error, match=words):
        module.dropout_mask((3, 4), 0.5, seed=0, out=out, **options)


LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error")


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (np.ones(5), ValueError, "'weights' has shape (5,) but there are 6 samples"),
        (np.ones((6, 1)), ValueError, "'weights' has shape (6, 1)"),
        (np.zeros(6), ValueError, "'weights' are all zero"),
        (np.full(6, -1.0), ValueError, "'weights' must be finite and not negative"),
        (np.full(6, NAN), ValueError, "'weights' must be finite and not negative"),
        (np.full(6, 1e308), ValueError, "'weights' add up to infinity"),
        (np.full(6, 1j), TypeError, "'weights' has dtype complex128"),
        (["a"] * 6, TypeError, "'weights' has dtype <U1"),
    ],
)
@pytest.mark.parametrize("key", LOSSES)
def test_weights(key, weights, error, words):
    call = calls()[key]
    call.options = {**call.options, "weights": weights}
    check_refused(call, error, words)


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (np.array([0, 1, 4, 3, 0, 1]), ValueError, "'labels' must be in [0, 4) but labels[2] is 4"),
        (np.array([0, 1, 2, 3, 0, -1]), ValueError, "'labels' must be in [0, 4) but labels[5] is -1"),
        (np.zeros(5, int), ValueError, "'labels' has shape (5,) but 'logits' has shape (6, 4)"),
        (np.zeros((6, 4), int), ValueError, "'labels' has shape (6, 4)"),
        (np.zeros(6), ValueError, "'labels' has dtype float64; accepted are integers"),
        (np.zeros(6, bool), ValueError, "'labels' has dtype bool; accepted are integers"),
        (["a"] * 6, ValueError, "'labels' has dtype <U1; accepted are integers"),
    ],
)
def test_labels(labels, error, words):
    call = calls()["softmax_cross_entropy"]
    call.options = {"labels": labels}
    check_refused(call, error, words)


@pytest.mark.parametrize("value", [-0.1, 1.5, NAN])
def test_targets_that_are_no_probabilities(value):
    call = calls()["sigmoid_cross_entropy"]
    call.arrays["target"][3, 1] = value
    check_refused(call, ValueError, "'target' must hold values in [0, 1]")


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0, 2)])
@pytest.mark.parametrize("key", [*STEPS, "dropout", "dropout_backward", "bias_activation", "global_norm"])
def test_empty_arrays_are_no_ops(key, shape):
    for module in (ops, reference):
        call = calls()[key]
        call.arrays = {n: np.empty(shape, np.float32) for n in call.arrays if n != "bias"}
        call.run(module)


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("batch_norm, new outputs", (0, 4), "'x' is empty (shape (0, 4)): there are no batch statistics"),
        ("batch_norm, new outputs", (1, 4), "'x' has one value a channel (shape (1, 4)): there is no variance"),
        ("batch_norm, new outputs", (1, 4, 1), "'x' has one value a channel (shape (1, 4, 1))"),
        *((f"{key}, new outputs", (0, 4), "is empty (shape (0, 4)): there is no mean") for key in LOSSES),
    ],
)
def test_no_statistics_of_nothing(key, shape, words):
    call = calls()[key]
    call.arrays = {n: make(n, shape) if a.ndim == 2 else a for n, a in call.arrays.items()}
    call.options = {**call.options, "labels": np.zeros(0, int)} if key.startswith("softmax") else call.options
    check_refused(call, ValueError, words)


@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])
def test_mask_and_series(module):
    for shape, error in [(-1, ValueError), ((2, -1), ValueError), (1.5, TypeError), ((2, 1.5), TypeError)]:
        with pytest.raises(error, match="'shape' must"):
            module.dropout_mask(shape, 0.5, seed=0)
    with pytest.raises(ValueError, match=r"\[ewma\] 'beta' must be in \[0, 1\) but got 1"):
        module.ewma([1.0], 1)
    with pytest.raises(TypeError, match=r"\[ewma\] 'bias_correction' must be True or False but got 'no'"):
        module.ewma([1.0], 0.5, bias_correction="no")
    with pytest.raises(ValueError, match="'values' must have at least one axis"):
        module.ewma(1.0, 0.5)
    for values in ([1j], ["a"], [None]):
        with pytest.raises(TypeError, match="'values' has dtype"):
            module.ewma(values, 0.5)


def required(op) -> list[str]:
    optional = () if op == "lars_step" else ("momentum_buffers", "grad_avgs", "max_exp_avg_sqs")
    return ["params", "grads", *(name for name in STATES[op] if name not in optional)]


@pytest.mark.parametrize("module", [ops, reference])
@pytest.mark.parametrize(("op", "missing"), [(op, name) for op in STEPS for name in required(op)])
def test_none_in_place_of_an_array(module, op, missing):
    names = required(op)
    arrays = [None if name == missing else np.ones(3) for name in names]
    with pytest.raises(TypeError, match="must be an array but got NoneType"):
        getattr(module, op)(*arrays, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True, **counted(op, 1))
    assert all((array == 1).all() for array in arrays if array is not None)


@pytest.mark.parametrize("module", [ops, reference])
def test_gradient_over_labels_or_weights(module):
    memory = np.zeros(2 * 8)
    with pytest.raises(ValueError, match="overlap in memory"):
        module.softmax_cross_entropy(np.ones((8, 2)), memory.view(np.int64)[:8], out=memory.reshape(8, 2))
    weights = np.array([1.0, 3.0])
    for op in ("mean_squared_error", "sigmoid_cross_entropy"):
        with pytest.raises(ValueError, match="overlap in memory"):
            getattr(module, op)(np.ones((2, 1)), np.zeros((2, 1)), weights, out=weights.reshape(2, 1))
    assert weights.tolist() == [1, 3]


@pytest.mark.parametrize("module", [ops, reference])
def test_arrays_that_are_not_what_their_memory_holds(module):
    for x in (np.ma.masked_array(np.ones((2, 2)), [[0, 1], [0, 0]]), np.ones((2, 2)).view(np.matrix)):
        with pytest.raises(TypeError, match=f"must be a plain array but got {type(x).__name__}"):
            module.sgd_step(np.ones((2, 2)), x, lr=0.1)


@compiled
def test_torch_negative_bit():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"'grads' has torch's negative bit set; pass grads.resolve_neg\(\)"):
        ops.sgd_step(torch.zeros(4), torch._neg_view(torch.ones(4)), lr=1.0)


@pytest.mark.parametrize("module", [ops, reference])
@pytest.mark.parametrize("field", ["mean", "eps", "dropout"])
def test_tampered_saved(module, field):
    x = np.arange(6.0).reshape(3, 2)
    _, saved = module.batch_norm(x)
    wrong = dataclasses.replace(saved, **{field: {"mean": None, "eps": NAN, "dropout": (NAN, 0, 0)}[field]})
    with pytest.raises((TypeError, ValueError)):
        module.batch_norm_backward(x, x, wrong)


@compiled
def test_a_list_that_changes_while_it_is_read():
    class Clearing:
        def __init__(self, array, other):
            self.array, self.other = array, other

        def __dlpack__(self, **options):
            self.other.clear()
            return self.array.__dlpack__(**options)

    grads = [np.ones(3), np.ones(3)]
    params = [np.zeros(3), np.zeros(3)]
    ops.sgd_step([Clearing(params[0], grads), params[1]], grads, lr=1.0)
    assert (params[1] == -1).all() and grads == []
