"""Optimizer steps, in place, line by line as they are written in the papers; the twin of csrc/math/optimizers.h.

`p`, `g`: a parameter and its gradient, widened to the type of the arithmetic (float32 for the half types). All
scalars are folded in double and rounded once to that type; what is stored is rounded to nearest even.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import (
    FLOATING,
    WITH_HALF,
    arithmetic_type,
    as_labelled,
    check_array,
    check_dense,
    check_overlap,
    check_scalar,
    check_step,
    scalar_arrays,
)
from .reduction import sum_of_squares
from .scalars import (
    adam_scalars,
    check_adagrad,
    check_adam,
    check_common,
    check_flag,
    check_range,
    check_rmsprop,
    check_sgd,
    integer_power,
    read_step_scalars,
)


@dataclass
class Common:
    """The arguments that all steps share; 0-d arrays among them are read, and kept in `read`."""

    method: str
    lr: float
    weight_decay: float
    decoupled: bool
    maximize: bool
    multiplier: float
    ema_params: object
    ema_decay: float | None
    skip: np.ndarray | None
    step: int = 1

    def __post_init__(self):
        self.read = scalar_arrays(lr=self.lr, grad_multiplier=self.multiplier, step=self.step, skip=self.skip)
        self.lr, self.multiplier, self.step, self.skipped = read_step_scalars(
            self.lr, self.multiplier, self.step, self.skip
        )
        check_common(
            self.method,
            self.lr,
            self.weight_decay,
            self.decoupled,
            self.maximize,
            self.multiplier,
            self.ema_params,
            self.ema_decay,
        )
        self.lr, self.weight_decay, self.multiplier = map(float, (self.lr, self.weight_decay, self.multiplier))


def step_arrays(update, params, grads, states, common, *, rule_decays=False):
    """Check, then for each array: prepare the gradient, decay, `update(p, g, kind, *states)`, store, average.

    rule_decays: L2 decay is the update's own.
    """
    averaged = common.ema_params is not None
    rows = check_step(params, grads, [*states, ("ema_params", common.ema_params)], common.read)
    if common.skipped:
        return
    with np.errstate(all="ignore"):
        for param, grad, *rest in rows:
            *kept, average = rest if averaged else (*rest, None)
            kind = arithmetic_type(param.dtype)
            p, g, *wide = (a.astype(kind) for a in (param, grad, *kept))
            g = g * kind(-common.multiplier if common.maximize else common.multiplier)
            if common.weight_decay != 0 and common.decoupled:
                p *= kind(1 - common.lr * common.weight_decay)
            elif common.weight_decay != 0 and not rule_decays:
                g = g + kind(common.weight_decay) * p
            update(p, g, kind, *wide)
            for array, values in zip((param, *kept), (p, *wide), strict=True):
                array[...] = values
            if averaged:
                decay, gain = kind(common.ema_decay), kind(1 - float(common.ema_decay))
                average[...] = flushed(decay * average.astype(kind) + gain * param.astype(kind))


def flushed(x):
    """What every exponential average is stored as: 0 in place of a subnormal number, which no decay would end and
    which processors are slow at."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, x.dtype.type(0), x)


def update_moments(g, kind, m, v, beta1, beta2):
    """Adam's averages of gradients and of squares."""
    m[...] = flushed(kind(beta1) * m + kind(1 - beta1) * g)
    v[...] = flushed(kind(beta2) * v + kind(1 - beta2) * (g * g))


