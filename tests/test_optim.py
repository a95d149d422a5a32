"""The optimizers: against torch, groups, arenas, clipping, skipping, averages, state dicts."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fusedstep as fs
from bits import assert_same_bits
from fusedstep import backend, ops, optim
from small_optimizers import VARIANTS, assert_equal, bits, model, parameters, set_gradients, train

TORCH = [
    *(("SGD", a) for a in [{}, {"weight_decay": 0.1}, {"maximize": True}, {"momentum": 0.9}]),
    ("SGD", {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"dampening": 0.5}),
    *(("Adagrad", a) for a in [{}, {"lr_decay": 0.1}, {"initial_accumulator_value": 0.5, "eps": 1e-3}]),
    ("Adagrad", {"weight_decay": 0.1, "maximize": True, "lr_decay": 0.01}),
    *(("RMSprop", a) for a in [{}, {"alpha": 0.5, "eps": 1e-3}, {"centered": True}, {"momentum": 0.9}]),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "maximize": True}),
    *(("Adam", a) for a in [{}, {"betas": (0.5, 0.6), "eps": 1e-3}, {"weight_decay": 0.1}, {"amsgrad": True}]),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    *(("AdamW", a) for a in [{}, {"weight_decay": 0.5}, {"amsgrad": True, "maximize": True}, {"weight_decay": 0}]),
    *(("Adadelta", a) for a in [{}, {"rho": 0.5, "eps": 1e-3}, {"weight_decay": 0.1, "maximize": True}]),
    *(("Adamax", a) for a in [{}, {"betas": (0.5, 0.6), "eps": 1e-3}, {"weight_decay": 0.1, "maximize": True}]),
    *(("NAdam", a) for a in [{}, {"betas": (0.5, 0.6), "eps": 1e-3}, {"momentum_decay": 0.1}]),
    *(("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": d, "maximize": d}) for d in (False, True)),
    *(("RAdam", a) for a in [{}, {"betas": (0.5, 0.6), "eps": 1e-3}, {"betas": (0.9, 0.99)}]),
    *(("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": d, "maximize": d}) for d in (False, True)),
]


@pytest.mark.parametrize(("method", "arguments"), TORCH)
def test_like_torch(method, arguments, monkeypatch):
    """100 steps in float64 agree to 1e-12 of the largest value."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)  # of NAdam's mu_product
    params = parameters(dtype=np.float64)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.array.copy())) for p in params]
    ours = getattr(optim, method)(params, lr=0.01, **arguments)
    reference = getattr(torch.optim, method)(theirs, lr=0.01, **arguments)
    for t in range(100):
        set_gradients(params, t)
        for p, theirs_p in zip(params, theirs, strict=True):
            theirs_p.grad = torch.from_numpy(p.grad.copy())
        ours.step()
        reference.step()
    for p, theirs_p in zip(params, theirs, strict=True):
        expected = theirs_p.detach().numpy()
        assert np.abs(p.array - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("method", sorted({method for method, _ in TORCH}))
def test_defaults_are_torch_s(method):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.optim, method)([torch.nn.Parameter(torch.ones(1))]).defaults
    ours = getattr(optim, method)(parameters()).param_groups[0]
    for name in ours.keys() & theirs.keys():
        assert ours[name] == theirs[name], name


@pytest.mark.parametrize(("method", "arguments"), VARIANTS)
@pytest.mark.parametrize("shared", [{}, {"max_norm": 0.5, "ema_decay": 0.9}, {"decay_1d": False, "weight_decay": 0.1}])
def test_lists_and_arenas_give_the_same_bits(method, arguments, shared):
    net = model()
    alone = [fs.nn.Parameter(p.array.copy(), p.grad.copy(), p.name) for p in net.parameters()]
    first, second = (method(p, **arguments, **shared) for p in (net.parameters(), alone))
    train(net.parameters(), first)
    train(alone, second)
    assert_equal(net.parameters(), alone)
    for name, states in second.state_dict()["state"].items():
        for key, array in states.items():
            assert_same_bits(f"{name} {key}", first.state_dict()["state"][name][key], array)


def count_calls(monkeypatch, name: str) -> list:
    calls, function = [], getattr(ops, name)
    monkeypatch.setattr(ops, name, lambda *a, **k: (calls.append(1), function(*a, **k))[1])
    return calls


@pytest.mark.parametrize("arena", [False, True])
def test_one_call_for_a_whole_model(monkeypatch, arena):
    many = [fs.nn.Parameter(np.ones(5), np.ones(5), str(i)) for i in range(1000)]
    params = model().parameters() if arena else many
    optimizer = optim.Adam(params, lr=0.1)
    calls = count_calls(monkeypatch, "adam_step")
    optimizer.step()
    assert len(calls) == 1
    assert arena or all(p.array[0] == pytest.approx(0.9) for p in many)


