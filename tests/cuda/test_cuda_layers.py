"""Dropout, batch norm, norms, activations and losses on the GPU against the CPU's kernels.

Dropout, masks, norms and activations give the same bits. Batch norm and losses are compared by bits first; where those
are not reached, the values that differ are counted, the counts are printed after the tests, and the rule is: against a
computation in float64, the largest error may be twice that of the CPU's kernel of the same type, plus one unit in the
last place of the largest value (two results that are both rounded correctly can be half a unit off on either side).
Values that are not finite must stand at the same places. Special values, and float64, which has no wider type here, go
by bits alone.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

import fusedstep as fs
from bits import ALL_DTYPES, DTYPES, assert_same_bits, difficult
from gpu_arrays import BFLOAT16, assert_same_bits_or_as_exact, put_at_offset
from test_bits import ACTIVATIONS, BATCH_OPTIONS, BATCHES, HALF_BATCHES, HALF_PAIRS, PAIRS, batch_case, pair_id

pytestmark = pytest.mark.cuda

SIZES = (0, 1, 7, 8, 9, 31, 33, 1000, 1025, 400_001)
KEY = {"seed": 2**64 - 3, "offset": 12345678901}
# Beside those of test_bits: channels of many blocks, channels-last, long channels, and many channels of few values.
LARGE_BATCHES = [((32, 64, 14, 14), 1), ((8, 28, 28, 48), -1), ((2, 3, 50_021), 1), ((600, 1030), 1), ((7, 3000, 3), 1)]
ALL_BATCHES = [
    *((*batch, (dtype, dtype)) for batch in BATCHES for dtype in DTYPES),
    *((*batch, pair) for batch in HALF_BATCHES for pair in HALF_PAIRS),
    *((*batch, pair) for batch in LARGE_BATCHES for pair in (PAIRS[0], HALF_PAIRS[-1])),
]


def need(library, *dtypes):
    if not all(library.has(np.dtype(dtype)) for dtype in dtypes):
        pytest.skip(f"this {library.name} has no bfloat16 arrays")


def exact_of(array):
    """In float64, where that is wider."""
    return array.astype(np.float64) if isinstance(array, np.ndarray) and array.dtype.kind in "fV" else array


def is_widest(dtype) -> bool:
    return np.dtype(dtype) == np.float64


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_dropout(dtype, library):
    need(library, dtype)
    rng = np.random.default_rng(0)
    offset = library.put(np.array(KEY["offset"], np.int64))
    for size in SIZES:
        x, dy = difficult(rng, size, dtype), difficult(rng, size, dtype)
        x_there, dy_there = put_at_offset(library, x, 1), put_at_offset(library, dy, 0)
        for p in (0.0, 0.2, 0.5, 1.0):
            for relu in (False, True):
                expected = fs.ops.dropout(x, p, relu=relu, **KEY)
                for key in (KEY, {**KEY, "offset": offset}):
                    actual = fs.ops.dropout(x_there, p, relu=relu, **key)
                    assert_same_bits(f"dropout {p} of {size}", library.get(actual), expected)
            y_there = library.put(expected)
            for y, there in ((None, None), (expected, y_there)):
                backward = fs.ops.dropout_backward(dy_there, p, y=there, **KEY)
                wanted = fs.ops.dropout_backward(dy, p, y=y, **KEY)
                assert_same_bits(f"backward of dropout {p} of {size}", library.get(backward), wanted)


def test_masks(library):
    for size in SIZES:
        for p in (0.0, 0.2, 0.5, 1.0):
            for packed in (False, True):
                expected = fs.ops.dropout_mask(size, p, packed=packed, **KEY)
                out = library.put(~expected)
                fs.ops.dropout_mask(size, p, packed=packed, out=out, **KEY)
                assert np.array_equal(library.get(out), expected), f"{size} values, p = {p}, packed: {packed}"


def test_dropout_of_any_strides(library):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 70, 12)).astype(np.float32)
    there = library.put(x)
    for chosen in (library.permute(there, (2, 0, 1)), there[::2, 3::5], there[3, 5, 2, ...], there[:, :0]):
        expected = fs.ops.dropout(np.ascontiguousarray(library.get(chosen)).reshape(chosen.shape), 0.3, seed=5)
        assert_same_bits("strided", library.get(fs.ops.dropout(chosen, 0.3, seed=5)), expected)


def batch_norm(library, case, shape, axis, option, exact=False):
    """All results, of the CPU where there is no library; in float64 if asked."""
    option = dict(option)
    x, dy, affine, *running = batch_case(shape, axis, *case, option.pop("affine", True))
    put = (lambda a: a) if library is None else library.put
    if exact:
        put = exact_of
    x, dy, affine, running = put(x), put(dy), [a if a is None else put(a) for a in affine], [put(a) for a in running]
    y, saved = fs.ops.batch_norm(x, *affine, *running, channel_axis=axis, **option)
    results = [y, saved.mean, saved.var, *running, *fs.ops.batch_norm_backward(dy, x, saved)]
    return results if library is None else [library.get(a) for a in results]


@functools.cache
def expected_batch_norm(case, shape, axis, index):
    """(results of the CPU's kernel, those in float64 or Nones)"""
    results = batch_norm(None, case, shape, axis, BATCH_OPTIONS[index])
    if is_widest(case[0]) or case[2]:
        return results, [None] * len(results)
    return results, batch_norm(None, case, shape, axis, BATCH_OPTIONS[index], exact=True)


@pytest.mark.parametrize("special", [False, True], ids=["normal", "special"])
@pytest.mark.parametrize(
    "shape, axis, pair", [pytest.param(*case, id=f"{case[0]}-{pair_id(case[2])}") for case in ALL_BATCHES]
)
def test_batch_norm(shape, axis, pair, special, library):
    need(library, *pair)
    names = ("y", "mean", "var", "running_mean", "running_var", "dx", "dweight", "dbias")
    for index, option in enumerate(BATCH_OPTIONS):
        if 0 in shape and option.get("training", True):
            continue
        expected, exact = expected_batch_norm((*pair, special), shape, axis, index)
        actual = batch_norm(library, (*pair, special), shape, axis, option)
        for name, a, e, wide in zip(names, actual, expected, exact, strict=True):
            assert_same_bits_or_as_exact(f"batch norm's {name} in {pair_id(pair)}", a, e, wide)


def test_batch_norm_twice_and_in_every_layout(library):
    """The same bits in two runs, and for channels-last memory; outputs are laid out as inputs."""
    rng = np.random.default_rng(0)
    host = [rng.normal(size=(16, 48, 31, 29)).astype(np.float32) for _ in range(2)]
    results = []
    for axes in [(0, 1, 2, 3), (0, 1, 2, 3), (0, 2, 3, 1)]:
        back = np.argsort(axes).tolist()
        x, dy = (library.permute(library.dense(library.permute(library.put(a), axes)), back) for a in host)
        y, saved = fs.ops.batch_norm(x, relu=True, dropout=(0.4, 1, 2))
        gradients = fs.ops.batch_norm_backward(dy, x, saved)
        results.append([library.get(a) for a in (y, saved.mean, saved.var, *gradients)])
    for again in results[1:]:
        for a, e in zip(again, results[0], strict=True):
            assert_same_bits("batch norm", np.ascontiguousarray(a), np.ascontiguousarray(e))


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_global_norm(dtype, library):
    need(library, dtype)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=n).astype(dtype) for n in (*SIZES, 511, 512, 513, 1_500_001)]
    there = [put_at_offset(library, a, 1) for a in arrays]
    out, nonfinite = library.put(np.zeros(())), library.put(np.array(7, np.int32))
    for n in range(1, len(arrays) + 1):
        expected = np.array(fs.ops.global_norm(arrays[:n]))
        assert fs.ops.global_norm(there[:n], out=out, nonfinite=nonfinite) is out
        assert_same_bits(f"norm of {n} arrays", library.get(out), expected)
        assert int(nonfinite) == 0
        assert fs.ops.global_norm(there[:n]) == expected, "the float"
    wild = difficult(rng, 1000, dtype)
    fs.ops.global_norm([there[3], library.put(wild)], out=out, nonfinite=nonfinite)
    assert_same_bits("norm", library.get(out), np.array(fs.ops.global_norm([arrays[3], wild])))
    assert int(nonfinite) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_activation(activation, dtype, library):
    rng = np.random.default_rng(0)
    for rows, columns in [(0, 5), (1, 1), (33, 10), (513, 15), (1030, 17), (128, 128), (3, 100_003), (700, 0)]:
        x, dy = (difficult(rng, rows * columns, dtype).reshape(rows, columns) for _ in range(2))
        x[: rows // 2] = rng.normal(size=(rows // 2, columns)) * 4
        bias = rng.normal(size=columns).astype(dtype)
        for b in (bias, None):
            expected = fs.ops.bias_activation(x, b, activation=activation)
            b_there = None if b is None else library.put(b)
            actual = fs.ops.bias_activation(library.put(x), b_there, activation=activation)
            assert_same_bits(f"{activation} {x.shape}", library.get(actual), expected)
            saved = x if activation == "gelu" else expected
            arguments = {"activation": activation, "bias": b is not None}
            expected_gradients = fs.ops.bias_activation_backward(dy, saved, **arguments)
            gradients = fs.ops.bias_activation_backward(library.put(dy), library.put(saved), **arguments)
            for name, a, e in zip(("dx", "dbias"), gradients, expected_gradients, strict=True):
                assert (a is None) == (e is None)
                if e is not None:
                    assert_same_bits(f"{name} of {activation} {x.shape}", library.get(a), e)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"])
def test_losses(loss, dtype, weighted, library):
    rng = np.random.default_rng(0)
    op = getattr(fs.ops, loss)
    for rows, columns in [(1, 1), (33, 10), (513, 3), (7, 1500), (3000, 100), (40_000, 10)]:
        weights = rng.uniform(size=rows) if weighted else None
        target = rng.uniform(size=(rows, columns)).astype(dtype)
        target = rng.integers(0, columns, rows) if loss == "softmax_cross_entropy" else target
        wild = difficult(rng, rows * columns, dtype).reshape(rows, columns)
        normal = (rng.normal(size=(rows, columns)) * 5).astype(dtype)
        for x, wide in ((normal, not is_widest(dtype)), (wild, False)):
            expected = op(x, target, weights)
            exact = op(exact_of(x), exact_of(target), weights) if wide else (None, None)
            there = [library.put(a) for a in (x, target)]
            value, gradient = op(*there, weights if weights is None else library.put(weights))
            assert value.shape == ()
            wide_value = None if exact[0] is None else np.array(exact[0])
            assert_same_bits_or_as_exact(f"{loss}'s value", library.get(value), np.array(expected[0]), wide_value)
            assert_same_bits_or_as_exact(f"{loss}'s gradient", library.get(gradient), expected[1], exact[1])


def test_bad_labels_and_targets_make_nan(library):
    """They cannot be refused without waiting for the device."""
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    labels = library.put(np.array([0, 3, 2, -1]))
    value, gradient = fs.ops.softmax_cross_entropy(library.put(logits), labels)
    assert np.isnan(library.get(value))
    assert np.isnan(library.get(gradient)).all(axis=1).tolist() == [False, True, False, True]
    target = np.full((4, 3), 0.5, np.float32)
    target[2, 1] = 1.5
    value, gradient = fs.ops.sigmoid_cross_entropy(library.put(logits), library.put(target))
    assert np.isnan(library.get(value)) and np.isnan(library.get(gradient)[2, 1])


def test_bfloat16_is_what_it_says(library):
    """The conversion that these tests rest on."""
    need(library, BFLOAT16)
    values = difficult(np.random.default_rng(0), 1000, BFLOAT16)
    assert_same_bits("there and back", library.get(library.put(values)), values)
