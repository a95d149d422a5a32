"""Optimizer steps, in place, line by line as they are written in the papers; the twin of csrc/math/optimizers.h.

`p`, `g`: a parameter and its gradient. All scalars are folded in double and rounded once to the array's type.
"""

from __future__ import annotations

import numpy as np

from .arrays import as_labelled, check_array, check_dense, check_overlap, check_step
from .reduction import tree_sum
from .scalars import (
    adam_scalars,
    check_adagrad,
    check_adam,
    check_common,
    check_range,
    check_rmsprop,
    check_sgd,
    integer_power,
)


def _step(update, params, grads, states, *, lr, weight_decay, decoupled, maximize, multiplier, ema_params, ema_decay):
    """Check, then for each array: prepare the gradient, decay, `update(p, g, kind, *states)`, average."""
    lr, weight_decay, multiplier = float(lr), float(weight_decay), float(multiplier)
    rows = check_step(params, grads, [*states, ("ema_params", ema_params)])
    with np.errstate(all="ignore"):
        for p, grad, *rest in rows:
            kind = p.dtype.type
            g = grad * kind(-multiplier if maximize else multiplier)
            if weight_decay != 0 and decoupled:
                p *= kind(1 - lr * weight_decay)
            elif weight_decay != 0:
                g = g + kind(weight_decay) * p
            if ema_params is not None:
                *rest, e = rest
            update(p, g, kind, *rest)
            if ema_params is not None:
                e[...] = kind(ema_decay) * e + kind(1 - float(ema_decay)) * p


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
):
    """Gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013)."""
    check_common("SGD", lr, weight_decay, grad_multiplier, ema_params, ema_decay)
    check_sgd(momentum_buffers, momentum, dampening, nesterov)

    def update(p, g, kind, v=None):
        if v is None:
            p -= kind(lr) * g
            return
        v[...] = kind(momentum) * v + kind(1 - float(dampening)) * g
        p -= kind(lr) * (g + kind(momentum) * v if nesterov else v)

    _step(
        update,
        params,
        grads,
        [("momentum_buffers", momentum_buffers)],
        lr=lr,
        weight_decay=weight_decay,
        decoupled=decoupled_weight_decay,
        maximize=maximize,
        multiplier=grad_multiplier,
        ema_params=ema_params,
        ema_decay=ema_decay,
    )


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
):
    """AdaGrad (Duchi, Hazan & Singer 2011)."""
    check_common("Adagrad", lr, weight_decay, grad_multiplier, ema_params, ema_decay)
    check_adagrad(step, lr_decay, eps)
    decayed_lr = float(lr) / (1 + (int(step) - 1) * float(lr_decay))

    def update(p, g, kind, s):
        s += g * g
        p -= kind(decayed_lr) * (g / (np.sqrt(s) + kind(eps)))

    _step(
        update,
        params,
        grads,
        [("state_sums", state_sums)],
        lr=lr,
        weight_decay=weight_decay,
        decoupled=decoupled_weight_decay,
        maximize=maximize,
        multiplier=grad_multiplier,
        ema_params=ema_params,
        ema_decay=ema_decay,
    )


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
):
    """RMSprop (Tieleman & Hinton 2012), centered (Graves 2013), with momentum as in torch."""
    check_common("RMSprop", lr, weight_decay, grad_multiplier, ema_params, ema_decay)
    check_rmsprop(momentum_buffers, grad_avgs, alpha, eps, momentum, centered)
    alpha = float(alpha)

    def update(p, g, kind, s, *rest):
        rest = list(rest)
        b = rest.pop(0) if momentum_buffers is not None else None
        s[...] = kind(alpha) * s + kind(1 - alpha) * (g * g)
        variance = s
        if centered:
            (m,) = rest
            m[...] = kind(alpha) * m + kind(1 - alpha) * g
            variance = s - m * m
            variance = np.where(variance < 0, kind(0), variance)  # torch's goes below zero, and gives NaN
        d = g / (np.sqrt(variance) + kind(eps))
        if b is not None:
            b[...] = kind(momentum) * b + d
            d = b
        p -= kind(lr) * d

    _step(
        update,
        params,
        grads,
        [("square_avgs", square_avgs), ("momentum_buffers", momentum_buffers), ("grad_avgs", grad_avgs)],
        lr=lr,
        weight_decay=weight_decay,
        decoupled=decoupled_weight_decay,
        maximize=maximize,
        multiplier=grad_multiplier,
        ema_params=ema_params,
        ema_decay=ema_decay,
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
):
    """Adam (Kingma & Ba 2014), AMSGrad (Reddi et al. 2018), AdamW (Loshchilov & Hutter 2019)."""
    check_common("Adam", lr, weight_decay, grad_multiplier, ema_params, ema_decay)
    check_adam(max_exp_avg_sqs, step, betas, eps, amsgrad, eps_mode)
    beta1, beta2 = map(float, betas)
    alpha, root_scale = adam_scalars(float(lr), int(step), beta1, beta2, bias_correction)

    def update(p, g, kind, m, v, w=None):
        m[...] = kind(beta1) * m + kind(1 - beta1) * g
        v[...] = kind(beta2) * v + kind(1 - beta2) * (g * g)
        if w is not None:
            w[...] = np.where((w >= v) | (w != w), w, v)
        largest = v if w is None else w
        r = kind(root_scale)
        inside = eps_mode == "inside"
        root = np.sqrt((largest * r) * r + kind(eps)) if inside else np.sqrt(largest) * r + kind(eps)
        p -= kind(alpha) * (m / root)

    _step(
        update,
        params,
        grads,
        [("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs), ("max_exp_avg_sqs", max_exp_avg_sqs)],
        lr=lr,
        weight_decay=weight_decay,
        decoupled=decoupled_weight_decay,
        maximize=maximize,
        multiplier=grad_multiplier,
        ema_params=ema_params,
        ema_decay=ema_decay,
    )


def global_norm(grads, *, out=None):
    """sqrt(sum of squares), summed in float64: a tree for each array, then the arrays in order."""
    grads = as_labelled("grads", grads)
    dtype = None
    for name, g in grads:
        check_array(name, g, dtype=dtype)
        check_dense(name, g)
        dtype = dtype or (name, g.dtype)
    if out is not None:
        check_array("out", out, writable=True)
        if out.shape != ():
            raise ValueError(f"'out' must be 0-dimensional but has shape {out.shape}")
        check_overlap([("out", out)], grads)
    total = 0.0
    with np.errstate(all="ignore"):
        for _, g in grads:
            wide = np.ravel(g, order="K").astype(np.float64)
            total = total + float(tree_sum(wide * wide))
        norm = float(np.sqrt(total))
        if out is not None:
            out[...] = norm
    return norm


def ewma(values, beta, *, bias_correction=False):
    """v_t = beta v_{t-1} + (1 - beta) y_t along the first axis, from v_0 = 0."""
    beta = check_range("ewma", "beta", beta, 0, 1)
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