def test_groups():
    params, alone = parameters(), parameters()
    groups = [{"params": params[:1], "lr": 0.5, "weight_decay": 0.1}, {"params": params[1:]}]
    optimizer = optim.Adam(groups, lr=0.01, betas=(0.5, 0.6))
    parts = [optim.Adam(alone[:1], lr=0.5, weight_decay=0.1, betas=(0.5, 0.6)), optim.Adam(alone[1:], 0.01, (0.5, 0.6))]
    assert optimizer.lr == 0.5
    for t in range(5):
        set_gradients(params, t)
        set_gradients(alone, t)
        for each in (optimizer, *parts):
            each.step()
    assert_equal(params, alone)
    optimizer.param_groups[1]["lr"] = 0.0  # takes effect at the next step
    before = [p.array.copy() for p in params]
    optimizer.step()
    changed = [not np.array_equal(p.array, b) for p, b in zip(params, before, strict=True)]
    assert changed == [True, False, False, False]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"lr": -1}, "'lr'"),
        ({"lr": lambda step: float("nan")}, "'lr'"),
        ({"momentum": -1}, "'momentum'"),
        ({"momentum": 0.9}, "no 'momentum_buffer': switch it on in a new optimizer"),
    ],
)
def test_a_bad_second_group_is_refused_before_the_first_is_written(spoil, words):
    params = parameters()
    optimizer = optim.SGD([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    set_gradients(params, 0)
    optimizer.param_groups[1].update(spoil)
    before = [p.array.tobytes() for p in params]
    with pytest.raises(ValueError, match=words):
        optimizer.step()
    assert [p.array.tobytes() for p in params] == before and optimizer.steps == 0


def test_no_decay_of_biases():
    params = parameters()
    optimizer = optim.AdamW(params, lr=0.1, weight_decay=0.5, decay_1d=False)
    before = [p.array.copy() for p in params]
    optimizer.step()
    for p, old in zip(params, before, strict=True):
        factor = np.float32(1 - 0.1 * 0.5) if p.array.ndim == 2 else np.float32(1)
        assert_same_bits(p.name, p.array, old * factor)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.0]


def test_lr_as_a_function_of_the_step():
    seen = []
    schedule = lambda step: seen.append(step) or 0.1 / (1 + step)  # noqa: E731
    params, alone = parameters(), parameters()
    optimizer, plain = optim.SGD(params, lr=schedule), optim.SGD(alone, lr=0.1)
    for t in range(4):
        plain.param_groups[0]["lr"] = 0.1 / (1 + t)
        train(params, optimizer, 1, t)
        train(alone, plain, 1, t)
    assert sorted(set(seen)) == [0, 1, 2, 3] and optimizer.lr == 0.1 / 5
    assert_equal(params, alone)


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e9])
@pytest.mark.parametrize("scale", [1.0, -4.0])
def test_clipping_is_clip_then_step(max_norm, scale):
    params, alone = parameters(), parameters()
    optimizer, plain = optim.Adam(params, max_norm=max_norm, weight_decay=0.1), optim.Adam(alone, weight_decay=0.1)
    for t in range(4):
        set_gradients(params, t)
        set_gradients(alone, t)
        norm = ops.global_norm([p.grad for p in alone]) * abs(scale)
        optimizer.step(grad_multiplier=scale)
        plain.step(grad_multiplier=scale * min(1.0, max_norm / (norm + 1e-6)))
        assert all(np.array_equal(p.grad, q.grad) for p, q in zip(params, alone, strict=True))
    assert_equal(params, alone)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("method", "arguments"), VARIANTS)
def test_nonfinite_steps_are_skipped(method, arguments, value):
    params, alone = parameters(), parameters()
    options = {"skip_nonfinite": True, "ema_decay": 0.9, "max_norm": 1.0, **arguments}
    optimizer, plain = method(params, **options), method(alone, **options)
    train(params, optimizer, 2)
    train(alone, plain, 2)
    params[2].grad.flat[-1] = value
    optimizer.step()
    assert (optimizer.steps, optimizer.skipped) == (2, 1)
    train(params, optimizer, 2, 2)
    train(alone, plain, 2, 2)
    assert bits(params, optimizer)[0] == bits(alone, plain)[0]


def test_a_norm_that_overflows_is_no_reason_to_skip():
    params = parameters(dtype=np.float64)
    optimizer = optim.SGD(params, skip_nonfinite=True)
    set_gradients(params, 0, 1e200)
    before = params[0].array.copy()
    optimizer.step()
    assert (optimizer.steps, optimizer.skipped) == (1, 0)
    assert not np.array_equal(params[0].array, before)


