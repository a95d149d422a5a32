"""What a step needs of one parameter: tensors that the kernels can walk, and where they came from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch

from ..._result_memory import empty_tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(slots=True)
class Row:
    """One parameter. `is_plain`: all of its tensors are those that hang on the parameter and the state; `is_copied`:
    `param` is a dense copy, to be written back."""

    group: int
    owner: torch.Tensor
    param: torch.Tensor
    grad: torch.Tensor
    names: tuple[str, ...]
    states: list[torch.Tensor] = field(default_factory=list)
    ema: torch.Tensor | None = None
    step: torch.Tensor | None = None
    is_plain: bool = True
    is_copied: bool = False
    is_first: bool = False
    written: list[torch.Tensor] = field(default_factory=list)

    @property
    def state_dtype(self) -> torch.dtype:
        if self.states:
            return self.states[0].dtype
        return self.param.dtype if self.ema is None else self.ema.dtype


def make_row(optimizer, index: int, p, names: tuple[str, ...]) -> Row:
    """The row of `p`, whose state is made where there is none; RuntimeError or TypeError for what cannot be stepped."""
    method, grad = optimizer._method, p.grad
    if grad.layout != torch.strided:
        raise RuntimeError(_sparse_message(method))
    if not p.is_complex() and p.dtype not in _FLOATS:
        raise TypeError(f"[{method}] a parameter has dtype {p.dtype}; accepted are float16, bfloat16, float32, float64")
    if p.shape != grad.shape or p.dtype != grad.dtype:
        raise RuntimeError(
            f"[{method}] a gradient has shape {tuple(grad.shape)} and dtype {grad.dtype} but its parameter has "
            f"{tuple(p.shape)} and {p.dtype}"
        )
    if is_expanded(p):
        raise ValueError(f"[{method}] a parameter is expanded, so that values share memory; pass a clone() of it")
    counts, averages, wide = optimizer._counts, optimizer.ema_decay is not None, optimizer._wide(p)
    state = optimizer.state[p] if names or counts or averages else {}
    row = Row(index, p, p, grad, names)
    row.written.append(p)
    if counts:
        row.step = state["step"] = _counter(state.get("step"))
    for name in names:
        tensor = state.get(name)
        if tensor is None:
            row.is_first |= name == "momentum_buffer" and not counts
            tensor = initial_state(optimizer, p)
        row.states.append(_fitting(state, name, tensor, p, wide))
    if averages:
        average = state.get("ema")
        average = empty_tensor(torch, p.detach(), wide).copy_(p) if average is None else average
        row.ema = _fitting(state, "ema", average, p, wide)
    row.written += [*row.states, *([] if row.ema is None else [row.ema])]
    if len({tensor.dtype for tensor in row.written[1:]}) > 1:
        raise TypeError(f"[{method}] the states of a parameter have different dtypes")
    if row.step is not None:
        row.written.append(row.step)
    _stage(row)
    return row


def initial_state(optimizer, p) -> torch.Tensor:
    """A new state of the parameter `p`: zeros, or what AdaGrad's sums begin with (torch looks at no group for it)."""
    start = optimizer.defaults.get("initial_accumulator_value", 0.0)
    start = complex(start, start) if p.is_complex() else start
    return empty_tensor(torch, p.detach(), optimizer._wide(p)).fill_(start)


def _sparse_message(method: str) -> str:
    if method.startswith("Adam"):
        return "Adam does not support sparse gradients, please consider SparseAdam instead"  # torch's words
    return f"{method} does not support sparse gradients in its fused step; use torch.optim.{method}, or grad.to_dense()"


def _counter(step) -> torch.Tensor:
    """torch's count of steps, on the CPU: a device's would have to be waited for."""
    if isinstance(step, torch.Tensor) and step.device.type == "cpu" and step.dtype in (torch.float32, torch.float64):
        return step
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    return torch.tensor(0.0 if step is None else float(step), dtype=dtype)


def _fitting(state: dict, name: str, tensor, p, wide) -> torch.Tensor:
    """The state, put in its place anew where its dtype, device or layout is not that of its parameter."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"state {name!r} must be a tensor but got {type(tensor).__name__}")
    if tensor.shape != p.shape:
        raise RuntimeError(f"state {name!r} has shape {tuple(tensor.shape)} but its parameter has {tuple(p.shape)}")
    if tensor.dtype not in _FLOATS if not p.is_complex() else tensor.dtype != p.dtype:
        raise TypeError(f"state {name!r} has dtype {tensor.dtype} but its parameter has {p.dtype}")
    accepted = tensor.dtype == wide or (tensor.dtype == torch.float32 and p.dtype.itemsize == 2)
    strides = p.stride() if is_dense(p) else _dense_like(p, device="meta").stride()
    if not accepted or tensor.device != p.device or tensor.stride() != strides:
        tensor = _dense_like(p, dtype=tensor.dtype if accepted else wide).copy_(tensor)
    state[name] = tensor
    return tensor


def is_dense(tensor) -> bool:
    """No gap, no overlap, axes in any order; autograd's memory format of gradients preserves such strides."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _dense_like(p, **options) -> torch.Tensor:
    """An empty tensor with the strides of `p`, or if it has holes, its axes in their order without them."""
    return torch.empty_like(p, memory_format=torch.preserve_format, requires_grad=False, **options)


def _stage(row: Row) -> None:
    """Put dense copies in the place of what the kernels cannot walk together."""
    if row.param.is_complex():
        row.is_plain = False
        row.param, row.grad = torch.view_as_real(row.param), torch.view_as_real(row.grad.resolve_conj())
        row.states = [torch.view_as_real(s) for s in row.states]
        row.ema = None if row.ema is None else torch.view_as_real(row.ema)
    if not is_dense(row.param):
        row.is_plain, row.is_copied = False, True
        row.param = _dense_like(row.param).copy_(row.param)  # the states are dense in the same order
    if row.grad.is_neg() or row.grad.stride() != row.param.stride():
        row.is_plain = False
        row.grad = _dense_like(row.param).copy_(row.grad)


def _memory(row: Row) -> torch.Tensor:
    return torch.view_as_real(row.owner) if row.owner.is_complex() else row.owner


def read_again(row: Row) -> None:
    """Read a dense copy again from where it came from."""
    if row.is_copied:
        row.param.copy_(_memory(row))


def write_back(row: Row) -> None:
    """Write a dense copy back to where it came from."""
    if row.is_copied:
        _memory(row).copy_(row.param)


def is_expanded(tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def share_memory(params: list) -> bool:
    """Whether two parameters meet between their first and their last values."""
    spans = []
    for p in (p for p in params if p.numel() > 0):
        last = sum((size - 1) * stride for size, stride in zip(p.shape, p.stride(), strict=True))
        spans.append((p.data_ptr(), p.data_ptr() + (last + 1) * p.element_size()))
    return any(end > start for (_, end), (start, _) in itertools.pairwise(sorted(spans)))
