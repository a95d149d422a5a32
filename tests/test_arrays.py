"""Arrays of every kind: many, empty, oddly placed, other layouts, torch tensors, other DLPack producers."""

from __future__ import annotations

import dataclasses
import gc
import sys
import tracemalloc

import numpy as np
import pytest

from bits import HALF_DTYPES, assert_same_bits
from fusedstep import backend, ops, reference
from valid_calls import calls, make

compiled = pytest.mark.skipif(backend.native() is None, reason="the reference takes NumPy arrays alone")


def adam(params, grads, exp_avgs, exp_avg_sqs, *, module=ops):
    module.adam_step(params, grads, exp_avgs, exp_avg_sqs, lr=0.1, step=3, weight_decay=0.1)


def quartet(arrange=lambda a: a, shape=(6, 4), dtype=np.float32):
    """Parameter, gradient and the states of Adam, each laid out by `arrange`."""
    return [arrange(make(name, shape).astype(dtype)) for name in ("params", "grads", "exp_avgs", "exp_avg_sqs")]


def check_like_reference(given) -> None:
    expected = [a.copy(order="K") for a in given]
    adam(*given)
    adam(*expected, module=reference)
    for actual, wanted in zip(given, expected, strict=True):
        assert_same_bits("adam_step", actual, wanted)


def test_a_thousand_arrays_in_one_call():
    sizes = [i % 37 for i in range(1000)]
    lists = [[make(name, n) for n in sizes] for name in ("params", "grads", "exp_avgs", "exp_avg_sqs")]
    expected = [[a.copy() for a in arrays] for arrays in lists]
    adam(*lists)
    for row in zip(*expected, strict=True):
        adam(*row)
    for actual, wanted in zip(lists, expected, strict=True):
        for i, (a, b) in enumerate(zip(actual, wanted, strict=True)):
            assert_same_bits(f"array {i}", a, b)
    flat = [np.concatenate(arrays) for arrays in lists]
    assert ops.global_norm(lists[1]) == pytest.approx(np.sqrt(np.sum(np.float64(flat[1]) ** 2)), rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (0,), (3, 0), (1, 5), (5, 1), (2, 1, 3)])
def test_small_shapes(shape, dtype):
    check_like_reference(quartet(shape=shape, dtype=dtype))


def beyond(offset):
    def arrange(a):
        buffer = np.zeros(a.size + offset + 5, a.dtype)
        view = buffer[offset : offset + a.size].reshape(a.shape)
        view[...] = a
        return view

    return arrange


def permuted(*axes):
    """The same values with the axes in another order in memory."""
    return lambda a: np.ascontiguousarray(a.transpose(axes)).transpose(np.argsort(axes))


@pytest.mark.parametrize(
    ("arrange", "shape"),
    [
        *((beyond(offset), (7, 5)) for offset in (1, 2, 3, 5, 15)),
        (np.asfortranarray, (6, 4)),
        (permuted(0, 2, 3, 1), (2, 3, 4, 5)),
        (permuted(2, 0, 1), (3, 4, 5)),
        (lambda a: a[None, :, None], (9,)),
    ],
)
def test_layouts(arrange, shape):
    given = quartet(arrange, shape)
    buffers = [a.base.copy() if a.base is not None and a.base.shape != a.shape else None for a in given]
    check_like_reference(given)
    for a, before in zip(given, buffers, strict=True):
        if before is not None and before.ndim == 1:
            outside = np.ones(before.size, bool)
            start = (a.ctypes.data - a.base.ctypes.data) // a.itemsize
            outside[start : start + a.size] = False
            assert np.array_equal(a.base[outside], before[outside]), "written outside the array"


@pytest.mark.parametrize("key", calls())
def test_out_given_or_new(key):
    """A given output receives the bits that a new one would have, and is what is returned."""
    call, plain = calls()[key], calls()[key].without_outputs()
    made = [name for name in ("out", "dx", "dweight", "dbias") if name in call.arrays]
    result, fresh = call.run(ops), plain.run(ops)
    results = result if isinstance(result, tuple) else (result,)
    for name in made:
        assert any(r is call.arrays[name] for r in results)
    for actual, wanted in zip(results, fresh if isinstance(fresh, tuple) else (fresh,), strict=True):
        if isinstance(wanted, np.ndarray):
            assert_same_bits(key, actual, wanted)


