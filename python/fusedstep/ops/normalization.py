"""Batch normalization."""

from __future__ import annotations

from ..reference.batch_norm import BatchNormSaved, check_batch_norm, check_channel_axis, check_saved
from ._dispatch import (
    advance_versions,
    arithmetic_dtype,
    by_reference,
    empty,
    empty_like,
    module_for,
    refuse_graph,
    require_readable,
)


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
        C-contiguous or channels-last in memory.
    weight, bias : array of shape (channels,), optional
        Scale and shift, 1 and 0 where left out; where x is of a 16-bit type, of that or float32.
    running_mean, running_var : array of shape (channels,), optional
        Dtypes as of weight. In training updated in place,
        ``running = (1 - momentum) * running + momentum * batch``; read in evaluation.
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
        Dropout behind the ReLU, in the same pass, as by `dropout` on the rounded y.
    out : array like x, optional
        Receives y; may be x itself in evaluation, never in training (the backward pass needs x).

    Returns
    -------
    y : array like x
    saved : BatchNormSaved
        For `batch_norm_backward`; `saved.mean` and `saved.var` (biased) are the moments, of shape (channels,), in
        float32 where x is of a 16-bit type.

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
    module = module_for(x)
    if module is None:
        return by_reference("batch_norm", locals())
    fraction = check_batch_norm(training, momentum, eps, relu, unbiased_running_var, num_batches, dropout)
    dropout = None if dropout is None else tuple(dropout)
    require_readable("x", x)
    refuse_graph("x", x, weight, bias)
    if training and momentum is None and module.is_capturing(x):
        raise RuntimeError(
            "[BatchNorm] 'num_batches' is a number, which the graph that is being captured would repeat: "
            "give a 'momentum'"
        )
    axis = check_channel_axis("x", x, channel_axis)
    channels = x.shape[axis]
    mean, var = (empty(channels, arithmetic_dtype(x), x) for _ in range(2))
    if out is None:
        out = empty_like("x", x)
    module.batch_norm(
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
    advance_versions(out, *((running_mean, running_var) if training else ()))
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
        Receive their gradients; new ones have the dtypes of weight and bias.

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
    module = module_for(x)
    if module is None:
        return by_reference("batch_norm_backward", locals())
    check_saved(saved)
    require_readable("x", x)
    refuse_graph("dy", dy)
    axis = check_channel_axis("x", x, saved.channel_axis)
    channels = x.shape[axis]
    if dx is None:
        dx = empty_like("x", x)
    dweight = _like_vector(saved.weight, channels, x) if dweight is None else dweight
    dbias = _like_vector(saved.bias, channels, x) if dbias is None else dbias
    module.batch_norm_backward(
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
    advance_versions(dx, dweight, dbias)
    return dx, dweight, dbias


def _like_vector(vector, channels, x):
    return empty(channels, arithmetic_dtype(x) if vector is None else vector.dtype, x)
