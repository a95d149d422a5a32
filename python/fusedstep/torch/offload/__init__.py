"""An optimizer whose masters, states and update are on the CPU."""

from .optimizer import OffloadedOptimizer

__all__ = ["OffloadedOptimizer"]
