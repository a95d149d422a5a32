"""From the parameters of an estimator to a model and its optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from .. import nn, optim
from ..optim import schedules

ACTIVATIONS = {
    "identity": None,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
}


def starting_values(units: Sequence[int], activation: str, rng: np.random.RandomState) -> list[tuple]:
    """(weight, bias) of each layer: scikit-learn's own, from the same random state (Glorot & Bengio 2010, eq. 16)."""
    factor = 2.0 if activation == "logistic" else 6.0
    values = []
    for n_in, n_out in pairwise(units):
        bound = math.sqrt(factor / (n_in + n_out))
        values.append((rng.uniform(-bound, bound, (n_in, n_out)), rng.uniform(-bound, bound, n_out)))
    return values


def make_layers(units: Sequence[int], activation: str, batch_norm: bool, dropout: float) -> list[nn.Layer]:
    """Dense, batch normalization, activation, dropout; the last layer is Dense alone."""
    layers: list[nn.Layer] = []
    for n_in, n_out in pairwise(units[:-1]):
        layers.append(nn.Dense(n_in, n_out, init="zeros", bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm(n_out))
        if ACTIVATIONS[activation] is not None:
            layers.append(ACTIVATIONS[activation]())
        if dropout:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Dense(units[-2], units[-1], init="zeros"))
    return layers


def make_model(layers: list[nn.Layer], values: list[tuple], *, seed: int, dtype, device: str) -> nn.Sequential:
    model = nn.Sequential(*layers, seed=seed, dtype=dtype)
    for (weight, bias), (start_weight, start_bias) in zip(dense_parameters(model), values, strict=True):
        weight.array[...] = start_weight
        if bias is not None:
            bias.array[...] = start_bias
    return model.to(device)


def dense_parameters(model: nn.Sequential) -> list[tuple]:
    """(weight, bias) of each Dense layer; the bias is None where batch normalization follows."""
    by_name = {p.name: p for p in model.parameters()}
    return [
        (by_name[f"{index}.weight"], by_name.get(f"{index}.bias"))
        for index, layer in enumerate(model.layers)
        if isinstance(layer, nn.Dense)
    ]


def _sgd(given):
    momentum = float(given["momentum"])
    return partial(optim.SGD, momentum=momentum, nesterov=bool(given["nesterovs_momentum"] and momentum))


def _adam(given, method=optim.Adam):
    return partial(method, betas=(given["beta_1"], given["beta_2"]), eps=given["epsilon"])


METHODS = {
    "sgd": _sgd,
    "momentum": lambda given: partial(optim.Momentum, momentum=given["momentum"]),
    "adagrad": lambda given: partial(optim.Adagrad, eps=given["epsilon"]),
    "rmsprop": lambda given: partial(optim.RMSprop, eps=given["epsilon"]),
    "adam": _adam,
    "adamw": partial(_adam, method=optim.AdamW),
    "adamax": partial(_adam, method=optim.Adamax),
    "nadam": partial(_adam, method=optim.NAdam),
    "radam": partial(_adam, method=optim.RAdam),
}
"""What each name of an optimizer takes from the estimator's parameters."""

SCHEDULES = {
    "constant": lambda lr, steps: schedules.constant(lr),
    "inverse_sqrt": lambda lr, steps: schedules.inverse_sqrt(lr),
    "cosine": schedules.cosine,
    "warmup_cosine": lambda lr, steps: schedules.warmup_cosine(lr, steps, warmup_steps=steps // 10),
    "one_cycle": schedules.one_cycle,
}
"""Step sizes by name, from the initial or largest one and the number of steps of the whole training."""

WHOLE_RUN = ("cosine", "warmup_cosine", "one_cycle")
"""Those that need that number."""


def make_optimizer(given: dict, model: nn.Sequential, steps: int) -> optim.Optimizer:
    """The optimizer that an estimator's parameters `given` ask for, with weight decay on the weights of Dense alone.

    `steps` is the number of steps of the whole training.
    """
    method = given["optimizer"] or given["solver"]
    if callable(method):
        optimizer = method(model)
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(f"'optimizer' must be a function model -> fusedstep.optim.Optimizer but gave {optimizer!r}")
        return optimizer
    lr, schedule = given["learning_rate_init"], given["schedule"]
    if schedule is not None:
        lr = schedule if callable(schedule) else SCHEDULES[schedule](lr, steps)
    groups = [{"params": model.parameters()}]
    if given["alpha"]:
        decayed = [weight for weight, _ in dense_parameters(model)]
        groups = [{"params": decayed}, {"params": [p for p in model.parameters() if p not in decayed]}]
    return METHODS[method](given)(groups, lr=lr, weight_decay=0.0, max_norm=given["max_norm"])
