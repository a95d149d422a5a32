"""Optimizers of parameters on a GPU: what a step needs without waiting for it."""

from __future__ import annotations

import numpy as np

from .. import ops
from .._device import Device, describe, device_of, is_cupy
from ..nn import Parameter

_DTYPES = ("float16", "bfloat16", "float32", "float64")


class DeviceScalars:
    """The numbers of a step that depend on the gradients, as 0-d arrays that only kernels read and write.

    Attributes
    ----------
    step, skipped : int64
        Steps taken and skipped; `step` only where steps may be skipped or replayed, otherwise the host counts.
    multiplier : float64
        What the step multiplies the gradients by, clipping included.
    skip : int32
        Whether the step writes nothing.
    """

    def __init__(self, device: Device):
        self.step = device.zeros((), np.int64)
        self.skipped = device.zeros((), np.int64)
        self.multiplier = device.zeros((), np.float64)
        self.skip = device.zeros((), np.int32)
        self._norm = device.zeros((), np.float64)
        self._nonfinite = device.zeros((), np.int32)

    def prepare(self, grads: list, grad_multiplier, max_norm: float | None, skip_nonfinite: bool) -> None:
        """Count the step, fold clipping into its multiplier, and decide whether it is skipped; on the device."""
        norm = None if max_norm is None else self._norm
        skip, nonfinite = (self.skip, self._nonfinite) if skip_nonfinite else (None, None)
        if max_norm is not None or skip_nonfinite:
            ops.global_norm(grads, out=self._norm, nonfinite=nonfinite)
        ops.prepare_step(
            self.step,
            self.multiplier,
            skip,
            norm=norm,
            nonfinite=nonfinite,
            grad_multiplier=grad_multiplier,
            max_norm=max_norm,
            skipped=self.skipped if skip_nonfinite else None,
        )


def check_parameters(method: str, parameters: list[Parameter], device: Device) -> None:
    """Parameters and gradients on a GPU: one device, one dtype, pairs of one shape; a step checks their memory."""
    first = parameters[0]
    for p in parameters:
        for kind, array in (("array", p.array), ("grad", p.grad)):
            if not device.holds(array):
                raise TypeError(
                    f"[{method}] the {kind} of {p.name!r} is {describe(array)} but {first.name!r} is on {device.name}"
                )
            if array.dtype != first.array.dtype or array.dtype.name not in _DTYPES:
                raise TypeError(
                    f"[{method}] the {kind} of {p.name!r} has dtype {array.dtype} and {first.name!r} has "
                    f"{first.array.dtype}; accepted is one of {', '.join(_DTYPES)} for all"
                )
        if p.array.shape != p.grad.shape:
            raise ValueError(f"[{method}] {p.name!r} has shape {p.array.shape} but its gradient has {p.grad.shape}")


def check_lr_array(method: str, lr, device: Device) -> None:
    """A step size that lives on the device is read there, so its value is not looked at."""
    if lr.ndim or lr.dtype.name not in ("float32", "float64"):
        raise TypeError(f"[{method}] 'lr' must be a 0-d array of float32 or float64 but got {lr.dtype}{lr.shape}")
    if not device.holds(lr):
        raise TypeError(f"[{method}] 'lr' is on {device_of(lr).name} but the parameters are on {device.name}")


def stored(value):
    """What a state dict keeps of a hyper-parameter: no function, no array of the device."""
    if callable(value):
        return None
    return float(value) if is_cupy(value) else value
