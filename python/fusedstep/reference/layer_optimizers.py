"""LAMB and LARS, whose step size is each array's own; as optimizers.py."""

from __future__ import annotations

import numpy as np

from .optimizers import Common, flushed, step_arrays, update_moments
from .reduction import sum_of_squares
from .scalars import check_lamb, check_lars, lamb_scalars, trust_ratio


def lamb_step(
    params,
    grads,
    exp_avgs,
    exp_avg_sqs,
    *,
    lr,
    step,
    betas=(0.9, 0.999),
    eps=1e-6,
    bias_correction=True,
    adapt=True,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """LAMB (You et al. 2020)."""
    common = Common(
        "LAMB", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip, step
    )
    check_lamb(common.step, betas, eps, bias_correction, adapt)
    beta1, beta2 = map(float, betas)
    correction, root_scale = lamb_scalars(int(common.step), beta1, beta2, bias_correction)
    decay = 0.0 if common.decoupled else common.weight_decay

    def update(p, g, kind, m, v):
        update_moments(g, kind, m, v, beta1, beta2)
        u = kind(correction) * (m / (np.sqrt(v) * kind(root_scale) + kind(eps))) + kind(decay) * p
        trust = trust_ratio(sum_of_squares(p), sum_of_squares(u)) if adapt else 1.0
        p -= kind(common.lr) * (kind(trust) * u)

    states = [("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs)]
    step_arrays(update, params, grads, states, common, rule_decays=True)


def lars_step(
    params,
    grads,
    momentum_buffers,
    *,
    lr,
    momentum=0.9,
    trust_coefficient=1e-3,
    eps=1e-8,
    adapt=True,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
    grad_multiplier=1.0,
    ema_params=None,
    ema_decay=None,
    skip=None,
):
    """LARS (You et al. 2017)."""
    common = Common(
        "LARS", lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
    )
    check_lars(momentum_buffers, momentum, trust_coefficient, eps, adapt)
    decay = 0.0 if common.decoupled else common.weight_decay

    def update(p, g, kind, v):
        squares = sum_of_squares(p), sum_of_squares(g)
        trust = trust_ratio(*squares, float(trust_coefficient), decay, float(eps)) if adapt else 1.0
        v[...] = flushed(kind(momentum) * v + kind(trust) * (g + kind(decay) * p))
        p -= kind(common.lr) * v

    step_arrays(update, params, grads, [("momentum_buffers", momentum_buffers)], common, rule_decays=True)