@compiled
@pytest.mark.parametrize("key", calls())
def test_torch_tensors(key):
    """The same bits as for NumPy arrays, in place, and each written tensor's version advances."""
    torch = pytest.importorskip("torch")
    expected, call = calls()[key], calls()[key]
    wanted = expected.run(ops)
    call.arrays = {name: torch.from_numpy(a.copy()) for name, a in call.arrays.items()}
    pointers = {name: t.data_ptr() for name, t in call.arrays.items()}
    versions = {name: t._version for name, t in call.arrays.items()}
    if call.saved is not None:
        moments = {name: torch.from_numpy(getattr(call.saved, name)) for name in ("mean", "var")}
        call.saved = dataclasses.replace(call.saved, **moments)
    result = call.run(ops)
    for name, tensor in call.arrays.items():
        assert_same_bits(name, tensor.numpy(), expected.arrays[name])
        assert tensor.data_ptr() == pointers[name]
        assert (tensor._version > versions[name]) == (name in call.outputs), name
    made = result[0] if isinstance(result, tuple) and isinstance(result[0], torch.Tensor) else None
    if made is not None:
        assert_same_bits(key, made.numpy(), wanted[0])


@compiled
def test_torch_parameters_and_a_stale_backward():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.ones(4))
    loss = (weight**2).sum()
    loss.backward(retain_graph=True)
    ops.sgd_step(weight, weight.grad, lr=0.25)
    assert weight.requires_grad and weight.detach().tolist() == [0.5] * 4
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@compiled
def test_torch_subclass():
    torch = pytest.importorskip("torch")
    x = torch.nn.Parameter(torch.ones(2, 3))
    with torch.no_grad():
        y, dbias = ops.bias_activation_backward(x, None)
    assert type(y) is type(dbias) is torch.Tensor and dbias.tolist() == [2.0] * 3
    derived = torch.ones(3).as_subclass(type("Derived", (torch.Tensor,), {}))
    assert ops.dropout(derived, 0.0, seed=0).tolist() == [1.0] * 3


def torch_half(array):
    """A tensor with the values of an array of a half type."""
    torch = pytest.importorskip("torch")
    kind = torch.float16 if array.dtype == np.float16 else torch.bfloat16
    return torch.from_numpy(array.astype(np.float32)).to(kind)


def numpy_half(tensor, dtype):
    return tensor.float().numpy().astype(dtype)


@compiled
@pytest.mark.parametrize("dtype", HALF_DTYPES)
@pytest.mark.parametrize("key", [key for key, call in calls().items() if call.takes_half])
def test_torch_tensors_of_half_types(key, dtype):
    """The same bits as for NumPy arrays."""
    expected, call = calls()[key].in_half(dtype), calls()[key].in_half(dtype)
    wanted = expected.run(ops)
    call.arrays = {name: torch_half(a) for name, a in call.arrays.items()}
    if call.saved is not None:
        torch = pytest.importorskip("torch")
        moments = {name: torch.from_numpy(getattr(call.saved, name)) for name in ("mean", "var")}
        call.saved = dataclasses.replace(call.saved, **moments)
    result = call.run(ops)
    for name, tensor in call.arrays.items():
        assert_same_bits(name, numpy_half(tensor, dtype), expected.arrays[name])
    if isinstance(wanted, np.ndarray):
        assert_same_bits(key, numpy_half(result, dtype), wanted)


@compiled
def test_torch_tensors_that_are_refused():
    torch = pytest.importorskip("torch")
    good = torch.ones(4)
    for bad, words in [
        (torch.ones(4, dtype=torch.complex64), "complex64"),
        (torch.ones(4, dtype=torch.int32), "int32"),
    ]:
        with pytest.raises(
            TypeError, match=rf"'params' has dtype {words}; accepted are float16, bfloat16, float32 and"
        ):
            ops.sgd_step(bad, bad.clone(), lr=0.1)
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match=r"'x' has dtype b?float16; accepted are float32 and float64"):
            ops.bias_activation(good.to(half))
    with pytest.raises(ValueError, match=r"'params' and 'grads' overlap"):
        ops.sgd_step(good, good, lr=0.1)
    with pytest.raises(ValueError, match="'params' has gaps in memory"):
        ops.sgd_step(torch.ones(8)[::2], good, lr=0.1)
    assert good._version == 0


