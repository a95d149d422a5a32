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
