"""Parameters, and the flat arenas they are views of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .._arena import padded
from .._device import CPU, Device


@dataclass(eq=False)
class Parameter:
    """One array that training changes, its gradient, and its name.

    Parameters
    ----------
    array : ndarray
        The values, float32 or float64, in NumPy's memory or CuPy's; optimizers write into it.
    grad : ndarray
        Its gradient, same shape, dtype and device; `backward` writes into it.
    name : str
        Unique within a model; optimizer states are keyed by it.
    """

    array: np.ndarray
    grad: np.ndarray
    name: str
    # Where it lies in an Arena, padding included; None for arrays that the user brought.
    segment: tuple[Arena, int, int] | None = field(default=None, repr=False)

    def __setattr__(self, name, value):
        # `parameter.array = new` would leave the model with the old one; `parameter.array -= step` is in place.
        if name in ("array", "grad") and getattr(self, name, value) is not value:
            raise AttributeError(f"'{name}' of '{self.name}' cannot be replaced; write into it: .{name}[...] = value")
        super().__setattr__(name, value)


class Arena:
    """Parameters and gradients of a model, each in one flat 64-byte aligned vector.

    An optimizer then steps the whole model, or any run of neighbouring parameters, in one call.
    The padding between arrays has gradient 0 and no meaning.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], dtype, device: Device = CPU):
        self.shapes = shapes
        edges = [0]
        for shape in shapes.values():
            edges.append(edges[-1] + padded(math.prod(shape), dtype))
        self.array = device.zeros(edges[-1], dtype)
        self.grad = device.zeros(edges[-1], dtype)
        self.parameters: list[Parameter] = []
        for (name, shape), (start, stop) in zip(shapes.items(), pairwise(edges), strict=True):
            values = slice(start, start + math.prod(shape))
            self.parameters.append(
                Parameter(
                    self.array[values].reshape(shape),
                    self.grad[values].reshape(shape),
                    name,
                    (self, start, stop),
                )
            )

    def copy_to(self, device: Device) -> Arena:
        """An arena on `device` with the same values and gradients, and parameters of its own."""
        other = Arena(self.shapes, self.array.dtype, device)
        device.write(other.array, self.array)
        device.write(other.grad, self.grad)
        return other
