"""Dropout."""

from __future__ import annotations

import math

import numpy as np

from ..reference import scalars as _scalars
from ..reference.dropout import check_mask_shape
from ._dispatch import advance_versions, by_reference, empty_like, known_number, module_for, refuse_graph, require_array


def dropout(x, p, *, seed, offset=0, relu=False, out=None):
    """Each value is dropped (+0) with probability p, the others are scaled so that the expectation stays.

    Parameters
    ----------
    x : array
        Any strides.
    p : float in [0, 1]
        Realized as ``round(p * 65536) / 65536``; the scale belongs to the realized p.
    seed, offset : int in [0, 2**64)
        The mask depends on them and on the C-order index alone: use a fresh offset for each call. `offset` may be a
        0-d int64 array on the device; in a captured CUDA graph it must be, or the graph would repeat its mask.
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
    module = module_for(x)
    if module is None:
        return by_reference("dropout", locals())
    _scalars.check_dropout(p, seed, known_number(module, "offset", offset, ("int64",)))
    _scalars.check_flag("Dropout", "relu", relu)
    require_array("x", x)
    refuse_graph("x", x)
    if out is None:
        out = empty_like("x", x)
    module.dropout(x, out, p, seed, offset, bool(relu))
    advance_versions(out)
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
    module = module_for(dy)
    if module is None:
        return by_reference("dropout_backward", locals())
    _scalars.check_dropout(p, seed, known_number(module, "offset", offset, ("int64",)))
    require_array("dy", dy)
    refuse_graph("dy", dy)
    if out is None:
        out = empty_like("dy", dy)
    if y is None:
        module.dropout_backward(dy, out, p, seed, offset)
    else:
        module.dropout_relu_backward(dy, y, out, p)
    advance_versions(out)
    return out


def dropout_mask(shape, p, *, seed, offset=0, packed=False, out=None):
    """The keep mask of `dropout`.

    Parameters
    ----------
    shape : int or tuple of int
    p, seed, offset
        As in `dropout`.
    packed : bool
        False: bools of this shape. True: uint8, ``ceil(size / 8)`` of them, the first value in the lowest bit.
    out : array of bool or uint8, optional
        Receives the mask, on a GPU for instance; without it, it is a new NumPy array.

    Examples
    --------
    >>> import fusedstep as fs
    >>> fs.ops.dropout_mask(6, 0.5, seed=0)
    array([ True, False,  True,  True,  True,  True])
    """
    module = module_for(out)
    if module is None:
        return by_reference("dropout_mask", locals())
    _scalars.check_dropout(p, seed, known_number(module, "offset", offset, ("int64",)))
    _scalars.check_flag("Dropout", "packed", packed)
    shape = check_mask_shape(shape)
    if out is None:
        out = np.empty(-(-math.prod(shape) // 8), np.uint8) if packed else np.empty(shape, np.bool_)
    module.dropout_mask(out, shape, p, seed, offset, bool(packed))
    advance_versions(out)
    return out
