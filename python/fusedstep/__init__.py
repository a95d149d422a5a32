"""Fused kernels for the training of neural networks, on the user's own arrays."""

__version__ = "0.1.0"

from . import nn, ops, optim, reference
from .backend import available_isas, get_num_threads, info, set_num_threads

__all__ = [
    "available_isas",
    "get_num_threads",
    "info",
    "nn",
    "ops",
    "optim",
    "reference",
    "set_num_threads",
]
