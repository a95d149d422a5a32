"""Where arrays live: NumPy's on the CPU, CuPy's on a CUDA device. All that differs between the two is here."""

from __future__ import annotations

import math
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import numpy as np

from ._arena import aligned_zeros
from ._extras import require


class Cpu:
    """NumPy arrays in the host's memory."""

    name = "cpu"
    xp: ModuleType = np
    kind = "a NumPy array"
    _nothing = nullcontext()

    def active(self) -> AbstractContextManager:
        """Make it the current device for a while."""
        return self._nothing

    def is_capturing(self) -> bool:
        """Whether calls are recorded in a CUDA graph instead of being run."""
        return False

    def holds(self, array) -> bool:
        return isinstance(array, np.ndarray)

    def zeros(self, size: int, dtype) -> np.ndarray:
        """A zeroed vector, 64-byte aligned."""
        return aligned_zeros(size, dtype)

    def put(self, array) -> np.ndarray:
        """A copy here of an array that lives anywhere."""
        return host_copy(array)

    def write(self, target: np.ndarray, values) -> None:
        """Copy the values of an array that lives anywhere into `target`, which lives here."""
        target[...] = as_host(values)


class Gpu:
    """CuPy arrays on the CUDA device `index`."""

    def __init__(self, cupy: ModuleType, index: int):
        self.xp = cupy
        self.index = index
        self.name = f"cuda:{index}"
        self.kind = f"a CuPy array on {self.name}"

    def active(self) -> AbstractContextManager:
        """Make it the current device for a while, as CuPy needs it for its own kernels."""
        return self.xp.cuda.Device(self.index)

    def is_capturing(self) -> bool:
        """Whether the current stream records its work in a CUDA graph instead of running it."""
        with self.active():
            return self.xp.cuda.get_current_stream().is_capturing()

    def holds(self, array) -> bool:
        return isinstance(array, self.xp.ndarray) and array.device.id == self.index

    def zeros(self, size, dtype):
        """A zeroed array; CuPy aligns to 256 bytes or more."""
        with self.active():
            return self.xp.zeros(size, dtype)

    def put(self, array):
        """A copy here of an array that lives anywhere."""
        with self.active():
            return self.xp.asarray(as_host(array), blocking=True)

    def write(self, target, values) -> None:
        """Copy the values of an array that lives anywhere into `target`, which lives here."""
        with self.active():
            target[...] = self.xp.asarray(as_host(values), blocking=True)


Device = Cpu | Gpu
CPU = Cpu()
_CUDA = re.compile(r"cuda(?::([0-9]+))?")


def get_device(name: str) -> Device:
    """The device called "cpu", "cuda" (the current one) or "cuda:<index>".

    Raises
    ------
    ValueError
        There is no such device.
    ImportError
        CuPy is missing.
    RuntimeError
        There is no CUDA device, or no driver for it.
    """
    if name == "cpu":
        return CPU
    match = _CUDA.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise ValueError(f"'device' must be 'cpu', 'cuda' or 'cuda:<index>' but got {name!r}")
    cupy = require("cupy", extra="cuda")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        index = cupy.cuda.runtime.getDevice() if match[1] is None else int(match[1])
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"'device' is {name!r} but CuPy finds no CUDA device: {error}") from error
    if index >= count:
        raise ValueError(f"'device' is {name!r} but there are {count} CUDA devices, cuda:0 ... cuda:{count - 1}")
    return Gpu(cupy, index)


def is_cupy(value) -> bool:
    """Whether `value` is a CuPy array; does not import CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def device_of(array) -> Device:
    """The device of a NumPy or CuPy array."""
    return Gpu(sys.modules["cupy"], array.device.id) if is_cupy(array) else CPU


def as_host(array) -> np.ndarray:
    """`array` as a NumPy array, without a copy where it is one; waits for the device otherwise."""
    if not is_cupy(array):
        return np.asarray(array)
    with array.device:
        return sys.modules["cupy"].asnumpy(array)


def host_copy(array) -> np.ndarray:
    """A copy of `array` as a NumPy array."""
    return as_host(array) if is_cupy(array) else np.array(array)


def all_finite(array) -> bool:
    """Whether no value is NaN or infinite; waits for the device."""
    device = device_of(array)
    with device.active(), np.errstate(all="ignore"):
        # A sum needs no memory; only where it overflows, too, each value is looked at.
        return math.isfinite(array.sum()) or bool(device.xp.isfinite(array).all())


def loss_value(value):
    """What a loss gave, in double: a Python float, or a 0-d array that stays on its device, unread."""
    return value.astype(np.float64, copy=False) if is_cupy(value) else float(value)


def describe(value) -> str:
    """What an error message calls a value's type: CuPy's and NumPy's arrays have the same name."""
    if is_cupy(value):
        return f"a CuPy array on cuda:{value.device.id}"
    return type(value).__name__
