"""What may happen at fixed points of a training run."""

from .base import Callback
from .checkpoint import Checkpoint
from .early_stopping import EarlyStopping
from .nonfinite import StopOnNaN

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "StopOnNaN"]
