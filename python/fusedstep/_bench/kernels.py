"""The table `kernels` of the processor: each at sizes from 1,000 to 100 million, by threads and instruction sets.

All works of a size lie in the same memory, and torch's optimizers step our very arrays. Before the times, the first
values are compared with the reference bit for bit, and all with each peer; other numbers of threads and instruction
sets must give the bits of the usual setting.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from types import ModuleType

import numpy as np

from .. import backend, nn, ops, optim, reference
from . import batch_norm, steps
from .layers import check_dropout
from .loops import compiled_loops
from .peers import bring
from .table import Sides, Work
from .trial import ALLOCATES, CPU, HEAD, LOOP, Kernel, Trial, assert_same_bits, beside_the_usual, copies, using, vectors

SIZES = [10**k for k in range(3, 9)]
FEW_SIZES = [10_000, 10_000_000]  # one in the cache, one beyond it: for one thread and the other instruction sets
TARGET_SIZE = 30_000_000
SMALL = 1000
_P = 0.25  # 16384 / 65536: what is asked for is what is realized

_RULES = {
    "sgd": ("SGD", steps.Rule("SGD", "sgd_step", {}, {"lr": 0.01}, {}, False), None),
    "sgd-momentum": ("SGD momentum", steps.MOMENTUM, 0.95),
    "sgd-nesterov": (
        "SGD Nesterov",
        steps.Rule("SGD", "sgd_step", steps.MOMENTUM.states, steps.MOMENTUM.options | {"nesterov": True}, {}, False),
        None,
    ),
    "adagrad": ("AdaGrad", steps.ADAGRAD, 0.95),
    "rmsprop": ("RMSprop", steps.RMSPROP, 0.95),
    "rmsprop-centered": (
        "RMSprop centered, momentum",
        steps.Rule(
            "RMSprop",
            "rmsprop_step",
            {"square_avgs": "square_avg", "momentum_buffers": "momentum_buffer", "grad_avgs": "grad_avg"},
            {"lr": 1e-3, "momentum": 0.9, "centered": True},
            {},
            False,
        ),
        None,
    ),
    "adam": ("Adam", steps.Rule("Adam", "adam_step", steps.ADAMW.states, {"lr": 1e-3}, {}, True), None),
    "adamw": ("AdamW", steps.ADAMW, 0.95),
    "amsgrad": (
        "AMSGrad",
        steps.Rule(
            "Adam",
            "adam_step",
            steps.ADAMW.states | {"max_exp_avg_sqs": "max_exp_avg_sq"},
            {"lr": 1e-3, "amsgrad": True},
            {},
            True,
        ),
        None,
    ),
    "adadelta": ("Adadelta", steps.ADADELTA, None),
    "adamax": ("Adamax", steps.ADAMAX, None),
    "nadam": ("NAdam", steps.NADAM, None),
    "radam": ("RAdam", steps.RADAM, None),
    "lion": ("Lion", steps.LION, None),
    "lars": ("LARS", steps.LARS, None),
    "lamb": ("LAMB", steps.LAMB, None),
}
_READ_TWICE = ("lars_step", "lamb_step")  # for the norms; the ceiling walks once


def works() -> list[Work]:
    """All of them, size by size, so that arrays are made once a size."""
    kernels = [
        *(Kernel(name, title, functools.partial(_step, rule), share) for name, (title, rule, share) in _RULES.items()),
        Kernel("norm", "global norm", _norm),
        Kernel("dropout", "dropout", functools.partial(_dropout, backward=False), 0.8),
        Kernel("dropout-backward", "dropout, backward", functools.partial(_dropout, backward=True), 0.8),
        *batch_norm.kernels(),
    ]
    result = [Work("adam-small", "Adam.step, 6 arrays, 26,122 float32", _small_model, "host, 200 calls")]
    for size in sorted([*SIZES, TARGET_SIZE]):
        chosen = [kernel for kernel in kernels if size != TARGET_SIZE or kernel.share is not None]
        result += [_work(kernel, size) for kernel in chosen]
        if size in FEW_SIZES:
            result += [_in_setting(kernel, size, *setting) for kernel in chosen for setting in _settings()]
    return [*result, *batch_norm.beside_jax()]


def _clock(size: int) -> str:
    return "host, 200 calls" if size <= 10_000 else "host, 20 calls" if size <= 100_000 else "host"


def _work(kernel: Kernel, size: int) -> Work:
    name = "adamw-large" if (kernel.name, size) == ("adamw", TARGET_SIZE) else f"{kernel.name}-{size}"
    targets = {"share": kernel.share} if size == TARGET_SIZE else {}

    def make(small: bool) -> Sides:
        return kernel.make(SMALL if small else size).sides

    about = {"kernel": kernel.name, "size": size}
    return Work(name, f"{kernel.title}, {size:,}", make, "host, 1 s" if targets else _clock(size), targets, about)


def _settings() -> list[tuple[str, int, str]]:
    """(what it is called, threads, instruction set): one thread, and each instruction set but the one in use."""
    module = backend.native()
    if module is None:
        return []
    threads, isa = module.get_num_threads(), module.get_isa()
    others = [(other, threads, other) for other in module.available_isas() if other != isa]
    return [("1 thread", 1, isa), *others] if threads > 1 else others


def _in_setting(kernel: Kernel, size: int, setting: str, threads: int, isa: str) -> Work:
    module = backend.native()
    usual = module.get_num_threads(), module.get_isa()

    def make(small: bool) -> Sides:
        return beside_the_usual(kernel.name, kernel.make(SMALL if small else size), usual)

    about = {"kernel": kernel.name, "size": size, "setting": setting}
    name, title = f"{kernel.name}-{size}-{setting.replace(' ', '-')}", f"{kernel.title}, {size:,}, {setting}"
    return Work(name, title, make, _clock(size), {}, about, lambda: using(threads, isa))


def _small_model(small: bool) -> Sides:
    """Dense 64-128-128-10; as small as it is."""
    model = nn.Sequential(nn.Dense(64, 128), nn.Dense(128, 128), nn.Dense(128, 10))
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.grad[...] = rng.normal(size=p.grad.shape)
    optimizer = optim.Adam(model.parameters())
    torch, missing = bring("torch", "torch")
    if torch is None:
        return Sides(optimizer.step, {}, lambda: None, missing=missing)
    theirs = []
    for p in model.parameters():
        theirs.append(torch.nn.Parameter(torch.from_numpy(p.array.copy())))
        theirs[-1].grad = torch.from_numpy(p.grad.copy())
    peer = torch.optim.Adam(theirs, fused=True)

    def check():
        for _ in range(10):
            optimizer.step()
            peer.step()
        for p, t in zip(model.parameters(), theirs, strict=True):
            np.testing.assert_allclose(p.array, t.detach().numpy(), rtol=1e-4, atol=1e-6)

    return Sides(optimizer.step, {"torch fused": peer.step}, check)


def _step(rule: steps.Rule, n: int) -> Trial:
    """One array, in place: our op beside torch's function, which has our arrays as parameter, gradient and states."""
    arrays = vectors(n, 2 + len(rule.states))

    def stepper(library: ModuleType, arrays, taken: int):
        op, options = getattr(library, rule.op), rule.options | rule.own
        named = dict(zip(("params", "grads", *rule.states), arrays, strict=True))

        def step():
            nonlocal taken
            taken += 1
            op(**named, **options, **({"step": taken} if rule.counted else {}))

        return step

    torch, missing = bring("torch", "torch") if rule.peer else (None, {})
    peers, taken = {}, 0
    if torch is not None:
        p = torch.nn.Parameter(torch.from_numpy(arrays[0]))
        p.grad = torch.from_numpy(arrays[1])
        name, peer = steps.peer_of(CPU, rule, [p], graph=False)
        peer.step()  # makes its states
        for key, array in zip(rule.states.values(), arrays[2:], strict=True):
            peer.state[p][key] = torch.from_numpy(array)
        their_step = steps.functional_step(peer)
        peers, taken = {name: their_step}, 1

    def check():
        head = [a[:HEAD].copy() for a in arrays]
        mine, wanted = [a.copy() for a in head], head
        stepper(ops, mine, taken)()
        stepper(reference, wanted, taken)()
        assert_same_bits(rule.op, mine, wanted)
        if not peers:
            return
        mine = copies(arrays)
        ours = stepper(ops, mine, taken)
        for _ in range(steps.CHECKED_STEPS):
            ours()
            their_step()
        for name, a, e in zip(("params", "grads", *rule.states), mine, arrays, strict=True):
            CPU.assert_close_in_ulps(f"{rule.op} {name}", torch.from_numpy(a), torch.from_numpy(e), steps.ULPS)

    def results() -> list[np.ndarray]:
        mine = copies(arrays)
        stepper(ops, mine, taken)()
        return mine

    loops, loop = compiled_loops(), f"update{len(arrays) - 1}"
    addresses = [a.ctypes.data for a in arrays]
    moved = 4 * n * (2 * len(arrays) - 1 + (len(arrays) if rule.op in _READ_TWICE else 0))
    ours = stepper(ops, arrays, 100)
    ceiling = (LOOP, lambda: getattr(loops, loop)(*addresses, n))
    sides = Sides(ours, peers, check, moved, ceiling, missing=missing)
    if rule.options.get("centered"):  # beside a gradient that stays its variance rounds to below 0: torch's then is NaN
        sides = replace(sides, before=lambda: np.negative(arrays[1], out=arrays[1]))
    return Trial(sides, results)


