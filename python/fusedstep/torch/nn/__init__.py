"""torch.nn's batch norm and dropout on the fused kernels.

All other names are torch.nn's own: a script changes its import alone.
"""

from torch import nn as _torch

from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .dropout import Dropout

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout"]


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_torch, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_torch)})
