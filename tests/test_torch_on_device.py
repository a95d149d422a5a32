"""The ops on torch's CUDA tensors need torch alone. Needs ``pytest --cuda-on-cpu``, but for the first test.

Tensors that say they are on CUDA go the whole way that CUDA tensors go, to the CUDA kernels on the emulator, while CuPy
cannot be imported. NumPy arrays go to the CPU's kernels, with which the bits are compared.
"""

from __future__ import annotations

import dataclasses
import importlib.abc
import sys
import types

import numpy as np
import pytest

from bits import HALF_DTYPES, assert_same_bits
from fusedstep import backend, ops
from test_arrays import numpy_half, torch_half
from valid_calls import calls

torch = pytest.importorskip("torch")


class OnDevice(torch.Tensor):
    is_cuda = property(lambda self: True)


def test_the_current_stream_of_torch(monkeypatch):
    if backend.current_stream.__name__ == "<lambda>":
        pytest.skip("--cuda-on-cpu puts another in its place")
    asked, stream = [], types.SimpleNamespace(cuda_stream=777)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: asked.append(device) or stream)
    assert backend.current_stream(torch.ones(3), 1) == 777 and asked == [1]


class NoCuPy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("cupy", "cupyx", "cupy_backends", "numba", "cuda"):
            raise ImportError(f"{name} was asked for")
        return None


@pytest.fixture(autouse=True)
def without_cupy(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoCuPy(), *sys.meta_path])


@pytest.fixture
def emulator(monkeypatch):
    """The CUDA module in its place, and the CPU's in its own."""
    module = backend.native()
    if module is None or module.device != "cuda":
        pytest.skip("needs --cuda-on-cpu")
    monkeypatch.setattr(backend, "_active", backend._setup().module)
    yield module.emulator
    module.emulator.set_capturing(False)
    assert module.emulator.outstanding_allocations() == 0


def to_device(array):
    half = array.dtype.itemsize == 2 and array.dtype.kind in "fV"
    return (torch_half(array) if half else torch.from_numpy(array.copy())).as_subclass(OnDevice)


def to_host(tensor, dtype):
    plain = tensor.as_subclass(torch.Tensor)
    return numpy_half(plain, dtype) if dtype.itemsize == 2 else plain.numpy()


def check_like_the_cpu(emulator, expected, call) -> None:
    wanted = expected.run(ops)
    call.arrays = {name: to_device(a) for name, a in call.arrays.items()}
    if call.saved is not None:
        moments = {name: to_device(getattr(call.saved, name)) for name in ("mean", "var")}
        call.saved = dataclasses.replace(call.saved, **moments)
    versions, launches = {name: t._version for name, t in call.arrays.items()}, emulator.launches()
    result = call.run(ops)
    assert emulator.launches() > launches
    for name, tensor in call.arrays.items():
        assert_same_bits(name, to_host(tensor, expected.arrays[name].dtype), expected.arrays[name])
        assert (tensor._version > versions[name]) == (name in call.outputs), name
    wanted, result = (r if isinstance(r, tuple) else (r,) for r in (wanted, result))
    for ours, theirs in zip(result, wanted, strict=True):
        if isinstance(theirs, np.ndarray):
            assert isinstance(ours, torch.Tensor)
            assert_same_bits("result", to_host(ours, theirs.dtype), theirs)
        elif isinstance(theirs, float):
            assert float(ours) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("key", calls())
def test_every_op(emulator, key):
    check_like_the_cpu(emulator, calls()[key], calls()[key])


@pytest.mark.parametrize("dtype", HALF_DTYPES)
@pytest.mark.parametrize("key", [key for key, call in calls().items() if call.takes_half])
def test_every_op_on_half_types(emulator, key, dtype):
    check_like_the_cpu(emulator, calls()[key].in_half(dtype), calls()[key].in_half(dtype))


def test_a_loss_gives_a_tensor_and_waits_for_nothing(emulator):
    output, target = to_device(np.ones((3, 2))), to_device(np.zeros((3, 2)))
    weights = to_device(np.array([1.0, 1.0, 2.0]))
    value, gradient = ops.mean_squared_error(output, target, weights)
    assert value.shape == () and value.dtype == torch.float64 and float(value) == 1.0
    assert isinstance(gradient, torch.Tensor)
    labels = to_device(np.array([0, 1, 1]))
    assert ops.softmax_cross_entropy(output, labels)[0].shape == ()


def test_clipping_and_skipping_with_numbers_on_the_device(emulator):
    """norm, prepare and step, in what a captured graph may hold: no number is read by the host."""
    scalars = {"norm": 0.0, "step": np.int64(0), "multiplier": 1.0, "skip": np.int32(0), "nonfinite": np.int32(0)}
    scalars |= {"skipped": np.int64(0), "lr": 0.5}
    runs = []
    for put in (np.copy, to_device):
        p, g, m, v = (put(np.full(5, x, np.float32)) for x in (1, 3, 0, 0))
        there = {name: put(np.array(value)) for name, value in scalars.items()}
        for _ in range(2):
            ops.global_norm([g], out=there["norm"], nonfinite=there["nonfinite"])
            ops.prepare_step(
                *(there[n] for n in ("step", "multiplier", "skip")),
                **{n: there[n] for n in ("norm", "nonfinite", "skipped")},
                max_norm=1.0,
            )
            options = {"lr": there["lr"], "step": there["step"], "grad_multiplier": there["multiplier"]}
            ops.adam_step([p], [g], [m], [v], **options, skip=there["skip"])
            g[0] = np.nan  # the second step is skipped
        arrays = (p, m, v, *there.values())
        runs.append([a if put is np.copy else a.as_subclass(torch.Tensor).numpy() for a in arrays])
    for here, there in zip(*runs, strict=True):
        assert_same_bits("clipping", there, here)
    assert runs[0][4] == 1  # counted once


def test_masks_and_offsets(emulator):
    offset, out = to_device(np.array(7)), to_device(np.zeros(20, np.bool_))
    wanted = ops.dropout_mask(20, 0.5, seed=3, offset=7)
    assert ops.dropout_mask(20, 0.5, seed=3, offset=offset, out=out) is out
    assert np.array_equal(out.as_subclass(torch.Tensor).numpy(), wanted)
    y = ops.dropout(to_device(np.ones(20)), 0.5, seed=3, offset=offset)
    assert np.array_equal(y.as_subclass(torch.Tensor).numpy() > 0, wanted)


def test_while_a_graph_is_captured(emulator):
    x = to_device(np.ones((4, 2)))
    emulator.set_capturing(True)
    with pytest.raises(RuntimeError, match="'step' is a number, which the graph that is being captured would repeat"):
        ops.adam_step(*(x.clone() for _ in range(4)), lr=0.1, step=1)
    with pytest.raises(RuntimeError, match="'num_batches' is a number"):
        ops.batch_norm(x, momentum=None, num_batches=1)
    ops.adam_step(*(x.clone() for _ in range(4)), lr=0.1, step=to_device(np.array(1)))
    ops.batch_norm(to_device(np.arange(8.0).reshape(4, 2)))


def test_a_host_tensor_among_them(emulator):
    """The emulated kernels take the CPU's memory, but Python's checks tell the devices apart."""
    with pytest.raises(TypeError, match="'labels' is on a GPU but 'logits' is on the CPU"):
        ops.softmax_cross_entropy(torch.ones(3, 2), to_device(np.array([0, 1, 1])))
