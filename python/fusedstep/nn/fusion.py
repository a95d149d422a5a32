"""From a list of layers to a short list of stages, each a kernel call or two.

`make_stages` joins neighbours that one kernel covers:

- Dense and an activation: the matrix product, then bias and activation in one pass;
- BatchNorm, ReLU and Dropout (either may be missing): one pass forward, one backward;
- ReLU and Dropout without BatchNorm before them: one pass each way.

A stage for training owns the arrays it writes and uses them again for every batch of the same size.
What backward needs stays in the stage: the input of Dense and BatchNorm is kept by reference.
`evaluate` makes its output anew and changes nothing in the stage, so threads may share it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .. import ops
from .._device import Device
from .layers import Activation, BatchNorm, Dense, Dropout, Flatten, Layer, ReLU
from .parameter import Parameter


@dataclass(frozen=True)
class Placed:
    """A layer in its place in a model, with its arrays by their short names."""

    index: int
    layer: Layer
    parameters: dict[str, Parameter]
    buffers: dict[str, np.ndarray]
    dropouts_before: int  # each Dropout of a model draws from its own offset

    def array(self, name: str) -> np.ndarray | None:
        return self.parameters[name].array if name in self.parameters else None

    def grad(self, name: str) -> np.ndarray | None:
        return self.parameters[name].grad if name in self.parameters else None

    def __str__(self):
        return f"layer {self.index}, {self.layer!r}"


class _Workspace:
    """Memory that grows to the largest batch seen; a smaller last batch of an epoch uses its front."""

    def __init__(self, device: Device):
        self._device = device
        self._store: np.ndarray | None = None

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape)
        if self._store is None or self._store.size < size or self._store.dtype != dtype:
            self._store = self._device.zeros(size, dtype)
        return self._store[:size].reshape(shape)


class Stage:
    """What the stages have in common.

    `in_place`: the input is an array of ours that nobody else needs again, so the output may replace it.
    `output_free`: so is the output, for the stage after this one. Set once, when the stages are made.
    """

    in_place = False
    output_free = True
    has_parameters = False
    first = 0  # the layers it covers: layers[first:stop]
    stop = 0

    def check(self, x_shape: tuple[int, ...]) -> None:
        """ValueError if this stage cannot train on inputs of `x_shape`."""

    def allocate(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Get ready to train on inputs of `x_shape`."""

    def forward(self, x: np.ndarray, offset: int) -> np.ndarray:
        """Training pass; the result is overwritten by the next one."""
        raise NotImplementedError

    def backward(self, dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
        """Overwrites the parameters' gradients, and `dy`."""
        raise NotImplementedError

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """Evaluation pass; may write into `x` if `in_place`, and into nothing else."""
        raise NotImplementedError


class DenseStage(Stage):
    """Dense, and the activation after it."""

    has_parameters = True

    def __init__(self, dense: Placed, activation: Activation | None, device: Device):
        self.matmul = device.xp.matmul
        self.weight, self.weight_grad = dense.array("weight"), dense.grad("weight")
        self.weight_t = self.weight.T
        self.bias, self.bias_grad = dense.array("bias"), dense.grad("bias")
        self.has_bias = self.bias is not None
        self.function = activation.function if activation else "identity"
        self.slope = activation.negative_slope if activation else 0.0
        self.has_epilogue = self.has_bias or activation is not None
        # The derivative of GELU is a function of its input, those of the others of their output.
        self.keeps_input = self.function == "gelu"
        self.output_free = self.function in ("identity", "gelu")
        self.x = None
        self._z, self._y, self._dx = _Workspace(device), _Workspace(device), _Workspace(device)

    def allocate(self, x_shape, y_shape, dtype):
        self.z = self._z.array(y_shape, dtype)
        self.y = self._y.array(y_shape, dtype) if self.keeps_input else self.z
        self.dx = None if self.first == 0 else self._dx.array(x_shape, dtype)

    def forward(self, x, offset):
        self.x = x
        z = self.matmul(x, self.weight, out=self.z)
        if self.keeps_input:
            if self.has_bias:
                ops.bias_activation(z, self.bias, out=z)
            return ops.bias_activation(z, activation=self.function, out=self.y)
        if self.has_epilogue:
            ops.bias_activation(z, self.bias, activation=self.function, negative_slope=self.slope, out=z)
        return z

    def backward(self, dy, input_gradient=True):
        if self.has_epilogue:
            ops.bias_activation_backward(
                dy,
                self.z,
                activation=self.function,
                negative_slope=self.slope,
                bias=self.has_bias,
                dx=dy,
                dbias=self.bias_grad,
            )
        self.matmul(self.x.T, dy, out=self.weight_grad)
        self.x = None
        # The gradient by the model's input is rarely asked for, so it has no memory of its own.
        return self.matmul(dy, self.weight_t, out=self.dx) if input_gradient else None

    def evaluate(self, x):
        z = self.matmul(x, self.weight)
        if self.has_epilogue:
            ops.bias_activation(z, self.bias, activation=self.function, negative_slope=self.slope, out=z)
        return z


class BatchNormStage(Stage):
    """BatchNorm, and the ReLU and the Dropout after it."""

    def __init__(self, norm: Placed, relu: bool, dropout: Placed | None, seed: int, device: Device):
        layer = norm.layer
        self.name, self.device = str(norm), device
        self.has_parameters = layer.affine
        self.weight, self.weight_grad = norm.array("weight"), norm.grad("weight")
        self.bias, self.bias_grad = norm.array("bias"), norm.grad("bias")
        self.running_mean = norm.buffers.get("running_mean")
        self.running_var = norm.buffers.get("running_var")
        self.count = norm.buffers.get("num_batches_tracked")
        self.tracks = layer.track_running_stats
        self.momentum, self.eps, self.unbiased = layer.momentum, layer.eps, layer.unbiased_running_var
        self.counts_batches = self.tracks and layer.momentum is None
        self.features, self.relu, self.dropout, self.seed = layer.features, relu, dropout, seed
        self.p = dropout.layer.p if dropout else 0.0
        self.dropouts_before = dropout.dropouts_before if dropout else 0
        self.x = self.saved = None
        self._y = _Workspace(device)

    def check(self, x_shape):
        # The kernel refuses this too, but only after the layers before it have updated their statistics.
        if math.prod(x_shape) < 2 * self.features:
            raise ValueError(
                f"{self.name} needs more than one value a channel in training but got x of shape {x_shape}; "
                "fusedstep.data.MiniBatches(..., last='merge') leaves no such remainder"
            )

    def allocate(self, x_shape, y_shape, dtype):
        self.y = self._y.array(y_shape, dtype)

    def forward(self, x, offset):
        if self.counts_batches and self.device.is_capturing():  # a replay would repeat one number of batches
            raise RuntimeError(f"{self.name} with momentum=None counts batches, so its training pass is not captured")
        y, self.saved = ops.batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            momentum=self.momentum if self.tracks else 0.0,
            eps=self.eps,
            relu=self.relu,
            unbiased_running_var=self.unbiased,
            num_batches=int(self.count) + 1 if self.counts_batches else None,
            dropout=(self.p, self.seed, offset + self.dropouts_before) if self.dropout else None,
            out=self.y,
        )
        self.x = x
        if self.tracks:
            self.count += 1
        return y

    def backward(self, dy, input_gradient=True):
        ops.batch_norm_backward(dy, self.x, self.saved, dx=dy, dweight=self.weight_grad, dbias=self.bias_grad)
        self.x = self.saved = None
        return dy

    def evaluate(self, x):
        y, _ = ops.batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=not self.tracks,
            momentum=0.0,
            eps=self.eps,
            relu=self.relu,
            out=x if self.in_place and self.tracks else None,
        )
        return y


