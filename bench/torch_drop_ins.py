"""Optimizers and modules of fusedstep.torch beside torch's own, on two cores: the table and its targets.

    python bench/torch_drop_ins.py [--work NAME ...] [--repeats 30] [--quick] [--json bench/results/torch_drop_ins.json]

All optimizers of a work step the same parameters by the same gradients and states; all modules take the same tensors.
Before the times the sides must agree: optimizers after three steps from one state to 16 units in the last place of
the largest value, batch norm and dropout as `fusedstep bench` has it. torch adds up the squares of a gradient in
float32 and is off by 0.2% in the norm of 30 million values: with clipping ours must agree to 16 units with torch's step
by gradients clipped by the norm in float64, and with torch's own way to 1%. The row takes torch's fastest way.

Large results are part of the times of the modules, as each library makes them: torch has the system's allocator, which
takes new pages each time, and ours are written to memory that was used before.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable

import torch  # first, so that its OpenMP threads wait as torch's users know them, not passively

import fusedstep as fs
from fusedstep._bench.command import add_options, cannot_write, measure
from fusedstep._bench.device import Device
from fusedstep._bench.layers import check_batch_norm, check_dropout
from fusedstep._bench.loops import compiled_loops
from fusedstep._bench.steps import CHECKED_STEPS, ULPS
from fusedstep._bench.table import Sides, Work
from fusedstep._result_memory import empty_tensor

DEVICE = Device("cpu")
LARGE, SMALL = 30_000_000, 100_000
MLP = [(128, 64), (128,), (128, 128), (128,), (10, 128), (10,)]
HUNDREDS = [(5000,)] * 200
P = 0.25  # 16384 / 65536: what is asked for is what is realized
CEILING = "loop of the same traffic"


def works() -> list[Work]:
    """The rows of the table."""

    def step(name, title, kind, least, shapes=((LARGE,),), clock="host, 1 s", **options):
        def make(small: bool) -> Sides:
            trial = [(min(n, SMALL), *rest) for n, *rest in shapes[:6]]
            return optimizer_sides(kind, trial if small else shapes, **options)

        return Work(name, title, make, clock, {"ratio": least})

    fused = {"torch fused": {"fused": True}}
    plain = {"torch": {}, "torch foreach": {"foreach": True}}
    few = {"clock": "host, 200 calls", "ceiling": None}
    return [
        step("adamw", "AdamW.step, 30,000,000 in 1 tensor", "AdamW", 1.0, peers=fused, ceiling="update3"),
        step("rmsprop", "RMSprop.step, 30,000,000 in 1 tensor", "RMSprop", 5.0, peers=plain, ceiling="update2"),
        step("adam-mlp", "Adam.step, MLP of 6 tensors, 26,122", "Adam", 4.0, MLP, peers=fused, **few),
        step("adam-200", "Adam.step, 200 tensors of 5,000", "Adam", 2.0, HUNDREDS, peers=fused, **few),
        step(
            "adamw-clipping", "AdamW.step, clipping, 30,000,000", "AdamW", 1.3, peers=fused, ceiling="update3", clip=1.0
        ),
        Work("batch-norm", "BatchNorm2d + ReLU, (256, 64, 56, 28)", batch_norm_sides, "host, 1 s", {"ratio": 5.0}),
        Work("batch-norm-inplace", "the same beside ReLU(inplace=True)", batch_norm_beside_inplace, "host, 1 s", {}),
        Work("dropout", "Dropout, 30,000,000", dropout_sides, "host, 1 s", {"ratio": 8.0}),
    ]


def optimizer_sides(kind: str, shapes, *, peers: dict, ceiling: str | None, clip: float | None = None) -> Sides:
    """Ours, made first, gives its states to torch's: torch's own steps then run in our memory.

    clip: torch's way is `clip_grad_norm_` ahead of the step. It writes the gradients, which are put back each time.
    """
    params = [torch.nn.Parameter(DEVICE.normal(*shape)) for shape in shapes]
    for p in params:
        p.grad = DEVICE.normal(p.numel() + 1)[1:].reshape(p.shape).clone()  # other values than the parameter's
    gradients = [p.grad.clone() for p in params] if clip else []
    ours = getattr(fs.torch.optim, kind)(params, max_norm=clip)
    ours.step()
    theirs, exact = {}, []
    for name, options in peers.items():
        optimizer = getattr(torch.optim, kind)(params, **options)
        optimizer.state = ours.state
        if clip is None:
            theirs[name] = optimizer.step
            exact.append(optimizer.step)
        else:
            theirs[f"clip_grad_norm_, {name}"] = clipped(optimizer, params, clip)
            exact.append(clipped(optimizer, params, clip, torch.float64))

    def put_gradients_back():
        for p, gradient in zip(params, gradients, strict=False):
            p.grad.copy_(gradient)

    def check():
        tensors = {
            f"{kind} {key} {k}": tensor
            for k, p in enumerate(params)
            for key, tensor in {"param": p.detach(), **ours.state[p]}.items()
        }
        start = {name: tensor.clone() for name, tensor in tensors.items()}

        def after(step):
            for name, tensor in tensors.items():
                tensor.copy_(start[name])
            for _ in range(CHECKED_STEPS):
                put_gradients_back()
                step()
            return {name: tensor.clone() for name, tensor in tensors.items()}

        actual = after(ours.step)
        for step in exact:
            for name, wanted in after(step).items():
                DEVICE.assert_close_in_ulps(name, actual[name], wanted, ULPS)
        for step in theirs.values() if clip else ():
            for name, wanted in after(step).items():
                DEVICE.assert_close(name, actual[name], wanted, 0.01 * wanted.abs().max().item())

    if ceiling is None:
        return Sides(ours.step, theirs, check)
    (p,) = params
    states = [state for key, state in ours.state[p].items() if key != "step"]
    addresses = [a.data_ptr() for a in (p, p.grad, *states)]
    loops, n = compiled_loops(), p.numel()

    def loop():
        if clip:
            loops.read(p.grad.data_ptr(), n)
        getattr(loops, ceiling)(*addresses, n)

    moved = (3 + 2 * len(states) + bool(clip)) * 4 * n
    return Sides(ours.step, theirs, check, moved, (CEILING, loop), put_gradients_back)


def clipped(optimizer, params, clip: float, dtype: torch.dtype | None = None) -> Callable[[], object]:
    """A step of torch's behind `clip_grad_norm_`, whose norm is computed in `dtype` where one is given."""

    def step():
        if dtype is None:
            torch.nn.utils.clip_grad_norm_(params, clip)
        else:
            norm = torch.linalg.vector_norm(
                torch.stack([torch.linalg.vector_norm(p.grad, dtype=dtype) for p in params])
            )
            for p in params:
                p.grad.mul_(min(1.0, clip / (norm.item() + 1e-6)))
        optimizer.step()

    return step


