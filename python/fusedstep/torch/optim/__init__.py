"""torch.optim's optimizers, each step of which is one pass over the memory."""

from .methods import SGD, Adagrad, Adam, AdamW, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]
