"""Optimizer steps, continued: Adadelta, Adamax, Lion, NAdam and RAdam."""

from __future__ import annotations

from ..reference import scalars as _scalars
from ._dispatch import advance_versions, by_reference, known_step_scalars, module_for


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
    """One step of Adadelta, in place.

    ``s = rho * s + (1 - rho) * (g * g); d = sqrt(a + eps) / sqrt(s + eps) * g; a = rho * a + (1 - rho) * (d * d);
    p = p - lr * d``.

    Parameters
    ----------
    params, grads, square_avgs, acc_deltas : array or list of arrays
        As in `sgd_step`; all but `grads` are written. `acc_deltas` averages the squares of the updates d.
    lr, eps : float
        Each >= 0; eps is under both roots.
    rho : float
        In [0, 1].
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`.

    Notes
    -----
    Zeiler 2012, algorithm 1, which has lr = 1.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, s, a = np.ones(2), np.array([3.0, -4.0]), np.zeros(2), np.zeros(2)
    >>> fs.ops.adadelta_step(p, g, s, a, lr=1.0, rho=0.75, eps=0.25)
    >>> p.round(3)
    array([0.051, 1.97 ])
    """
    module = module_for(params)
    if module is None:
        return by_reference("adadelta_step", locals())
    known_lr, known_multiplier, _ = known_step_scalars(module, lr, grad_multiplier, skip=skip)
    _scalars.check_common(
        "Adadelta", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_adadelta(rho, eps)
    module.adadelta_step(
        params,
        grads,
        square_avgs,
        acc_deltas,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        skip,
        rho,
        eps,
    )
    advance_versions(params, square_avgs, acc_deltas, ema_params)


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
    """One step of Adamax, in place.

    ``m = beta1 * m + (1 - beta1) * g; u = max(beta2 * u, abs(g) + eps); p = p - lr / (1 - beta1**step) * (m / u)``.

    Parameters
    ----------
    params, grads, exp_avgs, exp_infs : array or list of arrays
        As in `sgd_step`; all but `grads` are written. `exp_infs` is u, the decaying maximum.
    lr, eps : float
        Each >= 0.
    step : int or 0-d array
        As in `adam_step`.
    betas : (float, float)
        Each in [0, 1).
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`.

    Notes
    -----
    Kingma & Ba 2014, algorithm 2; eps as in torch. NaN passes through the maximum.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, m, u = np.ones(2), np.array([3.0, -4.0]), np.zeros(2), np.zeros(2)
    >>> fs.ops.adamax_step(p, g, m, u, lr=0.5, step=1, betas=(0.5, 0.5), eps=0)
    >>> p
    array([0.5, 1.5])
    """
    module = module_for(params)
    if module is None:
        return by_reference("adamax_step", locals())
    known_lr, known_multiplier, known_step = known_step_scalars(module, lr, grad_multiplier, step, skip)
    _scalars.check_common(
        "Adamax", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_moments("Adamax", known_step, betas, eps)
    module.adamax_step(
        params,
        grads,
        exp_avgs,
        exp_infs,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        skip,
        step,
        betas[0],
        betas[1],
        eps,
    )
    advance_versions(params, exp_avgs, exp_infs, ema_params)


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
    """One step of Lion, in place.

    ``p = p - lr * sign(beta1 * m + (1 - beta1) * g); m = beta2 * m + (1 - beta2) * g``, with ``sign(0) = 0``.

    Parameters
    ----------
    params, grads, exp_avgs : array or list of arrays
        As in `sgd_step`; `params` and `exp_avgs` are written.
    lr : float
        >= 0; every value moves by it, so it is smaller than Adam's by a factor of 3 to 10.
    betas : (float, float)
        Each in [0, 1).
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`.

    Notes
    -----
    Chen et al. 2023, algorithm 2, whose decay is decoupled: give ``decoupled_weight_decay=True``. NaN stays NaN.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, m = np.ones(3), np.array([3.0, -4.0, 0.0]), np.zeros(3)
    >>> fs.ops.lion_step(p, g, m, lr=0.5)
    >>> p
    array([0.5, 1.5, 1. ])
    """
    module = module_for(params)
    if module is None:
        return by_reference("lion_step", locals())
    known_lr, known_multiplier, _ = known_step_scalars(module, lr, grad_multiplier, skip=skip)
    _scalars.check_common(
        "Lion", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_moments("Lion", 1, betas, 0.0)
    module.lion_step(
        params,
        grads,
        exp_avgs,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        skip,
        betas[0],
        betas[1],
    )
    advance_versions(params, exp_avgs, ema_params)


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
    """One step of NAdam, in place.

    ``m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * (g * g);
    p = p - (a * m + b * g) / (sqrt(v) * r + eps)`` with ``r = 1 / sqrt(1 - beta2**step)`` and, of the momenta
    ``mu_t = beta1 * (1 - 0.5 * 0.96**(t * momentum_decay))``,
    ``a = lr * mu_(step+1) / (1 - mu_1 * ... * mu_(step+1))`` and
    ``b = lr * (1 - mu_step) / (1 - mu_1 * ... * mu_step)``.

    Parameters
    ----------
    params, grads, exp_avgs, exp_avg_sqs : array or list of arrays
        As in `sgd_step`; all but `grads` are written.
    lr, eps, momentum_decay : float
        Each >= 0.
    step : int or 0-d array
        As in `adam_step`.
    betas : (float, float)
        Each in [0, 1).
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`.

    Notes
    -----
    Dozat 2016, algorithm 1 with the momenta of its section 4, as in torch. Their product is made anew at each step: it
    is 0 for all that matters after ``42 / -log(beta1)`` factors, 400 with beta1 = 0.9.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, m, v = np.ones(2), np.array([3.0, -4.0]), np.zeros(2), np.zeros(2)
    >>> fs.ops.nadam_step(p, g, m, v, lr=0.5, step=1, eps=0, momentum_decay=0)
    >>> p.round(3)
    array([0.472, 1.528])
    """
    module = module_for(params)
    if module is None:
        return by_reference("nadam_step", locals())
    known_lr, known_multiplier, known_step = known_step_scalars(module, lr, grad_multiplier, step, skip)
    _scalars.check_common(
        "NAdam", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_nadam(known_step, betas, eps, momentum_decay)
    module.nadam_step(
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
        _scalars.momentum_schedule(momentum_decay),
    )
    advance_versions(params, exp_avgs, exp_avg_sqs, ema_params)


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
    """One step of RAdam, in place.

    ``m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * (g * g)``. While the length
    ``l = l_inf - 2 * step * beta2**step / (1 - beta2**step)``, with ``l_inf = 2 / (1 - beta2) - 1``, is at most 5 the
    variance cannot be had and ``p = p - lr / (1 - beta1**step) * m``; then ``p = p - alpha * (m / (sqrt(v) + eps))``
    with ``alpha = lr / (1 - beta1**step) * sqrt(1 - beta2**step) * r`` and
    ``r = sqrt((l - 4) * (l - 2) * l_inf / ((l_inf - 4) * (l_inf - 2) * l))``.

    Parameters
    ----------
    params, grads, exp_avgs, exp_avg_sqs : array or list of arrays
        As in `sgd_step`; all but `grads` are written.
    lr, eps : float
        Each >= 0.
    step : int or 0-d array
        As in `adam_step`.
    betas : (float, float)
        Each in [0, 1).
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`.

    Notes
    -----
    Liu et al. 2020, algorithm 2; the bound 5 and eps before the bias correction are torch's.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, m, v = np.ones(2), np.array([3.0, -4.0]), np.zeros(2), np.zeros(2)
    >>> fs.ops.radam_step(p, g, m, v, lr=0.25, step=1)
    >>> p
    array([0.25, 2.  ])
    """
    module = module_for(params)
    if module is None:
        return by_reference("radam_step", locals())
    known_lr, known_multiplier, known_step = known_step_scalars(module, lr, grad_multiplier, step, skip)
    _scalars.check_common(
        "RAdam", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_moments("RAdam", known_step, betas, eps)
    module.radam_step(
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
    )
    advance_versions(params, exp_avgs, exp_avg_sqs, ema_params)
