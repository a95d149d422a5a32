"""Hyper-parameters: their checks, and the scalars that a step folds from them in double.

The twin of csrc/math/power.h, and of `fold` and `clipping_factor` in csrc/math/optimizers.h.
"""

from __future__ import annotations

import math
import operator

import numpy as np

from .arrays import COUNTS, FLOATING, check_scalar


def integer_power(base: float, exponent: int) -> float:
    """``base ** exponent`` by squaring, in double: the same bits on every host and device.

    >>> integer_power(0.9, 3)
    0.7290000000000001
    """
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def clipping_factor(max_norm: float, norm: float) -> float:
    """``min(1, max_norm / (norm + 1e-6))``, a NaN norm gives NaN (Pascanu et al. 2013, algorithm 1).

    >>> clipping_factor(1.0, 4.0 - 1e-6), clipping_factor(1.0, 0.5)
    (0.25, 1.0)
    """
    factor = max_norm / (norm + 1e-6)
    return factor if factor < 1 or math.isnan(factor) else 1.0


def read_number(name: str, value, accepted: tuple[str, ...]):
    """What a 0-d array holds, as a Python number; anything else as it is."""
    return check_scalar(name, value, accepted).item() if isinstance(value, np.ndarray) else value


def read_step_scalars(lr, grad_multiplier, step, skip):
    """(lr, grad_multiplier, step, skipped), each read from a 0-d array where it is one.

    A skipped step depends on none of the others: 1 stands for each that is an array, whose value may be anything.
    """
    numbers = (
        read_number("lr", lr, FLOATING),
        read_number("grad_multiplier", grad_multiplier, FLOATING),
        read_number("step", step, COUNTS),
    )
    skipped = skip is not None and check_scalar("skip", skip, ("int32",)).item() != 0
    if skipped:
        given = (lr, grad_multiplier, step)
        numbers = tuple(1 if isinstance(a, np.ndarray) else n for a, n in zip(given, numbers, strict=True))
    return (*numbers, skipped)


def _number(method: str, name: str, value) -> float:
    try:
        if isinstance(value, str | bytes) or getattr(value, "ndim", 0):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"[{method}] '{name}' must be a number but got {value!r}") from None
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_range(method: str, name: str, value, low: float, high: float = math.inf, *, closed: bool = False) -> float:
    """`value` as a float in [low, high), or in [low, high] when `closed`; ValueError otherwise."""
    number = value if type(value) is float else _number(method, name, value)  # it counts at every small step
    if low <= number < high or (closed and number == high):
        return number
    raise ValueError(f"[{method}] '{name}' must be in [{low:g}, {high:g}{']' if closed else ')'} but got {value!r}")


def check_max_norm(method: str, value):
    """`value`, the norm that gradients are clipped to; None does not clip."""
    if value is not None and check_range(method, "max_norm", value, 0) == 0:
        raise ValueError(f"[{method}] 'max_norm' must be greater than 0 but got {value!r}")
    return value


def check_finite(method: str, name: str, value) -> float:
    number = value if type(value) is float else _number(method, name, value)
    if math.isfinite(number):
        return number
    raise ValueError(f"[{method}] '{name}' must be finite but got {value!r}")


def check_positive(method: str, name: str, value) -> float:
    """`value` as a finite float greater than 0; ValueError otherwise."""
    number = check_finite(method, name, check_range(method, name, value, 0))
    if number == 0:
        raise ValueError(f"[{method}] '{name}' must be greater than 0 but got {value!r}")
    return number


def check_integer(method: str, name: str, value, low: int, bits: int = 63) -> int:
    """`value` as an int in [low, 2**bits); floats are refused, even whole ones."""
    if type(value) is int and low <= value < 1 << bits:
        return value
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"[{method}] '{name}' must be an integer but got {value!r}") from None
    if low <= number < 1 << bits:
        return number
    raise ValueError(f"[{method}] '{name}' must be in [{low}, 2**{bits}) but got {value!r}")


def check_flag(method: str, name: str, value) -> bool:
    """`value` as a bool; TypeError for what merely has a truth value, as "no" has."""
    if type(value) is bool:  # it counts at every small step
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"[{method}] '{name}' must be True or False but got {value!r}")