def _norm(n: int) -> Trial:
    """torch sums in float32, so its norm is off for many values: they agree in its float64, and the row tells by how
    much the one that is timed is off."""
    (x,) = vectors(n, 1)
    torch, missing = bring("torch", "torch")
    peers = {}
    if torch is not None:
        theirs = torch.from_numpy(x)
        peers = {"torch": lambda: torch.linalg.vector_norm(theirs)}

    def check():
        if ops.global_norm(x[:HEAD]) != reference.global_norm(x[:HEAD]):
            raise AssertionError("global_norm: other bits than the reference's")
        if torch is not None:
            wanted = torch.linalg.vector_norm(theirs, dtype=torch.float64).item()
            np.testing.assert_allclose(ops.global_norm(x), wanted, rtol=1e-12)

    def remarks() -> list[str]:
        off = abs(peers["torch"]().item() / ops.global_norm(x) - 1) if peers else 0.0
        return [f"torch's norm, in float32, is off by {off:.2%}"] if off > 1e-4 else []

    loops, address = compiled_loops(), x.ctypes.data

    def read():
        loops.read(address, n)

    sides = Sides(lambda: ops.global_norm(x), peers, check, 4 * n, ("read", read), missing=missing, remarks=remarks)
    return Trial(sides, lambda: [np.array(ops.global_norm(x))])


