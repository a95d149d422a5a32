"""The optimizers that look at the batch, and a small network and data for them."""

from __future__ import annotations

import numpy as np

import fusedstep as fs
from fusedstep import nn

METHODS = {
    "GaussNewton": lambda p, **options: fs.optim.GaussNewton(p, **{"cg_max_iter": 20, **options}),
    "DiagonalGaussNewton": lambda p, **options: fs.optim.DiagonalGaussNewton(
        p, **{"lr": 0.1, "damping": 0.02, **options}
    ),
    "KFAC": lambda p, **options: fs.optim.KFAC(p, **{"every": 2, **options}),
}


def gradients(model, loss, x, y, *weights):
    value, dy = loss(model.forward(x), y, *weights)
    model.backward(dy)
    return value


def network(seed=0, dtype=np.float64):
    return nn.Sequential(
        *(nn.Dense(5, 6), nn.BatchNorm(6), nn.Tanh(), nn.Dropout(0.2), nn.Dense(6, 4, bias=False), nn.GELU()),
        nn.Dense(4, 3),
        seed=seed,
        dtype=dtype,
    )


def data(n=64, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5)).astype(dtype)
    return x, x[:, :3].argmax(axis=1)


def states(optimizer):
    return {f"{p} {s}": a.copy() for p, own in optimizer.state_dict()["state"].items() for s, a in own.items()}