def check_common(
    method, lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay
) -> None:
    # The usual call is let through at once: a call for each number costs as much as a small step.
    floats = type(lr) is type(weight_decay) is type(grad_multiplier) is float
    inside = floats and 0 <= lr < math.inf and 0 <= weight_decay < math.inf and -math.inf < grad_multiplier < math.inf
    flags = type(decoupled_weight_decay) is type(maximize) is bool
    if inside and flags and ema_params is ema_decay is None:
        return
    check_range(method, "lr", lr, 0)
    check_range(method, "weight_decay", weight_decay, 0)
    check_flag(method, "decoupled_weight_decay", decoupled_weight_decay)
    check_flag(method, "maximize", maximize)
    check_finite(method, "grad_multiplier", grad_multiplier)
    if ema_params is not None and ema_decay is None:
        raise ValueError(f"[{method}] 'ema_params' needs 'ema_decay'")
    if ema_decay is not None:
        if ema_params is None:
            raise ValueError(f"[{method}] 'ema_decay' needs 'ema_params'")
        check_range(method, "ema_decay", ema_decay, 0, 1, closed=True)


def check_sgd(momentum_buffers, momentum, dampening, nesterov) -> None:
    check_range("SGD", "momentum", momentum, 0)
    check_finite("SGD", "dampening", dampening)
    if type(nesterov) is not bool:  # here and below: a call counts at every small step
        check_flag("SGD", "nesterov", nesterov)
    if momentum_buffers is None and (float(momentum) != 0 or nesterov):
        raise ValueError("[SGD] 'momentum_buffers' must be given when 'momentum' is not 0 or 'nesterov' is set")
    if nesterov and float(momentum) == 0:
        raise ValueError("[SGD] 'nesterov' needs a 'momentum' > 0")


def check_adagrad(step, lr_decay, eps) -> None:
    check_integer("Adagrad", "step", step, 1)
    check_range("Adagrad", "lr_decay", lr_decay, 0)
    check_range("Adagrad", "eps", eps, 0)


def check_rmsprop(momentum_buffers, grad_avgs, alpha, eps, momentum, centered) -> None:
    check_range("RMSprop", "alpha", alpha, 0, 1, closed=True)
    check_range("RMSprop", "eps", eps, 0)
    check_range("RMSprop", "momentum", momentum, 0)
    if type(centered) is not bool:
        check_flag("RMSprop", "centered", centered)
    if momentum_buffers is None and float(momentum) != 0:
        raise ValueError("[RMSprop] 'momentum_buffers' must be given when 'momentum' is not 0")
    if centered != (grad_avgs is not None):
        raise ValueError("[RMSprop] 'grad_avgs' must be given when, and only when, 'centered' is set")


def check_moments(method, step, betas, eps) -> None:
    """What Adam and all that is like it have."""
    check_integer(method, "step", step, 1)
    try:
        beta1, beta2 = betas
    except (TypeError, ValueError):
        raise ValueError(f"[{method}] 'betas' must be a pair of numbers but got {betas!r}") from None
    floats = type(beta1) is type(beta2) is type(eps) is float
    if not (floats and 0 <= beta1 < 1 and 0 <= beta2 < 1 and 0 <= eps < math.inf):
        check_range(method, "beta1", beta1, 0, 1)
        check_range(method, "beta2", beta2, 0, 1)
        check_range(method, "eps", eps, 0)


def check_nadam(step, betas, eps, momentum_decay) -> None:
    check_moments("NAdam", step, betas, eps)
    check_range("NAdam", "momentum_decay", momentum_decay, 0)


def check_adadelta(rho, eps) -> None:
    check_range("Adadelta", "rho", rho, 0, 1, closed=True)
    check_range("Adadelta", "eps", eps, 0)


def check_lars(momentum_buffers, momentum, trust_coefficient, eps, adapt) -> None:
    if momentum_buffers is None:
        raise TypeError("'momentum_buffers' must be an array but got NoneType")
    check_range("LARS", "momentum", momentum, 0)
    check_range("LARS", "trust_coefficient", trust_coefficient, 0)
    check_range("LARS", "eps", eps, 0)
    check_flag("LARS", "adapt", adapt)


def check_lamb(step, betas, eps, bias_correction, adapt) -> None:
    check_moments("LAMB", step, betas, eps)
    if not type(bias_correction) is type(adapt) is bool:
        check_flag("LAMB", "bias_correction", bias_correction)
        check_flag("LAMB", "adapt", adapt)


