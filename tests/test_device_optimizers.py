"""Optimizers on a GPU, with a stand-in for CuPy: the same bits as on the CPU, and no wait."""

from __future__ import annotations

import numpy as np
import pytest

import fake_cupy
from fusedstep import nn, optim
from small_gpu import host, on_gpu
from small_optimizers import VARIANTS, parameters, set_gradients


def pair(method, device=0, **options):
    """The same parameters on the GPU and on the CPU, with an optimizer each."""
    theirs = parameters()
    ours = [nn.Parameter(on_gpu(p.array, device), on_gpu(p.grad, device), p.name) for p in parameters()]
    lr = options.pop("lr", 0.1)
    theirs_lr = float(lr.host) if isinstance(lr, fake_cupy.ndarray) else lr
    only_gpu = {"capturable": options.pop("capturable", False)}
    return ours, theirs, method(ours, lr=lr, **options, **only_gpu), method(theirs, lr=theirs_lr, **options)


def step_both(ours, theirs, optimizer, plain, steps, *, spoil=(), multiplier=1.0):
    for t in steps:
        set_gradients(theirs, t)
        if t in spoil:
            theirs[1].grad[0] = np.inf
        for p, q in zip(ours, theirs, strict=True):
            p.grad.host[...] = q.grad
        device = ours[0].array.device.id
        optimizer.step(grad_multiplier=on_gpu(np.float64(multiplier), device) if multiplier != 1 else 1.0)
        plain.step(grad_multiplier=multiplier)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p.array.host, q.array, err_msg=p.name)


