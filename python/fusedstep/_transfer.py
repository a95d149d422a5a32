"""The batches of a training run on the device of its model, in memory that later batches use again.

On the host a shuffled batch is gathered into aligned memory. New memory for each, which the system clears first, took
three times as long at 1.6 MB.

On a GPU a batch of host arrays is copied there while the work on those before it runs: it is gathered into pinned
memory, from which a side stream copies it. Events order the rest: work on a batch waits for its copy, and a copy waits
for the work that still reads the memory it writes. The host waits only where it is about to overwrite pinned memory
that a copy still has to read, which is when it is several batches ahead of the device.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from ._arena import aligned_zeros
from ._device import CPU, Device, Gpu, device_of
from .data import MiniBatches
from .data.reading import Reader

_SLOTS = 3  # one that is worked on, one that is ready, one that is filled


def batches_on(device: Device, batches: MiniBatches, look: Callable | None = None) -> Iterator[tuple]:
    """The batches of an epoch of `batches` as tuples of arrays on `device`.

    They are in C order, whatever the order of the set. Those that had to be gathered on the host, or copied to a GPU,
    are overwritten by later ones. `look` is as for `MiniBatches.gathered`.
    """
    if _copies(device, batches):
        return _copied_ahead(device, batches, look)
    if device is CPU and batches.shuffle:
        return _gathered(batches, look)
    return batches.gathered(lambda reader, bounds: tuple(map(contiguous, reader.read(bounds))), look)


def batches_ahead(device: Device, batches: MiniBatches) -> int:
    """How many batches are on `device` at a time, beside the one that is worked on and the next."""
    return max(0, min(batches.prefetch + _copies(device, batches), len(batches) - 2))


def _copies(device: Device, batches: MiniBatches) -> bool:
    """Whether the batches are on the host, and wanted on a GPU."""
    return device_of(batches.arrays[0]) is CPU and device is not CPU


def contiguous(array):
    """`array` in C order, as losses take it, on its device: as it is, or a copy."""
    device = device_of(array)
    with device.active():
        return device.xp.ascontiguousarray(array)


def device_dtype(position: int, dtype: np.dtype) -> np.dtype:
    """What X, y or weights, at position 0, 1 and 2 of a batch, become on a GPU, as the losses take them there."""
    if position == 2:
        return np.dtype(np.float64)
    return np.dtype(np.int64) if position == 1 and dtype.kind in "iu" else dtype


def _gathered(batches: MiniBatches, look: Callable | None) -> Iterator[tuple]:
    # One that is worked on, `prefetch` that are ready or filled.
    slots = [
        [_memory(shape, a.dtype) for a, shape in _largest(batches)]
        for _ in range(min(1 + batches.prefetch, len(batches)))
    ]
    next_slot = itertools.cycle(slots)

    def gather(reader: Reader, bounds: tuple[int, int]) -> tuple:
        outs = tuple(memory[: bounds[1] - bounds[0]] for memory in next(next_slot))
        reader.read_into(bounds, outs)
        return outs

    return batches.gathered(gather, look)


def _memory(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Aligned, but for Python's objects, which no memory of bytes may hold."""
    return np.empty(shape, dtype) if dtype.hasobject else aligned_zeros(math.prod(shape), dtype).reshape(shape)


def _largest(batches: MiniBatches) -> Iterator[tuple]:
    """Each array of `batches`, and its shape in their largest batch."""
    return ((a, (batches.largest, *a.shape[1:])) for a in batches.arrays)


def _copied_ahead(device: Gpu, batches: MiniBatches, look: Callable | None) -> Iterator[tuple]:
    with device.active():
        side = device.xp.cuda.Stream(non_blocking=True)
        slots = [_Slot(device, batches) for _ in range(min(_SLOTS + batches.prefetch, len(batches)))]
    next_slot = itertools.cycle(slots)
    filled = batches.gathered(lambda reader, bounds: next(next_slot).fill(reader, bounds), look)
    ready: deque[_Slot] = deque()
    try:
        for slot in filled:
            slot.send(side)
            ready.append(slot)
            if len(ready) > 1:
                yield from ready.popleft().lend()
        while ready:
            yield from ready.popleft().lend()
    finally:
        filled.close()
        side.synchronize()  # the memory that it reads and writes is given back now


class _Slot:
    """Memory of one batch: pinned on the host and its copy on the device, and the events that order them."""

    def __init__(self, device: Gpu, batches: MiniBatches):
        cupy = device.xp
        self._device = device
        self._pinned, self._copies = [], []
        for position, (array, shape) in enumerate(_largest(batches)):
            dtype = device_dtype(position, array.dtype)
            size = math.prod(shape)
            memory = cupy.cuda.alloc_pinned_memory(max(size * dtype.itemsize, 1))
            self._pinned.append(np.frombuffer(memory, dtype, size).reshape(shape))
            self._copies.append(cupy.empty(shape, dtype))
        self._copied = cupy.cuda.Event(disable_timing=True)
        # What the compute stream did with this memory before it was ours comes before the first copy.
        self._used = cupy.cuda.get_current_stream().record(cupy.cuda.Event(disable_timing=True))
        self._size = 0

    def fill(self, reader: Reader, bounds: tuple[int, int]) -> _Slot:
        """Gather a batch into the pinned memory."""
        if not self._copied.done:
            self._copied.synchronize()
        start, stop = bounds
        self._size = stop - start
        reader.read_into(bounds, [pinned[: self._size] for pinned in self._pinned])
        return self

    def send(self, side) -> None:
        """Queue the copy of the pinned memory on the stream `side`."""
        with self._device.active():
            side.wait_event(self._used)
            for pinned, copy in zip(self._pinned, self._copies, strict=True):
                copy[: self._size].set(pinned[: self._size], stream=side)
            side.record(self._copied)

    def lend(self) -> Iterator[tuple]:
        """Yield the batch to the current stream, and take it back."""
        with self._device.active():
            self._device.xp.cuda.get_current_stream().wait_event(self._copied)
        yield tuple(copy[: self._size] for copy in self._copies)
        with self._device.active():
            self._device.xp.cuda.get_current_stream().record(self._used)
