"""Averages that decay end at 0, not among the subnormal numbers, which processors are slow at."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from bits import assert_same_bits
from small_optimizers import METHODS, parameters, set_gradients

NEVER = {"sum", "max_exp_avg_sq"}  # these do not decay


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("module", [fs.ops, fs.reference], ids=["ops", "reference"])
def test_the_bounds(module, dtype):
    """0 in place of what is subnormal, of either sign; the smallest normal number and NaN stay."""
    info = np.finfo(dtype)
    tiny, least = info.smallest_normal, info.smallest_subnormal
    largest = np.nextafter(tiny, dtype(0))
    buffers = np.array([tiny, -tiny, largest, -largest, least, -least, -0.0, np.nan, np.inf] * 5, dtype)
    expected = np.array([tiny, -tiny, 0, 0, 0, 0, 0, np.nan, np.inf] * 5, dtype)
    average = np.array([tiny, largest, least] * 15, dtype)
    params = np.zeros_like(buffers)
    module.sgd_step(params, np.zeros_like(params), buffers, lr=0.0, momentum=1.0)
    assert_same_bits("buffers", buffers, expected)
    zeros = np.zeros_like(average)
    module.sgd_step(zeros, zeros.copy(), lr=0.0, ema_params=average, ema_decay=1.0)
    assert_same_bits("average", average, np.array([tiny, 0, 0] * 15, dtype))


@pytest.mark.parametrize("method", METHODS)
def test_states_of_parameters_without_gradients(method):
    params = parameters()
    optimizer = method(params, ema_decay=0.9)
    set_gradients(params, 0)
    optimizer.step()
    subnormal = np.finfo(np.float32).smallest_subnormal * 5
    for p in params:
        p.array[...] = p.grad[...] = 0
        for states in optimizer.state_arrays(p.name).values():
            states[...] = subnormal
    optimizer.step()
    for p in params:
        for name, states in optimizer.state_arrays(p.name).items():
            left = states[(states != 0) & (np.abs(states) < np.finfo(np.float32).tiny)]
            assert left.size == (states.size if name in NEVER else 0), name
