"""Schedules: their values at the start, in between, at the end and beyond."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.optim import schedules

NAN, INF = float("nan"), float("inf")

VALUES = [
    (schedules.constant(0.1), {0: 0.1, 7: 0.1, 10**9: 0.1}),
    (schedules.inverse_time(0.1, 0.5), {0: 0.1, 2: 0.05, 18: 0.01}),
    (schedules.inverse_time(0.1, 0), {0: 0.1, 1000: 0.1}),
    (schedules.inverse_sqrt(0.1), {0: 0.1, 3: 0.05, 99: 0.01}),
    (schedules.inverse_sqrt(0.1, 3.0), {0: 0.1, 1: 0.05}),
    (schedules.step_decay(1.0, every=10), {0: 1.0, 9: 1.0, 10: 0.1, 19: 0.1, 20: 0.01}),
    (schedules.step_decay(1.0, 3, 0.5), {0: 1.0, 2: 1.0, 3: 0.5, 6: 0.25}),
    (schedules.exponential(1.0, 0.5), {0: 1.0, 1: 0.5, 10: 2.0**-10}),
    (schedules.cosine(1.0, 10), {0: 1.0, 5: 0.5, 10: 0.0, 11: 0.0, 1000: 0.0}),
    (schedules.cosine(1.0, 4, final_lr=0.2), {0: 1.0, 1: 0.2 + 0.4 * (1 + math.sqrt(0.5)), 2: 0.6, 4: 0.2, 9: 0.2}),
    (schedules.cosine(0.2, 4, final_lr=1.0), {0: 0.2, 2: 0.6, 4: 1.0, 5: 1.0}),
    (schedules.warmup_cosine(1.0, 14, 4), {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 9: 0.5, 14: 0.0, 50: 0.0}),
    (schedules.warmup_cosine(1.0, 10, 0, final_lr=0.1), {0: 1.0, 5: 0.55, 10: 0.1, 11: 0.1}),
    (schedules.cosine_restarts(1.0, 4), {0: 1.0, 2: 0.5, 4: 1.0, 6: 0.5, 4 * 10**9: 1.0}),
    (schedules.cosine_restarts(1.0, 2, 3, 0.2), {0: 1.0, 1: 0.6, 2: 1.0, 5: 0.6, 8: 1.0, 17: 0.6, 26: 1.0}),
    (schedules.warmup(schedules.constant(0.5), 5), {0: 0.1, 3: 0.4, 4: 0.5, 5: 0.5, 100: 0.5}),
    (schedules.warmup(schedules.step_decay(1.0, 10), 4), {0: 0.25, 3: 1.0, 4: 1.0, 13: 1.0, 14: 0.1}),
    (schedules.warmup(schedules.cosine_restarts(1.0, 4), 0), {0: 1.0, 2: 0.5, 4: 1.0}),
    (schedules.one_cycle(1.0, 10, 0.5, 0.1, 0.01), {0: 0.1, 5: 1.0, 10: 0.01, 99: 0.01}),
    (schedules.one_cycle(1.0, 100), {0: 0.04, 15: 0.52, 30: 1.0, 65: 0.50005, 100: 1e-4, 101: 1e-4}),
    (schedules.one_cycle(1.0, 2, 0.0), {0: 0.04, 1: 1.0, 2: 1e-4}),
]


@pytest.mark.parametrize(("schedule", "values"), VALUES)
def test_values(schedule, values):
    for step, lr in values.items():
        assert schedule(step) == pytest.approx(lr, rel=1e-12, abs=1e-15), step
        assert isinstance(schedule(step), float)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in VALUES])
def test_never_negative(schedule):
    assert min(schedule(step) for step in range(200)) >= 0


def test_huge_steps():
    assert schedules.exponential(1.0, 0.9)(10**6) == 0.0
    assert schedules.step_decay(1.0, 1)(10**6) == 0.0


WRONG = [
    *((name, arguments) for name in ("constant", "inverse_sqrt") for arguments in [(-1,), (NAN,), (INF,)]),
    *(("inverse_time", arguments) for arguments in [(-1, 1), (0.1, -1), (0.1, NAN), (INF, 1)]),
    ("inverse_sqrt", (0.1, -1)),
    *(("step_decay", arguments) for arguments in [(-1, 2), (0.1, 0), (0.1, -3), (0.1, 2, -0.5), (0.1, 2, NAN)]),
    *(("exponential", arguments) for arguments in [(-1, 0.5), (0.1, -0.5), (0.1, INF)]),
    *(("cosine", arguments) for arguments in [(-1, 10), (0.1, 0), (0.1, 10, -1), (0.1, 10, NAN)]),
    *(("warmup_cosine", arguments) for arguments in [(-1, 10, 2), (0.1, 0, 0), (0.1, 10, 10), (0.1, 10, -1)]),
    ("warmup_cosine", (0.1, 10, 2, -1)),
    *(("cosine_restarts", arguments) for arguments in [(-1, 10), (0.1, 0), (0.1, 2, 0), (0.1, 2, 1, NAN)]),
    ("warmup", (schedules.constant(0.1), -1)),
    ("uniform_average", (-1,)),
    *(("one_cycle", arguments) for arguments in [(-1, 10), (0.1, 1), (0.1, 10, 1.0), (0.1, 10, -0.1)]),
    *(("one_cycle", arguments) for arguments in [(0.1, 10, 0.3, -1), (0.1, 10, 0.3, 0.04, NAN)]),
]


@pytest.mark.parametrize(("name", "arguments"), WRONG)
def test_wrong_values(name, arguments):
    with pytest.raises(ValueError, match=r"\[schedules\] '\w+' must be "):
        getattr(schedules, name)(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("constant", ("0.1",), "'lr' must be a number but got '0.1'"),
        ("constant", (None,), "'lr' must be a number but got None"),
        ("step_decay", (0.1, 2.5), "'every' must be an integer but got 2.5"),
        ("cosine", (0.1, 10.0), "'steps' must be an integer but got 10.0"),
        ("warmup_cosine", (0.1, 10, 2.0), "'warmup_steps' must be an integer but got 2.0"),
        ("cosine_restarts", (0.1, 10.0), "'period' must be an integer but got 10.0"),
        ("cosine_restarts", (0.1, 10, 1.5), "'growth' must be an integer but got 1.5"),
        ("warmup", (0.1, 10), "'schedule' must be a function of the step but got 0.1"),
        ("warmup", (schedules.constant(0.1), 2.0), "'steps' must be an integer but got 2.0"),
        ("uniform_average", (0.5,), "'burn_in' must be an integer but got 0.5"),
        ("one_cycle", (0.1, "10"), "'steps' must be an integer but got '10'"),
    ],
)
def test_wrong_types(name, arguments, words):
    with pytest.raises(TypeError, match=rf"\[schedules\] {words}"):
        getattr(schedules, name)(*arguments)


@pytest.mark.parametrize(("schedule", "values"), VALUES)
def test_as_lr(schedule, values):
    p = fs.nn.Parameter(np.zeros(1), np.ones(1), "p")
    optimizer = fs.optim.SGD([p], lr=schedule)
    expected = 0.0
    for step in range(12):
        assert optimizer.lr == schedule(step)
        optimizer.step()
        expected -= schedule(step)
        assert p.array[0] == expected


@pytest.mark.parametrize("make", [schedules.exponential, lambda lr, factor: schedules.step_decay(lr, 1, factor)])
def test_growth_beyond_the_largest_float(make):
    assert make(1.0, 1.5)(10**6) == math.inf
    assert make(0.0, 1.5)(10**6) == 0
    assert make(1.0, 0.5)(10**6) == 0


def torch_rates(make, steps):
    """The step sizes that a scheduler of torch's gives an optimizer with lr=0.5."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


