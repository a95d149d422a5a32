"""The model, the optimizer and the schedule that the options name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from itertools import pairwise

from .. import nn, optim
from ..optim import schedules

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}
OPTIMIZERS = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "sgd": optim.SGD,
    "momentum": optim.Momentum,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
    "adadelta": optim.Adadelta,
    "adamax": optim.Adamax,
    "lion": optim.Lion,
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
    "lars": optim.LARS,
    "lamb": optim.LAMB,
}
# Each method's own, but for gradient descent, whose 0.001, torch's, gets nowhere in the epochs of a run.
RATES: dict[str, float] = {name: signature(method).parameters["lr"].default for name, method in OPTIMIZERS.items()} | {
    "sgd": 0.1,
    "momentum": 0.01,
}
# Each from the rate and the number of steps of the run.
SCHEDULES: dict[str, Callable[[float, int], schedules.Schedule]] = {
    "constant": lambda lr, steps: schedules.constant(lr),
    "cosine": schedules.cosine,
    "warmup_cosine": lambda lr, steps: schedules.warmup_cosine(lr, steps, steps // 20),
    "one_cycle": lambda lr, steps: schedules.one_cycle(lr, max(steps, 2)),
    "step_decay": lambda lr, steps: schedules.step_decay(lr, -(-steps // 3)),
    "exponential": lambda lr, steps: schedules.exponential(lr, 0.01 ** (1 / steps)),
    "inverse_time": lambda lr, steps: schedules.inverse_time(lr, 9 / steps),
    "inverse_sqrt": lambda lr, steps: schedules.inverse_sqrt(lr, 99 / steps),
}
SCHEDULE_HELP = (
    "of the learning rate over the run: warmup_cosine rises in the first 20th, step_decay has three levels a factor 10 "
    "apart, exponential ends at lr/100, inverse_time and inverse_sqrt at lr/10"
)


def make_network(
    seed: int,
    sample_shape: Sequence[int],
    *,
    hidden: Sequence[int],
    outputs: int,
    activation: str,
    batch_norm: bool,
    dropout: float,
    device: str,
) -> nn.Sequential:
    """Hidden layers of Dense, BatchNorm, activation and Dropout, then a Dense."""
    widths = (*sample_shape, *hidden)
    layers: list[nn.Layer] = []
    for inputs, features in pairwise(widths):
        layers.append(nn.Dense(inputs, features))
        if batch_norm:
            layers.append(nn.BatchNorm(features))
        layers.append(ACTIVATIONS[activation]())
        if dropout:
            layers.append(nn.Dropout(dropout))
    model = nn.Sequential(*layers, nn.Dense(widths[-1], outputs), seed=seed)
    return model if device == "cpu" else model.to(device)


def make_optimizer(
    model,
    *,
    optimizer: str,
    lr: float,
    schedule: str,
    steps: int,
    weight_decay: float | None,
    max_norm: float | None,
) -> optim.Optimizer:
    """Weight decay, and LARS' and LAMB's step sizes by layers, spare biases and batch norm."""
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    if optimizer in ("adamw", "lars", "lamb") or weight_decay:
        decay["decay_1d"] = False  # without any decay one group of parameters is quicker than two
    return OPTIMIZERS[optimizer](model.parameters(), lr=SCHEDULES[schedule](lr, steps), max_norm=max_norm, **decay)
