"""float16 and bfloat16: each op is the float32 op on the widened values, rounded to nearest even where it stores.

Widening and rounding are checked over all values against their definition; the whole, against the float32 ops and
torch.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import fusedstep as fs
from bits import HALF_DTYPES, as_bits, assert_same_bits, difficult, rounded, widened
from valid_calls import KEPT, calls

BOTH = pytest.mark.parametrize("module", [fs.ops, fs.reference], ids=["ops", "reference"])
HALVES = pytest.mark.parametrize("dtype", HALF_DTYPES)
HALF_CALLS = [key for key, call in calls().items() if call.takes_half]
LAYOUT = {np.float16: (10, 15), ml_dtypes.bfloat16: (7, 127)}  # bits of the fraction, bias of the exponent
SIGN = 0x8000


def magnitudes(dtype) -> np.ndarray:
    """The value of each bit pattern from 0 to that of infinity, which counts as the next power of two."""
    digits, bias = LAYOUT[dtype]
    bits = np.arange(((2 * bias + 1) << digits) + 1)
    exponent, fraction = bits >> digits, bits & ((1 << digits) - 1)
    significand = np.where(exponent == 0, fraction, fraction + (1 << digits)).astype(np.float64)
    return np.ldexp(significand, np.maximum(exponent, 1) - bias - digits)


SCALE = 2.0**64  # makes normal numbers of subnormal ones, which averages never are


def stored(module, values, dtype) -> np.ndarray:
    """float32 values, not -0, as parameters are stored: 0 - lr * v with v = 1 * v + 1 * 0."""
    small = np.abs(values) < 1 / SCALE
    params, of_small = np.zeros(values.shape, dtype), np.zeros(values.shape, dtype)
    module.sgd_step(params, np.zeros_like(params), values.copy(), lr=1.0, momentum=1.0)
    scaled = np.where(small, values, 0) * np.float32(SCALE)
    module.sgd_step(of_small, np.zeros_like(params), scaled, lr=1 / SCALE, momentum=1.0)
    params[small] = of_small[small]
    return params


@BOTH
@HALVES
def test_every_value_is_widened_exactly(module, dtype):
    values = magnitudes(dtype)
    values[-1] = np.inf
    normal = 1 << LAYOUT[dtype][0]  # where the normal numbers begin
    bits = np.arange(values.size, dtype=np.uint16)
    for sign, patterns in ((1, bits), (-1, bits | np.uint16(SIGN))):
        for scale, some in ((1.0, slice(normal, None)), (SCALE, slice(0, normal))):
            grads = patterns[some].view(dtype)
            sums = np.zeros(grads.size, np.float32)
            module.sgd_step(np.zeros_like(grads), grads, sums, lr=0.0, momentum=1.0, grad_multiplier=scale)
            assert np.array_equal(sums, sign * values[some] * scale)
    nans = np.arange(bits[-1] + 1, SIGN, dtype=np.uint16)
    for patterns in (nans, nans | np.uint16(SIGN)):
        sums = np.zeros(nans.size, np.float32)
        module.sgd_step(np.zeros(nans.size, dtype), patterns.view(dtype), sums, lr=0.0, momentum=1.0)
        assert np.isnan(sums).all()


@BOTH
@HALVES
def test_every_neighbourhood_is_rounded_to_nearest_even(module, dtype):
    """Each value, halfway to the next, and the float32 on each side of that; the last halfway point overflows."""
    values = magnitudes(dtype)
    lower = np.arange(values.size - 1)
    middle = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    assert np.array_equal(middle.astype(np.float64), (values[:-1] + values[1:]) / 2), "not float32 numbers"
    cases = [
        (values[:-1].astype(np.float32), lower),
        (middle, lower + lower % 2),
        (np.nextafter(middle, np.float32(0)), lower),
        (np.nextafter(middle, np.float32(np.inf)), lower + 1),
    ]
    for points, expected in cases:
        assert np.array_equal(as_bits(stored(module, -points, dtype)), expected)
        points, expected = points[1:], expected[1:]  # without 0; what rounds to 0 keeps its sign
        assert np.array_equal(as_bits(stored(module, points, dtype)), expected | SIGN)
    largest = np.finfo(np.float32).max
    patterns = np.array([0x7F800001, 0x7F80FFFF, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], np.uint32)
    assert np.array_equal(widened(stored(module, np.array([largest, -largest]), dtype)), [-np.inf, np.inf])
    assert np.isnan(stored(module, patterns.view(np.float32), dtype)).all()


@HALVES
def test_numpy_rounds_like_torch(dtype):
    torch = pytest.importorskip("torch")
    kind = torch.float16 if dtype is np.float16 else torch.bfloat16
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    theirs = torch.from_numpy(values).to(kind).view(torch.int16).numpy().view(dtype)
    assert np.array_equal(as_bits(rounded(values, dtype)), as_bits(theirs))


def in_both_precisions(key, dtype, kept, seed):
    """The call on difficult values of a half type, and the same call on those values in float32."""
    rng = np.random.default_rng(seed)
    half = calls()[key].in_half(dtype, kept)
    for name, array in half.arrays.items():
        values = difficult(rng, array.size, array.dtype, positive=name.endswith(("sqs", "sums", "var", "square_avgs")))
        half.arrays[name] = values.reshape(array.shape)
    wide = calls()[key]
    wide.arrays = {name: widened(array) for name, array in half.arrays.items()}
    return half, wide


@BOTH
@pytest.mark.parametrize("kept", [None, np.float32], ids=["kept alike", "kept in float32"])
@HALVES
@pytest.mark.parametrize("key", HALF_CALLS)
def test_each_op_is_the_float32_op_rounded(key, dtype, kept, module):
    for seed in range(10):
        half, wide = in_both_precisions(key, dtype, kept, seed)
        average = wide.arrays["ema_params"].copy() if "ema_params" in wide.arrays else None
        results, wanted = half.run(module), wide.run(module)
        if average is not None:  # it takes in the parameters as they are stored
            stored_params = widened(half.arrays["params"])
            with np.errstate(all="ignore"):
                wide.arrays["ema_params"] = np.float32(0.9) * average + np.float32(1 - 0.9) * stored_params
        for name in half.outputs:
            kind = (kept if name in KEPT else None) or dtype
            assert_same_bits(name, half.arrays[name], rounded(wide.arrays[name], kind))
        results, wanted = (r if isinstance(r, tuple) else (r,) for r in (results, wanted))
        for actual, expected in zip(results, wanted, strict=True):
            if isinstance(expected, np.ndarray):
                assert_same_bits(key, actual, rounded(expected, actual.dtype))
            elif isinstance(expected, float):
                assert_same_bits(key, np.array(actual), np.array(expected))


@BOTH
@HALVES
def test_types_of_new_arrays(module, dtype):
    x = np.arange(12).reshape(4, 3).astype(dtype)
    for weight_dtype, bias_dtype in [(dtype, np.float32), (np.float32, dtype), (None, None)]:
        weight, bias = (None if kind is None else np.ones(3, kind) for kind in (weight_dtype, bias_dtype))
        y, saved = module.batch_norm(x, weight, bias)
        dx, dweight, dbias = module.batch_norm_backward(x, x, saved)
        assert y.dtype == dx.dtype == dtype
        assert saved.mean.dtype == saved.var.dtype == np.float32
        assert dweight.dtype == (weight_dtype or np.float32) and dbias.dtype == (bias_dtype or np.float32)
    assert module.dropout(x, 0.5, seed=0).dtype == module.dropout_backward(x, 0.5, seed=0).dtype == dtype


@BOTH
@HALVES
@pytest.mark.parametrize("training", [True, False])
def test_fused_dropout_works_on_the_rounded_values(module, dtype, training):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 33, 5, 7)).astype(dtype)
    statistics = rng.normal(size=5).astype(dtype), rng.uniform(1, 2, 5).astype(np.float32)
    key = {"seed": 3, "offset": 4}
    options = {"relu": True, "training": training}
    y, saved = module.batch_norm(x, None, None, *(s.copy() for s in statistics), **options)
    fused, fused_saved = module.batch_norm(x, None, None, *statistics, dropout=(0.3, 3, 4), **options)
    assert_same_bits("y", fused, module.dropout(y, 0.3, **key))
    apart = module.batch_norm_backward(module.dropout_backward(dy, 0.3, **key), x, saved)
    for actual, expected in zip(module.batch_norm_backward(dy, x, fused_saved), apart, strict=True):
        assert_same_bits("gradient", actual, expected)


@BOTH
@HALVES
def test_the_input_gradient_takes_sums_that_are_not_rounded(module, dtype):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 700, 3)).astype(dtype)
    _, saved = module.batch_norm(x)
    expected = module.batch_norm_backward(dy, x, saved)[0]
    narrow = np.empty(3, dtype), np.empty(3, dtype)
    assert_same_bits("dx", module.batch_norm_backward(dy, x, saved, dweight=narrow[0], dbias=narrow[1])[0], expected)


@BOTH
def test_hyper_parameters_that_float16_cannot_say(module):
    params, grads = np.ones(3, np.float16), np.zeros(3, np.float16)
    module.adam_step(params, grads, *np.zeros((2, 3), np.float16), lr=1e-3, step=1, eps=1e-12)
    assert (params == 1).all(), "eps became 0"
    sums = np.zeros(3, np.float32)
    module.sgd_step(params, np.ones(3, np.float16), sums, lr=0.0, momentum=0.5, dampening=1 - 1e-9)
    assert (sums == np.float32(1e-9)).all()
    gradient = np.full(3, 60000, np.float16)
    assert module.global_norm(gradient) == pytest.approx(60000 * 3**0.5)


@BOTH
@HALVES
def test_adamw_against_torch(module, dtype):
    """torch's fused step computes in float32 too; its order of operations may move a rounding by one place."""
    torch = pytest.importorskip("torch")
    kind = torch.float16 if dtype is np.float16 else torch.bfloat16
    rng = np.random.default_rng(0)
    params, grads = (rng.normal(size=5000).astype(dtype) for _ in range(2))
    theirs = torch.nn.Parameter(torch.from_numpy(widened(params)).to(kind))
    theirs.grad = torch.from_numpy(widened(grads)).to(kind)
    torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1, fused=True).step()
    states = np.zeros((2, 5000), dtype)
    module.adam_step(params, grads, *states, lr=1e-2, step=1, weight_decay=0.1, decoupled_weight_decay=True)
    wanted = theirs.detach().view(torch.int16).numpy().astype(int)
    distance = np.abs(params.view(np.int16).astype(int) - wanted)
    assert distance.max() <= 1 and (distance == 0).mean() > 0.99


@BOTH
@HALVES
def test_batch_norm_against_torch(module, dtype):
    """Half types with float32 weights, as in mixed precision; moments differ in the order of their sums alone."""
    torch = pytest.importorskip("torch")
    kind = torch.float16 if dtype is np.float16 else torch.bfloat16
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 5, 9)).astype(dtype)
    weight, bias, mean = rng.normal(size=(3, 5)).astype(np.float32)
    var = rng.uniform(0.5, 2, 5).astype(np.float32)
    tensors = [torch.from_numpy(a.copy()) for a in (mean, var, weight, bias)]
    theirs = torch.nn.functional.batch_norm(torch.from_numpy(widened(x)).to(kind), *tensors, training=True)
    y, _ = module.batch_norm(x, weight, bias, mean, var)
    bound = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(widened(y), theirs.float().numpy(), rtol=bound, atol=bound / 100)
    np.testing.assert_allclose(mean, tensors[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, tensors[1].numpy(), rtol=1e-5)
