"""Adadelta, Adamax, Lion, NAdam and RAdam; as optimizers.py."""

from __future__ import annotations

import numpy as np

from .optimizers import Common, flushed, step_arrays, update_moments
from .scalars import (
    check_adadelta,
    check_moments,
    check_nadam,
    integer_power,
    nadam_scalars,
    radam_scalars,
)


def adadelta_step(
    params,
    grads,
    square_avgs,
    acc_deltas,
    *,
    lr,
    rho=0.9,
    eps=1e-6,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """Adadelta (Zeiler 2012)."""
    common = Common(
        "Adadelta", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
    )
    check_adadelta(rho, eps)
    rho = float(rho)

    def update(p, g, kind, s, a):
        s[...] = flushed(kind(rho) * s + kind(1 - rho) * (g * g))
        d = np.sqrt(a + kind(eps)) / np.sqrt(s + kind(eps)) * g
        a[...] = flushed(kind(rho) * a + kind(1 - rho) * (d * d))
        p -= kind(common.lr) * d

    step_arrays(update, params, grads, [("square_avgs", square_avgs), ("acc_deltas", acc_deltas)], common)


def adamax_step(
    params,
    grads,
    exp_avgs,
    exp_infs,
    *,
    lr,
    step,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """Adamax (Kingma & Ba 2014, section 7.1)."""
    common = Common(
        "Adamax", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip, step
    )
    check_moments("Adamax", common.step, betas, eps)
    beta1, beta2 = map(float, betas)
    alpha = common.lr / (1 - integer_power(beta1, int(common.step)))

    def update(p, g, kind, m, u):
        m[...] = flushed(kind(beta1) * m + kind(1 - beta1) * g)
        u[...] = np.maximum(kind(beta2) * u, np.abs(g) + kind(eps))  # NaN passes
        p -= kind(alpha) * (m / u)

    step_arrays(update, params, grads, [("exp_avgs", exp_avgs), ("exp_infs", exp_infs)], common)


def lion_step(
    params,
    grads,
    exp_avgs,
    *,
    lr,
    betas=(0.9, 0.99),
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """Lion (Chen et al. 2023)."""
    common = Common(
        "Lion", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
    )
    check_moments("Lion", 1, betas, 0.0)
    beta1, beta2 = map(float, betas)

    def update(p, g, kind, m):
        p -= kind(common.lr) * np.sign(kind(beta1) * m + kind(1 - beta1) * g)
        m[...] = flushed(kind(beta2) * m + kind(1 - beta2) * g)

    step_arrays(update, params, grads, [("exp_avgs", exp_avgs)], common)


def nadam_step(
    params,
    grads,
    exp_avgs,
    exp_avg_sqs,
    *,
    lr,
    step,
    betas=(0.9, 0.999),
    eps=1e-8,
    momentum_decay=4e-3,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """NAdam (Dozat 2016)."""
    common = Common(
        "NAdam", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip, step
    )
    check_nadam(common.step, betas, eps, momentum_decay)
    beta1, beta2 = map(float, betas)
    lr, lr_gradient, root_scale = nadam_scalars(common.lr, int(common.step), beta1, beta2, momentum_decay)

    def update(p, g, kind, m, v):
        update_moments(g, kind, m, v, beta1, beta2)
        p -= (kind(lr) * m + kind(lr_gradient) * g) / (np.sqrt(v) * kind(root_scale) + kind(eps))

    step_arrays(update, params, grads, [("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs)], common)


def radam_step(
    params,
    grads,
    exp_avgs,
    exp_avg_sqs,
    *,
    lr,
    step,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """RAdam (Liu et al. 2020)."""
    common = Common(
        "RAdam", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip, step
    )
    check_moments("RAdam", common.step, betas, eps)
    beta1, beta2 = map(float, betas)
    alpha, rectified = radam_scalars(common.lr, int(common.step), beta1, beta2)

    def update(p, g, kind, m, v):
        update_moments(g, kind, m, v, beta1, beta2)
        p -= kind(alpha) * (m / (np.sqrt(v) + kind(eps)) if rectified else m)

    step_arrays(update, params, grads, [("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs)], common)
