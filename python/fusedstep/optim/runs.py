"""Parameters that lie side by side in an arena, stepped as one array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._device import device_of
from ..nn import Parameter


@dataclass(eq=False)
class Run:
    """Neighbouring parameters of an arena, or one parameter alone: a step walks them as one array."""

    parameters: list[Parameter]
    array: np.ndarray
    grad: np.ndarray

    def views(self, flat: np.ndarray) -> list[np.ndarray]:
        """The part of `flat`, laid out as `self.array`, that belongs to each parameter."""
        if len(self.parameters) == 1 and self.array.shape == self.parameters[0].array.shape:
            return [flat]
        start = self.parameters[0].segment[1]
        return [
            flat[p.segment[1] - start : p.segment[1] - start + p.array.size].reshape(p.array.shape)
            for p in self.parameters
        ]


def find_runs(parameters: list[Parameter], merge: bool = True) -> list[Run]:
    """`parameters` in as few runs as keep their order, or each in its own."""
    if not merge:
        return [Run([p], p.array, p.grad) for p in parameters]
    runs: list[list[Parameter]] = []
    for p in parameters:
        before = runs[-1][-1].segment if runs else None
        if before and p.segment and before[0] is p.segment[0] and before[2] == p.segment[1]:
            runs[-1].append(p)
        else:
            runs.append([p])
    result = []
    for run in runs:
        if run[0].segment is None:
            result.append(Run(run, run[0].array, run[0].grad))
        else:
            arena, start, stop = run[0].segment[0], run[0].segment[1], run[-1].segment[2]
            result.append(Run(run, arena.array[start:stop], arena.grad[start:stop]))
    return result


def zeros_like(array: np.ndarray) -> np.ndarray:
    """Zeros laid out as `array`, aligned where it is C-contiguous."""
    device = device_of(array)
    if array.flags.c_contiguous:
        return device.zeros(array.size, array.dtype).reshape(array.shape)
    with device.active():
        return device.xp.zeros_like(array)
