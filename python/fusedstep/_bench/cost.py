"""The table of costs: our time against parameters, layers, samples, the size of a batch, and threads.

Each series is a curve, drawn by a straight line ``t = fixed + slope * x`` through its points by least squares of the
relative errors. Where the points leave the line the text looks for the reason among what it can check: the memory that
a step goes through against the processor's caches, the cost of a step that does not grow, the cut-off below which a
kernel stays on one thread. What none of them explains it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .. import backend, ops
from .networks import Network, Ours
from .table import OURS, Sides, Work
from .trial import using, vectors

BENT = 0.2
"""What a point may be off the line of its series, relatively, before the text asks why."""
_DATA, _CLASSES = 784, 10
_WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
_DEPTHS = (1, 2, 4, 8, 16, 32)
_SAMPLES = (1_000, 3_000, 10_000, 30_000, 100_000)
_BATCHES = (8, 32, 128, 512, 2048)
_ADAM = 10_000_000
_STEP_ARRAYS = 4  # parameters, gradients and Adam's two moments


def works() -> list[Work]:
    """All points, series by series."""
    result = []
    for width in _WIDTHS:
        network = Network((256, width, width, _CLASSES), None)
        title = f"a step of {'-'.join(map(str, network.widths))}, batch 128"
        result.append(_point("parameters", parameters(network), title, partial(_step, network, 128)))
    for depth in _DEPTHS:
        network = Network((64,) * (depth + 1) + (_CLASSES,), None)
        title = f"a step of {depth} hidden layers of 64, batch 32"
        result.append(_point("layers", depth, title, partial(_step, network, 32)))
    network = Network((_DATA, 256, 128, _CLASSES), 0.3)
    for samples in _SAMPLES:
        title = f"an epoch of {samples:,} samples, 784-256-128-10, batch 128"
        result.append(_point("samples", samples, title, partial(_epoch, network, samples)))
    for batch in _BATCHES:
        title = f"a step of 784-256-128-10, batch {batch}"
        result.append(_point("batch", batch, title, partial(_step, network, batch)))
    epoch = partial(_epoch, network, 10_000)
    for series, title, make in (
        ("threads-adamw", f"AdamW, {_ADAM:,}", _adamw),
        ("threads-epoch", "an epoch, 784-256-128-10, batch 128", epoch),
    ):
        for threads in range(1, backend.get_num_threads() + 1):
            result.append(_point(series, threads, f"{title}, threads: {threads}", make, partial(_threads, threads)))
    return result


def parameters(network: Network) -> int:
    """How many a network without batch norm has."""
    return sum((a + 1) * b for a, b in zip(network.widths, network.widths[1:], strict=False))


def _point(
    series: str,
    x: int,
    title: str,
    make: Callable[[bool], Sides],
    setting: Callable[[], AbstractContextManager] = nullcontext,
) -> Work:
    return Work(f"{series}-{x}", title, make, "host, 1 s", {}, {"series": series, "x": x}, setting)


def _data(samples: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((samples, features), np.float32), rng.integers(0, _CLASSES, samples)


def _step(network: Network, batch: int, small: bool) -> Sides:
    """Forward, loss, backward and Adam, on 50 batches in turn."""
    x, y = _data(batch * (2 if small else 50), network.widths[0])
    ours, turn = Ours(network), 0

    def step():
        nonlocal turn
        turn = (turn + 1) % (len(x) // batch)
        part = slice(turn * batch, (turn + 1) * batch)
        return ours.step(x[part], y[part])

    return Sides(step, {}, partial(_check, step))


def _epoch(network: Network, samples: int, small: bool) -> Sides:
    x, y = _data(256 if small else samples, network.widths[0])
    epoch = Ours(network).epochs(x, y, 128)
    return Sides(epoch, {}, lambda: _check(lambda: epoch().rows[-1]["train_loss"]))


def _check(loss: Callable[[], float]) -> None:
    """AssertionError unless the first loss is that of a network that knows nothing yet."""
    value, expected = loss(), np.log(_CLASSES)
    if not 0.5 * expected < value < 3 * expected:
        raise AssertionError(f"the first loss is {value}, that of ten equal chances {expected}")


def _adamw(small: bool) -> Sides:
    arrays = vectors(1000 if small else _ADAM, _STEP_ARRAYS)
    step = partial(ops.adam_step, *arrays, lr=1e-3, step=100, weight_decay=0.01, decoupled_weight_decay=True)
    return Sides(step, {}, lambda: None, bytes_moved=28 * arrays[0].size)


@contextmanager
def _threads(n: int):
    """Of the kernels, and of BLAS where threadpoolctl is there."""
    module = backend.native()
    with ExitStack() as stack:
        if find_spec("threadpoolctl") is not None:
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(n, user_api="blas"))
        if module is not None:
            stack.enter_context(using(n, module.get_isa()))
        yield


def caches() -> dict[str, int]:
    """{"L2": bytes, "L3": bytes} of a core, as far as the system tells."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) * 1024
    return {name: size for name, size in found.items() if name != "L1"}


