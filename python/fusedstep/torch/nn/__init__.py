"""torch.nn's batch norm and dropout on the fused kernels.

All other names are torch.nn's own: a script changes its import alone.
"""

from torch import nn as _torch

from .._forward import forward_names
from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .dropout import Dropout

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout"]

__getattr__, __dir__ = forward_names(globals(), _torch)
