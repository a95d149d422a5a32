"""0-d arrays in place of numbers: the same bits as the numbers they hold, and steps that are skipped."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from bits import ALL_DTYPES, assert_same_bits
from valid_calls import COUNTED, STEPS, Call, calls, check_refused, make

BOTH = pytest.mark.parametrize("module", [fs.ops, fs.reference], ids=["ops", "reference"])
LR, MULTIPLIER = np.float32(0.1), -0.3


def step_call(key, dtype, **options) -> Call:
    call = calls()[key]
    call.arrays = {name: a.astype(dtype) for name, a in call.arrays.items()}
    call.options = {**call.options, **options}
    if key == "adagrad_step":
        call.options = {"lr_decay": 0.3, **call.options}
    return call


def scalar(value, dtype=None):
    """A read-only 0-d array."""
    array = np.array(value, dtype)
    array.flags.writeable = False
    return array


@BOTH
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("key", STEPS)
def test_steps_read_their_scalars(key, dtype, module):
    counted = {"step": 12} if key in COUNTED else {}
    expected = step_call(key, dtype, lr=float(LR), grad_multiplier=MULTIPLIER, **counted)
    expected.run(module)
    for options in (
        {"lr": scalar(LR)},
        {"lr": scalar(float(LR))},
        {"lr": float(LR), "grad_multiplier": scalar(MULTIPLIER), "skip": scalar(0, np.int32)},
        {"lr": scalar(LR), "grad_multiplier": scalar(MULTIPLIER), "step": scalar(12, np.int32)},
        {"lr": scalar(float(LR)), "step": scalar(12, np.int64), "skip": scalar(0, np.int32)},
    ):
        options = {n: o for n, o in options.items() if n != "step" or counted}
        call = step_call(key, dtype, **{"grad_multiplier": MULTIPLIER, **counted, **options})
        call.run(module)
        for name, array in call.arrays.items():
            assert_same_bits(f"{name} with {options}", array, expected.arrays[name])


@BOTH
@pytest.mark.parametrize("key", STEPS)
def test_a_float32_multiplier(key, module):
    expected = step_call(key, np.float64, grad_multiplier=float(np.float32(MULTIPLIER)))
    call = step_call(key, np.float64, grad_multiplier=scalar(MULTIPLIER, np.float32))
    expected.run(module)
    call.run(module)
    for name, array in call.arrays.items():
        assert_same_bits(name, array, expected.arrays[name])


@BOTH
@pytest.mark.parametrize("step", [1, 2, 3, 10, 1000, 123_456_789, 2**31 - 1])
def test_powers_of_a_step_that_is_read(step, module):
    for dtype in (np.int32, np.int64):
        expected, call = (step_call("adam_step", np.float64, step=s) for s in (step, scalar(step, dtype)))
        expected.run(module)
        call.run(module)
        assert_same_bits("params", call.arrays["params"], expected.arrays["params"])


@BOTH
@pytest.mark.parametrize("skip", [1, -1, 2**20])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("key", STEPS)
def test_skipped_steps_write_nothing(key, dtype, skip, module):
    """What they would have read may be anything: before the first step that is not skipped the counter is 0."""
    for options in ({}, {"lr": np.array(np.nan), "grad_multiplier": np.array(np.inf), "step": np.array(0)}):
        options = {n: o for n, o in options.items() if n != "step" or key in COUNTED}
        call = step_call(key, dtype, skip=scalar(skip, np.int32), **options)
        before = {name: a.tobytes() for name, a in call.arrays.items()}
        call.run(module)
        assert {name: a.tobytes() for name, a in call.arrays.items()} == before


@BOTH
def test_skipped_lists_and_empty_arrays(module):
    sizes = (0, 5, 1000)
    params, grads, sums = ([np.full(n, v, np.float32) for n in sizes] for v in (1, 2, 3))
    module.adagrad_step(params, grads, sums, lr=0.1, skip=scalar(1, np.int32))
    assert all((a == 1).all() for a in params) and all((a == 3).all() for a in sums)
    module.adagrad_step(params, grads, sums, lr=scalar(0.1), step=scalar(1), skip=scalar(0, np.int32))
    assert all((a < 1).all() for a in params) and all((a == 7).all() for a in sums)
    module.adagrad_step([], [], [], lr=scalar(0.1), skip=scalar(0, np.int32))


OFFSETS = [0, 1, 2**32 + 5, 2**63 - 1]


@BOTH
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_dropout_reads_its_offset(dtype, offset, module):
    x = make("x", (33, 5, 7)).astype(dtype)
    given = {"seed": 3, "offset": scalar(offset)}
    number = {"seed": 3, "offset": offset}
    for view in (x, x.transpose(2, 0, 1)):
        assert_same_bits("y", module.dropout(view, 0.4, **given), module.dropout(view, 0.4, **number))
        actual, expected = (module.dropout_backward(view, 0.4, **key) for key in (given, number))
        assert_same_bits("dx", actual, expected)
    y, expected = (module.dropout(x, 0.4, relu=True, **key) for key in (given, number))
    assert_same_bits("y behind ReLU", y, expected)
    actual, expected = (module.dropout_backward(x, 0.4, y=y, **key) for key in (given, number))
    assert_same_bits("dx behind ReLU", actual, expected)


@BOTH
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_batch_norm_reads_its_offset(dtype, training, module):
    x, dy = (make(name, (33, 5, 7)).astype(dtype) for name in ("x", "dy"))
    channels_last = [np.ascontiguousarray(a.transpose(0, 2, 1)).transpose(0, 2, 1) for a in (x, dy)]
    for a, b in ([x, dy], channels_last):
        results = []
        for offset in (7, scalar(7)):
            running = [make(name, (5,)).astype(dtype) for name in ("running_mean", "running_var")]
            y, saved = module.batch_norm(a, None, None, *running, training=training, dropout=(0.4, 3, offset))
            results.append([y, *running, *module.batch_norm_backward(b, a, saved)])
        for actual, expected in zip(*results, strict=True):
            assert_same_bits("batch norm", actual, expected)


@BOTH
@pytest.mark.parametrize("shape", [(), 0, 1, 7, 8, 9, (3, 4), (33, 31), (2, 0, 5)])
def test_mask_into_a_given_array(shape, module):
    for key in ({"offset": 9}, {"offset": scalar(9)}):
        for packed in (False, True):
            expected = fs.reference.dropout_mask(shape, 0.3, seed=5, offset=9, packed=packed)
            out = np.full_like(expected, 1)
            assert module.dropout_mask(shape, 0.3, seed=5, packed=packed, out=out, **key) is out
            assert np.array_equal(out, expected)
            assert np.array_equal(module.dropout_mask(shape, 0.3, seed=5, packed=packed, **key), expected)


@BOTH
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_norm_into_a_given_array(dtype, kind, module):
    grads = [make("grads", n).astype(dtype) for n in (0, 1, 1000)]
    expected = fs.reference.global_norm(grads)
    out = np.zeros((), kind)
    module.global_norm(grads, out=out)
    assert out == kind(expected) and expected > 0
    module.global_norm([], out=out)
    assert out == 0


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_nonfinite(dtype, value, module):
    nonfinite = np.array(7, np.int32)
    grads = [np.ones(n, dtype) for n in (5, 40_000, 0, 700)]
    module.global_norm(grads, nonfinite=nonfinite)
    assert nonfinite == 0
    for array, place in [(0, 0), (1, 39_999), (3, 511)]:
        grads[array][place] = value
        module.global_norm(grads, nonfinite=nonfinite)
        assert nonfinite == 1
        grads[array][place] = 1
    module.global_norm(grads[2], nonfinite=nonfinite)
    assert nonfinite == 0


@BOTH
def test_a_norm_that_overflows_is_finite(module):
    out, nonfinite = np.zeros(()), np.array(7, np.int32)
    module.global_norm(np.full(3, 1e200), out=out, nonfinite=nonfinite)
    assert out == np.inf and nonfinite == 0


SCALARS = [("lr", np.float64), ("grad_multiplier", np.float64), ("skip", np.int32), ("step", np.int64)]


@pytest.mark.parametrize(("name", "dtype"), SCALARS)
@pytest.mark.parametrize("key", STEPS)
def test_scalars_that_the_step_would_write_over(key, name, dtype):
    for array in [n for n in calls()[key].outputs if name != "step" or key in COUNTED]:
        call = step_call(key, np.float64)
        memory = np.ones(call.arrays[array].size)
        call.arrays[array] = memory.reshape(call.arrays[array].shape)
        call.options[name] = memory[3:4].view(dtype)[:1].reshape(())
        check_refused(call, ValueError, f"'{name}'", f"'{array}'", "overlap in memory")


@pytest.mark.parametrize("key", ["dropout", "dropout_backward", "batch_norm"])
def test_offset_that_would_be_written_over(key):
    call = calls()[key]
    call.arrays = {name: a.astype(np.float64) for name, a in call.arrays.items()}
    offset = call.arrays["out"].reshape(-1)[3:4].view(np.int64).reshape(())
    call.arrays["out"][...] = 0
    call.options = {"dropout": (0.5, 1, offset)} if key == "batch_norm" else {**call.options, "offset": offset}
    check_refused(call, ValueError, "'out' and 'offset' overlap in memory")


def test_results_of_the_norm_that_share_memory():
    memory = np.zeros(1)
    out, nonfinite = memory.reshape(()), memory.view(np.int32)[:1].reshape(())
    check_refused(
        Call("global_norm", {"grads": make("grads")}, (), {"out": out, "nonfinite": nonfinite}), ValueError, "overlap"
    )
    check_refused(
        Call("global_norm", {"grads": memory}, (), {"nonfinite": nonfinite}), ValueError, "'nonfinite'", "overlap"
    )


@BOTH
def test_mask_over_its_own_offset(module):
    offset = np.zeros((), np.int64)
    with pytest.raises(ValueError, match="'out' and 'offset' overlap in memory"):
        module.dropout_mask(8, 0.5, seed=0, offset=offset, out=offset.reshape(1).view(bool))
