"""Step sizes as functions of the step, counted from 0: give one as `lr` to any optimizer.

Every function here returns a callable ``step -> lr``; any other callable of one integer serves as well. The exception
is `uniform_average`, which gives decays: that is an optimizer's `ema_decay`.

>>> from fusedstep.optim import schedules
>>> lr = schedules.inverse_time(0.1, decay=1.0)
>>> lr(0), lr(1)
(0.1, 0.05)
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..reference.scalars import check_finite, check_integer, check_range

Schedule = Callable[[int], float]


def _lr(name: str, value) -> float:
    return check_finite("schedules", name, check_range("schedules", name, value, 0))


def _powers(lr: float, factor: float, exponent: int) -> float:
    try:
        return lr * factor**exponent
    except OverflowError:
        return math.inf if lr else 0.0


def constant(lr: float) -> Schedule:
    """lr at every step.

    >>> constant(0.1)(1000)
    0.1
    """
    lr = _lr("lr", lr)
    return lambda step: lr


def inverse_time(lr: float, decay: float) -> Schedule:
    """lr / (1 + decay * step): the steps sum to infinity, their squares do not (Robbins & Monro 1951).

    >>> inverse_time(1.0, 0.5)(2)
    0.5
    """
    lr, decay = _lr("lr", lr), _lr("decay", decay)
    return lambda step: lr / (1 + decay * step)


def inverse_sqrt(lr: float, decay: float = 1.0) -> Schedule:
    """lr / sqrt(1 + decay * step): slower than 1/t, for averaged iterates (Nemirovski et al. 2009).

    >>> inverse_sqrt(1.0)(3)
    0.5
    """
    lr, decay = _lr("lr", lr), _lr("decay", decay)
    return lambda step: lr / math.sqrt(1 + decay * step)


def step_decay(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """lr multiplied by `factor` after each `every` steps.

    >>> step_decay(1.0, every=10, factor=0.5)(25)
    0.25
    """
    lr, factor = _lr("lr", lr), _lr("factor", factor)
    every = check_integer("schedules", "every", every, 1)
    return lambda step: _powers(lr, factor, step // every)


def exponential(lr: float, factor: float) -> Schedule:
    """lr * factor**step; infinite, which optimizers refuse, where that is too large for a float.

    >>> exponential(1.0, 0.5)(3)
    0.125
    """
    lr, factor = _lr("lr", lr), _lr("factor", factor)
    return lambda step: _powers(lr, factor, step)


def cosine(lr: float, steps: int, final_lr: float = 0.0) -> Schedule:
    """Half a cosine from lr at step 0 to `final_lr` at step `steps` and beyond (Loshchilov & Hutter 2017, eq. 5).

    >>> cosine(1.0, steps=10)(5)
    0.5
    """
    lr, final_lr = _lr("lr", lr), _lr("final_lr", final_lr)
    steps = check_integer("schedules", "steps", steps, 1)
    return lambda step: final_lr + (lr - final_lr) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def cosine_restarts(lr: float, period: int, growth: int = 1, final_lr: float = 0.0) -> Schedule:
    """SGDR: `cosine` from lr to `final_lr` again and again, each period `growth` times as long as the one before.

    Loshchilov & Hutter 2017, equation 5, where growth is T_mult. The first step of a period takes lr.

    >>> schedule = cosine_restarts(1.0, period=2, growth=2)
    >>> [round(schedule(t), 3) for t in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """
    period = check_integer("schedules", "period", period, 1)
    growth = check_integer("schedules", "growth", growth, 1)
    within = cosine(lr, 1, final_lr)

    def schedule(step):
        length = period
        if growth == 1:
            step %= period
        while step >= length:
            step, length = step - length, length * growth
        return within(step / length)

    return schedule


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """A line up to ``schedule(0)`` in `steps` steps, then `schedule` from its own step 0 on (Goyal et al. 2017).

    The first step takes schedule(0) / steps, not 0.

    >>> schedule = warmup(inverse_sqrt(1.0), steps=4)
    >>> [schedule(t) for t in (0, 3, 4, 7)]
    [0.25, 1.0, 1.0, 0.5]
    """
    if not callable(schedule):
        raise TypeError(f"[schedules] 'schedule' must be a function of the step but got {schedule!r}")
    steps = check_integer("schedules", "steps", steps, 0)
    return lambda step: schedule(0) * (step + 1) / steps if step < steps else schedule(step - steps)


def warmup_cosine(lr: float, steps: int, warmup_steps: int, final_lr: float = 0.0) -> Schedule:
    """`warmup` to lr at step `warmup_steps`, then `cosine` down to `final_lr` at step `steps` (Goyal et al. 2017).

    >>> schedule = warmup_cosine(1.0, steps=14, warmup_steps=4)
    >>> [schedule(t) for t in (0, 3, 4, 9)]
    [0.25, 1.0, 1.0, 0.5]
    """
    steps = check_integer("schedules", "steps", steps, 1)
    warmup_steps = check_integer("schedules", "warmup_steps", warmup_steps, 0)
    if warmup_steps >= steps:
        raise ValueError(f"[schedules] 'warmup_steps' must be less than 'steps' ({steps}) but got {warmup_steps}")
    return warmup(cosine(lr, steps - warmup_steps, final_lr), warmup_steps)


def one_cycle(
    lr: float, steps: int, warmup_fraction: float = 0.3, start_factor: float = 0.04, final_factor: float = 1e-4
) -> Schedule:
    """Cosine up from ``lr * start_factor`` to lr, then down to ``lr * final_factor`` (Smith & Topin 2018).

    >>> schedule = one_cycle(1.0, steps=10, warmup_fraction=0.5, start_factor=0.0)
    >>> schedule(0), schedule(5)
    (0.0, 1.0)
    """
    lr = _lr("lr", lr)
    steps = check_integer("schedules", "steps", steps, 2)
    warmup_fraction = check_range("schedules", "warmup_fraction", warmup_fraction, 0, 1)
    peak = min(max(round(steps * warmup_fraction), 1), steps - 1)
    up = cosine(lr * _lr("start_factor", start_factor), peak, lr)
    down = cosine(lr, steps - peak, lr * _lr("final_factor", final_factor))
    return lambda step: up(step) if step < peak else down(step - peak)


def uniform_average(burn_in: int = 0) -> Schedule:
    """As `ema_decay`: the optimizer's averages are the plain mean of all iterates after the first `burn_in` steps.

    ``k / (k + 1)`` with k the steps since then, and 0 before (Ruppert 1988; Polyak & Juditsky 1992). The averages then
    converge as with the best step size, at one that falls more slowly than 1/t, or is constant. In float32 an average
    hardly moves any more after ten million steps.

    >>> decay = uniform_average(burn_in=2)
    >>> [decay(t) for t in (0, 1, 2, 3, 4, 5)]
    [0.0, 0.0, 0.0, 0.5, 0.6666666666666666, 0.75]
    """
    burn_in = check_integer("schedules", "burn_in", burn_in, 0)
    return lambda step: max(step - burn_in, 0) / (max(step - burn_in, 0) + 1)
