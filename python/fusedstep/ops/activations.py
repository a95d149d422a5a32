"""Bias and activation."""

from __future__ import annotations

from ..reference import activations as _activations
from ..reference.scalars import check_flag
from ._dispatch import (
    advance_versions,
    by_reference,
    empty,
    empty_like,
    module_for,
    refuse_graph,
    require_array,
    require_readable,
)


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
    module = module_for(x)
    if module is None:
        return by_reference("bias_activation", locals())
    _activations.check_activation(activation, negative_slope)
    require_array("x", x)
    refuse_graph("x", x, None, bias)
    if out is None:
        out = empty_like("x", x)
    module.bias_activation(x, bias, out, activation, negative_slope)
    advance_versions(out)
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
    module = module_for(dy)
    if module is None:
        return by_reference("bias_activation_backward", locals())
    _activations.check_activation(activation, negative_slope)
    check_flag("bias_activation_backward", "bias", bias)
    require_readable("dy", dy)
    refuse_graph("dy", dy)
    if dx is None:
        dx = empty_like("dy", dy)
    if not bias:
        dbias = None
    elif dbias is None:
        dbias = empty(dy.shape[-1] if len(dy.shape) else 0, dy.dtype, dy)
    module.bias_activation_backward(dy, saved, dx, dbias, activation, negative_slope)
    advance_versions(dx, dbias)
    return dx, dbias
