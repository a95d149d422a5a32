"""Fused kernels for the training of neural networks, on the user's own arrays."""

__version__ = "0.1.0"

from . import callbacks, data, metrics, model_selection, nn, ops, optim, reference
from .backend import available_isas, get_num_threads, info, set_num_threads
from .evaluation import evaluate, predict
from .history import History
from .training import fit

__all__ = [
    "History",
    "available_isas",
    "callbacks",
    "data",
    "evaluate",
    "fit",
    "get_num_threads",
    "info",
    "metrics",
    "model_selection",
    "nn",
    "ops",
    "optim",
    "predict",
    "reference",
    "set_num_threads",
]


def __getattr__(name):
    if name in ("sklearn", "torch"):  # not before they are asked for: what they build on takes seconds to import
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
