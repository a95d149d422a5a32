"""Memory of large results: aligned, used again when nothing lies on it any more, and never before."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

import fusedstep as fs
from fusedstep import _result_memory, backend

pytestmark = pytest.mark.skipif(
    backend.native() is None or backend.native().device != "cpu", reason="of the CPU's kernels alone"
)
reused = pytest.mark.skipif(not _result_memory._POSSIBLE, reason="a system without these advices")

SIZE = 3000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Everything from 4 KiB on counts as large; nothing lies idle."""
    monkeypatch.setattr(_result_memory, "LARGE", 1 << 12)
    _result_memory._idle.clear()
    yield
    gc.collect()
    _result_memory._idle.clear()


def address(array) -> int:
    return array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data


def like(kind, size=SIZE):
    if kind == "numpy":
        return np.ones(size, np.float32)
    return pytest.importorskip("torch").ones(size)


BOTH = pytest.mark.parametrize("kind", ["numpy", "torch"])


@BOTH
def test_every_function_returns_aligned_results(kind):
    x = like(kind).reshape(30, 100)
    y, saved = fs.ops.batch_norm(x)
    results = {
        "batch_norm": y,
        "batch_norm_backward": fs.ops.batch_norm_backward(x, x, saved)[0],
        "dropout": fs.ops.dropout(x, 0.5, seed=1),
        "dropout_backward": fs.ops.dropout_backward(x, 0.5, seed=1),
    }
    addresses = {name: address(result) for name, result in results.items()}
    assert all(a % 64 == 0 for a in addresses.values())
    assert len({a % 4096 for a in addresses.values()}) == len(addresses)  # staggered


