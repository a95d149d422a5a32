"""Step sizes: how hard an optimizer is to tune, and where to begin."""

from .range_test import RangeTest, lr_range_test
from .sweep import StepSizeSweep, step_size_sweep

__all__ = ["RangeTest", "StepSizeSweep", "lr_range_test", "step_size_sweep"]
