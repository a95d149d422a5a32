"""A two-class problem, a model and an optimizer that train in milliseconds."""

from __future__ import annotations

import numpy as np

from fusedstep import nn, optim

LOSS = nn.SoftmaxCrossEntropy()


def data(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane and whether they lie right of a line."""
    X = np.random.default_rng(seed).standard_normal((n, 2)).astype(np.float32)
    return X, (X[:, 0] + 0.5 * X[:, 1] > 0).astype(np.int64)


def model(seed: int = 0, dropout: float = 0.25) -> nn.Sequential:
    return nn.Sequential(nn.Dense(2, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(dropout), nn.Dense(8, 2), seed=seed)


def adam(model: nn.Sequential, lr=0.01) -> optim.Adam:
    return optim.Adam(model.parameters(), lr=lr)


def state(model: nn.Sequential) -> dict[str, bytes]:
    """The bits of all parameters and buffers."""
    return {name: array.tobytes() for name, array in model.state_dict().items()}
