"""A small classifier, its inputs and gradients, for the tests of layers and models."""

from __future__ import annotations

import numpy as np
import pytest

from fusedstep import nn

FLOATS = [np.float32, np.float64]


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def classifier(dtype=np.float32, seed=0):
    return nn.Sequential(
        *(nn.Dense(4, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.4)),
        *(nn.Dense(8, 6), nn.ReLU(), nn.Dropout(0.2), nn.Dense(6, 3)),
        seed=seed,
        dtype=dtype,
    )


def grads(model):
    return {parameter.name: parameter.grad.copy() for parameter in model.parameters()}


def assert_same(actual, expected):
    """The same bits, for arrays or dicts of arrays."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
    else:
        np.testing.assert_array_equal(actual, expected)


def fail_in_forward(model):
    with pytest.raises(ValueError, match="more than one value a channel"):
        model.forward(normal(1, 4))