class Producer:
    """An array of another library; `make` gives the capsule."""

    def __init__(self, export):
        self.export = export

    def __dlpack__(self, **arguments):
        return self.export(**arguments)

    def __dlpack_device__(self):
        return (1, 0)


@compiled
def test_producer_older_than_dlpack_1():
    array = np.ones(3, np.float32)

    def export(**arguments):
        if "max_version" in arguments:
            raise TypeError("unexpected keyword argument 'max_version'")
        return array.__dlpack__()

    ops.sgd_step(Producer(export), np.ones(3, np.float32), lr=0.5)
    assert array.tolist() == [0.5] * 3


@compiled
@pytest.mark.parametrize("error", [RuntimeError("no memory"), BufferError("not now"), TypeError("never")])
def test_producer_that_raises(error):
    def export(**arguments):
        raise error

    with pytest.raises(type(error), match=str(error)):
        ops.sgd_step(Producer(export), np.ones(3, np.float32), lr=0.5)


@compiled
@pytest.mark.parametrize("capsule", [None, 1, "text", object()])
def test_producer_that_gives_no_capsule(capsule):
    with pytest.raises((TypeError, ValueError, BufferError)):
        ops.sgd_step(Producer(lambda **arguments: capsule), np.ones(3, np.float32), lr=0.5)


@compiled
def test_producer_whose_capsule_is_used():
    array = np.ones(3, np.float32)
    capsule = array.__dlpack__(max_version=(1, 0))
    np.from_dlpack(Producer(lambda **arguments: capsule))
    with pytest.raises(BufferError, match="'params' gave something other than a fresh DLPack capsule"):
        ops.sgd_step(Producer(lambda **arguments: capsule), np.ones(3, np.float32), lr=0.5)


@compiled
def test_new_outputs_need_a_known_library():
    source = Producer(np.ones(3, np.float32).__dlpack__)
    out = np.zeros(3, np.float32)
    assert ops.dropout(source, 0.0, seed=0, out=out) is out and out.tolist() == [1.0] * 3
    with pytest.raises(TypeError, match="a Producer is of no library that is known here"):
        ops.dropout(source, 0.0, seed=0)


@pytest.mark.parametrize("key", calls())
def test_no_reference_is_kept(key):
    call = calls()[key]
    call.options.pop("dropout", None)
    counts = {name: sys.getrefcount(a) for name, a in call.arrays.items()}
    for _ in range(100):
        call.run(ops)
    assert {name: sys.getrefcount(a) for name, a in call.arrays.items()} == counts


def test_no_reference_is_kept_by_a_refusal():
    arrays = quartet()
    wrong = arrays[1].astype(np.float64)
    counts = [sys.getrefcount(a) for a in (*arrays, wrong)]
    for _ in range(100):
        try:
            adam(arrays[0], wrong, *arrays[2:])
        except TypeError as error:
            assert "'grads'" in str(error)
    assert [sys.getrefcount(a) for a in (*arrays, wrong)] == counts


@pytest.mark.parametrize("key", ["adam_step", "batch_norm", "softmax_cross_entropy", "dropout_backward"])
def test_no_memory_is_kept(key):
    call, growth = calls()[key], []
    tracemalloc.start()
    try:
        for _ in range(4):
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(200):
                call.run(ops)
            gc.collect()
            growth.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert min(growth) < 2000, growth  # the interpreter's own tables grow now and then; a leak grows every time


@compiled
def test_tensors_without_memory():
    torch = pytest.importorskip("torch")
    nowhere = torch._efficientzerotensor(4)
    with pytest.raises(ValueError, match="'grads' has no memory of its own"):
        ops.sgd_step(torch.ones(4), nowhere, lr=0.1)


@compiled
def test_types_smaller_than_a_byte():
    torch = pytest.importorskip("torch")
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this torch has no such type")
    with pytest.raises(TypeError, match="'step' has dtype"):
        ops.prepare_step(torch.empty((), dtype=torch.float4_e2m1fn_x2), torch.ones((), dtype=torch.float64))
