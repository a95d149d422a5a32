"""What may happen at fixed points of a training run."""

from .base import Callback
from .checkpoint import Checkpoint
from .early_stopping import EarlyStopping
from .epoch_schedule import EpochSchedule
from .nonfinite import StopOnNaN
from .plateau import ReduceOnPlateau

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "EpochSchedule", "ReduceOnPlateau", "StopOnNaN"]