def line_through(x: np.ndarray, t: np.ndarray) -> tuple[float, float]:
    """(fixed, slope) of the line with the least squares of relative errors; neither is below 0."""
    slope, fixed = np.polyfit(x, t, 1, w=1 / t)
    if fixed < 0:
        return 0.0, float(np.sum(x / t) / np.sum((x / t) ** 2))
    return float(fixed), max(0.0, float(slope))


def text(rows: list[dict]) -> list[str]:
    """What is said below the table."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        series.setdefault(row["series"], []).append((row["x"], row[OURS]["median"]))
    result = [f"caches: {', '.join(f'{name} {_bytes(size)}' for name, size in caches().items())}"]
    for name, points in series.items():
        if len(points) < 2:
            continue
        x, t = (np.array(values, float) for values in zip(*sorted(points), strict=True))
        result += [f"{name}: {line}" for line in (_speedup(name, x, t) if name in _SPEEDUPS else _curve(name, x, t))]
    return result


# (what a unit is called, bytes that a step or an epoch goes through at x, what they are, whether the products grow)
_SERIES: dict[str, tuple[str, Callable[[float], float], str, bool]] = {
    "parameters": ("parameter", lambda x: 4 * _STEP_ARRAYS * x, "parameters, gradients and both moments", True),
    "layers": ("layer", lambda x: 4 * (_STEP_ARRAYS * 65 * 64 + 2 * 32 * 64) * x, "the layers' arrays", False),
    "samples": ("sample", lambda x: 4 * _DATA * x, "the samples", False),
    "batch": ("sample", lambda x: 4 * x * (_DATA + 4 * (256 + 128)), "the batch and the activations", True),
}
_SPEEDUPS = ("threads-adamw", "threads-epoch")


def _curve(name: str, x: np.ndarray, t: np.ndarray) -> list[str]:
    """The line, and why points leave it."""
    unit, memory, what, products = _SERIES[name]
    fixed, slope = line_through(x, t)
    off = t / (fixed + slope * x) - 1
    result = [
        f"{_time(fixed)} and {_time(slope)} a {unit}; points are off this line by {np.abs(off).max():.0%} at most"
    ]
    if fixed > 0 and slope > 0:
        half = fixed / slope
        result[0] += f". Up to {half:,.3g} of them what does not grow with them takes the greater part"
    for i in range(1, len(x)):
        if np.abs(off[[i - 1, i]]).max() <= BENT:
            continue
        rate = (t[i] - t[i - 1]) / (x[i] - x[i - 1])
        why = _reason(memory(x[i - 1]), memory(x[i]), what, rate > slope, products)
        result.append(f"from {x[i - 1]:,.0f} to {x[i]:,.0f} each more takes {_time(rate)}: {why}")
    return result


def _reason(before: float, after: float, what: str, steeper: bool, products: bool) -> str:
    """Why a curve is steeper or flatter than its line between two points."""
    for cache, size in caches().items():
        if steeper and before <= size < after:
            return f"{what} grow from {_bytes(before)} to {_bytes(after)} and no longer fit {cache}, {_bytes(size)}"
    native = backend.native()
    cut_off = 0 if native is None else native.get_serial_bytes()
    if not steeper and before <= cut_off < after:
        return f"{what} pass {_bytes(cut_off)}, from which on a kernel takes all threads"
    if not steeper and products:
        return "the products get larger, and BLAS comes closer to the processor's speed"
    return f"{what} take {_bytes(after)}, and no cache ends in between: the caches do not explain it"


def _speedup(name: str, x: np.ndarray, t: np.ndarray) -> list[str]:
    last = f"{x[-1]:.0f} threads are {t[0] / t[-1]:.2f} times as fast as one"
    if name == "threads-adamw":
        return [f"{last}: a step of {_bytes(28 * _ADAM)} waits for memory, which the threads share"]
    native = backend.native()
    cut_off = 0 if native is None else native.get_serial_bytes()
    return [
        f"{last}: the products share all threads, but kernels that move less than {_bytes(cut_off)} stay on one, as "
        "waking another takes longer than they do"
    ]


def _bytes(n: float) -> str:
    return f"{n / 1e6:,.3g} MB"


def _time(seconds: float) -> str:
    for size, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
