"""Optimizers and their step-size schedules."""

from . import schedules
from .adaptive_methods import Adadelta, Adamax, Lion, NAdam, RAdam
from .gauss_newton import DiagonalGaussNewton, GaussNewton
from .kfac import KFAC
from .layer_methods import LAMB, LARS
from .methods import SGD, Adagrad, Adam, AdamW, Momentum, RMSprop
from .optimizer import Optimizer

__all__ = [
    "KFAC",
    "LAMB",
    "LARS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "DiagonalGaussNewton",
    "GaussNewton",
    "Lion",
    "Momentum",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "schedules",
]
