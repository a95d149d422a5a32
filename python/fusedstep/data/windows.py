"""Shuffling what does not fit into memory: whole blocks are read, samples change places within a window of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .sources import Samples, Source

_BLOCK_BYTES = 1 << 20  # long enough for a disk to read at its full rate
_WINDOW_BYTES = 1 << 27  # two of them are in memory while one is read ahead


@dataclass(frozen=True)
class Windows:
    """How an epoch goes through `n_samples`: blocks of `block` samples, `per_window` blocks at a time.

    The blocks of an epoch come in random order; those of a window are read, each as one slice, and their samples are
    shuffled together. Blocks and windows decide which samples can meet, the random numbers which do.
    """

    n_samples: int
    block: int
    per_window: int

    @property
    def n_blocks(self) -> int:
        return -(-self.n_samples // self.block)

    def order(self, rng: np.random.Generator | None) -> tuple[np.ndarray, list[np.ndarray]]:
        """The samples in the order of an epoch, and the blocks of each window, rising; in their own without `rng`."""
        if rng is not None and self.per_window >= self.n_blocks:  # the order of a set in memory
            return rng.permutation(self.n_samples), [np.arange(self.n_blocks)]
        blocks = np.arange(self.n_blocks) if rng is None else rng.permutation(self.n_blocks)
        windows = [np.sort(blocks[i : i + self.per_window]) for i in range(0, self.n_blocks, self.per_window)]
        if rng is None:
            return np.arange(self.n_samples), windows
        order = np.empty(self.n_samples, np.int64)
        start = 0
        for window in windows:
            samples = self.samples(window)
            rng.shuffle(samples)
            order[start : start + len(samples)] = samples
            start += len(samples)
        return order, windows

    def samples(self, window: np.ndarray) -> np.ndarray:
        """The samples of the blocks of a window, in the order in which they are read."""
        samples = (window[:, None] * self.block + np.arange(self.block)).ravel()
        return samples[samples < self.n_samples]

    def edges(self, block: int) -> tuple[int, int]:
        """Where a block starts and stops."""
        return int(block) * self.block, min((int(block) + 1) * self.block, self.n_samples)

    @property
    def largest(self) -> int:
        """Samples in the largest window."""
        return min(self.block * self.per_window, self.n_samples)


def choose(n_samples: int, on_disk: Sequence[Samples], block: int | None, window: int | None) -> Windows | None:
    """The windows for these sizes in samples, None where all samples are shuffled at once, in memory.

    For samples on disk a size that is None follows from the bytes of one and from how they are kept together.
    """
    if not on_disk and window is None:
        return None
    sample_bytes = sum(max(1, math.prod(a.shape[1:])) * a.dtype.itemsize for a in on_disk) or 1
    if block is None:
        # A chunk that two blocks shared would be read, and decompressed, twice.
        together = max((a.chunk for a in on_disk if isinstance(a, Source)), default=1)
        # In memory, where a window was asked for, blocks have no reason to be long.
        block = together * max(1, -(-_BLOCK_BYTES // (sample_bytes * together))) if on_disk else 1
    if window is None:
        window = _WINDOW_BYTES // sample_bytes
    return Windows(n_samples, min(block, n_samples), max(1, window // block))
