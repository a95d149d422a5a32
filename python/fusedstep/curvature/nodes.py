"""The layers as maps that can be differentiated twice: Pearlmutter's R-operator, and LeCun's diagonal.

A node is one layer of a model at one batch, in float64. With R{.} the derivative along a direction of the parameters
(Pearlmutter 1994, section 2), ``tangent`` takes R{x} to R{y}, ``backward`` the gradient by y to the gradient by x, and
``second``, which is R{} of ``backward``, R{dy} to R{dx}; the two last give the same for the layer's parameters too.
``diagonal`` takes second derivatives of the loss by y, of which only the diagonal is kept, to those by x and by the
parameters, without the terms that hold a second derivative of the layer (LeCun et al. 1998, section 7). None in the
place of R{x} stands for zeros.
"""

from __future__ import annotations

import math

import numpy as np

from .. import ops
from .._device import as_host
from ..nn.fusion import Placed
from ..nn.layers import Activation, BatchNorm, Dense, Dropout, Flatten

Arrays = dict[str, np.ndarray]


class DenseNode:
    """``y = x W + b``."""

    below = True
    """Whether a node below asks for what goes to its output; the product for it is as large as that for the weight."""

    def __init__(self, placed: Placed, values: Arrays):
        self.weight, self.bias = values["weight"], values.get("bias")

    def forward(self, x):
        self.x = x
        y = x @ self.weight
        return y if self.bias is None else y + self.bias

    def _gradients(self, x, dy) -> Arrays:
        gradients = {"weight": x.T @ dy}
        return gradients if self.bias is None else gradients | {"bias": dy.sum(axis=0)}

    def tangent(self, rx, v):
        ry = self.x @ v["weight"]
        if rx is not None:
            ry += rx @ self.weight
        return ry if self.bias is None else ry + v["bias"]

    def backward(self, dy):
        return dy @ self.weight.T if self.below else None, self._gradients(self.x, dy)

    def second(self, rx, v, dy, rdy):
        gradients = self._gradients(self.x, rdy)
        if rx is not None:
            gradients["weight"] += rx.T @ dy
        return rdy @ self.weight.T + dy @ v["weight"].T if self.below else None, gradients

    def diagonal(self, h):
        return h @ (self.weight * self.weight).T if self.below else None, self._gradients(self.x * self.x, h)


class _Fixed:
    """A layer without parameters."""

    def tangent(self, rx, v):
        return None if rx is None else self.push(rx)

    def backward(self, dy):
        return self.pull(dy), {}

    def second(self, rx, v, dy, rdy):
        return self.pull(rdy), {}


class ActivationNode(_Fixed):
    """``y = f(x)``."""

    def __init__(self, placed: Placed, values: Arrays):
        layer = placed.layer
        self.function = layer.function
        self.settings = {"activation": layer.function, "negative_slope": getattr(layer, "negative_slope", 0.0)}

    def forward(self, x):
        self.x = x
        self.y = ops.bias_activation(x, **self.settings)
        saved = x if self.function == "gelu" else self.y
        self.slope, _ = ops.bias_activation_backward(np.ones_like(x), saved, bias=False, **self.settings)
        return self.y

    def _curvature(self):
        """The second derivative of f; None where it is 0."""
        if self.function == "tanh":
            return -2 * self.y * self.slope
        if self.function == "sigmoid":
            return self.slope * (1 - 2 * self.y)
        if self.function == "gelu":
            square = self.x * self.x
            return (2 - square) * np.exp(-0.5 * square) / math.sqrt(2 * math.pi)
        return None  # relu, leaky_relu

    def push(self, rx):
        return self.slope * rx

    pull = push

    def second(self, rx, v, dy, rdy):
        rdx = self.pull(rdy)
        curvature = None if rx is None else self._curvature()
        return (rdx if curvature is None else rdx + curvature * rx * dy), {}

    def diagonal(self, h):
        return self.slope * self.slope * h, {}


class DropoutNode(_Fixed):
    """``y = mask * x``, with the mask of one training pass."""

    def __init__(self, placed: Placed, values: Arrays, seed: int, offset: int):
        self.p, self.draw = placed.layer.p, {"seed": seed, "offset": offset + placed.dropouts_before}

    def push(self, rx):
        return ops.dropout(rx, self.p, **self.draw)

    forward = pull = push

    def diagonal(self, h):
        return self.push(self.push(h)), {}


class FlattenNode(_Fixed):
    """Another shape of the same values."""

    def __init__(self, placed: Placed, values: Arrays):
        pass

    def forward(self, x):
        self.shape = x.shape
        return self.push(x)

    def push(self, rx):
        return rx.reshape(len(rx), -1)

    def pull(self, dy):
        return dy.reshape(self.shape)

    def diagonal(self, h):
        return self.pull(h), {}


