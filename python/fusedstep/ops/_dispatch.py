"""Which module runs a call, and new arrays beside the caller's."""

from __future__ import annotations

import sys

import numpy as np

from .. import reference
from ..backend import cuda, namespace, native
from ..reference.arrays import FLOATING
from ..reference.scalars import read_number, read_step_scalars

CUDA_TYPES = (2, 13)
"""DLPack's numbers of CUDA memory: plain and managed."""


def module_for(arrays):
    """The compiled module for the device of an array or of the first of a list; None for the reference."""
    if type(arrays) is np.ndarray:  # NumPy's own are told first: it counts at every small step
        return native()
    first = arrays
    if isinstance(arrays, list | tuple):
        first = arrays[0] if arrays else None
    return cuda() if is_on_device(first) else native()


def is_on_device(array) -> bool:
    """Whether an array lies in a GPU's memory."""
    # NumPy and torch are asked in the cheapest way: it counts at every small step.
    if type(array) is np.ndarray:
        return False
    on_cuda = getattr(array, "is_cuda", None)
    if on_cuda is not None:
        return bool(on_cuda)
    return hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] in CUDA_TYPES


def by_reference(op: str, arguments: dict):
    """`op` of the reference with the arguments that `op` was called with."""
    del arguments["module"]
    return getattr(reference, op)(**arguments)


def known_step_scalars(module, lr, grad_multiplier, step=1, skip=None) -> tuple:
    """(lr, grad_multiplier, step) as numbers, for Python's checks."""
    if skip is None and type(lr) is type(grad_multiplier) is float and type(step) is int:
        return lr, grad_multiplier, step  # the usual call: it counts at every small step
    if module.device == "cpu":
        given = {"lr": lr, "grad_multiplier": grad_multiplier, "step": step, "skip": skip}
        return read_step_scalars(*(_to_numpy(name, value) for name, value in given.items()))[:3]
    return tuple(known_number(module, name, v, FLOATING) for name, v in (("lr", lr), ("", grad_multiplier), ("", step)))


def known_number(module, name, value, accepted):
    """A number for Python's checks, read from a 0-d array where `value` is one.

    What lies on a device cannot be looked at without waiting; it counts as 1.
    """
    if module.device == "cpu":
        return read_number(name, _to_numpy(name, value), accepted)
    return 1 if hasattr(value, "__dlpack__") else value


def _to_numpy(name, value):
    """A 0-d array of another library as NumPy's; anything else as it is."""
    if not hasattr(value, "__dlpack__") or isinstance(value, np.ndarray):
        return value
    try:
        return np.from_dlpack(value.detach() if hasattr(value, "detach") else value)
    except (RuntimeError, BufferError) as error:  # a dtype that NumPy has not, or no plain memory
        raise TypeError(f"'{name}' is a {type(value).__name__} of dtype {value.dtype} that cannot be read") from error


def require_array(name: str, x) -> None:
    if not hasattr(x, "__dlpack__"):
        raise TypeError(f"'{name}' must be an array but got {type(x).__name__}")


def first_of(name: str, arrays):
    """The array, or the first of a list."""
    many = isinstance(arrays, list | tuple)
    first = arrays[0] if many else arrays
    require_array(f"{name}[0]" if many else name, first)
    return first


def empty_like(x):
    if isinstance(x, np.ndarray):
        return np.empty_like(x)
    library = namespace(x)
    if library.__name__ == "cupy":
        with x.device:
            return library.empty_like(x)
    return library.empty_like(x)


def empty(shape, dtype, like):
    """A new array of the library and on the device of `like`; `dtype` is a name or a dtype of that library."""
    if isinstance(like, np.ndarray):
        return np.empty(shape, dtype)
    library = namespace(like)
    if library.__name__ == "torch":
        dtype = getattr(library, dtype) if isinstance(dtype, str) else dtype
        return library.empty(shape, dtype=dtype, device=like.device)
    with like.device:
        return library.empty(shape, dtype)


def arithmetic_dtype(x):
    """The dtype in which `x` is computed: float32 for the 16-bit types, else its own."""
    return "float32" if x.dtype.itemsize == 2 else x.dtype


def advance_versions(*columns) -> None:
    """Tell torch's autograd that these arrays changed, so that a stale backward raises."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    changed = []
    for arrays in columns:
        # NumPy's own are told first: torch's instance check costs more than a small kernel.
        if arrays is None or type(arrays) is np.ndarray:
            continue
        for array in arrays if isinstance(arrays, list | tuple) else (arrays,):
            if type(array) is not np.ndarray and isinstance(array, torch.Tensor):
                changed.append(array)
    if not changed:
        return
    try:
        torch.autograd.graph.increment_version(changed)
    except TypeError:  # older ones take a single tensor
        for tensor in changed:
            torch.autograd.graph.increment_version(tensor)
