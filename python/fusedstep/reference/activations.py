"""Bias and activation in one pass, and back; the twin of csrc/math/activations.h."""

from __future__ import annotations

import math

import numpy as np

from . import functions
from .arrays import check_elementwise, check_gradient_pair, check_overlap, check_vector, is_dense, memory_order
from .reduction import tree_sum
from .scalars import check_flag, check_range

ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu")


def check_activation(activation, negative_slope) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"'activation' must be one of {', '.join(ACTIVATIONS)} but got {activation!r}")
    check_range("LeakyReLU", "negative_slope", negative_slope, 0)


def check_rows(name, x) -> None:
    if x.ndim == 0:
        raise ValueError(f"'{name}' must have at least one axis")
    order = memory_order(x)
    if x.size and not (is_dense(x) and order == sorted(order)):
        raise ValueError(f"'{name}' is not C-contiguous (strides {x.strides}); pass numpy.ascontiguousarray({name})")


def bias_activation(x, bias=None, *, activation="identity", negative_slope=0.01, out=None):
    """y = f(x + bias), the bias along the last axis."""
    check_activation(activation, negative_slope)
    out = check_elementwise("x", x, out)
    check_rows("x", x)
    check_rows("out", out)
    check_vector("bias", bias, "x", x, x.shape[-1], axis="values in its last axis")
    if bias is not None:
        check_overlap([("out", out)], [("bias", bias)])
    with np.errstate(all="ignore"):
        z = x if bias is None else x + bias
        match activation:
            case "identity":
                y = z
            case "relu":
                y = np.where(z <= 0, 0, z)
            case "leaky_relu":
                y = np.where(z <= 0, z * z.dtype.type(negative_slope), z)
            case _:
                y = getattr(functions, activation)(z)
        out[...] = y
    return out


def bias_activation_backward(dy, saved, *, activation="identity", negative_slope=0.01, bias=True, dx=None, dbias=None):
    """dx = dy f'(z), from the output y (or from z for gelu); dbias = its sum over all axes but the last."""
    check_activation(activation, negative_slope)
    check_flag("bias_activation_backward", "bias", bias)
    inputs = [("dy", dy)]
    if activation == "identity":
        dx = check_elementwise("dy", dy, dx, out_name="dx")
    else:
        dx = check_gradient_pair("dy", dy, "saved", saved, dx, out_name="dx")
        inputs.append(("saved", saved))
    for name, array in [*inputs, ("dx", dx)]:
        check_rows(name, array)
    kind, columns = dy.dtype.type, dy.shape[-1]
    if bias:
        dbias = np.empty(columns, kind) if dbias is None else dbias
        check_vector("dbias", dbias, "dy", dy, columns, writable=True, axis="values in its last axis")
        check_overlap([("dx", dx), ("dbias", dbias)], inputs, {("dx", "dy")})
    else:
        dbias = None
    with np.errstate(all="ignore"):
        match activation:
            case "identity":
                gradient = dy
            case "relu":
                gradient = np.where(saved <= 0, kind(0), dy)
            case "leaky_relu":
                gradient = np.where(saved <= 0, dy * kind(negative_slope), dy)
            case "tanh":
                gradient = dy * (kind(1) - saved * saved)
            case "sigmoid":
                gradient = dy * (saved * (kind(1) - saved))
            case "gelu":
                gradient = dy * functions.gelu_gradient(saved)
        if bias:
            dbias[...] = tree_sum(np.ascontiguousarray(gradient.reshape(math.prod(dy.shape[:-1]), columns).T))
        dx[...] = gradient
    return dx, dbias
