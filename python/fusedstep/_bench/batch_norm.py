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
from .trial import CPU, HEAD, LOOP, Kernel, Trial, assert_same_bits, vectors

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


class _Torch:
    """The same with torch, on the same memory; its results are its own."""

    def __init__(self, torch, x, dy, weight, bias, relu: bool):
        self.torch, self.relu, self.dy = torch, relu, torch.from_numpy(dy)
        self.tracked = [torch.from_numpy(a).requires_grad_() for a in (x, weight, bias)]
        self.running = [torch.zeros(x.shape[1]), torch.ones(x.shape[1])]

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
    running = [np.zeros(channels, np.float32), np.ones(channels, np.float32)]
    vectors_out = {name: np.empty(channels, np.float32) for name in ("dweight", "dbias")}

    def forward(library=ops, x=x, affine=affine, out=y):
        return library.batch_norm(x, *affine, *(a[: x.shape[1]] for a in running), relu=relu, out=out)

    saved = forward()[1]

    def gradients():
        return ops.batch_norm_backward(dy, x, saved, dx=dx, **vectors_out)

    torch, missing = bring("torch", "torch")
    peers = {}
    if torch is not None:
        peer = _Torch(torch, x, dy, *affine, relu)
        if backward:
            made = peer.forward()
            peers["torch"] = lambda: torch.autograd.grad(made, peer.tracked, peer.dy, retain_graph=True)
        else:
            peers["torch"] = peer.forward

    def all_of_ours():
        forward()
        return tuple(torch.from_numpy(a) for a in (y, *gradients()))

    def check():
        few = max(1, min(channels, HEAD * channels // n))  # of the channels, each of which stands for itself
        head = [np.ascontiguousarray(a[:, :few]) for a in (x, dy)]
        results = []
        for library in (ops, reference):
            result, kept = forward(library, head[0], [a[:few].copy() for a in affine], None)
            results.append([result, *library.batch_norm_backward(head[1], head[0], kept)])
        assert_same_bits("batch_norm", *results)
        if torch is not None:
            # Of the channels last torch adds up one value after another: n / channels roundings of half a unit.
            check_batch_norm(CPU, peer.dy, all_of_ours, peer.both, max(64, n / channels / 2))

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
    running = [np.zeros(shape[1], np.float32), np.ones(shape[1], np.float32)]

    def ours():
        y, saved = ops.batch_norm(x, *affine, *running, relu=True)
        return y, *ops.batch_norm_backward(dy, x, saved)

    torch, missing = bring("torch", "torch")
    jax, without_jax = bring("jax", "JAX")
    peers = {}
    if torch is not None:
        peers["torch"] = _Torch(torch, x, dy, *affine, relu=True).both
    if jax is not None:
        peers["JAX"] = _jax_step(jax, x, dy, affine)

    def check():
        head = [np.ascontiguousarray(a[:, :1]) for a in (x, dy)]
        results = []
        for library in (ops, reference):
            y, saved = library.batch_norm(head[0], *(a[:1].copy() for a in affine), relu=True)
            results.append([y, *library.batch_norm_backward(head[1], head[0], saved)])
        assert_same_bits("batch_norm", *results)
        if torch is not None:
            theirs = peers["torch"]
            check_batch_norm(CPU, torch.from_numpy(dy), lambda: tuple(map(torch.from_numpy, ours())), theirs)
        if jax is not None:
            _check_beside_jax(dy, ours, peers["JAX"])

    scratch = empty_array(x)  # memory as that of the results
    scratch.fill(0)
    n, loops, (of_x, of_dy) = x.size, compiled_loops(), (a.ctypes.data for a in (x, dy))

    def loop():
        for address in (of_x, of_dy):
            loops.read(address, n)
            loops.read(address, n)
            loops.copy(address, scratch.ctypes.data, n)

    return Sides(ours, peers, check, 32 * n, (LOOP, loop), missing=missing | without_jax)


def _check_beside_jax(dy: np.ndarray, ours, theirs) -> None:
    """As `check_batch_norm` has it, by NumPy."""
    differs = (ours()[0] > 0) != (np.asarray(theirs()[0]) > 0)
    if differs.sum() > 1e-4 * dy.size:
        raise AssertionError(f"batch_norm: {int(differs.sum())} of {dy.size} values are cut by one side alone")
    dy[differs] = 0
    eps = np.finfo(np.float32).eps
    for name, actual, wanted in zip(("y", "dx", "dweight", "dbias"), ours(), theirs(dy), strict=True):
        largest = float(np.abs(wanted).max())
        tolerance = eps * (16 * dy.size / dy.shape[1] if name in ("dweight", "dbias") else 64 * largest)
        off = float(np.abs(actual - np.asarray(wanted)).max())
        if not off <= tolerance:
            raise AssertionError(f"batch norm's {name} differs by {off:.3g} from JAX's, more than {tolerance:.3g}")


def _jax_step(jax, x, dy, affine):
    """Jitted, the moving statistics included; waits for its results. The call takes another dy than before."""
    jnp = jax.numpy
    axes = (0, *range(2, x.ndim))
    wide = (1, -1, *[1] * (x.ndim - 2))

    def forward(x, weight, bias, mean_so_far, var_so_far):
        mean, var = x.mean(axes), x.var(axes)
        xhat = (x - mean.reshape(wide)) * jax.lax.rsqrt(var + 1e-5).reshape(wide)
        y = jax.nn.relu(xhat * weight.reshape(wide) + bias.reshape(wide))
        return y, (0.9 * mean_so_far + 0.1 * mean, 0.9 * var_so_far + 0.1 * var)

    @jax.jit
    def step(x, dy, weight, bias, mean, var):
        y, back, moving = jax.vjp(lambda *given: forward(*given, mean, var), x, weight, bias, has_aux=True)
        return y, *back(dy), moving

    given = [jnp.array(a) for a in (x, dy, *affine, np.zeros_like(affine[0]), np.ones_like(affine[0]))]

    def call(new_dy=None):
        if new_dy is not None:
            given[1] = jnp.array(new_dy)
        return jax.block_until_ready(step(*given))[:4]

    return call
