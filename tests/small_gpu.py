"""A GPU for tests on machines without one: a stand-in for CuPy, a model with all kinds of layers, and its data."""

from __future__ import annotations

import numpy as np
import pytest

import fake_cupy
from fusedstep import backend, nn, ops
from fusedstep.reference.losses import check_weights


@pytest.fixture
def cuda_module(monkeypatch):
    """The kernels that run on arrays of the stand-in: the emulated CUDA ones if there are any, else the CPU's."""
    if backend.native() is None:
        pytest.skip("FUSEDSTEP_BACKEND=reference")
    module = HostKernels(backend.native())
    monkeypatch.setattr(backend, "_active", backend._setup().module)
    for place in (backend, ops._dispatch):
        monkeypatch.setattr(place, "cuda", lambda: module)
    return module


@pytest.fixture(params=["late copies", "early copies"])
def gpu(request, monkeypatch, cuda_module) -> fake_cupy.State:
    """Two devices; the counts of waits and copies."""
    return fake_cupy.install(monkeypatch, eager=request.param == "early copies")


class HostKernels:
    """Kernels in the place of the CUDA module: they take the memory of the stand-in's arrays."""

    device = "cuda"

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        kernel = getattr(self._module, name)

        def call(*args):
            arrays = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else [arg])]
            devices = {a.device.id for a in arrays if isinstance(a, fake_cupy.ndarray)}
            if len(devices) > 1 or any(isinstance(a, np.ndarray) for a in arrays):
                raise TypeError(f"{name}: mixed devices")
            args = [type(a)(map(host, a)) if isinstance(a, list | tuple) else host(a) for a in args]
            losses = ("softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error")
            if self._module.device == "cuda" or name not in losses:
                return kernel(*args)
            x, target, weights, total, out, value = args
            if name == "softmax_cross_entropy" and target.dtype != np.int64:
                raise TypeError(f"'labels' has dtype {target.dtype}; accepted is int64")
            if weights is not None:
                assert weights.dtype == np.float64
                weights, total = check_weights(weights, len(x))
            value[...] = kernel(x, target, weights, total, out, None)

        return call


def layers():
    return [
        *(nn.Dense(6, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.3), nn.Dense(8, 8), nn.GELU(), nn.Dense(8, 5)),
        *(nn.BatchNorm(5, momentum=None), nn.Tanh(), nn.Dropout(0.1), nn.Dense(5, 4), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.BatchNorm(4, track_running_stats=False, affine=False), nn.LeakyReLU(), nn.Dense(4, 2)),
    ]


def model(device="cpu", dtype=np.float32, seed=0):
    return nn.Sequential(nn.Flatten(), *layers(), seed=seed, dtype=dtype).to(device)


def samples(n=40, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2, 3)).astype(dtype)
    return X, (X[:, 0, 0] > 0).astype(np.int64)


def on_gpu(array, device=0):
    with fake_cupy.Device(device):
        return fake_cupy.asarray(array)


def host(array):
    return array.host if isinstance(array, fake_cupy.ndarray) else array


def assert_same_state(first, second):
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[name], array, err_msg=name)