def _dropout(n: int, *, backward: bool) -> Trial:
    """Into memory that is there; torch makes its result, and moves a mask besides."""
    x, dy, y, dx = vectors(n, 4)
    torch, missing = bring("torch", "torch")

    def forward_of_ours():
        return ops.dropout(x, _P, seed=1, offset=2, out=y)

    def backward_of_ours():
        return ops.dropout_backward(dy, _P, seed=1, offset=2, out=dx)

    peers = {}
    if torch is not None:
        tracked, gradient = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

        def forward_of_theirs():
            return torch.nn.functional.dropout(tracked, _P, training=True)

        if backward:
            result = forward_of_theirs()
            peers[ALLOCATES] = lambda: torch.autograd.grad(result, tracked, gradient, retain_graph=True)
        else:
            peers[ALLOCATES] = forward_of_theirs

    def check():
        forward_of_ours()
        backward_of_ours()
        for array, given in ((y, x), (dx, dy)):
            wanted = reference.dropout(given[:HEAD], _P, seed=1, offset=2)
            assert_same_bits("dropout", [array[:HEAD]], [wanted])
        if torch is not None:
            check_dropout(CPU, _P, lambda: (torch.from_numpy(y), torch.from_numpy(dx)), both_of_theirs)

    def both_of_theirs():
        result = forward_of_theirs()
        return result.detach(), torch.autograd.grad(result, tracked, gradient)[0]

    ours, source, target = (backward_of_ours, dy, dx) if backward else (forward_of_ours, x, y)
    loops, addresses = compiled_loops(), (source.ctypes.data, target.ctypes.data)
    ceiling = ("copy", lambda: loops.copy(*addresses, n))
    return Trial(Sides(ours, peers, check, 8 * n, ceiling, missing=missing), lambda: [ours().copy()])
