"""Optimizers and their step-size schedules."""

from . import schedules
from .gauss_newton import DiagonalGaussNewton, GaussNewton
from .kfac import KFAC
from .methods import SGD, Adagrad, Adam, AdamW, Momentum, RMSprop
from .optimizer import Optimizer

__all__ = [
    "KFAC",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "DiagonalGaussNewton",
    "GaussNewton",
    "Momentum",
    "Optimizer",
    "RMSprop",
    "schedules",
]