def check_adam(max_exp_avg_sqs, step, betas, eps, amsgrad, bias_correction, eps_mode) -> None:
    check_moments("Adam", step, betas, eps)
    if not type(amsgrad) is type(bias_correction) is bool:
        check_flag("Adam", "amsgrad", amsgrad)
        check_flag("Adam", "bias_correction", bias_correction)
    if amsgrad != (max_exp_avg_sqs is not None):
        raise ValueError("[Adam] 'max_exp_avg_sqs' must be given when, and only when, 'amsgrad' is set")
    if eps_mode not in ("outside", "inside"):
        raise ValueError(f"[Adam] 'eps_mode' must be 'outside' or 'inside' but got {eps_mode!r}")


def adam_scalars(lr: float, step: int, beta1: float, beta2: float, bias_correction: bool) -> tuple[float, float]:
    """(alpha, r): the step size, and the factor of the root, both with the bias correction folded in."""
    if not bias_correction:
        return lr, 1.0
    return lr / (1 - integer_power(beta1, step)), 1 / math.sqrt(1 - integer_power(beta2, step))


def momentum_schedule(momentum_decay: float) -> float:
    """q of NAdam's momentum ``beta1 * (1 - 0.5 * q**step)``: the one power that every device is given by the host."""
    return 0.96 ** float(momentum_decay)


def nadam_scalars(
    lr: float, step: int, beta1: float, beta2: float, momentum_decay: float
) -> tuple[float, float, float]:
    """The step sizes of the average of gradients and of the gradient, and the factor of the root (Dozat 2016)."""
    q = momentum_schedule(momentum_decay)
    now = beta1 * (1 - 0.5 * integer_power(q, step))
    following = beta1 * (1 - 0.5 * integer_power(q, step + 1))
    product = power = 1.0  # of all momenta up to now; below 2**-60 it no longer changes 1 - product
    for _ in range(step):
        if product < 2.0**-60:
            break
        power *= q
        product *= beta1 * (1 - 0.5 * power)
    average, gradient = following / (1 - product * following), (1 - now) / (1 - product)
    return lr * average, lr * gradient, 1 / math.sqrt(1 - integer_power(beta2, step))


def radam_scalars(lr: float, step: int, beta1: float, beta2: float) -> tuple[float, bool]:
    """The step size, and whether the variance can be had yet, so that it is rectified (Liu et al. 2020)."""
    alpha = lr / (1 - integer_power(beta1, step))
    power, longest = integer_power(beta2, step), 2 / (1 - beta2) - 1
    length = longest - 2 * float(step) * power / (1 - power)
    if length <= 5:
        return alpha, False
    rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return alpha * (math.sqrt(rectified) * math.sqrt(1 - power)), True


def lamb_scalars(step: int, beta1: float, beta2: float, bias_correction: bool) -> tuple[float, float]:
    """The bias corrections of the average of gradients and of the root."""
    if not bias_correction:
        return 1.0, 1.0
    return 1 / (1 - integer_power(beta1, step)), 1 / math.sqrt(1 - integer_power(beta2, step))


_LARGEST_RATIO = float.fromhex("0x1.fffffep+127")  # of float32: a larger one would be infinite there


def trust_ratio(
    parameters: float, direction: float, coefficient: float = 1.0, decay: float = 0.0, eps: float = 0.0
) -> float:
    """What LARS and LAMB multiply an array's update by, from sums of squares of its parameters and its direction.

    >>> trust_ratio(4.0, 16.0), trust_ratio(4.0, 0.0)
    (0.5, 1.0)
    """
    if parameters == 0 or direction == 0:
        return 1.0
    p, d = math.sqrt(parameters), math.sqrt(direction)
    ratio = coefficient * p / (d + decay * p + eps)
    return _LARGEST_RATIO if ratio > _LARGEST_RATIO else ratio


def dropout_scalars(p: float) -> tuple[int, float]:
    """(threshold, scale): lanes below the threshold are dropped, the others multiplied by the scale."""
    threshold = math.floor(p * 65536 + 0.5)
    return threshold, 65536 / (65536 - threshold) if threshold < 65536 else 0.0


def check_dropout(p, seed, offset) -> None:
    check_range("Dropout", "p", p, 0, 1, closed=True)
    check_integer("Dropout", "seed", seed, 0, 64)
    check_integer("Dropout", "offset", read_number("offset", offset, ("int64",)), 0, 64)