OPTIONS = [
    {},
    {"max_norm": 0.5, "ema_decay": 0.9},
    {"skip_nonfinite": True},
    {"skip_nonfinite": True, "max_norm": 2.0, "weight_decay": 0.1, "decay_1d": False},
    {"capturable": True},
    {"capturable": True, "max_norm": 0.5, "skip_nonfinite": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("method", "arguments"), VARIANTS)
def test_optimizers_give_the_bits_of_the_cpu_without_waiting(gpu, method, arguments, options):
    four = pair(method, 1, **arguments, **options)
    gpu.waits.clear()
    spoil = (1, 3) if "skip_nonfinite" in options else ()
    step_both(*four, range(6), spoil=spoil)
    step_both(*four, range(6, 8), multiplier=-0.25)
    assert not gpu.waits and gpu.devices == [0]
    ours, theirs, optimizer, plain = four
    assert (optimizer.steps, optimizer.skipped) == (plain.steps, plain.skipped) == (8 - len(spoil), len(spoil))
    assert bool(gpu.waits) == ("skip_nonfinite" in options or "capturable" in options)
    state, expected = optimizer.state_dict(), plain.state_dict()
    for name, states in expected["state"].items():
        for key, array in states.items():
            np.testing.assert_array_equal(state["state"][name][key], array)
    assert state["param_groups"] == expected["param_groups"]

    resumed = pair(method, **arguments, **options)
    for p, q in zip((*resumed[0], *resumed[1]), (*theirs, *theirs), strict=True):
        host(p.array)[...] = q.array
    resumed[2].load_state_dict(expected)  # across devices
    resumed[3].load_state_dict(state)
    step_both(*resumed, range(8, 10))
    step_both(ours, theirs, optimizer, plain, range(8, 10))
    np.testing.assert_array_equal(resumed[1][0].array, theirs[0].array)


@pytest.mark.parametrize("skip_nonfinite", [False, True])
def test_schedules_know_the_true_count(gpu, skip_nonfinite):
    schedules = {"lr": optim.schedules.inverse_time(0.1, 1.0), "ema_decay": optim.schedules.uniform_average(1)}
    four = pair(optim.Adam, **schedules, skip_nonfinite=skip_nonfinite)
    gpu.waits.clear()
    step_both(*four, range(5), spoil=(2,) if skip_nonfinite else ())
    assert bool(gpu.waits) == skip_nonfinite
    for name, average in four[3].averages().items():
        np.testing.assert_array_equal(host(four[2].averages()[name]), average)
    assert four[2].lr == four[3].lr == 0.1 / (5 if skip_nonfinite else 6)


def test_the_first_step_with_dampening(gpu):
    four = pair(optim.SGD, momentum=0.9, dampening=0.5, skip_nonfinite=True)
    step_both(*four, range(6), spoil=(0, 1))
    gpu.waits.clear()
    step_both(*four, range(6, 9))
    assert not gpu.waits
    with pytest.raises(ValueError, match=r"\[SGD\] 'capturable' needs a 'dampening' of 0"):
        pair(optim.SGD, momentum=0.9, dampening=0.5, capturable=True)


def test_skipping_can_be_switched_on_later(gpu):
    four = pair(optim.Adam)
    step_both(*four, range(2))
    for optimizer in four[2:]:
        optimizer.skip_nonfinite = True
    step_both(*four, range(2, 6), spoil=(3,))
    for optimizer in four[2:]:
        optimizer.skip_nonfinite = False
    step_both(*four, range(6, 8))
    assert [(optimizer.steps, optimizer.skipped) for optimizer in four[2:]] == [(7, 1)] * 2


def test_numbers_are_not_frozen_in_a_captured_graph(gpu):
    ours, _, optimizer, _ = pair(optim.SGD, lr=optim.schedules.constant(0.1))
    captured = optim.Adam(ours, capturable=True)
    net = nn.Sequential(nn.BatchNorm(6, momentum=None)).to("cuda")
    gpu.capturing = True
    captured.step()
    with pytest.raises(RuntimeError, match=r"\[SGD\] a step is captured only by .* capturable=True"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="momentum=None counts batches"):
        net.forward(on_gpu(np.ones((4, 6), np.float32)))
    assert optimizer.steps == 0 and net.buffers()["0.num_batches_tracked"] == 0


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_size_on_the_device(gpu, dtype, capturable):
    lr = on_gpu(dtype(0.1))
    ours, theirs, optimizer, plain = pair(optim.AdamW, lr=lr, capturable=capturable)
    gpu.waits.clear()
    step_both(ours, theirs, optimizer, plain, range(3))
    lr.fill(0.025)
    plain.param_groups[0]["lr"] = float(dtype(0.025))
    step_both(ours, theirs, optimizer, plain, range(3, 5))
    assert not gpu.waits
    state = optimizer.state_dict()
    assert state["param_groups"][0]["lr"] == float(dtype(0.025)) and type(state["param_groups"][0]["lr"]) is float
    state["param_groups"][0]["lr"] = 0.5
    optimizer.load_state_dict(state)
    assert optimizer.lr is lr and lr.host == dtype(0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lr": lambda step: 0.1, "capturable": True}, ValueError, r"\[Adam\] 'lr' is a function, which a captured"),
        ({"lr": np.zeros(2)}, TypeError, r"'lr' must be a 0-d array of float32 or float64 but got float64\(2,\)"),
        ({"lr": np.int64(1)}, TypeError, "'lr' must be a 0-d array of float32 or float64 but got int64"),
        ({"lr": np.float32(1), "device": 1}, TypeError, "'lr' is on cuda:0 but the parameters are on cuda:1"),
        ({"weight_decay": -1}, ValueError, "'weight_decay' must be"),
    ],
)
def test_wrong_arguments(gpu, arguments, error, words):
    if isinstance(arguments.get("lr"), np.ndarray | np.generic):
        arguments = arguments | {"lr": on_gpu(arguments["lr"])}
    device = arguments.get("device", 0)
    ours = [nn.Parameter(on_gpu(p.array, device), on_gpu(p.grad, device), p.name) for p in parameters()]
    with pytest.raises(error, match=words):
        optim.Adam(ours, **{name: value for name, value in arguments.items() if name != "device"})


def test_wrong_parameters(gpu):
    p, q = parameters()[:2]
    first = nn.Parameter(on_gpu(p.array), on_gpu(p.grad), p.name)
    for array, grad, error, words in [
        (q.array, q.grad, TypeError, "the array of '0.bias' is ndarray but '0.weight' is on cuda:0"),
        (on_gpu(q.array), on_gpu(q.grad, 1), TypeError, "the grad of '0.bias' is a CuPy array on cuda:1"),
        (on_gpu(q.array), on_gpu(q.grad.astype(np.float64)), TypeError, "has dtype float64 and '0.weight' has float32"),
        (on_gpu(q.array), on_gpu(q.grad[:3]), ValueError, r"shape \(7,\) but its gradient has \(3,\)"),
    ]:
        with pytest.raises(error, match=words):
            optim.Adam([first, nn.Parameter(array, grad, q.name)])
    with pytest.raises(ValueError, match=r"\[Adam\] 'capturable' needs parameters on a GPU"):
        optim.Adam(parameters(), capturable=True)
    with pytest.raises(TypeError, match="'lr' is on cuda:0 but the parameters are on cpu"):
        optim.Adam(parameters(), lr=on_gpu(np.float32(0.1)))