def sgd_step(
    params,
    grads,
    momentum_buffers=None,
    *,
    lr,
    momentum=0.0,
    dampening=0.0,
    nesterov=False,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """Gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013)."""
    common = Common(
        "SGD", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
    )
    check_sgd(momentum_buffers, momentum, dampening, nesterov)

    def update(p, g, kind, v=None):
        if v is None:
            p -= kind(common.lr) * g
            return
        v[...] = flushed(kind(momentum) * v + kind(1 - float(dampening)) * g)
        p -= kind(common.lr) * (g + kind(momentum) * v if nesterov else v)

    step_arrays(update, params, grads, [("momentum_buffers", momentum_buffers)], common)


def adagrad_step(
    params,
    grads,
    state_sums,
    *,
    lr,
    step=1,
    lr_decay=0.0,
    eps=1e-10,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """AdaGrad (Duchi, Hazan & Singer 2011)."""
    common = Common(
        "Adagrad",
        lr,
        weight_decay,
        decoupled_weight_decay,
        maximize,
        grad_multiplier,
        ema_params,
        ema_decay,
        skip,
        step,
    )
    check_adagrad(common.step, lr_decay, eps)
    decayed_lr = common.lr / (1 + (int(common.step) - 1) * float(lr_decay))

    def update(p, g, kind, s):
        s += g * g
        p -= kind(decayed_lr) * (g / (np.sqrt(s) + kind(eps)))

    step_arrays(update, params, grads, [("state_sums", state_sums)], common)


def rmsprop_step(
    params,
    grads,
    square_avgs,
    momentum_buffers=None,
    grad_avgs=None,
    *,
    lr,
    alpha=0.99,
    eps=1e-8,
    momentum=0.0,
    centered=False,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """RMSprop (Tieleman & Hinton 2012), centered (Graves 2013), with momentum as in torch."""
    common = Common(
        "RMSprop", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
    )
    check_rmsprop(momentum_buffers, grad_avgs, alpha, eps, momentum, centered)
    alpha = float(alpha)

    def update(p, g, kind, s, *rest):
        rest = list(rest)
        b = rest.pop(0) if momentum_buffers is not None else None
        s[...] = flushed(kind(alpha) * s + kind(1 - alpha) * (g * g))
        variance = s
        if centered:
            (m,) = rest
            m[...] = flushed(kind(alpha) * m + kind(1 - alpha) * g)
            variance = s - m * m
            variance = np.where(variance < 0, kind(0), variance)  # torch's goes below zero, and gives NaN
        d = g / (np.sqrt(variance) + kind(eps))
        if b is not None:
            b[...] = flushed(kind(momentum) * b + d)
            d = b
        p -= kind(common.lr) * d

    step_arrays(
        update,
        params,
        grads,
        [("square_avgs", square_avgs), ("momentum_buffers", momentum_buffers), ("grad_avgs", grad_avgs)],
        common,
    )


def adam_step(
    params,
    grads,
    exp_avgs,
    exp_avg_sqs,
    max_exp_avg_sqs=None,
    *,
    lr,
    step,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    amsgrad=False,
    bias_correction=True,
    eps_mode="outside",
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """Adam (Kingma & Ba 2014), AMSGrad (Reddi et al. 2018), AdamW (Loshchilov & Hutter 2019)."""
    common = Common(
        "Adam", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip, step
    )
    check_adam(max_exp_avg_sqs, common.step, betas, eps, amsgrad, bias_correction, eps_mode)
    beta1, beta2 = map(float, betas)
    alpha, root_scale = adam_scalars(common.lr, int(common.step), beta1, beta2, bias_correction)

    def update(p, g, kind, m, v, w=None):
        update_moments(g, kind, m, v, beta1, beta2)
        if w is not None:
            w[...] = np.where((w >= v) | (w != w), w, v)
        largest = v if w is None else w
        r = kind(root_scale)
        inside = eps_mode == "inside"
        root = np.sqrt((largest * r) * r + kind(eps)) if inside else np.sqrt(largest) * r + kind(eps)
        p -= kind(alpha) * (m / root)

    step_arrays(
        update,
        params,
        grads,
        [("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs), ("max_exp_avg_sqs", max_exp_avg_sqs)],
        common,
    )


def global_norm(grads, *, out=None, nonfinite=None):
    """sqrt(sum of squares), summed in float64: a tree for each array, then the arrays in order."""
    grads = as_labelled("grads", grads)
    dtype = None
    for name, g in grads:
        check_array(name, g, accepted=WITH_HALF, like=dtype)
        check_dense(name, g)
        dtype = dtype or (name, g.dtype)
    if out is not None:
        check_scalar("out", out, FLOATING, writable=True)
    if nonfinite is not None:
        check_scalar("nonfinite", nonfinite, ("int32",), writable=True)
    check_overlap(scalar_arrays(out=out, nonfinite=nonfinite), grads)
    total, finite = 0.0, True
    with np.errstate(all="ignore"):
        for _, g in grads:
            finite = finite and bool(np.isfinite(g).all())
            total = total + sum_of_squares(g)
        norm = float(np.sqrt(total))
        if out is not None:
            out[...] = norm
        if nonfinite is not None:
            nonfinite[...] = not finite
    return norm


def ewma(values, beta, *, bias_correction=False):
    """v_t = beta v_{t-1} + (1 - beta) y_t along the first axis, from v_0 = 0."""
    beta = check_range("ewma", "beta", beta, 0, 1)
    check_flag("ewma", "bias_correction", bias_correction)
    values = np.asarray(values)
    if values.ndim == 0:
        raise ValueError("'values' must have at least one axis")
    if values.dtype.kind not in "biuf":
        raise TypeError(f"'values' has dtype {values.dtype}; accepted are real numbers")
    result = np.empty(values.shape, values.dtype if values.dtype in (np.float32, np.float64) else np.float64)
    kind = result.dtype.type
    average = np.zeros(values.shape[1:], result.dtype)
    with np.errstate(all="ignore"):
        for t, y in enumerate(values.astype(result.dtype, copy=False)):
            average = kind(beta) * average + kind(1 - beta) * y
            result[t] = average / kind(1 - integer_power(beta, t + 1)) if bias_correction else average
    return result
