"""The kernels as functions on arrays.

Arrays are NumPy arrays or PyTorch CPU tensors of dtype float32 or float64, one or a list of them; all arrays of a
call have the same dtype. What a function changes, it changes in place, without a copy. Everything is
checked before anything is written:

- TypeError: something is not an array, or has another dtype than is accepted.
- ValueError: shapes or lengths differ, an output is read-only, overlaps another array or has gaps in memory, or a
  hyper-parameter is out of range.

For the same input every instruction set, every number of threads and `fusedstep.reference` give the same bits.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from . import reference
from .backend import namespace, native
from .reference import activations as _activations
from .reference import losses as _losses
from .reference import scalars as _scalars
from .reference.batch_norm import BatchNormSaved, check_batch_norm, check_channel_axis, check_saved
from .reference.dropout import check_mask_shape

__all__ = [*reference.__all__]


def _advance_versions(*columns) -> None:
    """Tell torch's autograd that these arrays changed, so that a stale backward raises."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    for arrays in columns:
        # NumPy's own are told first: torch's instance check costs more than a small kernel.
        if arrays is None or type(arrays) is np.ndarray:
            continue
        for array in arrays if isinstance(arrays, list | tuple) else (arrays,):
            if type(array) is not np.ndarray and isinstance(array, torch.Tensor):
                torch.autograd.graph.increment_version(array)


def _empty_like(x):
    return np.empty_like(x) if isinstance(x, np.ndarray) else namespace(x).empty_like(x)


def _empty(n: int, like):
    return np.empty(n, like.dtype) if isinstance(like, np.ndarray) else namespace(like).empty(n, dtype=like.dtype)


def _by_reference(op: str, arguments: dict):
    """`op` of the reference with the arguments that `op` was called with."""
    del arguments["cpu"]
    return getattr(reference, op)(**arguments)