class ActivationStage(Stage):
    """An activation on its own."""

    def __init__(self, layer: Activation, device: Device):
        self.function, self.slope = layer.function, layer.negative_slope
        self.keeps_input = self.function == "gelu"
        self.output_free = self.keeps_input
        self.saved = None
        self._y = _Workspace(device)

    def allocate(self, x_shape, y_shape, dtype):
        overwrite = self.in_place and not self.keeps_input
        self.y = None if overwrite else self._y.array(y_shape, dtype)

    def forward(self, x, offset):
        out = x if self.y is None else self.y
        ops.bias_activation(x, activation=self.function, negative_slope=self.slope, out=out)
        self.saved = x if self.keeps_input else out
        return out

    def backward(self, dy, input_gradient=True):
        ops.bias_activation_backward(
            dy, self.saved, activation=self.function, negative_slope=self.slope, bias=False, dx=dy
        )
        self.saved = None
        return dy

    def evaluate(self, x):
        out = x if self.in_place else None
        return ops.bias_activation(x, activation=self.function, negative_slope=self.slope, out=out)


class DropoutStage(Stage):
    """Dropout, and the ReLU before it. Evaluation leaves Dropout out, so it has no such stage."""

    def __init__(self, dropout: Placed, relu: bool, seed: int, device: Device):
        self.p, self.seed, self.relu = dropout.layer.p, seed, relu
        self.dropouts_before = dropout.dropouts_before
        self.output_free = not relu
        self.offset = 0
        self.saved = None
        self._y = _Workspace(device)

    def allocate(self, x_shape, y_shape, dtype):
        self.y = None if self.in_place else self._y.array(y_shape, dtype)

    def forward(self, x, offset):
        out = x if self.y is None else self.y
        self.offset = offset + self.dropouts_before
        ops.dropout(x, self.p, seed=self.seed, offset=self.offset, relu=self.relu, out=out)
        if self.relu:
            self.saved = out
        return out

    def backward(self, dy, input_gradient=True):
        ops.dropout_backward(dy, self.p, seed=self.seed, offset=self.offset, y=self.saved, out=dy)
        return dy


