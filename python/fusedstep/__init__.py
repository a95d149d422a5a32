"""Fused kernels for the training of neural networks, on the user's own arrays.

Each part is imported when it is first asked for: `import fusedstep` itself takes a millisecond.
"""

__version__ = "0.1.0"

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {  # the modules of those names that are no modules themselves
    "History": "history",
    "available_isas": "backend",
    "evaluate": "evaluation",
    "fit": "training",
    "get_num_threads": "backend",
    "info": "backend",
    "predict": "evaluation",
    "set_num_threads": "backend",
}
_MORE = {  # modules that `*` and dir() leave out: sklearn and torch need packages that may be missing
    "backend",
    "checkpoint",
    "cross_validation",
    "evaluation",
    "history",
    "sklearn",
    "torch",
    "training",
}


def __getattr__(name: str):
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value  # the next time it is found without this function, as a module is
        return value
    if name in __all__ or name in _MORE:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