@reused
@BOTH
def test_memory_is_used_again(kind):
    x = like(kind)
    first = fs.ops.dropout(x, 0.5, seed=1)
    second = fs.ops.dropout(x, 0.5, seed=1)
    pages = {address(y) // 4096 for y in (first, second)}
    assert len(pages) == 2
    del first, second
    assert len(_result_memory._idle) == 2
    again = [fs.ops.dropout(x, 0.5, seed=1) for _ in range(2)]
    assert {address(y) // 4096 for y in again} == pages and not _result_memory._idle
    expected = fs.reference.dropout(np.ones(SIZE, np.float32), 0.5, seed=1)
    assert all(np.array_equal(np.asarray(y), expected) for y in again)


@reused
@pytest.mark.parametrize(
    "keep",
    [
        lambda y: y[::2],
        lambda y: y[5:].reshape(5, -1)[1:].T,
        lambda y: y.view(np.uint8)[:8],
        lambda y: memoryview(y),
        lambda y: np.from_dlpack(y),
        lambda y: np.asarray(y).view(np.recarray),
        lambda y: np.lib.stride_tricks.as_strided(y, (4,), (8,)),
    ],
    ids=["view", "views of views", "other dtype", "memoryview", "dlpack", "subclass", "as_strided"],
)
def test_memory_of_a_view_stays(keep):
    y = fs.ops.dropout(np.ones(SIZE, np.float32), 0.0, seed=1)
    view = keep(y)
    before = np.array(view)
    del y
    gc.collect()
    assert not _result_memory._idle
    others = [fs.ops.dropout(np.zeros(SIZE, np.float32), 0.0, seed=1) for _ in range(3)]
    assert np.array_equal(np.array(view), before)
    del view
    gc.collect()
    assert len(_result_memory._idle) == 1 and len(others) == 3


@reused
@pytest.mark.parametrize(
    "keep",
    [
        lambda y: y[::2],
        lambda y: y.detach(),
        lambda y: y.numpy()[3:][::2],
        lambda y: np.from_dlpack(y),
        lambda y: y.untyped_storage(),
    ],
    ids=["view", "detached", "NumPy's view", "dlpack", "storage"],
)
def test_memory_of_a_tensors_view_stays(keep):
    torch = pytest.importorskip("torch")
    y = fs.ops.dropout(torch.ones(SIZE), 0.0, seed=1)
    view = keep(y)
    del y
    gc.collect()
    assert not _result_memory._idle
    others = [fs.ops.dropout(torch.zeros(SIZE), 0.0, seed=1) for _ in range(3)]
    values = view if not isinstance(view, torch.UntypedStorage) else torch.empty(0).set_(view)[:5]
    assert bool((values == 1).all())
    del view, values
    gc.collect()
    assert len(_result_memory._idle) == 1 and len(others) == 3


@reused
def test_what_is_held_has_a_limit(monkeypatch):
    huge = _result_memory._HUGE
    monkeypatch.setattr(_result_memory, "HELD", 4 * huge)
    results = [_result_memory.take(size) for size in (100, huge + 100, 200, 5 * huge)]
    del results
    assert [len(m) for m in _result_memory._idle] == [huge, 2 * huge, huge]
    kept = _result_memory.take(100)
    more = _result_memory.take(huge + 100), _result_memory.take(huge + 100)
    del more
    assert sum(len(m) for m in _result_memory._idle) <= 4 * huge
    assert kept.size == 100 and kept.flags.writeable


@reused
def test_what_lies_idle_longest_is_marked_as_free(monkeypatch):
    huge = _result_memory._HUGE
    monkeypatch.setattr(_result_memory, "WARM", 2 * huge)
    results = [_result_memory.take(100) for _ in range(4)]
    first = results[0].ctypes.data // huge
    while results:
        del results[0]
    idle = list(_result_memory._idle)
    assert [m.marked for m in idle] == [True, True, False, False]
    again = [_result_memory.take(100) for _ in range(4)]
    assert not _result_memory._idle and not any(m.marked for m in idle)
    assert again[-1].ctypes.data // huge == first  # the oldest comes last


def test_without_the_system_s_advices(monkeypatch):
    monkeypatch.setattr(_result_memory, "_POSSIBLE", False)
    y = fs.ops.dropout(np.ones(SIZE), 0.5, seed=1)
    assert y.ctypes.data % 64 == 0 and not _result_memory._idle


@reused
def test_too_much():
    with pytest.raises(MemoryError):
        _result_memory.take(1 << 60)


@reused
def test_what_is_idle_makes_room():
    """Within a limit of the process, as `ulimit -v` sets it."""
    code = """
import resource
from fusedstep import _result_memory
results = [_result_memory.take(64 << 20) for _ in range(4)]
del results
assert len(_result_memory._idle) == 4
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (32 << 20), -1))
result = _result_memory.take(200 << 20)
assert result.size == 200 << 20 and not _result_memory._idle
try: _result_memory.take(400 << 20)
except MemoryError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cannot allocate")


@reused
def test_memory_comes_back_from_the_collector_at_any_time(monkeypatch):
    class Node:
        pass

    failures = []
    monkeypatch.setattr(sys, "unraisablehook", failures.append)
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(1000):
            for result in [_result_memory.take(100) for _ in range(3)]:
                node = Node()
                node.itself, node.result = node, result
            del result, node
    finally:
        gc.set_threshold(*thresholds)
    assert not failures


@reused
def test_threads_never_share():
    x, errors = np.ones(SIZE, np.float32), []

    def work(value):
        for _ in range(200):
            y = fs.ops.dropout(x * value, 0.0, seed=1)
            if not (y == value).all():
                errors.append(value)

    threads = [threading.Thread(target=work, args=(np.float32(i),)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(_result_memory._idle) <= 2 * len(threads)  # the last result and the next


def test_layouts_and_dtypes_of_arrays():
    class Own(np.ndarray):
        pass

    base = np.arange(6 * 20 * 100, dtype=np.float32).reshape(6, 20, 100)
    for x in (base, np.asfortranarray(base), base.transpose(2, 0, 1), base[::2], base[..., ::3], base.view(Own)):
        y, plain = fs.ops.dropout(x, 0.0, seed=1), np.empty_like(x)
        assert np.array_equal(y, x) and y.strides == plain.strides and type(y) is type(plain)
        assert y.flags.writeable
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        x = base.astype(dtype)
        y = fs.ops.dropout(x, 0.0, seed=1)
        assert y.dtype == dtype and np.array_equal(y, x)


def test_layouts_and_dtypes_of_tensors():
    torch = pytest.importorskip("torch")
    base = torch.arange(6 * 20 * 10 * 10, dtype=torch.float32).reshape(6, 20, 10, 10)
    last = base.contiguous(memory_format=torch.channels_last)
    for x in (base, last, base.transpose(0, 3), base[::2], base[..., ::3], base[:, :1].expand(-1, 20, -1, -1)):
        y, plain = fs.ops.dropout(x, 0.0, seed=1), torch.empty_like(x)
        assert torch.equal(y, x) and y.stride() == plain.stride() and not y._is_view()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        y = fs.ops.dropout(base.to(dtype), 0.0, seed=1)
        assert y.dtype == dtype and torch.equal(y, base.to(dtype))
    with torch.device("meta"):  # a default device has no say in it
        assert torch.equal(fs.ops.dropout(base, 0.0, seed=1), base)
    with torch.inference_mode():
        assert fs.ops.dropout(base, 0.0, seed=1).is_inference()


def test_autograd_s_rules():
    torch = pytest.importorskip("torch")
    x = torch.ones(SIZE, requires_grad=True)
    y = fs.torch.nn.Dropout(0.5)(x)
    assert y.data_ptr() % 64 == 0 and not y._is_view()
    version = y._version
    y.mul_(2)  # may be changed, as it is no view
    assert y._version == version + 1
    y.sum().backward()
    assert x.grad.data_ptr() % 64 == 0 and torch.equal(x.grad, y.detach())
    y = fs.torch.nn.Dropout(0.5)(x)
    square = y.square()
    with torch.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.sum().backward()
    module = fs.torch.nn.BatchNorm1d(30)
    values = torch.randn(100, 30, requires_grad=True)
    module(values).square().sum().backward()
    assert values.grad.data_ptr() % 64 == 0


def test_states_of_torch_s_optimizers():
    torch = pytest.importorskip("torch")
    params = [torch.nn.Parameter(torch.ones(30, 100).bfloat16()), torch.nn.Parameter(torch.ones(5))]
    optimizer = fs.torch.optim.Adam(params, ema_decay=0.5, state_dtype=torch.float32)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    states = [optimizer.state[params[0]][name] for name in ("exp_avg", "exp_avg_sq", "ema")]
    assert all(s.data_ptr() % 64 == 0 and s.dtype == torch.float32 and not s.requires_grad for s in states)
    assert len({s.data_ptr() % 4096 for s in states}) == 3
    expected = [optimizer.state[params[1]][name][0] for name in ("exp_avg", "exp_avg_sq", "ema")]
    assert [s.unique().item() for s in states[:2]] == [e.item() for e in expected[:2]]
