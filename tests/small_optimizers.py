"""Small lists of parameters, their gradients, and every optimizer in variants."""

from __future__ import annotations

import numpy as np

import fusedstep as fs
from bits import assert_same_bits
from fusedstep import optim

SHAPES = {"0.weight": (5, 7), "0.bias": (7,), "1.weight": (7, 3), "1.bias": (3,)}
METHODS = [
    *(optim.SGD, optim.Momentum, optim.Adagrad, optim.RMSprop, optim.Adam, optim.AdamW),
    *(optim.Adadelta, optim.Adamax, optim.Lion, optim.NAdam, optim.RAdam, optim.LARS, optim.LAMB),
]
VARIANTS = [
    (optim.SGD, {}),
    (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (optim.Momentum, {"dampening": 0.9}),
    (optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    (optim.RMSprop, {"momentum": 0.5, "centered": True}),
    (optim.Adam, {"amsgrad": True, "eps_mode": "inside"}),
    (optim.AdamW, {"bias_correction": False}),
    (optim.Adadelta, {"eps": 1e-2}),
    (optim.Adamax, {"eps": 1e-3}),
    (optim.Lion, {"betas": (0.5, 0.6)}),
    (optim.NAdam, {"momentum_decay": 0.1}),
    (optim.LARS, {"trust_coefficient": 0.1}),
    (optim.LAMB, {"lr": 0.1}),
    (optim.RAdam, {"betas": (0.9, 0.99), "decoupled_weight_decay": True}),
]


def parameters(seed: int = 0, dtype=np.float32) -> list[fs.nn.Parameter]:
    rng = np.random.default_rng(seed)
    return [
        fs.nn.Parameter(rng.standard_normal(shape).astype(dtype), np.zeros(shape, dtype), name)
        for name, shape in SHAPES.items()
    ]


def set_gradients(params, t: int, scale: float = 1.0) -> None:
    rng = np.random.default_rng(100 + t)
    for p in params:
        p.grad[...] = rng.standard_normal(p.grad.shape) * scale


def train(params, optimizer, steps: int = 5, start: int = 0, scale: float = 1.0) -> None:
    for t in range(start, start + steps):
        set_gradients(params, t, scale)
        optimizer.step()


def assert_equal(params, others) -> None:
    for p, q in zip(params, others, strict=True):
        assert_same_bits(p.name, p.array, q.array)


def bits(params, optimizer) -> tuple:
    """Everything that a step may change."""
    state = optimizer.state_dict()
    arrays = [p.array.tobytes() for p in params]
    arrays += [a.tobytes() for states in state["state"].values() for a in states.values()]
    return arrays, state["steps"], state["skipped"], state["param_groups"]


def model(seed: int = 0) -> fs.nn.Sequential:
    return fs.nn.Sequential(fs.nn.Dense(5, 7), fs.nn.BatchNorm(7), fs.nn.Tanh(), fs.nn.Dense(7, 3), seed=seed)
