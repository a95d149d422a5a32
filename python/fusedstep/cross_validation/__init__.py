"""Rotating cross-validation: k models, and a prediction of every sample by one that never saw it."""

from .result import CrossValidationResult
from .validate import cross_validate

__all__ = ["CrossValidationResult", "cross_validate"]
