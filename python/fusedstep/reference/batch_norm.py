"""Batch normalization (Ioffe & Szegedy 2015), with ReLU and dropout behind it; the twin of csrc/math/batch_norm.h."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np

from .arrays import (
    WITH_HALF,
    arithmetic_type,
    check_array,
    check_overlap,
    check_same_layout,
    check_shape,
    check_vector,
    is_dense,
    memory_order,
    own_or_arithmetic,
    scalar_arrays,
)
from .dropout import dropout as apply_dropout
from .dropout import dropout_backward
from .reduction import moments, tree_sum
from .scalars import check_dropout, check_flag, check_integer, check_range


@dataclass(frozen=True, eq=False, slots=True)
class BatchNormSaved:
    """What batch_norm keeps for batch_norm_backward.

    mean, var: the moments that normalized the batch, arrays of shape (channels,), var biased; float32 for the half
    types. weight, bias: the caller's arrays, not copies. dropout: None or (p, seed, offset), an offset that is an array
    the caller's own.
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


def check_batch_norm(training, momentum, eps, relu, unbiased_running_var, num_batches, dropout) -> float | None:
    """Returns the weight of the new batch in the running statistics, None in evaluation mode."""
    check_flag("BatchNorm", "training", training)
    check_flag("BatchNorm", "relu", relu)
    check_flag("BatchNorm", "unbiased_running_var", unbiased_running_var)
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
    check_batch_norm(saved.training, 0.0, saved.eps, saved.relu, True, None, saved.dropout)


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
    check_array(name, x, accepted=WITH_HALF)
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


def _check_like_x(name, array, x, *, writable=False):
    check_array(name, array, accepted=WITH_HALF, like=("x", x.dtype), writable=writable)
    check_shape(name, array, "x", x.shape)
    check_same_layout(name, array, "x", x)


def _check_channels(name, vector, x, axis, *, writable=False):
    """A value a channel, of x's type or of the arithmetic's."""
    allowed = own_or_arithmetic(x.dtype)
    check_vector(name, vector, "x", x, x.shape[axis], accepted=WITH_HALF, allowed=allowed, writable=writable)


def _offset(dropout):
    """What is read besides the arrays: the offset of the dropout, where that is an array."""
    return [] if dropout is None else scalar_arrays(offset=dropout[2])


def _normalized(x, axis, mean, var, eps):
    """(xhat, invstd), in the type of the moments"""
    kind = mean.dtype.type
    invstd = kind(1) / np.sqrt(var + kind(eps))
    return (x.astype(kind) - _per_channel(mean, x, axis)) * _per_channel(invstd, x, axis), invstd


def _affine(xhat, axis, weight, bias):
    """weight xhat + bias, with 1 and 0 where there is none."""
    channels, kind = xhat.shape[axis], xhat.dtype.type
    weight = np.ones(channels, kind) if weight is None else weight.astype(kind)
    bias = np.zeros(channels, kind) if bias is None else bias.astype(kind)
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
    fraction = check_batch_norm(training, momentum, eps, relu, unbiased_running_var, num_batches, dropout)
    axis = check_layout("x", x, channel_axis)
    channels = x.shape[axis]
    for name, vector in [("weight", weight), ("bias", bias)]:
        _check_channels(name, vector, x, axis)
    running = [("running_mean", running_mean), ("running_var", running_var)]
    for name, vector in running:
        _check_channels(name, vector, x, axis, writable=training)
    if (running_mean is None) != (running_var is None):
        raise ValueError("[BatchNorm] 'running_mean' and 'running_var' must be given together")
    if not training and running_mean is None:
        raise ValueError("[BatchNorm] 'running_mean' and 'running_var' must be given when 'training' is False")
    if out is None:
        out = np.empty_like(x)
    else:
        _check_like_x("out", out, x, writable=True)
    count = x.size // channels if channels else 0
    if x.size == 0 and training:
        raise ValueError(f"'x' is empty (shape {x.shape}): there are no batch statistics")
    if training and count == 1:
        raise ValueError(f"'x' has one value a channel (shape {x.shape}): there is no variance in training")
    given = [(n, v) for n, v in [("weight", weight), ("bias", bias)] if v is not None] + _offset(dropout)
    stats = [(n, v) for n, v in running if v is not None]
    outputs, inputs = (
        ([("out", out), *stats], [("x", x), *given]) if training else ([("out", out)], [("x", x), *given, *stats])
    )
    check_overlap(outputs, inputs, set() if training else {("out", "x")})

    kind = arithmetic_type(x.dtype)
    with np.errstate(all="ignore"):
        if training:
            mean, squares, n = moments(_channel_rows(x, axis).astype(kind))
            var = squares / n
            if running_mean is not None:
                old, new = kind(1 - fraction), kind(fraction)
                batch_var = squares / (n - kind(1)) if unbiased_running_var else var
                running_mean[...] = old * running_mean.astype(kind) + new * mean
                running_var[...] = old * running_var.astype(kind) + new * batch_var
        else:
            mean, var = running_mean.astype(kind), running_var.astype(kind)
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
    channels, kind = x.shape[axis], arithmetic_type(x.dtype)
    for name in ("mean", "var"):
        moment, allowed = getattr(saved, name), (np.dtype(kind),)
        check_vector(f"saved.{name}", moment, "x", x, channels, accepted=WITH_HALF, allowed=allowed)
    for name in ("weight", "bias"):
        _check_channels(f"saved.{name}", getattr(saved, name), x, axis)
    _check_like_x("dy", dy, x)
    if dx is None:
        dx = np.empty_like(x)
    else:
        _check_like_x("dx", dx, x, writable=True)
    dweight = _gradient_like(saved.weight, channels, kind) if dweight is None else dweight
    dbias = _gradient_like(saved.bias, channels, kind) if dbias is None else dbias
    for name, vector in [("dweight", dweight), ("dbias", dbias)]:
        _check_channels(name, vector, x, axis, writable=True)
    inputs = [("dy", dy), ("x", x), ("saved.mean", saved.mean), ("saved.var", saved.var), *_offset(saved.dropout)]
    inputs += [(f"saved.{n}", v) for n, v in [("weight", saved.weight), ("bias", saved.bias)] if v is not None]
    check_overlap([("dx", dx), ("dweight", dweight), ("dbias", dbias)], inputs, {("dx", "dy")})

    with np.errstate(all="ignore"):
        xhat, invstd = _normalized(x, axis, saved.mean, saved.var, saved.eps)
        t = dy
        if saved.dropout is not None:
            p, seed, offset = saved.dropout
            t = dropout_backward(t, p, seed=seed, offset=offset)
        t = t.astype(kind)
        if saved.relu:
            t = np.where(_affine(xhat, axis, saved.weight, saved.bias) <= 0, kind(0), t)
        sum_t = tree_sum(_channel_rows(t, axis))
        sum_t_xhat = tree_sum(_channel_rows(t * xhat, axis))
        dbias[...] = sum_t
        dweight[...] = sum_t_xhat
        scale = invstd if saved.weight is None else saved.weight.astype(kind) * invstd
        if saved.training:
            n = kind(math.prod(x.shape) // channels)
            t = (t - _per_channel(sum_t / n, x, axis)) - xhat * _per_channel(sum_t_xhat / n, x, axis)
        dx[...] = _per_channel(scale, x, axis) * t
    return dx, dweight, dbias


def _gradient_like(vector, channels, kind):
    return np.empty(channels, kind) if vector is None else np.empty_like(vector)
