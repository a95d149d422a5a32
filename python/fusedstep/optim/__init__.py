"""Optimizers and their step-size schedules."""

from . import schedules
from .methods import SGD, Adagrad, Adam, AdamW, Momentum, RMSprop
from .optimizer import Optimizer

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Momentum", "Optimizer", "RMSprop", "schedules"]
