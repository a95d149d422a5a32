"""Losses with their gradients.

On a GPU the value is a 0-d float64 array, so that nothing waits for it; labels and weights are int64 and float64 there.
A look at them would wait, too: a label or a target that is out of range makes the value and its row's gradient NaN.
"""

from __future__ import annotations

from .. import reference
from ..reference import losses as _losses
from ._dispatch import advance_versions, by_reference, empty, empty_like, is_on_device, module_for, require_readable


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
    module = module_for(logits)
    if module is None:
        return by_reference("softmax_cross_entropy", locals())
    require_readable("logits", logits)
    if len(logits.shape) != 2:
        raise ValueError(f"'logits' must have shape (samples, classes) but has shape {tuple(logits.shape)}")
    if module.device == "cpu":
        _require_host("labels", labels, "logits")
        labels = _losses.convert_labels(labels, *logits.shape)
    return _run(module, "softmax_cross_entropy", "logits", logits, labels, weights, out)


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
    module = module_for(x)
    if module is None:
        return getattr(reference, function)(x, target, weights, out=out)
    require_readable(name, x)
    return _run(module, function, name, x, target, weights, out)


def _run(module, function, name, x, target, weights, out):
    """(value, gradient); on a device the value is a 0-d array there, and the weights are added up there."""
    samples, value = x.shape[0] if len(x.shape) else 0, None
    if module.device == "cpu":
        _require_host("weights", weights, name)
        weights, total = _losses.check_weights(weights, samples)
    else:
        value, total = empty((), "float64", x), float(samples)
    if out is None:
        out = empty_like(name, x)
    result = getattr(module, function)(x, target, weights, total, out, value)
    advance_versions(out)
    return (result if value is None else value), out


def _require_host(name, array, other) -> None:
    """TypeError for an array on a GPU, which NumPy cannot look at."""
    if is_on_device(array):
        raise TypeError(f"'{name}' is on a GPU but '{other}' is on the CPU; the arrays of a call must be on one device")
