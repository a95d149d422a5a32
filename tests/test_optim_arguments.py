"""What optimizers refuse: wrong arguments, and state dicts that do not fit."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import optim
from small_optimizers import METHODS, VARIANTS, assert_equal, bits, model, parameters, train


@pytest.mark.parametrize(("method", "arguments"), VARIANTS)
def test_state_dict_continues_with_the_same_bits(method, arguments):
    options = {"ema_decay": 0.9, "lr": optim.schedules.inverse_time(0.1, 0.5), **arguments}
    params = model().parameters()
    optimizer = method(params, **options)
    train(params, optimizer, 3)
    saved, values = copy.deepcopy(optimizer.state_dict()), [p.array.copy() for p in params]
    train(params, optimizer, 3, 3)
    others = model(seed=7).parameters()
    for p, value in zip(others, values, strict=True):
        p.array[...] = value
    resumed = method(others, **options)
    resumed.load_state_dict(saved)
    train(others, resumed, 3, 3)
    assert bits(params, optimizer)[:3] == bits(others, resumed)[:3]
    saved["state"]["0.weight"].clear()  # it was a copy
    assert bits(params, optimizer)[:3] == bits(others, resumed)[:3]


def drop(*path):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


def put(value, *path):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


BROKEN = [
    *((drop(key), f"has no '{key}'") for key in ("state", "steps", "skipped", "param_groups")),
    (drop("state", "1.bias"), "has no 'exp_avg' of '1.bias'"),
    (drop("state", "1.bias", "exp_avg_sq"), "has no 'exp_avg_sq' of '1.bias'"),
    (drop("param_groups", 0), "has 0 parameter groups but the optimizer has 1"),
    (drop("param_groups", 0, "eps"), "differ in 'eps': it is of another optimizer"),
    (put(1, "param_groups", 0, "alpha"), "differ in 'alpha': it is of another optimizer"),
    (put(["0.weight"], "param_groups", 0, "params"), "parameters ['0.weight'] are not"),
    (put(np.zeros((7, 2), "f4"), "state", "1.weight", "exp_avg"), "'exp_avg' of '1.weight' is float32(7, 2)"),
    (put(np.zeros(3), "state", "1.bias", "exp_avg"), "'exp_avg' of '1.bias' is float64(3,)"),
    (put({}, "state", "2.weight"), "states of an unknown parameter '2.weight'"),
    (put(np.zeros(3, "f4"), "state", "1.bias", "ema"), "unknown state 'ema' of '1.bias'"),
    (put(-1.0, "param_groups", 0, "lr"), "'lr' must be in [0, inf) but got -1.0"),
    (put((0.9, 1.0), "param_groups", 0, "betas"), "'beta2' must be in [0, 1)"),
    (put(True, "param_groups", 0, "amsgrad"), "ask for other states"),
    (put("three", "steps"), "'steps' of the state dict must be a count but is 'three'"),
    (put(-1, "skipped"), "'skipped' of the state dict must be a count but is -1"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN)
def test_state_dict_that_does_not_fit(change, words):
    params, others = parameters(), parameters(1)
    optimizer, source = optim.Adam(params), optim.Adam(others, lr=0.5)
    train(params, optimizer, 2)
    train(others, source, 4)
    state = source.state_dict()
    change(state)
    before = bits(params, optimizer)
    with pytest.raises(ValueError, match=re.escape(words)):
        optimizer.load_state_dict(state)
    assert bits(params, optimizer) == before


@pytest.mark.parametrize("method", METHODS)
def test_state_dict_of_another_optimizer(method):
    optimizer = method(parameters())
    for other in METHODS:
        if other is method or {method, other} in ({optim.Adam, optim.AdamW}, {optim.SGD, optim.Momentum}):
            continue  # the same states and hyper-parameters
        with pytest.raises(ValueError, match=r"another optimizer|has an unknown state|has no '"):
            optimizer.load_state_dict(other(parameters()).state_dict())


def twice():
    return [*parameters()[:1], *parameters()[:1]]


def shared():
    first, second = parameters()[0], parameters()[2]
    return [first, fs.nn.Parameter(first.array, second.grad[:5, :1] * np.ones(7, np.float32), "other")]


def with_dtype(dtype):
    return [*parameters()[:1], fs.nn.Parameter(np.ones(2, dtype), np.ones(2, dtype), "b")]


def read_only():
    params = parameters()
    params[1].array.flags.writeable = False
    return params


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("params", "arguments", "error", "words"),
    [
        (list, {}, ValueError, "'params' is empty"),
        (lambda: parameters()[0], {}, TypeError, "but got a Parameter"),
        (lambda: [np.ones(3)], {}, TypeError, "must hold Parameters but got ndarray"),
        (twice, {}, ValueError, "parameter '0.weight' comes twice"),
        (shared, {}, ValueError, "overlap in memory"),
        (lambda: with_dtype(np.float64), {}, TypeError, "they must be the same"),
        (lambda: with_dtype(np.float16), {}, TypeError, "float16 but 'params[0]' has float32"),
        (read_only, {}, ValueError, "is read-only and would be written"),
        (lambda: [{"lr": 0.1}], {}, ValueError, "a parameter group has no 'params'"),
        (lambda: [{"params": parameters(), "speed": 1}], {}, ValueError, "unknown key 'speed'"),
        (lambda: [{"params": parameters(), "lr": -1}], {}, ValueError, "'lr' must be in [0, inf) but got -1"),
        (parameters, {"lr": -1}, ValueError, "'lr' must be in [0, inf) but got -1"),
        (parameters, {"lr": float("nan")}, ValueError, "'lr' must be in [0, inf) but got nan"),
        (parameters, {"lr": "0.1"}, TypeError, "'lr' must be a number but got '0.1'"),
        (parameters, {"weight_decay": -1}, ValueError, "'weight_decay' must be in [0, inf) but got -1"),
        (parameters, {"max_norm": 0}, ValueError, "'max_norm' must be greater than 0 but got 0"),
        (parameters, {"max_norm": float("nan")}, ValueError, "'max_norm' must be in [0, inf) but got nan"),
        (parameters, {"max_norm": float("inf")}, ValueError, "'max_norm' must be in [0, inf) but got inf"),
        (parameters, {"max_norm": "1"}, TypeError, "'max_norm' must be a number but got '1'"),
        (parameters, {"ema_decay": 1.5}, ValueError, "'ema_decay' must be in [0, 1] but got 1.5"),
        (parameters, {"speed": 1}, TypeError, "has no argument 'speed'; it takes lr"),
    ],
)
def test_wrong_arguments(method, params, arguments, error, words):
    with pytest.raises(error, match=re.escape(words)):
        method(params(), **arguments)


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        (optim.SGD, {"momentum": -1}, "[SGD] 'momentum' must be in [0, inf) but got -1"),
        (optim.SGD, {"nesterov": True}, "[SGD] 'nesterov' needs a 'momentum' greater than 0"),
        (optim.Momentum, {"momentum": float("nan")}, "[Momentum] 'momentum' must be in [0, inf) but got nan"),
        (optim.Momentum, {"dampening": float("inf")}, "[Momentum] 'dampening' must be finite but got inf"),
        (optim.Adagrad, {"lr_decay": -1}, "[Adagrad] 'lr_decay' must be in [0, inf) but got -1"),
        (optim.Adagrad, {"initial_accumulator_value": -1}, "[Adagrad] 'initial_accumulator_value' must be in"),
        (optim.RMSprop, {"alpha": 1.5}, "[RMSprop] 'alpha' must be in [0, 1] but got 1.5"),
        (optim.Adadelta, {"rho": 1.5}, "[Adadelta] 'rho' must be in [0, 1] but got 1.5"),
        (optim.Adamax, {"eps": -1}, "[Adamax] 'eps' must be in [0, inf) but got -1"),
        (optim.Lion, {"betas": (0.9, 1.0)}, "[Lion] 'beta2' must be in [0, 1) but got 1.0"),
        (optim.NAdam, {"momentum_decay": -1}, "[NAdam] 'momentum_decay' must be in [0, inf) but got -1"),
        (optim.RAdam, {"betas": 0.9}, "[RAdam] 'betas' must be a pair of numbers but got 0.9"),
        (optim.LARS, {"trust_coefficient": -1}, "[LARS] 'trust_coefficient' must be in [0, inf) but got -1"),
        (optim.LAMB, {"betas": (1.5, 0.9)}, "[LAMB] 'beta1' must be in [0, 1) but got 1.5"),
        (optim.Adam, {"betas": (1.5, 0.9)}, "[Adam] 'beta1' must be in [0, 1) but got 1.5"),
        (optim.Adam, {"eps": -1}, "[Adam] 'eps' must be in [0, inf) but got -1"),
        (optim.Adam, {"eps_mode": "x"}, "[Adam] 'eps_mode' must be 'outside' or 'inside' but got 'x'"),
    ],
)
def test_wrong_hyper_parameters(method, arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        method(parameters(), **arguments)


FLAGS = [
    (method, name)
    for method in METHODS
    for name, value in method(parameters()).param_groups[0].items()
    if isinstance(value, bool)
]


@pytest.mark.parametrize("value", ["no", 0, None, np.array(False)])
@pytest.mark.parametrize(("method", "name"), FLAGS)
def test_flags_are_bools(method, name, value):
    """Otherwise "no" would be yes: in the constructor, a group, one that is changed later, and a state dict."""
    message = rf"\] '{name}' must be True or False but got {re.escape(repr(value))}"
    params = parameters()
    for given, options in ((params, {name: value}), ([{"params": params, name: value}], {})):
        if (method, name) == (optim.AdamW, "decoupled_weight_decay") and options:
            continue  # no argument of its constructor
        with pytest.raises(TypeError, match=message):
            method(given, **options)
    for given in (params, [{"params": params[:2]}, {"params": params[2:]}]):
        optimizer = method(given)
        train(params, optimizer, 1)
        before = bits(params, optimizer)
        state = optimizer.state_dict()
        group = optimizer.param_groups[-1]
        good = state["param_groups"][-1][name]
        state["param_groups"][-1][name] = value
        with pytest.raises(TypeError, match=message):
            optimizer.load_state_dict(state)
        group[name] = value
        with pytest.raises(TypeError, match=message):
            optimizer.step()
        group[name] = good
        assert bits(params, optimizer) == before


@pytest.mark.parametrize("name", ["skip_nonfinite", "decay_1d", "capturable"])
@pytest.mark.parametrize("method", METHODS)
def test_options_that_are_flags_are_bools(method, name):
    with pytest.raises(TypeError, match=rf"\[{method.__name__}\] '{name}' must be True or False but got 'no'"):
        method(parameters(), **{name: "no"})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *(("max_norm", value, "'max_norm' must be in [0, inf) but got") for value in (-1.0, float("nan"))),
        ("max_norm", 0, "'max_norm' must be greater than 0 but got 0"),
        ("max_norm", "1", "'max_norm' must be a number but got '1'"),
        *(("skip_nonfinite", value, "'skip_nonfinite' must be True or False but got") for value in ("no", 1, None)),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_options_that_are_changed_later_are_checked(method, name, value, words):
    optimizer = method(parameters(), max_norm=2.0)
    with pytest.raises((TypeError, ValueError), match=re.escape(f"[{method.__name__}] {words}")):
        setattr(optimizer, name, value)
    assert (optimizer.max_norm, optimizer.skip_nonfinite) == (2.0, False)
    optimizer.max_norm, optimizer.skip_nonfinite = None, np.bool_(True)
    assert optimizer.max_norm is None and optimizer.skip_nonfinite is True


@pytest.mark.parametrize(("method", "name"), FLAGS)
def test_flags_may_be_numpy_s_bools(method, name):
    params, plain = parameters(), parameters()
    optimizer, other = method(params), method(plain)
    optimizer.param_groups[0][name] = np.bool_(other.param_groups[0][name])
    train(params, optimizer)
    train(plain, other)
    assert_equal(params, plain)


def test_a_parameter_is_not_replaced():
    p = parameters()[0]
    with pytest.raises(AttributeError, match="cannot be replaced; write into it"):
        p.array = np.ones(3)
    p.array -= 1  # in place
