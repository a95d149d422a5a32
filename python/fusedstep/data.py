"""Mini-batches of arrays in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from . import _checks
from ._device import as_array, describe, device_of
from ._random import generator
from .reference.scalars import check_integer

_LAST = ("keep", "drop", "merge")


class MiniBatches:
    """Tuples of mini-batches, reshuffled every epoch.

    The order depends on (`seed`, `epoch`) alone: not on what was drawn before, on `prefetch`, or on NumPy's
    global state. Every iteration that runs to its end moves `epoch` on by one; one that is broken off does
    not, so the next starts the same epoch again.

    Parameters
    ----------
    *arrays : array_like
        The samples, their targets, their weights ...; axis 0 counts the samples in each. CuPy arrays stay where they
        are, all of them on one device; batches are drawn there.
    batch_size : int or None
        Samples in a batch. 1 is one example at a time, None the full batch; more than there are samples is
        the full batch, too.
    shuffle : bool
        Draw a new order each epoch. Without it batches come in order, as views: writing into them writes
        into the arrays.
    seed : int
        Not negative; with the epoch it decides the order.
    last : {"keep", "drop", "merge"}
        What becomes of a remainder smaller than `batch_size`: its own small batch, nothing, or a part of the
        batch before it (batch normalization needs more than one sample, which "merge" sees to).
    prefetch : int
        How many batches a background thread gathers ahead. 0 gathers each when it is asked for, which CuPy arrays
        always do.

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
    arrays : tuple of ndarray

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or out of range, an array is empty, lengths differ, or devices differ.

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

    def __init__(self, *arrays, batch_size: int | None, shuffle: bool = True, seed: int = 0, last="keep", prefetch=0):
        if not arrays:
            raise TypeError("[MiniBatches] needs at least one array")
        self.arrays = tuple(as_array(array) for array in arrays)
        self._device = device_of(self.arrays[0])
        for i, array in enumerate(self.arrays):
            if not self._device.holds(array):
                raise TypeError(
                    f"[MiniBatches] 'arrays[0]' is {self._device.kind} but 'arrays[{i}]' is {describe(array)}: "
                    "all must be NumPy arrays, or CuPy arrays on one device"
                )
        self.n_samples = _checks.same_length(
            "MiniBatches", {f"arrays[{i}]": array for i, array in enumerate(self.arrays)}
        )
        if batch_size is not None:
            batch_size = check_integer("MiniBatches", "batch_size", batch_size, 1)
        self.batch_size = batch_size
        self.shuffle = bool(shuffle)
        self.seed = check_integer("MiniBatches", "seed", seed, 0)
        self.last = _checks.choice("MiniBatches", "last", last, _LAST)
        self.prefetch = check_integer("MiniBatches", "prefetch", prefetch, 0)
        self.epoch = self.position = 0
        self._bounds = self._cut()
        sizes = [stop - start for start, stop in self._bounds]
        self.smallest, self.largest = min(sizes), max(sizes)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._bounds)

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        return self.gathered(self._gather)

    def gathered(self, gather: Callable) -> Iterator:
        """The batches of an epoch, each ``gather(order, (start, stop))``: those samples of `order`, None for all in
        their own order. With `prefetch` the calls come from a background thread, one at a time and in order.
        """
        epoch, bounds = self.epoch, self._bounds[self.position :]
        order = None
        if self.shuffle:
            with self._device.active():
                order = self._device.xp.asarray(self.order(epoch))
        gather = partial(gather, order)
        ahead = self.prefetch and self._device.xp is np
        try:
            for batch in self._gather_ahead(gather, bounds) if ahead else map(gather, bounds):
                self.position += 1
                yield batch
            self.epoch = epoch + 1
        finally:
            self.position = 0

    def totals(self, weights: np.ndarray | None = None) -> Iterator[float]:
        """What each batch that is left of the epoch counts: its samples, or the sum of their `weights`, on the host."""
        bounds = self._bounds[self.position :]  # now, not when the first is asked for
        if weights is None:
            return iter([stop - start for start, stop in bounds])
        if self.shuffle:
            weights = weights[self.order(self.epoch)]
        return (float(np.sum(weights[start:stop], dtype=np.float64)) for start, stop in bounds)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration yield the given epoch (from 0), from its first batch."""
        self.epoch = check_integer("MiniBatches", "epoch", epoch, 0)
        self.position = 0

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the samples in the order of an epoch: int64, shape (n_samples,)."""
        if not self.shuffle:
            return np.arange(self.n_samples, dtype=np.int64)
        return generator(self.seed, "data order", epoch).permutation(self.n_samples)

    def state_dict(self, position: int | None = None) -> dict:
        """Where the epoch stands, and what the order follows from: numbers and strings alone.

        Parameters
        ----------
        position : int, optional
            How many batches of the epoch are done, where that is not the number of those yielded.
        """
        names = ("n_samples", "batch_size", "shuffle", "seed", "last")
        position = self.position if position is None else position
        return {"epoch": self.epoch, "position": position, **{name: getattr(self, name) for name in names}}

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

    def _cut(self) -> list[tuple[int, int]]:
        size = min(self.batch_size or self.n_samples, self.n_samples)
        starts = list(range(0, self.n_samples, size))
        if self.n_samples % size and self.last == "merge":
            starts.pop()
        bounds = list(zip(starts, [*starts[1:], self.n_samples], strict=True))
        if self.last == "drop":
            bounds = [(start, stop) for start, stop in bounds if stop - start == (self.batch_size or size)]
            if not bounds:
                raise ValueError(
                    f"[MiniBatches] 'batch_size' is {self.batch_size} and last='drop' but there are only "
                    f"{self.n_samples} samples: no batch would be left"
                )
        return bounds

    def _gather(self, order: np.ndarray | None, bounds: tuple[int, int]) -> tuple[np.ndarray, ...]:
        start, stop = bounds
        if order is None:
            return tuple(array[start:stop] for array in self.arrays)
        take, indices = self._device.xp.take, order[start:stop]
        with self._device.active():
            return tuple(take(array, indices, axis=0) for array in self.arrays)

    def _gather_ahead(self, gather, all_bounds) -> Iterator[tuple[np.ndarray, ...]]:
        waiting = deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="fusedstep-prefetch")
        try:
            for bounds in all_bounds:
                waiting.append(pool.submit(gather, bounds))
                if len(waiting) > self.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
