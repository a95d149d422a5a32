"""How much memory a model takes, by asking its own stages for their buffers without making them."""

from __future__ import annotations

import math
from itertools import pairwise
from types import ModuleType

import numpy as np

from .checks import shapes_through
from .fusion import make_stages
from .sequential import Sequential


class _Counting:
    """A device whose memory is counted and never taken."""

    name = "none"
    xp: ModuleType = np

    def __init__(self):
        self.bytes = 0

    def zeros(self, size: int, dtype) -> np.ndarray:
        self.bytes += size * np.dtype(dtype).itemsize
        return np.broadcast_to(np.zeros((), dtype), (size,))


def training_bytes(model: Sequential, shape: tuple[int, ...], ahead: int = 0) -> int:
    """Bytes that a training step on inputs of `shape` takes beside parameters, gradients and optimizer states.

    The buffers of the layers, which last from step to step; the batch with the next one, which is gathered meanwhile,
    and those that are `ahead` of it; and three arrays of the size of the output: what `forward` returns, the loss's
    gradient, and backward's copy of it.
    """
    values = (2 + ahead) * math.prod(shape) + 3 * math.prod(shapes_through(model.layers, shape)[-1])
    return _buffer_bytes(model, shape) + values * model.dtype.itemsize


def held_bytes(model: Sequential) -> int:
    """Bytes of the buffers that the model has from its last training step, and gives up for those of the next."""
    return 0 if model._planned is None else _buffer_bytes(model, model._planned)


def _buffer_bytes(model: Sequential, shape: tuple[int, ...]) -> int:
    counting = _Counting()
    shapes = shapes_through(model.layers, shape)
    for stage in make_stages(model._placed, model.seed, counting, training=True):
        stage.allocate(shapes[stage.first], shapes[stage.stop], model.dtype)
    return counting.bytes


def evaluation_bytes(model: Sequential, sample_shape: tuple[int, ...]) -> int:
    """Bytes that a sample takes at most in evaluation: its input, and the two largest neighbours among the outputs."""
    sizes = [math.prod(shape) for shape in shapes_through(model.layers, (1, *sample_shape))]
    largest = max((a + b for a, b in pairwise(sizes)), default=0)
    return (sizes[0] + largest) * model.dtype.itemsize


def parameter_bytes(model: Sequential) -> int:
    """Bytes of the parameters; their gradients take as many again."""
    return sum(parameter.array.nbytes for parameter in model.parameters())
