"""Optimizer steps whose step size is each array's own: LAMB and LARS."""

from __future__ import annotations

from ..reference import scalars as _scalars
from ._dispatch import advance_versions, by_reference, known_step_scalars, module_for


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
    """One step of LAMB, in place.

    ``m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * (g * g);
    u = c * (m / (sqrt(v) * r + eps)) + weight_decay * p; p = p - lr * (trust * u)`` with ``c = 1 / (1 - beta1**step)``,
    ``r = 1 / sqrt(1 - beta2**step)``, 1 both without `bias_correction`, and, of each array, ``trust = |p| / |u|``.

    Parameters
    ----------
    params, grads, exp_avgs, exp_avg_sqs : array or list of arrays
        As in `sgd_step`; all but `grads` are written. Each array is a layer: it has a ratio of its own.
    lr, eps : float
        Each >= 0.
    step : int or 0-d array
        As in `adam_step`.
    betas : (float, float)
        Each in [0, 1).
    adapt : bool
        False: ``trust = 1``, as for biases and batch norm.
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`, but L2 decay is the one of u, which the ratio scales, too; the decoupled one is AdamW's.

    Notes
    -----
    You et al. 2020, algorithm 2, with phi(z) = z. The norms are summed in float64, in a tree fixed by the size of the
    array; where one of them is 0 the ratio is 1, and NaN makes all of the array NaN. The arrays are read twice.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, m, v = np.ones(2), np.array([3.0, -4.0]), np.zeros(2), np.zeros(2)
    >>> fs.ops.lamb_step(p, g, m, v, lr=0.5, step=1, eps=0)
    >>> p
    array([0.5, 1.5])
    """
    module = module_for(params)
    if module is None:
        return by_reference("lamb_step", locals())
    known_lr, known_multiplier, known_step = known_step_scalars(module, lr, grad_multiplier, step, skip)
    _scalars.check_common(
        "LAMB", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_lamb(known_step, betas, eps, bias_correction, adapt)
    module.lamb_step(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        skip,
        step,
        betas[0],
        betas[1],
        eps,
        bias_correction,
        adapt,
    )
    advance_versions(params, exp_avgs, exp_avg_sqs, ema_params)


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
    """One step of LARS, in place.

    ``v = momentum * v + trust * (g + weight_decay * p); p = p - lr * v`` with, of each array,
    ``trust = trust_coefficient * |p| / (|g| + weight_decay * |p| + eps)``.

    Parameters
    ----------
    params, grads, momentum_buffers : array or list of arrays
        As in `sgd_step`; `params` and `momentum_buffers` are written. Each array is a layer: it has a ratio of its own.
    lr, momentum, trust_coefficient, eps : float
        Each >= 0.
    adapt : bool
        False: ``trust = 1``, as for biases and batch norm: that is `sgd_step` with momentum.
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`; decoupled decay is not in the ratio.

    Notes
    -----
    You, Gitman & Ginsburg 2017, equation 6; lr stands outside the velocity as in torch's SGD, which differs from their
    algorithm 1 only where lr changes. The norms are summed in float64, in a tree fixed by the size of the array; where
    one of them is 0 the ratio is 1, and NaN makes all of the array NaN. Parameters and gradients are read twice.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, v = np.array([3.0, -4.0]), np.array([0.0, 2.0]), np.zeros(2)
    >>> fs.ops.lars_step(p, g, v, lr=1.0, trust_coefficient=0.1, eps=0)
    >>> p
    array([ 3. , -4.5])
    """
    module = module_for(params)
    if module is None:
        return by_reference("lars_step", locals())
    known_lr, known_multiplier, _ = known_step_scalars(module, lr, grad_multiplier, skip=skip)
    _scalars.check_common(
        "LARS", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_lars(momentum_buffers, momentum, trust_coefficient, eps, adapt)
    module.lars_step(
        params,
        grads,
        momentum_buffers,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        skip,
        momentum,
        trust_coefficient,
        eps,
        adapt,
    )
    advance_versions(params, momentum_buffers, ema_params)
