"""Which module runs a call, and new arrays beside the caller's."""

from __future__ import annotations

import sys

import numpy as np

from .. import reference
from .._result_memory import empty_array, empty_tensor
from ..backend import cuda, library_of, namespace, native, why_reference, why_unreadable
from ..reference.arrays import FLOATING, as_labelled
from ..reference.scalars import read_number, read_step_scalars

CUDA_TYPES = (2, 13)
"""DLPack's numbers of CUDA memory: plain and managed."""

_KINDS = {"torch": "torch tensor", "cupy": "CuPy array"}
_MANY = (list, tuple)  # named once: `list | tuple` is made anew at each call


def module_for(arrays):
    """The compiled module for the device of an array or of the first of a list; None for the reference."""
    if type(arrays) is np.ndarray:  # NumPy's own are told first: it counts at every small step
        return native()
    first = arrays
    if isinstance(arrays, _MANY):
        first = arrays[0] if arrays else None
    torch = sys.modules.get("torch")
    if torch is not None and (torch._C._is_tracing() or torch._C._len_torch_dispatch_stack()):
        _refuse_recording(torch)
    return cuda() if is_on_device(first) else native()


def _refuse_recording(torch) -> None:
    """RuntimeError while torch records calls: it would record the arrays made here, but not what fills them."""
    proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")
    if torch.jit.is_tracing():
        recorder = "torch.jit.trace"
    elif proxies is not None and proxies.get_proxy_mode() is not None:
        recorder = "torch.fx's make_fx"
    else:
        return
    raise RuntimeError(f"{recorder} cannot record the kernels of fs.ops: leave them out of what is traced")


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
    """`op` of the reference with the arguments that `op` was called with; RuntimeError if they are not NumPy's."""
    del arguments["module"]
    for name, value in arguments.items():
        for label, array in as_labelled(name, value):
            if hasattr(array, "__dlpack__") and (kind := _KINDS.get(library_of(array))) is not None:
                raise RuntimeError(f"'{label}' is a {kind}, which needs the compiled kernels: {why_reference()}")
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
    if type(value) is int:  # the usual call: it counts at every small step
        return value
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


def require_readable(name: str, x) -> None:
    """`require_array`, and TypeError for a tensor that may not even have a shape, before it is asked for one."""
    if type(x) is np.ndarray:
        return
    torch = sys.modules.get("torch")
    if torch is not None and type(x) is torch.Tensor and x.layout is torch.strided and not x.is_nested:
        return
    require_array(name, x)
    reason = why_unreadable(x)
    if reason is not None:
        raise TypeError(f"'{name}' {reason}")


def refuse_graph(name: str, x, weight=None, bias=None) -> None:
    """RuntimeError where autograd tracks a tensor: the result would silently carry no graph."""
    if type(x) is np.ndarray:
        return
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return
    # Asked in the cheapest way: it counts at every small call.
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and getattr(weight, "requires_grad", False))
        or (bias is not None and getattr(bias, "requires_grad", False))
    ):
        argument = name if x.requires_grad else "bias" if weight is None or not weight.requires_grad else "weight"
        raise RuntimeError(
            f"'{argument}' requires a gradient, but the result would carry no graph: call under "
            f"torch.no_grad(), pass {argument}.detach(), or use the modules of fs.torch.nn"
        )
    forward_ad = torch.autograd.forward_ad
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        raise RuntimeError(f"'{name}' has a tangent of torch's forward-mode differentiation, which would be lost")


def first_of(name: str, arrays):
    """The array, or the first of a list."""
    many = isinstance(arrays, _MANY)
    first = arrays[0] if many else arrays
    require_array(f"{name}[0]" if many else name, first)
    return first


def empty_like(name: str, x):
    if isinstance(x, np.ndarray):
        return empty_array(x)
    library = namespace(x)
    if library.__name__ == "cupy":
        with x.device:
            return library.empty_like(x)
    try:
        return empty_tensor(library, x) if library.__name__ == "torch" else library.empty_like(x)
    except (RuntimeError, TypeError):
        require_readable(name, x)
        raise


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
        if isinstance(arrays, _MANY):
            changed.extend(a for a in arrays if type(a) is not np.ndarray and isinstance(a, torch.Tensor))
        elif isinstance(arrays, torch.Tensor):
            changed.append(arrays)
    if changed:
        increment_versions(changed)


def increment_versions(tensors: list) -> None:
    """Advance the version counters of torch tensors."""
    increment = sys.modules["torch"].autograd.graph.increment_version
    try:
        increment(tensors)
    except (TypeError, RuntimeError):  # an older torch, which takes one; or inference tensors, which have no counter
        for tensor in tensors:
            if not tensor.is_inference():
                increment(tensor)
