"""A kernel at a size: its sides, its memory, and other settings of threads and instruction sets."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .. import backend
from .._arena import aligned_zeros
from .._result_memory import empty_array
from .device import Device
from .loops import NoCompilerError, compiled_loops
from .table import Sides

CPU = Device("cpu")
LOOP = "loop of the same traffic"
ALLOCATES = "torch allocates"  # the peer whose result is new memory at each call, where ours has `out`
HEAD = 100_000  # values, the first, that are compared with the reference


@dataclass(frozen=True)
class Trial:
    """results: computes from one start, the same each time, so that settings can be compared."""

    sides: Sides
    results: Callable[[], list[np.ndarray]]


@dataclass(frozen=True)
class Kernel:
    """name: for --work, ahead of the size. share: the target beside the ceiling at 30 million values."""

    name: str
    title: str
    make: Callable[[int], Trial]
    share: float | None = None


def vectors(n: int, count: int) -> list[np.ndarray]:
    """The first `count` of five float32 vectors, which all works of this size share: two of normal values, then 0."""
    every = _memory(n)
    for seed, vector in enumerate(every[:2]):
        normal = np.random.default_rng(seed).standard_normal(min(n, 1_000_003), np.float32)
        for begin in range(0, n, normal.size):
            vector[begin : begin + normal.size] = normal[: n - begin]
    for vector in every[2:count]:
        vector.fill(0)
    return every[:count]


@functools.lru_cache(maxsize=1)
def _memory(n: int) -> list[np.ndarray]:
    return [aligned_zeros(n, np.float32) for _ in range(5)]


def copies(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Copies, in huge pages where they are large: the system hands these out faster."""
    made = [empty_array(a) for a in arrays]
    for copy, a in zip(made, arrays, strict=True):
        np.copyto(copy, a)
    return made


def assert_same_bits(name: str, actual, expected) -> None:
    """AssertionError unless the arrays are equal bit for bit."""
    for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
        if np.asarray(a).tobytes() != np.asarray(e).tobytes():
            raise AssertionError(f"{name}: result {k} has other bits")


@contextlib.contextmanager
def using(threads: int, isa: str) -> Iterator[None]:
    """Kernels, and the loops of their traffic, with these; put back at the end, also after an error."""
    module, loops = backend.native(), compiled_loops()
    before = module.get_num_threads(), module.get_isa()
    with contextlib.ExitStack() as back:
        back.callback(module.set_num_threads, before[0])
        back.callback(module.set_isa, before[1])
        with contextlib.suppress(NoCompilerError):
            back.callback(loops.set_threads, loops.set_threads(threads))
        module.set_num_threads(threads)
        module.set_isa(isa)
        yield


def beside_the_usual(name: str, trial: Trial, usual: tuple[int, str]) -> Sides:
    """The sides in another setting, without peers; its results must have the bits of the usual one."""

    def check():
        actual = trial.results()
        with using(*usual):
            assert_same_bits(f"{name} in another setting", actual, trial.results())

    return Sides(trial.sides.ours, {}, check, trial.sides.bytes_moved, trial.sides.ceiling)
