"""Batch norm with ReLU, and dropout, forward and backward on the GPU, beside torch on the same tensors."""

from __future__ import annotations

from collections.abc import Callable

from .. import ops
from .device import Device
from .table import Sides, Work

_SHAPES = [(256, 64, 56, 56), (256, 256, 14, 14)]
_P = 0.25  # 16384 / 65536: what is asked for is what is realized


def works(device: Device) -> list[Work]:
    """All of them."""
    result = []
    for dtype, targets in (("float32", {"ratio": 1.3}), ("bfloat16", {})):
        for shape in _SHAPES:
            for layout in ("nchw", "nhwc"):
                result.append(_batch_norm_work(device, shape, layout, dtype, targets))
    targets = {"share": 0.92, "ratio": 1.1}
    title = "dropout, forward + backward, 100,000,000 float32"
    return [*result, Work("dropout", title, lambda small: _dropout(device, small), "device", targets)]


def _batch_norm_work(device: Device, shape, layout: str, dtype: str, targets: dict) -> Work:
    ending = "" if dtype == "float32" else f"-{dtype}"
    name = f"batch-norm-{'x'.join(map(str, shape))}-{layout}{ending}"
    title = f"batch norm + ReLU, {shape}, {layout.upper()}"
    title = title if dtype == "float32" else f"{title}, bf16"

    def make(small: bool) -> Sides:
        return _batch_norm(device, (8, *shape[1:]) if small else shape, layout, dtype)

    return Work(name, title, make, "device", targets)


def _batch_norm(device: Device, shape, layout: str, dtype: str) -> Sides:
    """Training, forward and backward; weight, bias, running statistics and their gradients are float32.

    The bytes are those of passes over x for the moments, x to y, x and dy for the sums, x and dy to dx: eight times
    the array. What fits on the chip may be read once, so more than the copy's speed is possible.
    """
    torch = device.torch
    functional = torch.nn.functional
    memory = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    x = device.normal(*shape, dtype=dtype).contiguous(memory_format=memory)
    dy = device.normal(*shape, dtype=dtype).flip(0).contiguous(memory_format=memory)
    y, dx = torch.empty_like(x), torch.empty_like(x)
    weight, bias = device.normal(shape[1]) + 2, device.normal(shape[1])
    gradients = {"dx": dx, "dweight": torch.empty_like(weight), "dbias": torch.empty_like(bias)}
    running = [torch.zeros_like(weight), torch.ones_like(weight)]
    tracked = [a.detach().requires_grad_() for a in (x, weight, bias)]

    def ours():
        _, saved = ops.batch_norm(x, weight, bias, *running, relu=True, out=y)
        ops.batch_norm_backward(dy, x, saved, **gradients)

    def theirs(cudnn: bool):
        with torch.backends.cudnn.flags(enabled=cudnn):
            result = functional.batch_norm(tracked[0], *running, *tracked[1:], training=True)
            result = functional.relu(result, inplace=True)
            return result.detach(), *torch.autograd.grad(result, tracked, dy)

    peers = {"torch native": lambda: theirs(False)}
    if device.name == "cuda":
        peers["torch cuDNN"] = lambda: theirs(True)

    def all_of_ours():
        ours()
        return y, *gradients.values()

    def check():
        check_batch_norm(device, dy, all_of_ours, lambda: theirs(False))

    moved = 8 * x.numel() * x.element_size()
    return Sides(ours, peers, check, moved, device.copy(moved))


def _dropout(device: Device, small: bool) -> Sides:
    """Two arrays each way; torch moves a mask of bytes besides."""
    torch = device.torch
    n = 100_000 if small else 100_000_000
    x, dy = device.normal(n), device.normal(n + 1)[1:].clone()
    y, dx = torch.empty_like(x), torch.empty_like(x)
    tracked = x.detach().requires_grad_()

    def ours():
        ops.dropout(x, _P, seed=1, offset=2, out=y)
        ops.dropout_backward(dy, _P, seed=1, offset=2, out=dx)

    def theirs():
        result = torch.nn.functional.dropout(tracked, _P, training=True)
        return result.detach(), torch.autograd.grad(result, tracked, dy)[0]

    def both_of_ours():
        ours()
        return y, dx

    moved = 16 * x.numel()
    return Sides(
        ours, {"torch": theirs}, lambda: check_dropout(device, _P, both_of_ours, theirs), moved, device.copy(moved)
    )


def check_batch_norm(
    device: Device, dy, ours: Callable[[], tuple], theirs: Callable[[], tuple], units: float = 64
) -> None:
    """AssertionError unless both return the same y, dx, dweight and dbias of batch norm with ReLU, given `dy`.

    A value within rounding of 0 may be cut by one side's ReLU and not by the other's: dy is made 0 there, and all
    is computed again. y and dx: `units` in the last place of float32 of the largest value, as the moments come
    from sums in another order, and two of a half type, which they are rounded to. The sums over the n values of a
    channel: a quarter of that for each value; a sum of n values about 1 in tree order is much closer, and a wrong
    formula much further off.
    """
    torch = device.torch
    differs = (ours()[0] > 0) != (theirs()[0] > 0)
    if differs.sum() > 1e-4 * dy.numel():
        raise AssertionError(f"batch_norm: {int(differs.sum())} of {dy.numel()} values are cut by one side alone")
    dy.masked_fill_(differs, 0)
    single, stored = torch.finfo(torch.float32).eps, torch.finfo(dy.dtype).eps
    relative = units * single + (2 * stored if stored > single else 0)
    sums = units / 4 * single * dy.numel() / dy.shape[1]
    for name, actual, wanted in zip(("y", "dx", "dweight", "dbias"), ours(), theirs(), strict=True):
        tolerance = sums if name in ("dweight", "dbias") else relative * wanted.abs().max().item()
        device.assert_close(f"batch norm's {name}", actual, wanted, tolerance)


def check_dropout(device: Device, p: float, ours: Callable[[], tuple], theirs: Callable[[], tuple]) -> None:
    """AssertionError unless both return y and dx of dropout.

    The masks differ, as the random bits do: kept values must agree, and the shares kept, to 5 deviations.
    """
    torch = device.torch
    y, dx = ours()
    for name, actual, wanted in zip(("y", "dx"), (y, dx), theirs(), strict=True):
        both = (actual != 0) & (wanted != 0)
        device.assert_close_in_ulps(f"dropout {name}", actual * both, wanted * both, 2)
        for values in (actual, wanted):
            share = int(torch.count_nonzero(values)) / values.numel()
            if abs(share - (1 - p)) > 5 * (p * (1 - p) / y.numel()) ** 0.5:
                raise AssertionError(f"dropout {name}: {share} of the values are kept instead of {1 - p}")
    if int(((y != 0) != (dx != 0)).sum()) > 1e-6 * y.numel():  # some values may be 0 themselves
        raise AssertionError("dropout: the backward pass has another mask")
