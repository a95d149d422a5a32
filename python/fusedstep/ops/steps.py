"""Optimizer steps, the gradients' norm, and averages of series."""

from __future__ import annotations

from .. import reference
from ..reference import scalars as _scalars
from ..reference.arrays import FLOATING
from ..reference.prepare_step import check_prepare_step
from ._dispatch import advance_versions, by_reference, empty, first_of, known_number, known_step_scalars, module_for


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
    """One step of gradient descent, in place.

    ``g = grad * grad_multiplier`` (negated by `maximize`), then ``g = g + weight_decay * p``, or with
    `decoupled_weight_decay` ``p = p * (1 - lr * weight_decay)``. Without `momentum_buffers` ``p = p - lr * g``;
    with them ``v = momentum * v + (1 - dampening) * g`` and ``p = p - lr * v``, or with `nesterov`
    ``p = p - lr * (g + momentum * v)``. `dampening = momentum` makes v the exponential average of the gradients.

    Parameters
    ----------
    params, grads, momentum_buffers : array or list of arrays
        Same shapes; one dtype, float16, bfloat16, float32 or float64. The states of 16-bit parameters may be float32.
        `params` and `momentum_buffers` are written, `grads` never.
    lr : float or 0-d array
        Step size, >= 0. An array (float32 or float64, on the device of the params) is read there, without waiting.
    momentum, dampening, nesterov
        See above; momentum > 0 needs `momentum_buffers`, zeros at first, and nesterov a momentum > 0.
    weight_decay : float
        >= 0; the gradient of ``weight_decay / 2 * sum(p**2)`` (L2), or the decoupled decay.
    maximize : bool
        Ascend instead of descend.
    grad_multiplier : float or 0-d array
        For clipping and unscaling, in the same pass; an array as for lr.
    ema_params, ema_decay
        Averages of the weights, ``e = ema_decay * e + (1 - ema_decay) * p`` after the update (Polyak & Juditsky 1992).
    skip : 0-d int32 array, optional
        Nothing is written where it is not 0.

    Notes
    -----
    Robbins & Monro 1951; Polyak 1964, equation 9; Sutskever et al. 2013, equations 3 and 4. `fs.optim.SGD` follows
    torch, whose first step takes v = g. NaN and infinity propagate as in IEEE arithmetic.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, v = np.ones(3, np.float32), np.full(3, 0.5, np.float32), np.zeros(3, np.float32)
    >>> fs.ops.sgd_step(p, g, v, lr=0.5, momentum=0.9)
    >>> p
    array([0.75, 0.75, 0.75], dtype=float32)
    """
    module = module_for(params)
    if module is None:
        return by_reference("sgd_step", locals())
    known_lr, known_multiplier, _ = known_step_scalars(module, lr, grad_multiplier, skip=skip)
    _scalars.check_common(
        "SGD", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_sgd(momentum_buffers, momentum, dampening, nesterov)
    module.sgd_step(
        params,
        grads,
        momentum_buffers,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        skip,
        momentum,
        dampening,
        nesterov,
    )
    advance_versions(params, momentum_buffers, ema_params)


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
    """One step of AdaGrad, in place.

    ``s = s + g * g; p = p - clr * (g / (sqrt(s) + eps))`` with ``clr = lr / (1 + (step - 1) * lr_decay)``.

    Parameters
    ----------
    params, grads, state_sums : array or list of arrays
        As in `sgd_step`; `params` and `state_sums` are written.
    lr, eps, lr_decay : float
        Each >= 0.
    step : int or 0-d array
        Counts from 1. An array (int32 or int64, on the device of the params) is read there; in a captured CUDA graph
        it must be one, or the graph would repeat its value.
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`.

    Notes
    -----
    Duchi, Hazan & Singer 2011, figure 1 with a diagonal matrix.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, s = np.ones(2), np.array([3.0, -4.0]), np.zeros(2)
    >>> fs.ops.adagrad_step(p, g, s, lr=0.5, eps=0)
    >>> p
    array([0.5, 1.5])
    """
    module = module_for(params)
    if module is None:
        return by_reference("adagrad_step", locals())
    known_lr, known_multiplier, known_step = known_step_scalars(module, lr, grad_multiplier, step, skip)
    _scalars.check_common(
        "Adagrad", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_adagrad(known_step, lr_decay, eps)
    module.adagrad_step(
        params,
        grads,
        state_sums,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        skip,
        step,
        lr_decay,
        eps,
    )
    advance_versions(params, state_sums, ema_params)


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
    """One step of RMSprop, in place.

    ``s = alpha * s + (1 - alpha) * (g * g); d = g / (sqrt(s) + eps); p = p - lr * d``. With `centered`
    ``m = alpha * m + (1 - alpha) * g`` and ``max(s - m * m, 0)`` under the root; with `momentum_buffers`
    ``b = momentum * b + d; p = p - lr * b``.

    Parameters
    ----------
    params, grads, square_avgs, momentum_buffers, grad_avgs : array or list of arrays
        As in `sgd_step`; all but `grads` are written. `grad_avgs` goes with `centered`,
        `momentum_buffers` with `momentum` other than 0.
    lr, eps, momentum : float
        Each >= 0.
    alpha : float
        In [0, 1].
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`.

    Notes
    -----
    Tieleman & Hinton 2012, lecture 6.5; centered: Graves 2013, equations 38 to 45.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, s = np.ones(2), np.array([3.0, -4.0]), np.zeros(2)
    >>> fs.ops.rmsprop_step(p, g, s, lr=0.1, alpha=0.75, eps=0)
    >>> p
    array([0.8, 1.2])
    """
    module = module_for(params)
    if module is None:
        return by_reference("rmsprop_step", locals())
    known_lr, known_multiplier, _ = known_step_scalars(module, lr, grad_multiplier, skip=skip)
    _scalars.check_common(
        "RMSprop", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_rmsprop(momentum_buffers, grad_avgs, alpha, eps, momentum, centered)
    module.rmsprop_step(
        params,
        grads,
        square_avgs,
        momentum_buffers,
        grad_avgs,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        skip,
        alpha,
        eps,
        momentum,
    )
    advance_versions(params, square_avgs, momentum_buffers, grad_avgs, ema_params)


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
    """One step of Adam, AdamW or AMSGrad, in place.

    ``m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * (g * g);
    p = p - alpha * (m / (sqrt(v) * r + eps))`` with ``alpha = lr / (1 - beta1**step)`` and
    ``r = 1 / sqrt(1 - beta2**step)``; without `bias_correction` alpha = lr and r = 1.

    Parameters
    ----------
    params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs : array or list of arrays
        As in `sgd_step`; all but `grads` are written. `max_exp_avg_sqs` goes with `amsgrad`.
    lr, eps : float
        Each >= 0.
    step : int or 0-d array
        Counts from 1. An array (int32 or int64, on the device of the params) is read there; in a captured CUDA graph
        it must be one, or the graph would repeat its value.
    betas : (float, float)
        Each in [0, 1).
    amsgrad : bool
        The running maximum of v under the root (Reddi et al. 2018).
    eps_mode : {"outside", "inside"}
        ``sqrt(v) * r + eps`` or ``sqrt(v * r * r + eps)``.
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay, skip
        As in `sgd_step`; `decoupled_weight_decay` makes it AdamW.

    Notes
    -----
    Kingma & Ba 2014, algorithm 1; AdamW: Loshchilov & Hutter 2019, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> p, g, m, v = np.ones(2), np.array([3.0, -4.0]), np.zeros(2), np.zeros(2)
    >>> fs.ops.adam_step(p, g, m, v, lr=0.5, step=1, eps=0)
    >>> p
    array([0.5, 1.5])
    """
    module = module_for(params)
    if module is None:
        return by_reference("adam_step", locals())
    known_lr, known_multiplier, known_step = known_step_scalars(module, lr, grad_multiplier, step, skip)
    _scalars.check_common(
        "Adam", known_lr, weight_decay, decoupled_weight_decay, maximize, known_multiplier, ema_params, ema_decay
    )
    _scalars.check_adam(max_exp_avg_sqs, known_step, betas, eps, amsgrad, bias_correction, eps_mode)
    module.adam_step(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        max_exp_avg_sqs,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        skip,
        step,
        betas[0],
        betas[1],
        eps,
        bias_correction,
        eps_mode == "inside",
    )
    advance_versions(params, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, ema_params)


def global_norm(grads, *, out=None, nonfinite=None):
    """The square root of the sum of squares of all values of all arrays, summed in float64.

    Parameters
    ----------
    grads : array or list of arrays
        One dtype, float16, bfloat16, float32 or float64; dense in memory. No array, or only empty ones: 0.
    out : 0-d array, optional
        float32 or float64; receives the norm.
    nonfinite : 0-d int32 array, optional
        Receives 1 if a value is NaN or infinite, else 0.

    Returns
    -------
    float, or on a GPU `out` where it is given: then nothing waits for the device.

    Notes
    -----
    Used for clipping (Pascanu et al. 2013, algorithm 1). A tree fixed by the size of each array, then the arrays in
    order: the same bits for every number of threads. Squares of float64 values beyond 1e154 overflow to infinity.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> fs.ops.global_norm([np.array([3.0, 0.0]), np.array([[-4.0]])])
    5.0
    """
    module = module_for(grads)
    if module is None:
        return by_reference("global_norm", locals())
    if module.device == "cpu":
        norm = module.global_norm(grads, out, nonfinite)
        advance_versions(out, nonfinite)
        return norm
    norm = empty((), "float64", first_of("grads", grads)) if out is None else out
    module.global_norm(grads, norm, nonfinite)
    advance_versions(out, nonfinite)
    return float(norm) if out is None else out


def prepare_step(
    step, multiplier, skip=None, *, norm=None, nonfinite=None, grad_multiplier=1.0, max_norm=None, skipped=None
) -> None:
    """Count a step and fold clipping into its multiplier, or skip it, all where the arrays are: nothing waits.

    With `skip`: ``skip = nonfinite != 0``, and where that holds ``skipped += 1`` and nothing else changes. Else
    ``step += 1; multiplier = grad_multiplier * c`` with
    ``c = min(1, max_norm / (norm * abs(grad_multiplier) + 1e-6))``, 1 without `max_norm`. The step itself then takes
    ``step``, ``grad_multiplier=multiplier`` and ``skip``; `global_norm` gives `norm` and `nonfinite`.

    Parameters
    ----------
    step, multiplier, skip, norm, nonfinite, skipped : 0-d arrays
        int64, float64, int32, float64, int32, int64, on one device. `norm` is read where `max_norm` is given,
        `nonfinite` and `skipped` where `skip` is.
    grad_multiplier : float or 0-d array
        Undoes a loss scale; float32 or float64.
    max_norm : float, optional
        > 0.

    Notes
    -----
    Clipping: Pascanu et al. 2013, algorithm 1.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> step, multiplier, norm = np.zeros((), np.int64), np.ones(()), np.zeros(())
    >>> g = np.array([3.0, 4.0])
    >>> _ = fs.ops.global_norm(g, out=norm)
    >>> fs.ops.prepare_step(step, multiplier, norm=norm, max_norm=1.0)
    >>> step.item(), round(multiplier.item(), 4)
    (1, 0.2)
    """
    module = module_for(step)
    if module is None:
        return by_reference("prepare_step", locals())
    known_multiplier = known_number(module, "grad_multiplier", grad_multiplier, FLOATING)
    check_prepare_step(skip, norm, nonfinite, known_multiplier, max_norm)
    module.prepare_step(step, multiplier, skip, norm, nonfinite, grad_multiplier, max_norm, skipped)
    advance_versions(step, multiplier, skip, skipped)
    return None


def ewma(values, beta, *, bias_correction=False):
    """The exponential average of a series: ``v_t = beta * v_{t-1} + (1 - beta) * y_t`` from v_0 = 0.

    Parameters
    ----------
    values : array of shape (time, ...)
        Averaged along the first axis; float32 stays float32, everything else becomes float64.
    beta : float in [0, 1)
        The window is about ``1 / (1 - beta)`` values.
    bias_correction : bool
        Divide by ``1 - beta**t``, so that the first averages are not drawn to 0.

    Examples
    --------
    >>> import fusedstep as fs
    >>> fs.ops.ewma([4.0, 4.0], 0.5), fs.ops.ewma([4.0, 4.0], 0.5, bias_correction=True)
    (array([2., 3.]), array([4., 4.]))
    """
    return reference.ewma(values, beta, bias_correction=bias_correction)
