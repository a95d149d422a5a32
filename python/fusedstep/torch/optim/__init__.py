"""torch.optim's optimizers, each step of which is one pass over the memory.

All other names are torch.optim's own, as `lr_scheduler`: a script changes its import alone.
"""

from torch import optim as _torch

from .._forward import forward_names
from .methods import SGD, Adagrad, Adam, AdamW, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]

__getattr__, __dir__ = forward_names(globals(), _torch)
