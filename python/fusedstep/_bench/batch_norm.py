"""Batch norm on the processor: by size for the table `kernels`, and with ReLU, forward and backward, beside JAX."""

from __future__ import annotations

import functools
import math

import numpy as np

from .. import ops, reference
from .._result_memory import empty_array
from .layers import check_batch_norm
from .loops import compiled_loops
from .peers import bring
from .table import Sides, Work
from .trial import ALLOCATES, CPU, HEAD, LOOP, Kernel, Trial, assert_same_bits, vectors

# (samples, channels, values a channel and sample) by the number of values
_SHAPES = {
    10**3: (10, 10, 10),
    10**4: (10, 10, 100),
    10**5: (100, 10, 100),
    10**6: (100, 100, 100),
    10**7: (100, 100, 1000),
    10**8: (1000, 100, 1000),
}
_TARGETS = {(256, 64, 56, 28): 6.0, (4096, 1024): 5.0}


def kernels() -> list[Kernel]:
    """Both layouts, both passes, with and without ReLU."""
    result = []
    for layout in ("first", "last"):
        for relu in (False, True):
            for backward in (False, True):
                name = f"batch-norm-{layout}{'-relu' if relu else ''}{'-backward' if backward else ''}"
                title = f"batch norm, channels {layout}{', ReLU' if relu else ''}{', backward' if backward else ''}"
                options = {"layout": layout, "relu": relu, "backward": backward}
                result.append(Kernel(name, title, functools.partial(_by_size, **options)))
    return result