def _require_array(name: str, x) -> None:
    if not hasattr(x, "__dlpack__"):
        raise TypeError(f"'{name}' must be an array but got {type(x).__name__}")


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
    """One step of gradient descent, in place.

    ``g = grad * grad_multiplier`` (negated by `maximize`), then ``g = g + weight_decay * p``, or with
    `decoupled_weight_decay` ``p = p * (1 - lr * weight_decay)``. Without `momentum_buffers` ``p = p - lr * g``;
    with them ``v = momentum * v + (1 - dampening) * g`` and ``p = p - lr * v``, or with `nesterov`
    ``p = p - lr * (g + momentum * v)``. `dampening = momentum` makes v the exponential average of the gradients.

    Parameters
    ----------
    params, grads, momentum_buffers : array or list of arrays
        Same shapes and dtype, float32 or float64. `params` and `momentum_buffers` are written, `grads` never.
    lr : float
        Step size, >= 0.
    momentum, dampening, nesterov
        See above; momentum >= 0 needs `momentum_buffers`, zeros at first.
    weight_decay : float
        >= 0; the gradient of ``weight_decay / 2 * sum(p**2)`` (L2), or the decoupled decay.
    maximize : bool
        Ascend instead of descend.
    grad_multiplier : float
        For clipping and unscaling, in the same pass.
    ema_params, ema_decay
        Averages of the weights, ``e = ema_decay * e + (1 - ema_decay) * p`` after the update (Polyak & Juditsky 1992).

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
    cpu = native()
    if cpu is None:
        return _by_reference("sgd_step", locals())
    _scalars.check_common("SGD", lr, weight_decay, grad_multiplier, ema_params, ema_decay)
    _scalars.check_sgd(momentum_buffers, momentum, dampening, nesterov)
    cpu.sgd_step(
        params,
        grads,
        momentum_buffers,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        momentum,
        dampening,
        bool(nesterov),
    )
    _advance_versions(params, momentum_buffers, ema_params)


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
    """One step of AdaGrad, in place.

    ``s = s + g * g; p = p - clr * (g / (sqrt(s) + eps))`` with ``clr = lr / (1 + (step - 1) * lr_decay)``.

    Parameters
    ----------
    params, grads, state_sums : array or list of arrays
        Same shapes and dtype, float32 or float64; `params` and `state_sums` are written.
    lr, eps, lr_decay : float
        Each >= 0.
    step : int
        Counts from 1.
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay
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
    cpu = native()
    if cpu is None:
        return _by_reference("adagrad_step", locals())
    _scalars.check_common("Adagrad", lr, weight_decay, grad_multiplier, ema_params, ema_decay)
    _scalars.check_adagrad(step, lr_decay, eps)
    cpu.adagrad_step(
        params,
        grads,
        state_sums,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        step,
        lr_decay,
        eps,
    )
    _advance_versions(params, state_sums, ema_params)


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
    """One step of RMSprop, in place.

    ``s = alpha * s + (1 - alpha) * (g * g); d = g / (sqrt(s) + eps); p = p - lr * d``. With `centered`
    ``m = alpha * m + (1 - alpha) * g`` and ``max(s - m * m, 0)`` under the root; with `momentum_buffers`
    ``b = momentum * b + d; p = p - lr * b``.

    Parameters
    ----------
    params, grads, square_avgs, momentum_buffers, grad_avgs : array or list of arrays
        Same shapes and dtype, float32 or float64; all but `grads` are written. `grad_avgs` goes with `centered`,
        `momentum_buffers` with `momentum` other than 0.
    lr, eps, momentum : float
        Each >= 0.
    alpha : float
        In [0, 1].
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay
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
    cpu = native()
    if cpu is None:
        return _by_reference("rmsprop_step", locals())
    _scalars.check_common("RMSprop", lr, weight_decay, grad_multiplier, ema_params, ema_decay)
    _scalars.check_rmsprop(momentum_buffers, grad_avgs, alpha, eps, momentum, centered)
    cpu.rmsprop_step(
        params,
        grads,
        square_avgs,
        momentum_buffers,
        grad_avgs,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        alpha,
        eps,
        momentum,
    )
    _advance_versions(params, square_avgs, momentum_buffers, grad_avgs, ema_params)


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
    """One step of Adam, AdamW or AMSGrad, in place.

    ``m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * (g * g);
    p = p - alpha * (m / (sqrt(v) * r + eps))`` with ``alpha = lr / (1 - beta1**step)`` and
    ``r = 1 / sqrt(1 - beta2**step)``; without `bias_correction` alpha = lr and r = 1.

    Parameters
    ----------
    params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs : array or list of arrays
        Same shapes and dtype, float32 or float64; all but `grads` are written. `max_exp_avg_sqs` goes with `amsgrad`.
    lr, eps : float
        Each >= 0.
    step : int
        Counts from 1.
    betas : (float, float)
        Each in [0, 1).
    amsgrad : bool
        The running maximum of v under the root (Reddi et al. 2018).
    eps_mode : {"outside", "inside"}
        ``sqrt(v) * r + eps`` or ``sqrt(v * r * r + eps)``.
    weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_params, ema_decay
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
    cpu = native()
    if cpu is None:
        return _by_reference("adam_step", locals())
    _scalars.check_common("Adam", lr, weight_decay, grad_multiplier, ema_params, ema_decay)
    _scalars.check_adam(max_exp_avg_sqs, step, betas, eps, amsgrad, eps_mode)
    cpu.adam_step(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        max_exp_avg_sqs,
        ema_params,
        (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay or 0.0),
        step,
        betas[0],
        betas[1],
        eps,
        bool(bias_correction),
        eps_mode == "inside",
    )
    _advance_versions(params, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, ema_params)


