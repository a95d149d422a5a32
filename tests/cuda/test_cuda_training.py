"""Models and `fs.fit` on the GPU against the CPU.

Matrix products are cuBLAS's there, whose sums have another order: the runs agree to rounding, not to the bit. Noise of
4 units in the last place on every product moved the losses of this run by 3 units and the predictions by 10, so the
run does not enlarge it. A product has at most 64 terms, so that its sum in another order moves by at most 64 units,
which makes 48 and 160; the bounds are about five times that. (The optimizer is Momentum, as Adam would turn the
gradient of a bias in front of batch norm, which is rounding alone, into steps of full length.)
"""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs

pytestmark = pytest.mark.cuda

UNITS = 256


@pytest.fixture(autouse=True)
def cupy():
    return pytest.importorskip("cupy")


def problem(dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(640, 20)).astype(dtype)
    return X, (X[:, 0] + X[:, 1] ** 2 > 1).astype(np.int64)


def network(dtype) -> fs.nn.Sequential:
    layers = [fs.nn.Dense(20, 64), fs.nn.BatchNorm(64), fs.nn.Tanh(), fs.nn.Dropout(0.2), fs.nn.Dense(64, 2)]
    return fs.nn.Sequential(*layers, seed=1, dtype=dtype)


def train(dtype, device):
    model = network(dtype).to(device)
    optimizer = fs.optim.Momentum(model.parameters(), lr=0.05, max_norm=1.0)
    X, y = problem(dtype)
    loss = fs.nn.SoftmaxCrossEntropy()
    data = {"train": (X[:512], y[:512]), "validation": (X[512:], y[512:])}
    history = fs.fit(model, optimizer, loss, **data, epochs=6, batch_size=51, progress=False)
    return model, history


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fit(dtype):
    """66 steps in 6 epochs."""
    bound = UNITS * np.finfo(dtype).eps
    here, history = train(dtype, "cpu")
    there, history_there = train(dtype, "cuda")
    for name in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(history_there.column(name), history.column(name), rtol=bound)
    assert history.column("train_loss")[-1] < history.column("train_loss")[0]
    assert there.device.startswith("cuda") and here.device == "cpu"
    there.to("cpu")
    X, _ = problem(dtype)
    difference = np.abs(there.predict(X) - here.predict(X)).max()
    assert difference <= 4 * bound * np.abs(here.predict(X)).max()


def test_a_run_on_the_gpu_repeats():
    states = [train(np.float32, "cuda")[0].state_dict() for _ in range(2)]
    for name, value in states[0].items():
        assert np.array_equal(value, states[1][name]), name


def test_arrays_of_a_model_are_on_its_device(cupy):
    model = network(np.float32)
    assert model.to("cuda") is model
    for p in model.parameters():
        assert isinstance(p.array, cupy.ndarray) and isinstance(p.grad, cupy.ndarray)
    X, y = problem(np.float32)
    output = model.forward(cupy.asarray(X))
    assert isinstance(output, cupy.ndarray)
    value, gradient = fs.nn.SoftmaxCrossEntropy()(output, cupy.asarray(y))
    assert isinstance(gradient, cupy.ndarray)
    model.backward(gradient)
    assert isinstance(model.predict(cupy.asarray(X)), cupy.ndarray)
    assert all(isinstance(a, np.ndarray) for a in model.state_dict().values())
    assert np.isfinite(float(value))


def test_an_optimizer_of_the_old_arrays_is_refused():
    model = network(np.float32)
    optimizer = fs.optim.Adam(model.parameters())
    model.to("cuda")
    X, y = problem(np.float32)
    with pytest.raises(ValueError, match="optimizer"):
        fs.fit(model, optimizer, fs.nn.SoftmaxCrossEntropy(), (X, y), epochs=1, progress=False)


def test_a_model_goes_through_a_file(tmp_path):
    model = network(np.float32).to("cuda")
    model.save(tmp_path / "model.safetensors")
    loaded = fs.nn.load(tmp_path / "model.safetensors")
    for name, value in model.state_dict().items():
        assert np.array_equal(loaded.state_dict()[name], value), name
