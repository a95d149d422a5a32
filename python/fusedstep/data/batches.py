"""Mini-batches of a data set, epoch by epoch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import numpy as np

from .. import _checks
from .._device import describe, device_of
from .._random import generator
from ..reference.scalars import check_integer
from .reading import MemoryReader, Reader, WindowReader
from .sources import Source, as_samples, is_on_disk
from .windows import choose

_LAST = ("keep", "drop", "merge")
_AHEAD = 2
_NAMES = ("n_samples", "batch_size", "shuffle", "seed", "last", "block_size", "shuffle_window")


def _read(reader: Reader, bounds: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return reader.read(bounds)


class MiniBatches:
    """Tuples of mini-batches, reshuffled every epoch.

    The order depends on the sizes below and on (`seed`, `epoch`) alone: not on what was drawn before, on `prefetch`, or
    on NumPy's global state. Every iteration that runs to its end moves `epoch` on by one; one that is broken off does
    not, so the next starts the same epoch again.

    Parameters
    ----------
    *arrays : array_like
        The samples, their targets, their weights ...; axis 0 counts the samples in each. Memory maps, HDF5 and Zarr
        datasets, and whatever else has a length and slices (`Source`) are read while an epoch goes on; those of one
        number a sample are read once. CuPy arrays stay where they are, all of them on one device; batches are drawn
        there.
    batch_size : int or None
        Samples in a batch. 1 is one example at a time, None the full batch; more than there are samples is
        the full batch, too.
    shuffle : bool
        Draw a new order each epoch. Without it batches come in order, of arrays in memory as views: writing into them
        writes into the arrays.
    seed : int
        Not negative; with the epoch it decides the order.
    last : {"keep", "drop", "merge"}
        What becomes of a remainder smaller than `batch_size`: its own small batch, nothing, or a part of the
        batch before it (batch normalization needs more than one sample, which "merge" sees to).
    prefetch : int, optional
        How many batches a background thread gathers ahead, while another reads what comes next from the disk. 0 gathers
        each when it is asked for, which CuPy arrays always do. None: 2 where samples are on disk, 0 elsewhere.
    block_size : int, optional
        Samples that are read at a time from the disk: see the notes. None: about 1 MiB, whole chunks of the file.
    shuffle_window : int, optional
        Samples that are shuffled together: see the notes. None: 128 MiB of samples on disk, all of those in memory.

    Attributes
    ----------
    epoch : int
        The epoch that the next iteration yields, from 0. `set_epoch` moves it.
    position : int
        How many batches of that epoch were yielded already.
    n_samples : int
    smallest : int
        How many samples the smallest batch of an epoch has.
    largest : int
        How many the largest one has.
    arrays : tuple of ndarray or Source
    on_disk : bool
        Whether some of them are not in memory.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range, an array is empty, lengths differ, or devices differ.

    Notes
    -----
    From a disk samples are not read one by one in random order, which it serves a hundred times more slowly than long
    reads. Each epoch draws a new order of whole blocks, reads as many as make a window, and shuffles the samples of the
    window. Samples meet in a batch only if their blocks lie in the same window, so the larger the window and the
    smaller the blocks, the closer to a full shuffle; the memory that is taken is one window, or two with `prefetch`
    (of a memory map: of the system's cache), and reads become short with small blocks. Where the file itself is sorted,
    by class say, blocks should be much shorter than a run of one class and a window hold hundreds of blocks; better
    still, shuffle the file once when it is written. A set that fits into one window is shuffled as a whole, and so as
    it would be in memory; arrays in memory take the order of a larger set on disk when both sizes are given.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.data import MiniBatches
    >>> batches = MiniBatches(np.arange(7), np.arange(7) % 2, batch_size=3, shuffle=False, last="merge")
    >>> for x, y in batches:
    ...     print(x, y)
    [0 1 2] [0 1 0]
    [3 4 5 6] [1 0 1 0]
    >>> len(batches), batches.epoch
    (2, 1)

    A single array gives 1-tuples:

    >>> (x,) = next(iter(MiniBatches(np.arange(4), batch_size=None)))
    >>> sorted(x.tolist())
    [0, 1, 2, 3]
    """

    def __init__(
        self,
        *arrays,
        batch_size: int | None,
        shuffle: bool = True,
        seed: int = 0,
        last: str = "keep",
        prefetch: int | None = None,
        block_size: int | None = None,
        shuffle_window: int | None = None,
    ):
        if not arrays:
            raise TypeError("[MiniBatches] needs at least one array")
        self.arrays = tuple(as_samples(array) for array in arrays)
        self._device = device_of(self.arrays[0])
        for i, array in enumerate(self.arrays):
            if not (self._device.holds(array) or (self._device.name == "cpu" and isinstance(array, Source))):
                raise TypeError(
                    f"[MiniBatches] 'arrays[0]' is {self._device.kind} but 'arrays[{i}]' is {describe(array)}: "
                    "all must be NumPy arrays, or CuPy arrays on one device"
                )
        self.n_samples = _checks.same_length(
            "MiniBatches", {f"arrays[{i}]": array for i, array in enumerate(self.arrays)}
        )
        self.batch_size = _positive("batch_size", batch_size)
        self.shuffle = bool(shuffle)
        self.seed = check_integer("MiniBatches", "seed", seed, 0)
        self.last = _checks.choice("MiniBatches", "last", last, _LAST)
        self._on_disk = [is_on_disk(array) for array in self.arrays]
        self.on_disk = any(self._on_disk)
        if prefetch is None:
            prefetch = _AHEAD if self.on_disk else 0
        self.prefetch = check_integer("MiniBatches", "prefetch", prefetch, 0)
        disk = [array for array, there in zip(self.arrays, self._on_disk, strict=True) if there]
        sizes = _positive("block_size", block_size), _positive("shuffle_window", shuffle_window)
        self._windows = choose(self.n_samples, disk, *sizes)
        self.block_size = self._windows and self._windows.block
        self.shuffle_window = self._windows and self._windows.block * self._windows.per_window
        self.epoch = self.position = 0
        self._size = min(self.batch_size or self.n_samples, self.n_samples)
        remainder = self.n_samples % self._size
        self._n_batches = self.n_samples // self._size + (remainder > 0 and self.last == "keep")
        if self.last == "drop" and self.batch_size is not None and self.batch_size > self.n_samples:
            raise ValueError(
                f"[MiniBatches] 'batch_size' is {self.batch_size} and last='drop' but there are only "
                f"{self.n_samples} samples: no batch would be left"
            )
        ends = [stop - start for start, stop in (self._bounds(0), self._bounds(self._n_batches - 1))]
        self.smallest, self.largest = min(ends), max(ends)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self._n_batches

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        return self.gathered()

    def gathered(self, gather: Callable = _read, look: Callable | None = None) -> Iterator:
        """The batches of an epoch, each ``gather(reader, (start, stop))``: the samples at those places of its order.

        With `prefetch` the calls come from a background thread, one at a time and in order. ``look(i, first, samples)``
        is called with what is read from the disk for arrays[i]: samples from index `first` on.
        """
        epoch, first = self.epoch, self.position
        reader = self._reader(epoch, first, look)
        calls = (partial(gather, reader, self._bounds(i)) for i in range(first, len(self)))
        ahead = self.prefetch and self._device.xp is np
        try:
            with closing(self._ahead(calls) if ahead else (call() for call in calls)) as batches:
                for batch in batches:
                    self.position += 1
                    yield batch
            self.epoch = epoch + 1
        finally:
            self.position = 0
            reader.close()

    def totals(self, weights: np.ndarray | None = None) -> Iterator[float]:
        """What each batch that is left of the epoch counts: its samples, or the sum of their `weights`, on the host."""
        places = range(self.position, len(self))  # now, not when the first is asked for
        if weights is None:
            return (stop - start for start, stop in map(self._bounds, places))
        if self.shuffle:
            weights = weights[self.order(self.epoch)]
        return (float(np.sum(weights[slice(*self._bounds(i))], dtype=np.float64)) for i in places)

    def window_bytes(self) -> int:
        """What the windows take that samples from the disk are shuffled in, and the blocks that are read into them.

        Those of memory maps are the system's.
        """
        sources = [array for array in self.arrays if isinstance(array, Source)]
        sample = sum(math.prod(array.shape[1:]) * array.dtype.itemsize for array in sources)
        if not sources:
            return 0
        return sample * (self._windows.largest * (2 if self.prefetch else 1) + 2 * self._windows.block)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration yield the given epoch (from 0), from its first batch."""
        self.epoch = check_integer("MiniBatches", "epoch", epoch, 0)
        self.position = 0

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the samples in the order of an epoch: int64, shape (n_samples,)."""
        return self._plan(epoch)[0]

    def state_dict(self, position: int | None = None) -> dict:
        """Where the epoch stands, and what the order follows from: numbers and strings alone.

        Parameters
        ----------
        position : int, optional
            How many batches of the epoch are done, where that is not the number of those yielded.
        """
        position = self.position if position is None else position
        return {"epoch": self.epoch, "position": position, **{name: getattr(self, name) for name in _NAMES}}

    def load_state_dict(self, state: dict) -> None:
        """Go to a saved position: the next iteration yields what was left of that epoch.

        Raises
        ------
        ValueError
            The saved batches were cut or shuffled in another way, so the order could not be continued.
        """
        for name, mine in self.state_dict().items():
            if name not in ("epoch", "position") and state.get(name) != mine:
                raise ValueError(f"[MiniBatches] '{name}' is {mine!r} but the saved order has {state.get(name)!r}")
        position = check_integer("MiniBatches", "position", state.get("position"), 0)
        if position > len(self):
            raise ValueError(f"[MiniBatches] 'position' must be at most {len(self)}, the batches, but got {position}")
        self.set_epoch(state.get("epoch"))
        self.position = position

    def _bounds(self, batch: int) -> tuple[int, int]:
        start = batch * self._size
        is_last = batch + 1 == self._n_batches and self.last != "drop"
        return start, self.n_samples if is_last else start + self._size

    def _plan(self, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The order of an epoch, and the blocks of its windows, where it goes by windows."""
        rng = generator(self.seed, "data order", epoch) if self.shuffle else None
        if self._windows is not None:
            return self._windows.order(rng)
        return np.arange(self.n_samples) if rng is None else rng.permutation(self.n_samples), []

    def _reader(self, epoch: int, position: int, look: Callable | None) -> Reader:
        # What a memory map gives in order is read best through views of it.
        if self.on_disk and (self.shuffle or look or any(isinstance(array, Source) for array in self.arrays)):
            start, ahead = position * self._size, self.prefetch > 0
            return WindowReader(self.arrays, self._on_disk, self._windows, self._plan(epoch), start, ahead, look)
        order = None
        if self.shuffle:
            with self._device.active():
                order = self._device.xp.asarray(self.order(epoch))
        return MemoryReader(self.arrays, order, self._device)

    def _ahead(self, calls: Iterator[Callable]) -> Iterator:
        from concurrent.futures import ThreadPoolExecutor  # here, as it brings logging and few need it

        waiting = deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="fusedstep-prefetch")
        try:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) > self.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _positive(name: str, value: int | None) -> int | None:
    return None if value is None else check_integer("MiniBatches", name, value, 1)