class _ChannelNode:
    """What both forms of BatchNorm share: ``y = weight * xhat + bias``, `xhat` a function of `x` alone."""

    def __init__(self, placed: Placed, values: Arrays):
        self.layer, self.buffers = placed.layer, placed.buffers
        self.weight, self.bias = values.get("weight"), values.get("bias")

    def channels(self, array):
        """One number a channel, of a shape that broadcasts against `x`."""
        return array.reshape(1, -1, *[1] * (self.x.ndim - 2))

    def sum(self, array):
        """Over all axes but the channels'."""
        return array.sum(axis=(0, *range(2, array.ndim)))

    def mean(self, array):
        return self.channels(self.sum(array)) / (self.x.size // self.x.shape[1])

    def scaled(self, array):
        return array if self.weight is None else self.channels(self.weight) * array

    def forward(self, x):
        self.x = x
        mean, variance = self.moments(x)
        self.invstd = 1 / (variance + self.layer.eps) ** 0.5
        self.xhat = (x - mean) * self.invstd
        y = self.scaled(self.xhat)
        return y if self.bias is None else y + self.channels(self.bias)

    def tangent(self, rx, v):
        rxhat = None if rx is None else self.normalized(rx)
        ry = None if rxhat is None else self.scaled(rxhat)
        if self.weight is None:
            return ry
        own = self.channels(v["weight"]) * self.xhat + self.channels(v["bias"])
        return own if ry is None else own + ry

    def _gradients(self, dy, xhat) -> Arrays:
        return {} if self.weight is None else {"weight": self.sum(dy * xhat), "bias": self.sum(dy)}

    def backward(self, dy):
        return self.normalized(self.scaled(dy)), self._gradients(dy, self.xhat)  # the map is its own transpose

    def second(self, rx, v, dy, rdy):
        gradients = self._gradients(rdy, self.xhat)
        rg = self.scaled(rdy)
        if self.weight is not None:
            rg = rg + self.channels(v["weight"]) * dy
            if rx is not None:
                gradients["weight"] += self.sum(dy * self.normalized(rx))
        rdx = self.normalized(rg)
        return (rdx if rx is None else rdx + self.bent(rx, self.scaled(dy))), gradients

    def sample_gradients(self, dy) -> Arrays:
        """The gradients by the parameters that each sample's `dy` gives alone, each ``(N, channels)``."""
        inner = tuple(range(2, dy.ndim))
        each = {"weight": (dy * self.xhat).sum(axis=inner), "bias": dy.sum(axis=inner)}
        return {} if self.weight is None else each

    def diagonal(self, h):
        squared = h if self.weight is None else self.channels(self.weight * self.weight) * h
        return self.invstd * self.invstd * self.spread(squared), self._gradients(h, self.xhat * self.xhat)


class BatchNode(_ChannelNode):
    """BatchNorm with the moments of the batch, which depend on `x`."""

    def moments(self, x):
        mean = self.mean(x)
        centered = x - mean
        return mean, self.mean(centered * centered)

    def normalized(self, g):
        """R{xhat} for R{x} = g: what lies along 1 and along xhat is taken off."""
        return self.invstd * (g - self.mean(g) - self.xhat * self.mean(g * self.xhat))

    def bent(self, rx, g):
        """R{} of ``normalized(g)`` while g stays."""
        rxhat = self.normalized(rx)
        along = self.mean(g * self.xhat)
        shrink = self.invstd * self.mean(rx * self.xhat)  # -R{invstd} / invstd
        return -shrink * self.normalized(g) - self.invstd * (rxhat * along + self.xhat * self.mean(g * rxhat))

    def spread(self, h):
        """``sum_j P_ji**2 h_j`` with the projection P of `normalized`: n terms a value, added as four sums."""
        n = self.x.size // self.x.shape[1]
        square = self.xhat * self.xhat
        crossed = self.mean(h) + 2 * self.xhat * self.mean(h * self.xhat) + square * self.mean(h * square)
        return h - (2 * h * (1 + square) - crossed) / n


class RunningNode(_ChannelNode):
    """BatchNorm with its running statistics, which are constants."""

    def moments(self, x):
        kept = (as_host(self.buffers[name]) for name in ("running_mean", "running_var"))
        return tuple(self.channels(buffer.astype(np.float64)) for buffer in kept)

    def normalized(self, g):
        return self.invstd * g

    def bent(self, rx, g):
        return 0.0

    def spread(self, h):
        return h


def make_node(placed: Placed, values: Arrays, *, training: bool, seed: int, offset: int):
    """The node of a layer with the parameters `values`; there is none for a Dropout in evaluation."""
    layer = placed.layer
    if isinstance(layer, Dropout):
        return DropoutNode(placed, values, seed, offset)
    if isinstance(layer, BatchNorm):
        return (BatchNode if training or not layer.track_running_stats else RunningNode)(placed, values)
    for kind, node in ((Dense, DenseNode), (Activation, ActivationNode), (Flatten, FlattenNode)):
        if isinstance(layer, kind):
            return node(placed, values)
    raise TypeError(f"{placed} has no second derivatives here")