def forward_and_backward(module, x, dy) -> Callable[[], tuple]:
    """(result, gradients of x and of the parameters), computed at each call."""
    wanted = [x, *module.parameters()]

    def call():
        y = module(x)
        return y.detach(), *torch.autograd.grad(y, wanted, dy)

    return call


def batch_norm_sides(small: bool, *, inplace: bool = False) -> Sides:
    """Training. Passes over x for the moments, x to y, x and dy for the sums, x and dy to dx: eight arrays."""
    shape = (8 if small else 256, 64, 56, 28)
    x, dy = DEVICE.normal(*shape).requires_grad_(), DEVICE.normal(*shape).flip(0)
    norm = torch.nn.BatchNorm2d(64)
    with torch.no_grad():
        norm.weight.copy_(DEVICE.normal(64) + 2)
        norm.bias.copy_(DEVICE.normal(64))
    theirs = torch.nn.Sequential(norm, torch.nn.ReLU(inplace))
    ours = fs.torch.replace_modules(copy.deepcopy(theirs), fuse_relu=True)
    call, peer = (forward_and_backward(module, x, dy) for module in (ours, theirs))
    loops, n, scratch = compiled_loops(), x.numel(), empty_tensor(torch, dy).zero_()

    def loop():
        for tensor in (x, dy):
            loops.read(tensor.data_ptr(), n)
            loops.read(tensor.data_ptr(), n)
            loops.copy(tensor.data_ptr(), scratch.data_ptr(), n)

    return Sides(call, {"torch": peer}, lambda: check_batch_norm(DEVICE, dy, call, peer), 32 * n, (CEILING, loop))


def batch_norm_beside_inplace(small: bool) -> Sides:
    """torch's own passes are then fewer."""
    return batch_norm_sides(small, inplace=True)


def dropout_sides(small: bool) -> Sides:
    """Training: two arrays each way; torch moves a mask besides."""
    n = SMALL if small else LARGE
    x, dy = DEVICE.normal(n).requires_grad_(), DEVICE.normal(n + 1)[1:].clone()
    call, theirs = (forward_and_backward(kind(P), x, dy) for kind in (fs.torch.nn.Dropout, torch.nn.Dropout))
    loops, scratch = compiled_loops(), empty_tensor(torch, dy).zero_()

    def loop():
        for tensor in (x, dy):
            loops.copy(tensor.data_ptr(), scratch.data_ptr(), n)

    return Sides(call, {"torch": theirs}, lambda: check_dropout(DEVICE, P, call, theirs), 16 * n, (CEILING, loop))


def main(arguments: list[str] | None = None) -> int:
    chosen = {work.name: work for work in works()}
    parser = argparse.ArgumentParser(description=f"Works: {', '.join(chosen)}.", allow_abbrev=False)
    add_options(parser, repeats=30)
    options = parser.parse_args(arguments)
    for name in options.work or ():
        if name not in chosen:
            parser.error(f"argument --work: there is no {name!r}; there are {', '.join(chosen)}")
    if reason := cannot_write(options, [chosen[name] for name in options.work or chosen]):
        parser.error(reason)
    table = {"torch drop-ins": [chosen[name] for name in options.work or chosen]}
    return measure(DEVICE, table, options, "python bench/torch_drop_ins.py")


if __name__ == "__main__":
    sys.exit(main())
