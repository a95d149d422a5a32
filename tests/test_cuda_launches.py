"""What the CUDA module asks of the device: launches, streams, captures, errors. Needs ``pytest --cuda-on-cpu``."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import backend

INSUFFICIENT_DRIVER, LAUNCH_FAILURE = 35, 719


@pytest.fixture
def emulator():
    module = backend.native()
    if module is None or module.device != "cuda":
        pytest.skip("needs --cuda-on-cpu")
    yield module.emulator
    module.emulator.set_capturing(False)
    assert module.emulator.outstanding_allocations() == 0


def arrays(n=4, size=100, columns=4):
    return [[np.ones(size, np.float32) for _ in range(n)] for _ in range(columns)]


def launched(emulator, function) -> int:
    before = emulator.launches()
    function()
    return emulator.launches() - before


@pytest.mark.parametrize(("n", "expected"), [(0, 0), (1, 1), (12, 1), (13, 1), (480, 1), (481, 2), (1000, 3)])
def test_a_list_of_arrays_is_few_launches(emulator, n, expected):
    columns = arrays(n, 3)
    assert launched(emulator, lambda: fs.ops.adam_step(*columns, lr=0.1, step=1)) == expected


def test_empty_arrays_launch_nothing(emulator):
    assert launched(emulator, lambda: fs.ops.adam_step(*arrays(3, 0), lr=0.1, step=1)) == 0
    assert launched(emulator, lambda: fs.ops.dropout(np.ones(0), 0.5, seed=1)) == 0


def test_clipping_is_five_launches(emulator):
    """Two for the norm, one to prepare, one to fold, one to step."""
    columns, step, multiplier, norm = arrays(), np.zeros((), np.int64), np.zeros(()), np.zeros(())

    def clipped():
        fs.ops.global_norm(columns[1], out=norm)
        fs.ops.prepare_step(step, multiplier, norm=norm, max_norm=1.0)
        fs.ops.adam_step(*columns, lr=0.1, step=step, grad_multiplier=multiplier)

    assert launched(emulator, clipped) == 5


@pytest.mark.parametrize(("n", "expected"), [(4, 4), (12, 4), (13, 4), (481, 7)])
def test_a_ratio_for_each_array_is_three_launches_more(emulator, n, expected):
    """One to fold; then, for each table of arrays, one for the squares, one for the ratios, one to step."""
    columns = arrays(n, 3)
    assert launched(emulator, lambda: fs.ops.lamb_step(*columns, lr=0.1, step=1)) == expected
    assert launched(emulator, lambda: fs.ops.lamb_step(*columns, lr=0.1, step=1, adapt=False)) == -(-n // 480)


def test_the_current_stream_is_used(emulator, monkeypatch):
    monkeypatch.setattr(backend, "current_stream", lambda array, device: 12345)
    fs.ops.sgd_step(*arrays(1, columns=2), lr=0.1)
    assert emulator.last_launches()[-1][-1] == 12345


@pytest.mark.parametrize(
    "call",
    [
        lambda c: fs.ops.adam_step(*c, lr=0.1, step=1),
        lambda c: fs.ops.adagrad_step(*c[:3], lr=0.1, step=1, lr_decay=0.1),
        lambda c: fs.ops.nadam_step(*c, lr=0.1, step=1),
        lambda c: fs.ops.radam_step(*c, lr=0.1, step=1),
        lambda c: fs.ops.adamax_step(*c, lr=0.1, step=1),
        lambda c: fs.ops.lamb_step(*c, lr=0.1, step=1),
        lambda c: fs.ops.dropout(c[0][0], 0.5, seed=1),
        lambda c: fs.ops.dropout_backward(c[0][0], 0.5, seed=1, offset=7),
        lambda c: fs.ops.dropout_mask(5, 0.5, seed=1),
        lambda c: fs.ops.batch_norm(c[0][0].reshape(10, 10), dropout=(0.5, 1, 2)),
        lambda c: fs.ops.batch_norm(c[0][0].reshape(10, 10), momentum=None, num_batches=1),
    ],
)
def test_what_a_graph_would_repeat_is_refused(emulator, call):
    columns = arrays()
    emulator.set_capturing(True)
    before = emulator.launches()
    with pytest.raises(RuntimeError, match="captured would repeat"):
        call(columns)
    assert emulator.launches() == before
    assert all((a == 1).all() for column in columns for a in column)


def test_what_reads_the_device_is_captured(emulator):
    columns, step, offset = arrays(), np.array(1), np.array(3)
    emulator.set_capturing(True)
    fs.ops.adam_step(*columns, lr=np.array(0.1), step=step)
    fs.ops.adam_step(*columns, lr=0.1, step=1, bias_correction=False)  # depends on no count
    fs.ops.dropout(columns[0][0], 0.5, seed=1, offset=offset)
    fs.ops.batch_norm(columns[0][0].reshape(10, 10), dropout=(0.5, 1, offset))


@pytest.mark.parametrize(
    ("call", "kernel"),
    [
        (lambda c: fs.ops.adam_step(*c, lr=0.1, step=1), "Adam step"),
        (lambda c: fs.ops.global_norm(c[0]), "sum of squares"),
        (lambda c: fs.ops.batch_norm(c[0][0].reshape(10, 10)), "batch norm, moments of rows"),
        (lambda c: fs.ops.mean_squared_error(c[0][0].reshape(10, 10), c[1][0].reshape(10, 10)), "loss"),
    ],
)
def test_errors_name_the_kernel_and_are_over(emulator, call, kernel):
    emulator.fail_next_launch(LAUNCH_FAILURE)
    with pytest.raises(RuntimeError, match=f"^{kernel}.*cudaErrorLaunchFailure"):
        call(arrays())
    assert emulator.outstanding_allocations() == 0
    call(arrays())


def test_a_driver_that_is_too_old_is_to_be_updated(emulator):
    emulator.fail_next_launch(INSUFFICIENT_DRIVER)
    with pytest.raises(RuntimeError, match=r"cudaErrorInsufficientDriver.*; update the NVIDIA driver$"):
        fs.ops.dropout(np.ones(8), 0.5, seed=1)