def _arrays(shape) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(x, dy, y, dx), (weight, bias)"""
    rng = np.random.default_rng(2)
    weight, bias = (rng.normal(loc, size=shape[1]).astype(np.float32) for loc in (2, 0))
    return [a.reshape(shape) for a in vectors(math.prod(shape), 4)], [weight, bias]


def _running(channels: int) -> list[np.ndarray]:
    """The running statistics of a new layer."""
    return [np.zeros(channels, np.float32), np.ones(channels, np.float32)]


class _Torch:
    """The same with torch, on the same memory; its results are its own."""

    def __init__(self, torch, x, dy, weight, bias, relu: bool):
        self.torch, self.relu, self.dy = torch, relu, torch.from_numpy(dy)
        self.tracked = [torch.from_numpy(a).requires_grad_() for a in (x, weight, bias)]
        self.begin()

    def begin(self):
        """Make the running statistics those of a new layer."""
        self.running = list(map(self.torch.from_numpy, _running(self.dy.shape[1])))

    def forward(self):
        functional, (x, *vectors) = self.torch.nn.functional, self.tracked
        y = functional.batch_norm(x, *self.running, *vectors, training=True)
        return functional.relu(y, inplace=True) if self.relu else y

    def both(self):
        y = self.forward()
        return y.detach(), *self.torch.autograd.grad(y, self.tracked, self.dy)


def _by_size(n: int, *, layout: str, relu: bool, backward: bool) -> Trial:
    """Training, into memory that is there. Forward reads x twice, backward x and dy; each writes one array."""
    samples, channels, plane = _SHAPES[n]
    shape = (samples, channels, plane) if layout == "first" else (samples * plane, channels)
    (x, dy, y, dx), affine = _arrays(shape)
    running = _running(channels)
    vectors_out = {name: np.empty(channels, np.float32) for name in ("dweight", "dbias")}

    def forward(library=ops, x=x, affine=affine, running=running, out=y):
        return library.batch_norm(x, *affine, *running, relu=relu, out=out)

    saved = forward()[1]

    def gradients():
        return ops.batch_norm_backward(dy, x, saved, dx=dx, **vectors_out)

    torch, missing = bring("torch", "torch")
    peers = {}
    if torch is not None:
        peer = _Torch(torch, x, dy, *affine, relu)
        if backward:
            made = peer.forward()
            peers[ALLOCATES] = lambda: torch.autograd.grad(made, peer.tracked, peer.dy, retain_graph=True)
        else:
            peers[ALLOCATES] = peer.forward

    def all_of_ours():
        forward()
        return tuple(torch.from_numpy(a) for a in (y, *gradients()))

    def check():
        few = max(1, min(channels, HEAD * channels // n))  # of the channels, each of which stands for itself
        head = [np.ascontiguousarray(a[:, :few]) for a in (x, dy)]
        results = []
        for library in (ops, reference):
            moving = _running(few)
            result, kept = forward(library, head[0], [a[:few].copy() for a in affine], moving, None)
            results.append([result, *moving, *library.batch_norm_backward(head[1], head[0], kept)])
        assert_same_bits("batch_norm", *results)
        if torch is not None:
            # Of the channels last torch adds up one value after another: n / channels roundings of half a unit.
            units = max(64, n / channels / 2)
            check_batch_norm(CPU, peer.dy, all_of_ours, peer.both, units)
            _check_running("torch", running, forward, peer, units)

    def results():
        return [a.copy() for a in (gradients() if backward else forward()[:1])]

    loops, (of_x, of_dy, of_y, of_dx) = compiled_loops(), (a.ctypes.data for a in (x, dy, y, dx))

    def loop():
        loops.read(of_x, n)
        if backward:
            loops.read(of_dy, n)
            loops.read(of_x, n)
            loops.copy(of_dy, of_dx, n)
        else:
            loops.copy(of_x, of_y, n)

    ours, moved = (gradients, 20 * n) if backward else (forward, 12 * n)
    return Trial(Sides(ours, peers, check, moved, (LOOP, loop), missing=missing), results)


def beside_jax() -> list[Work]:
    """Forward and backward of batch norm with ReLU as one work, results made as each library makes them."""
    return [
        Work(
            f"batch-norm-{'x'.join(map(str, shape))}",
            f"batch norm + ReLU, both passes, {shape}",
            functools.partial(_both_passes, shape),
            "host, 1 s",
            {"JAX": least},
        )
        for shape, least in _TARGETS.items()
    ]


def _both_passes(shape, small: bool) -> Sides:
    shape = (8, *shape[1:]) if small else shape
    (x, dy, _, _), affine = _arrays(shape)
    running = _running(shape[1])

    def ours():
        y, saved = ops.batch_norm(x, *affine, *running, relu=True)
        return y, *ops.batch_norm_backward(dy, x, saved)

    torch, missing = bring("torch", "torch")
    jax, without_jax = bring("jax", "JAX")
    peers: dict[str, _Torch | _Jax] = {}
    if torch is not None:
        peers["torch"] = _Torch(torch, x, dy, *affine, relu=True)
    if jax is not None:
        peers["JAX"] = _Jax(jax, x, dy, *affine)

    def check():
        head = [np.ascontiguousarray(a[:, :1]) for a in (x, dy)]
        results = []
        for library in (ops, reference):
            moving = _running(1)
            y, saved = library.batch_norm(head[0], *(a[:1].copy() for a in affine), *moving, relu=True)
            results.append([y, *moving, *library.batch_norm_backward(head[1], head[0], saved)])
        assert_same_bits("batch_norm", *results)
        if torch is not None:
            theirs = peers["torch"].both
            check_batch_norm(CPU, torch.from_numpy(dy), lambda: tuple(map(torch.from_numpy, ours())), theirs)
        if jax is not None:
            _check_beside_jax(dy, ours, peers["JAX"].both)
        for name, peer in peers.items():
            _check_running(name, running, ours, peer)

    scratch = empty_array(x)  # memory as that of the results
    scratch.fill(0)
    n, loops, (of_x, of_dy) = x.size, compiled_loops(), (a.ctypes.data for a in (x, dy))

    def loop():
        for address in (of_x, of_dy):
            loops.read(address, n)
            loops.read(address, n)
            loops.copy(address, scratch.ctypes.data, n)

    functions = {name: peer.both for name, peer in peers.items()}
    return Sides(ours, functions, check, 32 * n, (LOOP, loop), missing=missing | without_jax)


def _check_running(name: str, running: list[np.ndarray], ours, peer: _Torch | _Jax, units: float = 64) -> None:
    """AssertionError unless the running statistics agree after a step of each: to `units` in the last place of 1, as
    x has values about 1."""
    for array, start in zip(running, _running(running[0].size), strict=True):
        array[...] = start
    peer.begin()
    ours()
    peer.both()
    for kind, actual, wanted in zip(("mean", "variance"), running, peer.running, strict=True):
        off = float(np.abs(actual - np.asarray(wanted)).max())
        if not off <= units * np.finfo(np.float32).eps:
            raise AssertionError(f"batch norm's running {kind} differs by {off:.3g} from {name}'s")


def _check_beside_jax(dy: np.ndarray, ours, theirs) -> None:
    """As `check_batch_norm` has it, by NumPy.

    JAX takes the variance as mean(x^2) - mean(x)^2: x has mean 0, so nothing cancels, and what is left are the
    roundings of sums of n values. Where these are added one after another the errors grow as a random walk: by sqrt(n)
    units of the sum of the squares, hence of y and dx, and by sqrt(n) of sums about sqrt(n) in dweight and dbias.
    """
    differs = (ours()[0] > 0) != (np.asarray(theirs()[0]) > 0)
    if differs.sum() > 1e-4 * dy.size:
        raise AssertionError(f"batch_norm: {int(differs.sum())} of {dy.size} values are cut by one side alone")
    dy[differs] = 0
    eps, n = np.finfo(np.float32).eps, dy.size / dy.shape[1]
    for name, actual, wanted in zip(("y", "dx", "dweight", "dbias"), ours(), theirs(dy), strict=True):
        largest = float(np.abs(wanted).max())
        tolerance = eps * (max(64, n) if name in ("dweight", "dbias") else max(64, n**0.5) * largest)
        off = float(np.abs(actual - np.asarray(wanted)).max())
        if not off <= tolerance:
            raise AssertionError(f"batch norm's {name} differs by {off:.3g} from JAX's, more than {tolerance:.3g}")


def jax_batch_norm(jax, x, weight, bias, running, *, eps: float, momentum: float):
    """(y, the running statistics after it), for axis 1 of x, written as flax does: it is the fastest way in JAX.

    The moments come from one pass, and the weight is part of the factor. The running variance is that of n - 1, as
    torch and fusedstep have it.
    """
    jnp = jax.numpy
    axes, wide = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
    n = x.size // x.shape[1]
    mean = x.mean(axes)
    var = jnp.maximum(0, jax.lax.square(x).mean(axes) - jax.lax.square(mean))
    factor = jax.lax.rsqrt(var + eps) * weight
    y = (x - mean.reshape(wide)) * factor.reshape(wide) + bias.reshape(wide)
    moments = (mean, var * (n / (n - 1)))
    return y, [(1 - momentum) * old + momentum * new for old, new in zip(running, moments, strict=True)]


class _Jax:
    """The same with JAX, jitted; a call waits for its results."""

    def __init__(self, jax, x, dy, weight, bias):
        def forward(x, weight, bias, running):
            y, running = jax_batch_norm(jax, x, weight, bias, running, eps=1e-5, momentum=0.1)
            return jax.nn.relu(y), running

        @jax.jit
        def step(x, dy, weight, bias, running):
            y, back, running = jax.vjp(lambda *given: forward(*given, running), x, weight, bias, has_aux=True)
            return (y, *back(dy)), running

        self.jax, self._step = jax, step
        self._given = [jax.numpy.array(a) for a in (x, dy, weight, bias)]
        self.begin()

    def begin(self):
        self.running = list(map(self.jax.numpy.array, _running(self._given[0].shape[1])))

    def both(self, new_dy=None):
        """With another dy from now on, where one is given."""
        if new_dy is not None:
            self._given[1] = self.jax.numpy.array(new_dy)
        results, self.running = self.jax.block_until_ready(self._step(*self._given, self.running))
        return results