class FlattenStage(Stage):
    """Flatten: another view of the same memory."""

    def allocate(self, x_shape, y_shape, dtype):
        self.x_shape, self.y_shape = x_shape, y_shape

    def forward(self, x, offset):
        return x.reshape(self.y_shape)

    def backward(self, dy, input_gradient=True):
        return dy.reshape(self.x_shape)

    def evaluate(self, x):
        return x.reshape(Flatten().output_shape(x.shape))


def _take(queue: deque[Placed], kind: type[Layer]) -> Placed | None:
    return queue.popleft() if queue and isinstance(queue[0].layer, kind) else None


def _next_stage(queue: deque[Placed], seed: int, device: Device) -> Stage:
    placed = queue.popleft()
    layer = placed.layer
    if isinstance(layer, Dense):
        # A ReLU before a Dropout is left to the dropout: that saves a pass over the gradient.
        dropout_next = len(queue) > 1 and isinstance(queue[0].layer, ReLU) and isinstance(queue[1].layer, Dropout)
        activation = None if dropout_next else _take(queue, Activation)
        return DenseStage(placed, activation and activation.layer, device)
    if isinstance(layer, BatchNorm):
        relu = _take(queue, ReLU) is not None
        return BatchNormStage(placed, relu, _take(queue, Dropout), seed, device)
    if isinstance(layer, Dropout):
        return DropoutStage(placed, False, seed, device)
    if isinstance(layer, ReLU) and (dropout := _take(queue, Dropout)):
        return DropoutStage(dropout, True, seed, device)
    return FlattenStage() if isinstance(layer, Flatten) else ActivationStage(layer, device)


def make_stages(placed: Iterable[Placed], seed: int, device: Device, *, training: bool) -> list[Stage]:
    """The stages that run `placed` layers, whose arrays are on `device`, for training or for evaluation."""
    queue = deque(p for p in placed if training or not isinstance(p.layer, Dropout))
    stages = []
    free = False  # the model's input belongs to the caller
    while queue:
        first = queue[0].index
        covered = len(queue)
        stage = _next_stage(queue, seed, device)
        stage.first, stage.stop = first, first + covered - len(queue)
        stage.in_place = free
        if isinstance(stage, FlattenStage):
            stage.output_free = free
        elif not training:
            stage.output_free = True  # there is no backward that could need it
        free = stage.output_free
        stages.append(stage)
    return stages