AS_TORCH = {
    "StepLR": (lambda s, o: s.StepLR(o, 7, 0.3), schedules.step_decay(0.5, 7, 0.3)),
    "ExponentialLR": (lambda s, o: s.ExponentialLR(o, 0.9), schedules.exponential(0.5, 0.9)),
    "InverseTime": (lambda s, o: s.LambdaLR(o, lambda t: 1 / (1 + t)), schedules.inverse_time(0.5, 1.0)),
    "CosineAnnealingLR": (lambda s, o: s.CosineAnnealingLR(o, 60, 0.01), schedules.cosine(0.5, 60, 0.01)),
    "CosineAnnealingWarmRestarts": (
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, eta_min=0.01),
        schedules.cosine_restarts(0.5, 5, final_lr=0.01),
    ),
    "CosineAnnealingWarmRestarts, longer each time": (
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, 2, 0.01),
        schedules.cosine_restarts(0.5, 5, 2, 0.01),
    ),
    "LinearLR": (lambda s, o: s.LinearLR(o, 1 / 8, 1.0, 7), schedules.warmup(schedules.constant(0.5), 8)),
    "LinearLR, then ExponentialLR": (
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 1 / 8, 1.0, 7), s.ExponentialLR(o, 0.9)], [8]),
        schedules.warmup(schedules.exponential(0.5, 0.9), 8),
    ),
}


@pytest.mark.parametrize("name", AS_TORCH)
@pytest.mark.filterwarnings("ignore::UserWarning")  # SequentialLR steps its parts out of order
def test_as_the_schedulers_of_torch(name):
    make, schedule = AS_TORCH[name]
    rates = torch_rates(make, 60)
    assert [schedule(step) for step in range(60)] == pytest.approx(rates, rel=1e-9, abs=1e-12)


def test_warmup_cosine_is_warmup_and_cosine():
    parts = schedules.warmup(schedules.cosine(0.3, 20, 0.01), 5)
    assert all(schedules.warmup_cosine(0.3, 25, 5, 0.01)(t) == parts(t) for t in range(40))


def test_uniform_average_as_a_decay():
    assert [schedules.uniform_average()(t) for t in (0, 1, 2, 9)] == [0, 1 / 2, 2 / 3, 0.9]
    assert [schedules.uniform_average(5)(t) for t in (0, 5, 6, 14)] == [0, 0, 1 / 2, 0.9]
