"""Fused kernels for the training of neural networks, on the user's own arrays.

`import fusedstep` brings `ops` and `reference`; each other part comes when it is first asked for.
"""

__version__ = "0.1.0"

import importlib
from typing import TYPE_CHECKING

from . import ops, reference
from .backend import available_isas, get_num_threads, info, set_num_threads

if TYPE_CHECKING:
    from . import callbacks, curvature, data, landscape, metrics, model_selection, nn, optim, tune
    from .evaluation import evaluate, predict
    from .history import History
    from .training import fit

__all__ = [
    "History",
    "available_isas",
    "callbacks",
    "curvature",
    "data",
    "evaluate",
    "fit",
    "get_num_threads",
    "info",
    "landscape",
    "metrics",
    "model_selection",
    "nn",
    "ops",
    "optim",
    "predict",
    "reference",
    "set_num_threads",
    "tune",
]

# Threads may ask at once: Python's import locks see to it, if no part imports a module (nn.parameter) ahead of its
# package (nn). Else one thread may wait for the package with the module's lock and another the other way round, or look
# for the package at the moment when Python, which has loaded it in another thread, moves it to the end of sys.modules.
_HOMES = {  # where the late names are that are no modules themselves
    "History": "history",
    "evaluate": "evaluation",
    "fit": "training",
    "predict": "evaluation",
}
_MORE = {  # modules that `*` and dir() leave out: sklearn and torch need packages that may be missing
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
        # Not kept here: a test may have put something else in its place for a while.
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in __all__ or name in _MORE:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "importlib"})