def global_norm(grads, *, out=None) -> float:
    """The square root of the sum of squares of all values of all arrays, summed in float64.

    Parameters
    ----------
    grads : array or list of arrays
        float32 or float64, dense in memory. No array, or only empty ones: 0.
    out : 0-d array, optional
        Receives the norm too.

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
    cpu = native()
    if cpu is None:
        return _by_reference("global_norm", locals())
    norm = cpu.global_norm(grads, out)
    _advance_versions(out)
    return norm


def batch_norm(
    x,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    *,
    training=True,
    momentum=0.1,
    eps=1e-5,
    channel_axis=1,
    relu=False,
    unbiased_running_var=True,
    num_batches=None,
    dropout=None,
    out=None,
):
    """Batch normalization, with a ReLU and dropout fused behind it.

    ``xhat = (x - mean) * invstd; y = weight * xhat + bias`` with ``invstd = 1 / sqrt(var + eps)``, the moments taken
    over all axes but the channels'; in evaluation the running statistics stand in their place.

    Parameters
    ----------
    x : array, at least 2 axes
        float32 or float64, C-contiguous or channels-last in memory.
    weight, bias : array of shape (channels,), optional
        Scale and shift; 1 and 0 where left out.
    running_mean, running_var : array of shape (channels,), optional
        In training updated in place, ``running = (1 - momentum) * running + momentum * batch``; read in evaluation.
    training : bool
        Use the batch's moments; else the running statistics.
    momentum : float in [0, 1] or None
        None: cumulative mean, the weight is 1 / num_batches.
    eps : float
        >= 0, added to the variance.
    channel_axis : int
        Axis of the channels.
    relu : bool
        ReLU behind it; NaN passes.
    unbiased_running_var : bool
        Whether the running variance takes the unbiased variance of the batch (torch) or the biased one.
    num_batches : int, optional
        Batches seen so far, this one included; needed when momentum is None.
    dropout : (p, seed, offset), optional
        Dropout behind the ReLU, in the same pass, as by `dropout`.
    out : array like x, optional
        Receives y; may be x itself in evaluation, never in training (the backward pass needs x).

    Returns
    -------
    y : array like x
    saved : BatchNormSaved
        For `batch_norm_backward`; `saved.mean` and `saved.var` (biased) are the moments, of shape (channels,).

    Raises
    ------
    ValueError
        Besides the module's own: in training, an empty batch or one value a channel (there is no variance).

    Notes
    -----
    Ioffe & Szegedy 2015, algorithm 1; the moments by Chan, Golub & LeVeque 1983, equation 2.1, in a tree that is fixed
    by the shape.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> y, saved = fs.ops.batch_norm(np.array([[1.0, 5.0], [3.0, 5.0]]), relu=True)
    >>> saved.mean, saved.var
    (array([2., 5.]), array([1., 0.]))
    """
    cpu = native()
    if cpu is None:
        return _by_reference("batch_norm", locals())
    fraction = check_batch_norm(training, momentum, eps, num_batches, dropout)
    dropout = None if dropout is None else tuple(dropout)
    _require_array("x", x)
    axis = check_channel_axis("x", x, channel_axis)
    channels = x.shape[axis]
    mean, var = _empty(channels, x), _empty(channels, x)
    if out is None:
        out = _empty_like(x)
    cpu.batch_norm(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        mean,
        var,
        out,
        axis,
        fraction,
        eps,
        bool(relu),
        bool(unbiased_running_var),
        dropout,
    )
    _advance_versions(out, *((running_mean, running_var) if training else ()))
    return out, BatchNormSaved(mean, var, weight, bias, float(eps), bool(relu), bool(training), axis, dropout)


def batch_norm_backward(dy, x, saved, *, dx=None, dweight=None, dbias=None):
    """The gradients of `batch_norm`.

    With t = dy behind dropout and ReLU and n values a channel: ``dbias = sum(t); dweight = sum(t * xhat)``;
    ``dx = (weight * invstd) * ((t - dbias / n) - xhat * (dweight / n))``, in evaluation ``(weight * invstd) * t``.

    Parameters
    ----------
    dy : array like x
        Gradient of the loss with respect to y.
    x : array
        The input that `batch_norm` had.
    saved : BatchNormSaved
        What it returned. `saved.weight` and `saved.bias` are the caller's arrays: do not step them in between.
    dx : array like x, optional
        Receives the gradient; may be dy itself.
    dweight, dbias : array of shape (channels,), optional
        Receive their gradients.

    Returns
    -------
    dx, dweight, dbias : arrays

    Notes
    -----
    Ioffe & Szegedy 2015, section 3.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> x = np.array([[1.0], [2.0], [6.0]])
    >>> y, saved = fs.ops.batch_norm(x)
    >>> dx, dweight, dbias = fs.ops.batch_norm_backward(np.ones_like(x), x, saved)
    >>> dbias
    array([3.])
    """
    cpu = native()
    if cpu is None:
        return _by_reference("batch_norm_backward", locals())
    check_saved(saved)
    _require_array("x", x)
    axis = check_channel_axis("x", x, saved.channel_axis)
    channels = x.shape[axis]
    if dx is None:
        dx = _empty_like(x)
    dweight = _empty(channels, x) if dweight is None else dweight
    dbias = _empty(channels, x) if dbias is None else dbias
    cpu.batch_norm_backward(
        dy,
        x,
        saved.mean,
        saved.var,
        saved.weight,
        saved.bias,
        dx,
        dweight,
        dbias,
        axis,
        saved.eps,
        saved.relu,
        saved.training,
        saved.dropout,
    )
    _advance_versions(dx, dweight, dbias)
    return dx, dweight, dbias


def dropout(x, p, *, seed, offset=0, relu=False, out=None):
    """Each value is dropped (+0) with probability p, the others are scaled so that the expectation stays.

    Parameters
    ----------
    x : array
        float32 or float64, any strides.
    p : float in [0, 1]
        Realized as ``round(p * 65536) / 65536``; the scale belongs to the realized p.
    seed, offset : int in [0, 2**64)
        The mask depends on them and on the C-order index alone: use a fresh offset for each call.
    relu : bool
        ReLU first, in the same pass.
    out : array like x, optional
        Receives the result; may be x itself.

    Notes
    -----
    Srivastava et al. 2014, section 4; random bits by Philox4x32-10 (Salmon et al. 2011).

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> fs.ops.dropout(np.ones(6), 0.5, seed=0)
    array([2., 0., 2., 2., 2., 2.])
    """
    cpu = native()
    if cpu is None:
        return _by_reference("dropout", locals())
    _scalars.check_dropout(p, seed, offset)
    _require_array("x", x)
    if out is None:
        out = _empty_like(x)
    cpu.dropout(x, out, p, seed, offset, bool(relu))
    _advance_versions(out)
    return out


def dropout_backward(dy, p, *, seed, offset=0, y=None, out=None):
    """The gradient of `dropout`: the mask is made again from the same p, seed and offset; nothing was stored.

    Parameters
    ----------
    dy : array
        Gradient with respect to the result.
    p, seed, offset
        As in the forward call.
    y : array like dy, optional
        The result, when the forward call had `relu=True`: the gradient passes where y > 0 (or NaN).
    out : array like dy, optional
        Receives the gradient; may be dy itself.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> fs.ops.dropout_backward(np.ones(6), 0.5, seed=0)
    array([2., 0., 2., 2., 2., 2.])
    """
    cpu = native()
    if cpu is None:
        return _by_reference("dropout_backward", locals())
    _scalars.check_dropout(p, seed, offset)
    _require_array("dy", dy)
    if out is None:
        out = _empty_like(dy)
    if y is None:
        cpu.dropout_backward(dy, out, p, seed, offset)
    else:
        cpu.dropout_relu_backward(dy, y, out, p)
    _advance_versions(out)
    return out


def dropout_mask(shape, p, *, seed, offset=0, packed=False):
    """The keep mask of `dropout` as a NumPy array.

    Parameters
    ----------
    shape : int or tuple of int
    p, seed, offset
        As in `dropout`.
    packed : bool
        False: bools of this shape. True: uint8, ``ceil(size / 8)`` of them, the first value in the lowest bit.

    Examples
    --------
    >>> import fusedstep as fs
    >>> fs.ops.dropout_mask(6, 0.5, seed=0)
    array([ True, False,  True,  True,  True,  True])
    """
    cpu = native()
    if cpu is None:
        return _by_reference("dropout_mask", locals())
    _scalars.check_dropout(p, seed, offset)
    shape = check_mask_shape(shape)
    size = math.prod(shape)
    mask = np.empty(-(-size // 8), np.uint8) if packed else np.empty(shape, np.bool_)
    cpu.dropout_mask(mask, size, p, seed, offset, bool(packed))
    return mask


def bias_activation(x, bias=None, *, activation="identity", negative_slope=0.01, out=None):
    """``y = f(x + bias)`` in one pass, the bias along the last axis.

    Parameters
    ----------
    x : array
        float32 or float64, C-contiguous.
    bias : array of shape (x.shape[-1],), optional
    activation : {"identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu"}
        gelu is exact, by erf (Hendrycks & Gimpel 2016).
    negative_slope : float
        >= 0, for leaky_relu (Maas et al. 2013).
    out : array like x, optional
        Receives y; may be x itself.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> fs.ops.bias_activation(np.array([[1.0, -3.0]]), np.array([1.0, 1.0]), activation="relu")
    array([[2., 0.]])
    """
    cpu = native()
    if cpu is None:
        return _by_reference("bias_activation", locals())
    _activations.check_activation(activation, negative_slope)
    _require_array("x", x)
    if out is None:
        out = _empty_like(x)
    cpu.bias_activation(x, bias, out, activation, negative_slope)
    _advance_versions(out)
    return out


def bias_activation_backward(dy, saved, *, activation="identity", negative_slope=0.01, bias=True, dx=None, dbias=None):
    """The gradients of `bias_activation`.

    Parameters
    ----------
    dy : array
        Gradient with respect to y, C-contiguous.
    saved : array like dy
        y; for gelu ``x + bias`` instead; for identity it is not read and may be None.
    activation, negative_slope
        As in the forward call.
    bias : bool
        Whether the gradient of the bias is wanted.
    dx : array like dy, optional
        Receives the gradient; may be dy itself.
    dbias : array of shape (dy.shape[-1],), optional
        Receives the sum of dx over all axes but the last.

    Returns
    -------
    dx : array like dy
    dbias : array, or None when `bias` is False

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> y = np.array([[2.0, 0.0], [1.0, 1.0]])
    >>> fs.ops.bias_activation_backward(np.ones((2, 2)), y, activation="relu")
    (array([[1., 0.],
           [1., 1.]]), array([2., 1.]))
    """
    cpu = native()
    if cpu is None:
        return _by_reference("bias_activation_backward", locals())
    _activations.check_activation(activation, negative_slope)
    _require_array("dy", dy)
    if dx is None:
        dx = _empty_like(dy)
    if not bias:
        dbias = None
    elif dbias is None:
        dbias = _empty(dy.shape[-1] if len(dy.shape) else 0, dy)
    cpu.bias_activation_backward(dy, saved, dx, dbias, activation, negative_slope)
    _advance_versions(dx, dbias)
    return dx, dbias


def softmax_cross_entropy(logits, labels, weights=None, *, out=None):
    """Softmax cross entropy on logits, and its gradient, in one call.

    Parameters
    ----------
    logits : array of shape (samples, classes)
        float32 or float64, C-contiguous.
    labels : array of shape (samples,)
        Integers in [0, classes).
    weights : array of shape (samples,), optional
        Finite and >= 0, not all 0; the value is then ``sum(w * l) / sum(w)``.
    out : array like logits, optional
        Receives the gradient; may be logits itself.

    Returns
    -------
    value : float
        Mean of ``-log softmax(logits)[label]``, in nats.
    gradient : array like logits

    Raises
    ------
    ValueError
        Besides the module's own: a label that is no integer or out of range, an empty batch; before any gradient is
        written.

    Notes
    -----
    Goodfellow, Bengio & Courville 2016, section 6.2.2.3.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> value, gradient = fs.ops.softmax_cross_entropy(np.zeros((1, 2)), np.array([0]))
    >>> round(value, 4), gradient
    (0.6931, array([[-0.5,  0.5]]))
    """
    cpu = native()
    if cpu is None:
        return _by_reference("softmax_cross_entropy", locals())
    _require_array("logits", logits)
    if len(logits.shape) != 2:
        raise ValueError(f"'logits' must have shape (samples, classes) but has shape {tuple(logits.shape)}")
    labels = _losses.convert_labels(labels, *logits.shape)
    weights, total = _losses.check_weights(weights, logits.shape[0])
    if out is None:
        out = _empty_like(logits)
    value = cpu.softmax_cross_entropy(logits, labels, weights, total, out)
    _advance_versions(out)
    return value, out


def sigmoid_cross_entropy(logits, target, weights=None, *, out=None):
    """Sigmoid (binary) cross entropy on logits, and its gradient, in one call.

    Parameters
    ----------
    logits, target : array of shape (samples, ...)
        Same shape and dtype, float32 or float64, C-contiguous; targets in [0, 1].
    weights : array of shape (samples,), optional
        As in `softmax_cross_entropy`.
    out : array like logits, optional
        Receives the gradient; may be logits itself.

    Returns
    -------
    value : float
        Mean over all elements of ``max(x, 0) - x * t + log(1 + exp(-abs(x)))``, in nats.
    gradient : array like logits

    Notes
    -----
    Goodfellow, Bengio & Courville 2016, section 6.2.2.2.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> value, gradient = fs.ops.sigmoid_cross_entropy(np.zeros((1, 2)), np.array([[0.0, 1.0]]))
    >>> round(value, 4), gradient
    (0.6931, array([[ 0.25, -0.25]]))
    """
    return _pairwise_loss("sigmoid_cross_entropy", "logits", logits, target, weights, out)


def mean_squared_error(output, target, weights=None, *, out=None):
    """Mean squared error, and its gradient, in one call.

    Parameters
    ----------
    output, target : array of shape (samples, ...)
        Same shape and dtype, float32 or float64, C-contiguous.
    weights : array of shape (samples,), optional
        As in `softmax_cross_entropy`.
    out : array like output, optional
        Receives the gradient; may be output itself.

    Returns
    -------
    value : float
        Mean over all elements of ``(output - target)**2``.
    gradient : array like output

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> fs.ops.mean_squared_error(np.array([[3.0, 0.0]]), np.zeros((1, 2)))
    (4.5, array([[3., 0.]]))
    """
    return _pairwise_loss("mean_squared_error", "output", output, target, weights, out)


def _pairwise_loss(function, name, x, target, weights, out):
    cpu = native()
    if cpu is None:
        return getattr(reference, function)(x, target, weights, out=out)
    _require_array(name, x)
    weights, total = _losses.check_weights(weights, x.shape[0] if len(x.shape) else 0)
    if out is None:
        out = _empty_like(x)
    value = getattr(cpu, function)(x, target, weights, total, out)
    _advance_versions(out)
    return value, out


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
