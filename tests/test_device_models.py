"""Models on a GPU, with a stand-in for CuPy: the same bits as on the CPU, and no wait."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fake_cupy
import fusedstep as fs
from fusedstep import backend, nn, optim
from small_gpu import assert_same_state, host, model, on_gpu, samples


def test_the_curvature_is_computed_on_the_host(gpu):
    X, labels = samples()
    ours, theirs = model("cuda"), model()
    assert fs.curvature.extremes(
        ours, nn.SoftmaxCrossEntropy(), on_gpu(X), on_gpu(labels), weights=on_gpu(np.ones(40)), max_products=5
    ) == fs.curvature.extremes(theirs, nn.SoftmaxCrossEntropy(), X, labels, max_products=5, weights=np.ones(40))
    for training in (True, False):
        found, expected = (
            fs.curvature.Hessian(*arguments, training=training).gradient()
            for arguments in (
                (ours, nn.SoftmaxCrossEntropy(), on_gpu(X), on_gpu(labels)),
                (theirs, nn.SoftmaxCrossEntropy(), X, labels),
            )
        )
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="takes parameters on the CPU but got some on cuda:0"):
        optim.GaussNewton(ours.parameters())


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_passes_give_the_bits_of_the_cpu(gpu, device, dtype):
    ours, theirs = model(device, dtype), model(dtype=dtype)
    assert ours.device == {"cuda": "cuda:0"}.get(device, device)
    index = int(ours.device[-1])
    for seed, n in enumerate((7, 9, 4)):
        X, _ = samples(n, dtype, seed)
        output, expected = ours.forward(on_gpu(X, index)), theirs.forward(X)
        dx, expected_dx = ours.backward(output), theirs.backward(expected)
        evaluated = ours.predict(on_gpu(X, index))
        for actual, wanted in ((output, expected), (dx, expected_dx), (evaluated, theirs.predict(X))):
            assert isinstance(actual, fake_cupy.ndarray) and actual.device.id == index
            np.testing.assert_array_equal(host(actual), wanted)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_array_equal(host(p.grad), q.grad, err_msg=p.name)
    assert_same_state(ours, theirs)
    assert gpu.devices == [0]


def test_passes_do_not_wait(gpu):
    net, loss = model("cuda"), nn.SoftmaxCrossEntropy()
    X, y = map(on_gpu, samples())
    gpu.waits.clear()
    value, gradient = loss(net.forward(X), y)
    net.backward(gradient)
    net.predict(X)
    assert not gpu.waits
    assert (value.shape, value.dtype, type(value)) == ((), np.float64, fake_cupy.ndarray)


def test_there_and_back(gpu):
    net = model()
    X, _ = samples()
    net.backward(net.forward(X))
    state, gradients = net.state_dict(), [p.grad.copy() for p in net.parameters()]
    assert net.to("cpu") is net and net.to("cuda:1") is net and net.to("cuda:0").device == "cuda:0"
    assert net.buffers()["2.num_batches_tracked"] == 1 and isinstance(
        net.buffers()["2.num_batches_tracked"], np.ndarray
    )
    arena = net.parameters()[0].segment[0]
    assert all(np.shares_memory(p.array.host, arena.array.host) for p in net.parameters())
    assert all(type(a) is np.ndarray for a in net.state_dict().values())
    net.to("cpu")
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    for p, gradient in zip(net.parameters(), gradients, strict=True):
        np.testing.assert_array_equal(p.grad, gradient)
    with pytest.raises(RuntimeError, match="training pass"):
        net.backward(net.predict(X))


def test_copies_and_files(gpu, tmp_path):
    net = model("cuda:1")
    net.forward(on_gpu(samples()[0], 1))
    net.save(tmp_path / "model")
    loaded = nn.load(tmp_path / "model")
    assert loaded.device == "cpu"
    for twin in (loaded, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_same_state(twin, net)
    assert copy.deepcopy(net).device == "cuda:1"
    other = model("cuda", seed=1)
    other.load_state_dict({name: on_gpu(array) for name, array in net.state_dict().items()})
    assert_same_state(other, net)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:2", None, 0])
def test_unknown_devices(gpu, device):
    with pytest.raises(ValueError, match="'device' "):
        model().to(device)


def test_a_driver_is_missing(gpu, monkeypatch):
    def fail():
        raise fake_cupy.CUDARuntimeError("no driver")

    monkeypatch.setattr(fake_cupy, "DEVICES", 0)
    with pytest.raises(ValueError, match="there are 0 CUDA devices"):
        model().to("cuda")
    import cupy

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", fail)
    with pytest.raises(RuntimeError, match="CuPy finds no CUDA device: no driver"):
        model().to("cuda")


def test_there_are_no_kernels(gpu, monkeypatch):
    def fail():
        raise RuntimeError("there are no kernels for CUDA arrays")

    for cuda in (lambda: None, fail):
        monkeypatch.setattr(backend, "cuda", cuda)
        with pytest.raises(RuntimeError, match=r"there are no kernels|FUSEDSTEP_BACKEND=reference"):
            model().to("cuda")


@pytest.mark.parametrize(
    ("device", "x", "message"),
    [
        (
            "cuda",
            lambda X: X,
            r"'x' must be a CuPy array on cuda:0 but got ndarray: pass cupy.asarray\(x\).*to\('cpu'\)",
        ),
        ("cuda", lambda X: on_gpu(X, 1), r"on cuda:0 but got a CuPy array on cuda:1: .*to\('cuda:1'\)"),
        ("cuda", lambda X: X.tolist(), "on cuda:0 but got list"),
        ("cuda", lambda X: on_gpu(X.astype(np.float64)), "must be float32, the model's dtype, but got float64"),
        ("cpu", on_gpu, r"a NumPy array but got a CuPy array on cuda:0: pass cupy.asnumpy\(x\).*to\('cuda:0'\)"),
    ],
)
def test_wrong_inputs(gpu, device, x, message):
    net = model(device)
    for method in (net.forward, net.predict):
        with pytest.raises(TypeError, match=message):
            method(x(samples()[0]))
