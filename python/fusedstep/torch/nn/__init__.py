"""torch.nn's batch norm and dropout on the fused kernels."""

from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .dropout import Dropout

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout"]
