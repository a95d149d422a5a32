"""How batches are read: gathered from memory, or from windows that come from the disk one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._device import Device, is_cupy
from .sources import Samples, Source
from .windows import Windows

if TYPE_CHECKING:
    from concurrent.futures import Future


class MemoryReader:
    """Batches of arrays that are all in memory.

    `order` is None where samples come in their own order; batches are views then.
    """

    def __init__(self, arrays: Sequence[Samples], order: np.ndarray | None, device: Device):
        self.arrays, self._order, self._device = arrays, order, device

    def read(self, bounds: tuple[int, int]) -> tuple:
        """The samples at places ``start ... stop - 1`` of the order, one array of each kind."""
        start, stop = bounds
        if self._order is None:
            return tuple(array[start:stop] for array in self.arrays)
        take, indices = self._device.xp.take, self._order[start:stop]
        with self._device.active():
            return tuple(take(a, indices, axis=0) if _is_plain(a) else a[indices] for a in self.arrays)

    def read_into(self, bounds: tuple[int, int], outs: Sequence[np.ndarray]) -> None:
        """The same, written to arrays of the host, of the batch's length; they may have other dtypes."""
        start, stop = bounds
        samples = slice(start, stop) if self._order is None else self._order[start:stop]
        for array, out in zip(self.arrays, outs, strict=True):
            _gather(array, samples, out)

    def close(self) -> None:
        """Nothing is kept."""


class WindowReader:
    """Batches of arrays of which some are on disk. Only the window that a batch lies in is in memory.

    Batches have to be read in the order of an epoch. With `ahead` the next window is read in a thread meanwhile.
    ``look(i, first, samples)`` sees each block of each array that was read. The windows of a memory map are the pages
    that the system keeps of it, which reading a block brings in; those of a `Source` are buffers of ours.
    """

    def __init__(
        self,
        arrays: Sequence[Samples],
        on_disk: Sequence[bool],
        windows: Windows,
        plan: tuple[np.ndarray, list[np.ndarray]],
        position: int,
        ahead: bool,
        look: Callable | None,
    ):
        self.arrays, self._on_disk, self._windows = arrays, on_disk, windows
        self._order, self._blocks = plan
        self._look = look
        self._stops = np.cumsum([len(windows.samples(blocks)) for blocks in self._blocks])
        self._place = np.zeros(windows.n_blocks, np.int64)  # of each block of the window in its buffers
        self._pool = None
        if ahead:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(1, thread_name_prefix="fusedstep-read")
        self._buffers = [
            [np.empty((windows.largest, *a.shape[1:]), a.dtype) if isinstance(a, Source) else None for a in arrays]
            for _ in range(2 if ahead else 1)
        ]
        self._current = int(np.searchsorted(self._stops, position, side="right")) - 1
        self._next: Future | None = None
        self._prepare_next()

    def read(self, bounds: tuple[int, int]) -> tuple:
        outs = tuple(np.empty((bounds[1] - bounds[0], *a.shape[1:]), a.dtype) for a in self.arrays)
        self.read_into(bounds, outs)
        return outs

    def read_into(self, bounds: tuple[int, int], outs: Sequence[np.ndarray]) -> None:
        for start, stop in self._pieces(*bounds):
            samples = self._order[start:stop]
            block, within = np.divmod(samples, self._windows.block)
            places = self._place[block] + within
            buffers = self._buffers[self._current % len(self._buffers)]
            piece = slice(start - bounds[0], stop - bounds[0])
            for array, buffer, out in zip(self.arrays, buffers, outs, strict=True):
                _gather(array, samples, out[piece]) if buffer is None else _gather(buffer, places, out[piece])

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of a batch that lie in one window each; that window is there when its part is given."""
        while start < stop:
            while self._current < 0 or start >= self._stops[self._current]:
                self._advance()
            end = min(stop, int(self._stops[self._current]))
            yield start, end
            start = end

    def _prepare_next(self) -> None:
        if self._pool is not None and self._current + 1 < len(self._blocks):
            self._next = self._pool.submit(self._load, self._current + 1)

    def _advance(self) -> None:
        if self._next is None:
            self._load(self._current + 1)
        else:
            self._next.result()
        self._current, self._next = self._current + 1, None
        start = 0
        for block in self._blocks[self._current]:
            self._place[block] = start
            first, last = self._windows.edges(block)
            start += last - first
        self._prepare_next()

    def _load(self, number: int) -> None:
        buffers = self._buffers[number % len(self._buffers)]
        start = 0
        for block in self._blocks[number]:
            first, last = self._windows.edges(block)
            for i, (array, buffer) in enumerate(zip(self.arrays, buffers, strict=True)):
                if not self._on_disk[i]:
                    continue
                samples = array[first:last]
                if buffer is not None:
                    buffer[start : start + last - first] = samples
                elif self._look is None:
                    samples.copy()  # reads it, in order
                if self._look is not None:
                    self._look(i, first, samples)
            start += last - first


Reader = MemoryReader | WindowReader


def _is_plain(array) -> bool:
    """Whether `take` works on the array as it is; otherwise it would copy the whole of it first."""
    return array.flags.c_contiguous and (is_cupy(array) or array.flags.aligned)


def _gather(array: np.ndarray, samples, out: np.ndarray) -> None:
    if isinstance(samples, slice) or array.dtype != out.dtype or not _is_plain(array):
        out[...] = array[samples]
    else:  # "clip" takes the fast way; all indices are inside
        np.take(array, samples, axis=0, out=out, mode="clip")
