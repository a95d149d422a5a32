"""torch.optim's optimizers, each step of which is one pass over the memory.

All other names are torch.optim's own, as `lr_scheduler`: a script changes its import alone.
"""

from torch import optim as _torch

from .methods import SGD, Adagrad, Adam, AdamW, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_torch, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_torch)})
