"""Batch normalization (Ioffe & Szegedy 2015), with ReLU and dropout behind it; the twin of csrc/math/batch_norm.h."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np

from .arrays import check_array, check_overlap, check_same_layout, check_shape, check_vector, is_dense, memory_order
from .dropout import dropout as apply_dropout
from .dropout import dropout_backward
from .reduction import moments, tree_sum
from .scalars import check_dropout, check_integer, check_range


@dataclass(frozen=True, eq=False, slots=True)
class BatchNormSaved:
    """What batch_norm keeps for batch_norm_backward.

    mean, var: the moments that normalized the batch, arrays of shape (channels,), var biased.
    weight, bias: the caller's arrays, not copies. dropout: None or (p, seed, offset).
    """

    mean: np.ndarray
    var: np.ndarray
    weight: np.ndarray | None
    bias: np.ndarray | None
    eps: float
    relu: bool
    training: bool
    channel_axis: int
    dropout: tuple | None


def check_batch_norm(training, momentum, eps, num_batches, dropout) -> float | None:
    """Returns the weight of the new batch in the running statistics, None in evaluation mode."""
    check_range("BatchNorm", "eps", eps, 0)
    if dropout is not None:
        try:
            p, seed, offset = dropout
        except (TypeError, ValueError):
            raise ValueError(f"[BatchNorm] 'dropout' must be (p, seed, offset) but got {dropout!r}") from None
        check_dropout(p, seed, offset)
    if not training:
        return None
    if momentum is not None:
        return check_range("BatchNorm", "momentum", momentum, 0, 1, closed=True)
    if num_batches is None:
        raise ValueError("[BatchNorm] 'num_batches' must be given when 'momentum' is None")
    return 1 / check_integer("BatchNorm", "num_batches", num_batches, 1)


def check_saved(saved) -> None:
    if not isinstance(saved, BatchNormSaved):
        raise TypeError(f"'saved' must be what batch_norm returned but got {type(saved).__name__}")
    if saved.mean is None or saved.var is None:
        raise TypeError("'saved' must be what batch_norm returned but has no moments")
    check_batch_norm(False, None, saved.eps, None, saved.dropout)


def check_channel_axis(name: str, x, channel_axis) -> int:
    """The channel axis, counted from 0."""
    shape = tuple(x.shape)
    if len(shape) < 2:
        raise ValueError(f"'{name}' must have at least 2 axes (batch and channels) but has shape {shape}")
    try:
        axis = operator.index(channel_axis)
    except TypeError:
        raise TypeError(f"[BatchNorm] 'channel_axis' must be an integer but got {channel_axis!r}") from None
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"[BatchNorm] 'channel_axis' must be in [{-len(shape)}, {len(shape)}) but got {axis}")
    return axis % len(shape)


def check_layout(name: str, x, channel_axis) -> int:
    """The channel axis, counted from 0; ValueError for a layout other than (outer, channels, inner) in memory."""
    check_array(name, x)
    axis = check_channel_axis(name, x, channel_axis)
    others = [a for a in memory_order(x) if a != axis]
    if x.size and not (is_dense(x) and others == sorted(others)):
        raise ValueError(
            f"'{name}' is neither C-contiguous nor channels-last in memory (strides {x.strides}); "
            f"pass numpy.ascontiguousarray({name})"
        )
    return axis


def _per_channel(vector, x, axis):
    return vector.reshape([x.shape[axis] if a == axis else 1 for a in range(x.ndim)])


def _channel_rows(x, axis):
    """(channels, values a channel), the values in logical order."""
    rows = np.moveaxis(x, axis, 0)
    return np.ascontiguousarray(rows.reshape(rows.shape[0], math.prod(rows.shape[1:])))


def _normalized(x, axis, mean, var, eps):
    """(xhat, invstd)"""
    kind = x.dtype.type
    invstd = kind(1) / np.sqrt(var + kind(eps))
    return (x - _per_channel(mean, x, axis)) * _per_channel(invstd, x, axis), invstd


def _affine(xhat, axis, weight, bias):
    """weight xhat + bias, with 1 and 0 where there is none."""
    channels, kind = xhat.shape[axis], xhat.dtype.type
    weight = np.ones(channels, kind) if weight is None else weight
    bias = np.zeros(channels, kind) if bias is None else bias
    return _per_channel(weight, xhat, axis) * xhat + _per_channel(bias, xhat, axis)


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
    """y = weight (x - mean) invstd + bias with invstd = 1 / sqrt(var + eps); then ReLU, then dropout."""
    fraction = check_batch_norm(training, momentum, eps, num_batches, dropout)
    axis = check_layout("x", x, channel_axis)
    channels = x.shape[axis]
    for name, vector in [("weight", weight), ("bias", bias)]:
        check_vector(name, vector, "x", x, channels)
    running = [("running_mean", running_mean), ("running_var", running_var)]
    for name, vector in running:
        check_vector(name, vector, "x", x, channels, writable=training)
    if (running_mean is None) != (running_var is None):
        raise ValueError("[BatchNorm] 'running_mean' and 'running_var' must be given together")
    if not training and running_mean is None:
        raise ValueError("[BatchNorm] 'running_mean' and 'running_var' must be given when 'training' is False")
    if out is None:
        out = np.empty_like(x)
    else:
        check_array("out", out, dtype=("x", x.dtype), writable=True)
        check_shape("out", out, "x", x.shape)
        check_same_layout("out", out, "x", x)
    count = x.size // channels if channels else 0
    if x.size == 0 and training:
        raise ValueError(f"'x' is empty (shape {x.shape}): there are no batch statistics")
    if training and count == 1:
        raise ValueError(f"'x' has one value a channel (shape {x.shape}): there is no variance in training")
    given = [(n, v) for n, v in [("weight", weight), ("bias", bias)] if v is not None]
    stats = [(n, v) for n, v in running if v is not None]
    outputs, inputs = (
        ([("out", out), *stats], [("x", x), *given]) if training else ([("out", out)], [("x", x), *given, *stats])
    )
    check_overlap(outputs, inputs, set() if training else {("out", "x")})

    kind = x.dtype.type
    with np.errstate(all="ignore"):
        if training:
            mean, squares, n = moments(_channel_rows(x, axis))
            var = squares / n
            if running_mean is not None:
                old, new = kind(1 - fraction), kind(fraction)
                running_mean[...] = old * running_mean + new * mean
                running_var[...] = old * running_var + new * (squares / (n - kind(1)) if unbiased_running_var else var)
        else:
            mean, var = running_mean.copy(), running_var.copy()
        xhat, _ = _normalized(x, axis, mean, var, eps)
        y = _affine(xhat, axis, weight, bias)
        out[...] = np.where(y <= 0, 0, y) if relu else y
        if dropout is not None:
            p, seed, offset = dropout
            apply_dropout(out, p, seed=seed, offset=offset, out=out)
    saved = BatchNormSaved(mean, var, weight, bias, float(eps), bool(relu), bool(training), axis, dropout)
    return out, saved


def batch_norm_backward(dy, x, saved, *, dx=None, dweight=None, dbias=None):
    """dx = weight invstd (t - mean(t) - xhat mean(t xhat)), dweight = sum(t xhat), dbias = sum(t)."""
    check_saved(saved)
    axis = check_layout("x", x, saved.channel_axis)
    channels, kind = x.shape[axis], x.dtype.type
    for name in ("mean", "var", "weight", "bias"):
        check_vector(f"saved.{name}", getattr(saved, name), "x", x, channels)
    check_array("dy", dy, dtype=("x", x.dtype))
    check_shape("dy", dy, "x", x.shape)
    check_same_layout("dy", dy, "x", x)
    if dx is None:
        dx = np.empty_like(x)
    else:
        check_array("dx", dx, dtype=("x", x.dtype), writable=True)
        check_shape("dx", dx, "x", x.shape)
        check_same_layout("dx", dx, "x", x)
    dweight = np.empty(channels, kind) if dweight is None else dweight
    dbias = np.empty(channels, kind) if dbias is None else dbias
    for name, vector in [("dweight", dweight), ("dbias", dbias)]:
        check_vector(name, vector, "x", x, channels, writable=True)
    inputs = [("dy", dy), ("x", x), ("saved.mean", saved.mean), ("saved.var", saved.var)]
    inputs += [(f"saved.{n}", v) for n, v in [("weight", saved.weight), ("bias", saved.bias)] if v is not None]
    check_overlap([("dx", dx), ("dweight", dweight), ("dbias", dbias)], inputs, {("dx", "dy")})

    with np.errstate(all="ignore"):
        xhat, invstd = _normalized(x, axis, saved.mean, saved.var, saved.eps)
        t = dy
        if saved.dropout is not None:
            p, seed, offset = saved.dropout
            t = dropout_backward(t, p, seed=seed, offset=offset)
        if saved.relu:
            t = np.where(_affine(xhat, axis, saved.weight, saved.bias) <= 0, kind(0), t)
        dbias[...] = tree_sum(_channel_rows(t, axis))
        dweight[...] = tree_sum(_channel_rows(t * xhat, axis))
        scale = invstd if saved.weight is None else saved.weight * invstd
        if saved.training:
            n = kind(math.prod(x.shape) // channels)
            t = (t - _per_channel(dbias / n, x, axis)) - xhat * _per_channel(dweight / n, x, axis)
        dx[...] = _per_channel(scale, x, axis) * t
    return dx, dweight, dbias
