"""Mini-batches of arrays in memory or on disk, and how large they may be."""

from .batches import MiniBatches
from .memory import largest_batch_size
from .sources import Source

__all__ = ["MiniBatches", "Source", "largest_batch_size"]