def test_nonfinite_gradients_propagate_without_skipping():
    params = parameters()
    optimizer = optim.SGD(params, lr=0.1)
    set_gradients(params, 0)
    params[0].grad[0, 0] = np.nan
    optimizer.step()
    assert np.isnan(params[0].array[0, 0]) and np.isfinite(params[0].array[1:]).all()


def test_a_step_of_the_cpu_is_not_captured():
    with pytest.raises(ValueError, match=r"\[SGD\] 'capturable' needs parameters on a GPU: see Sequential\.to"):
        optim.SGD(parameters(), capturable=True)


def test_grad_multiplier():
    params, alone = parameters(), parameters()
    for p, scale, multiplier in [(params, 1024.0, 1 / 1024), (alone, 1.0, 1.0)]:
        optimizer = optim.Adam(p)
        for t in range(3):
            set_gradients(p, t, scale)
            optimizer.step(grad_multiplier=multiplier)
    assert_equal(params, alone)
    with pytest.raises(ValueError, match=r"\[Adam\] 'grad_multiplier' must be finite but got inf"):
        optimizer.step(grad_multiplier=float("inf"))


def test_averages():
    net = model()
    params = net.parameters()
    optimizer = optim.Adam(params, ema_decay=0.75)
    expected = {p.name: p.array.copy() for p in params}
    for t in range(5):
        train(params, optimizer, 1, t)
        expected = {p.name: np.float32(0.75) * expected[p.name] + np.float32(0.25) * p.array for p in params}
    for name, average in optimizer.averages().items():
        assert_same_bits(name, average, expected[name])
    with pytest.raises(RuntimeError, match="'ema_decay' was not given"):
        optim.Adam(parameters()).averages()


@pytest.mark.parametrize(("method", "arguments"), VARIANTS)
def test_averages_with_a_decay_that_is_a_function(method, arguments):
    params, seen = parameters(), []
    optimizer = method(params, ema_decay=optim.schedules.uniform_average(burn_in=2), **arguments)
    for t in range(6):
        train(params, optimizer, 1, t)
        seen.append([p.array.copy() for p in params])
        if t == 3:  # a new optimizer goes on from the step it is told
            state = optimizer.state_dict()
            optimizer = method(params, ema_decay=optim.schedules.uniform_average(burn_in=2), **arguments)
            optimizer.load_state_dict(state)
    for p, *arrays in zip(params, *seen[2:], strict=True):
        np.testing.assert_allclose(optimizer.averages()[p.name], np.mean(arrays, axis=0), rtol=1e-5, atol=1e-6)


def test_a_decay_out_of_range_is_refused_before_a_parameter_is_written():
    params = parameters()
    before = [p.array.copy() for p in params]
    groups = [{"params": params[:1], "lr": 0.5}, {"params": params[1:]}]
    optimizer = optim.SGD(groups, ema_decay=lambda step: 1.5)
    set_gradients(params, 0)
    with pytest.raises(ValueError, match=r"\[SGD\] 'ema_decay' must be in \[0, 1\] but got 1.5"):
        optimizer.step()
    assert all((p.array == b).all() for p, b in zip(params, before, strict=True)) and optimizer.steps == 0
    with pytest.raises(ValueError, match=r"\[SGD\] 'ema_decay' is a function, which a captured step could not call"):
        optim.SGD(params, ema_decay=lambda step: 0.5, capturable=True)


@pytest.mark.parametrize("params", [parameters, lambda: model().parameters()])
def test_zero_grad(params):
    params = params()
    set_gradients(params, 0)
    optim.SGD(params).zero_grad()
    assert not any(p.grad.any() for p in params)


def test_repr():
    text = repr(optim.SGD([{"params": parameters()[:1], "lr": 0.5}, {"params": parameters()[1:]}], momentum=0.9))
    assert text.startswith("SGD(\n  1 parameters: lr=0.5, momentum=0.9") and "\n  3 parameters: lr=0.001" in text


@pytest.mark.skipif(backend.native() is None, reason="the reference itself")
@pytest.mark.parametrize(("method", "arguments"), VARIANTS)
def test_the_reference_takes_the_same_steps(method, arguments, monkeypatch):
    params, alone = parameters(), parameters()
    train(params, method(params, max_norm=1.0, ema_decay=0.5, **arguments))
    monkeypatch.setattr(backend, "_active", None)
    train(alone, method(alone, max_norm=1.0, ema_decay=0.5, **arguments))
    assert_equal(params, alone)


def test_an_optimizer_is_not_copied_without_its_model():
    p = fs.nn.Parameter(np.ones(2), np.ones(2), "p")
    with pytest.raises(TypeError, match=r"make a new one .* load_state_dict"):
        copy.deepcopy(fs.optim.Adam([p]))
