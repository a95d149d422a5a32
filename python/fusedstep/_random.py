"""Independent streams of random numbers from one seed."""

from __future__ import annotations

import numpy as np

_PURPOSES = ("weights", "data order", "targets")


def generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """The stream number `index` of a purpose: two purposes share no numbers, even with the same seed and index."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_PURPOSES.index(purpose), index))
    return np.random.Generator(np.random.PCG64(sequence))
