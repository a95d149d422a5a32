"""Optimizer steps on the GPU give the CPU's bits: every rule, dtype, size, offset and length of list.

Nothing here is a tolerance.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest

import fusedstep as fs
from bits import assert_same_bits, counted, difficult
from gpu_arrays import put_at_offset
from test_bits import LAYER_RULES, PAIRS, RULES, SIGNED_STATES, STEPS, layer_case, pair_id, rule_id, run_steps

pytestmark = pytest.mark.cuda

# Around the 4 and 8 values of a 16-byte load, a warp, a block, and beyond what one launch of few blocks covers.
SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 17, 31, 33, 255, 257, 1025, 100_003)
OFFSETS = [(0, 0, 0, 0, 0, 0), (1, 1, 1, 1, 1, 1), (0, 1, 2, 3, 1, 0)]  # of each array of a call
EVERY_RULE = pytest.mark.parametrize("rule_index", range(len(RULES)), ids=[rule_id(r) for r in RULES])
EVERY_PAIR = pytest.mark.parametrize("pair", PAIRS, ids=pair_id)


@functools.cache
def case(rule_index, pair, size):
    """(input arrays, gradients of each step, arrays after the CPU's steps)"""
    op, states, options = RULES[rule_index]
    dtype, state_dtype = pair
    rng = np.random.default_rng([rule_index, size])
    start = [difficult(rng, size, dtype)]
    start += [difficult(rng, size, state_dtype, positive=name not in SIGNED_STATES) for name in states]
    start += [difficult(rng, size, state_dtype)]
    grads = [difficult(rng, size, dtype) for _ in range(STEPS)]
    return start, grads, run_steps(fs.ops, op, states, options, start, grads, 0)


def run_on_device(library, rule_index, start, grads, offsets, wrap=lambda name, value: value):
    """The arrays after a step for each gradient; `wrap` may put hyper-parameters on the device."""
    op, states, options = RULES[rule_index]
    arrays = [put_at_offset(library, a, offset) for a, offset in zip(start, offsets, strict=False)]
    params, *kept, average = arrays
    for t, g in enumerate(grads, start=1):
        getattr(fs.ops, op)(
            params,
            put_at_offset(library, g, offsets[-1]),
            **dict(zip(states, kept, strict=True)),
            **{name: wrap(name, value) for name, value in options.items()},
            **counted(op, wrap("step", t + 7)),
            ema_params=average,
            ema_decay=0.99,
        )
    return [library.get(a) for a in arrays]


def compare(rule_index, actual, expected, what):
    op, states, _ = RULES[rule_index]
    for name, a, e in zip(("params", *states, "ema_params"), actual, expected, strict=True):
        assert_same_bits(f"{op} {name}, {what}", a, e)


def need(library, pair):
    if not all(library.has(np.dtype(dtype)) for dtype in pair):
        pytest.skip(f"this {library.name} has no {pair_id(pair)} arrays")


@EVERY_PAIR
@EVERY_RULE
def test_steps(rule_index, pair, library):
    need(library, pair)
    for size in SIZES:
        start, grads, expected = case(rule_index, pair, size)
        for offsets in OFFSETS:
            actual = run_on_device(library, rule_index, start, grads, offsets)
            compare(rule_index, actual, expected, f"{size} values at offsets {offsets}")


@EVERY_RULE
def test_hyper_parameters_on_the_device(rule_index, library):
    """`lr` and `grad_multiplier` as 0-d float64 arrays, `step` as a 0-d int64 array."""

    def wrap(name, value):
        if name in ("lr", "grad_multiplier"):
            return library.put(np.array(value, np.float64))
        return library.put(np.array(value, np.int64)) if name == "step" else value

    start, grads, expected = case(rule_index, (np.float32, np.float32), 1025)
    compare(rule_index, run_on_device(library, rule_index, start, grads, OFFSETS[0], wrap), expected, "on the device")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_float32_learning_rate_means_that_number(dtype, library):
    start, grads, _ = case(RULES.index(ADAM), (dtype, dtype), 257)
    lr = np.float32(0.1)
    results = []
    for rate in (float(lr), library.put(np.array(lr))):
        arrays = [library.put(a) for a in start[:3]]
        step = library.put(np.array(3, np.int32))
        fs.ops.adam_step(arrays[0], library.put(grads[0]), *arrays[1:], lr=rate, step=step)
        results.append([library.get(a) for a in arrays])
    for a, e in zip(*results, strict=True):
        assert_same_bits("adam_step", a, e)


ADAM = next(rule for rule in RULES if rule[0] == "adam_step")


@EVERY_PAIR
@pytest.mark.parametrize("count", [1, 3, 500, 1200])
def test_lists(count, pair, library):
    """Arrays of many sizes, some empty, one that needs several chunks."""
    need(library, pair)
    rng = np.random.default_rng(count)
    sizes = [*(int(i * 37 % 2999) for i in range(count - 1)), 200_001]
    dtypes = (pair[0], pair[0], pair[1], pair[1])
    host = [[difficult(rng, n, kind, positive=k == 3) for n in sizes] for k, kind in enumerate(dtypes)]
    arrays = [[put_at_offset(library, a, i % 3) for i, a in enumerate(column)] for column in host]
    for step in (1, 2, 1000):
        for lists in (arrays, host):
            fs.ops.adam_step(*lists, lr=1e-3, step=step, weight_decay=0.01)
    for column, expected in zip(arrays, host, strict=True):
        for i, (a, e) in enumerate(zip(column, expected, strict=True)):
            assert_same_bits(f"array {i} of {e.size} values", library.get(a), e)


@EVERY_PAIR
@pytest.mark.parametrize("rule_index", range(len(LAYER_RULES)), ids=[rule_id(r) for r in LAYER_RULES])
def test_a_ratio_for_each_array(rule_index, pair, library):
    """The steps of test_bits, the hyper-parameters of the last two on the device."""
    need(library, pair)
    op, _, options = LAYER_RULES[rule_index]
    start, expected = layer_case(rule_index, *pair)
    start, expected = ([[a for a in column if a.ndim == 1] for column in columns] for columns in (start, expected))
    arrays = [[put_at_offset(library, a, i % 3) for i, a in enumerate(column)] for column in start]
    for t in (1, 2, 30):
        wrap = (lambda value, kind: value) if t == 1 else (lambda value, kind: library.put(np.array(value, kind)))
        given = options | {"lr": wrap(options["lr"], np.float64)} | counted(op, wrap(t, np.int64))
        *kept, average = arrays
        getattr(fs.ops, op)(*kept, **given, ema_params=average, ema_decay=0.9)
    for column, wanted in zip(arrays, expected, strict=True):
        for a, e in zip(column, wanted, strict=True):
            assert_same_bits(f"{op}, {e.size} values", library.get(a), e)


def test_other_layouts(library):
    """Axes in another order in memory, the same for all arrays of a call."""
    rng = np.random.default_rng(0)
    host = [rng.uniform(0.1, 1, (4, 5, 6, 7)).astype(np.float32) for _ in range(4)]
    arrays = [library.permute(library.dense(library.permute(library.put(a), (0, 2, 3, 1))), (0, 3, 1, 2)) for a in host]
    for lists in (arrays, host):
        fs.ops.adam_step(*lists, lr=0.1, step=3)
    for a, e in zip(arrays, host, strict=True):
        assert_same_bits("adam_step", library.get(a), e)


@dataclass
class Scalars:
    """What `prepare_step` works on, on the host or on the device."""

    step: object
    multiplier: object
    skip: object
    norm: object
    nonfinite: object
    skipped: object


def scalars(put) -> Scalars:
    kinds = {"step": np.int64, "multiplier": np.float64, "skip": np.int32, "norm": np.float64}
    kinds |= {"nonfinite": np.int32, "skipped": np.int64}
    return Scalars(**{name: put(np.zeros((), kind)) for name, kind in kinds.items()})


def clipped_step(arrays, own: Scalars, max_norm) -> None:
    """A whole step with clipping and skipping, without a trip to the host."""
    fs.ops.global_norm(arrays[1], out=own.norm, nonfinite=own.nonfinite)
    fs.ops.prepare_step(
        own.step,
        own.multiplier,
        own.skip,
        norm=own.norm,
        nonfinite=own.nonfinite,
        grad_multiplier=0.5,
        max_norm=max_norm,
        skipped=own.skipped,
    )
    fs.ops.adam_step(*arrays, lr=1e-2, step=own.step, grad_multiplier=own.multiplier, skip=own.skip)


@pytest.mark.parametrize("max_norm", [None, 1e-3, 1e9])
def test_clipping_and_skipping(max_norm, library):
    """The third gradient has an infinity, the fourth a NaN: nothing is written then but the count of skipped steps."""
    rng = np.random.default_rng(0)
    host = [[rng.uniform(0.1, 1, n).astype(np.float32) for n in (7, 1025, 40_000)] for _ in range(4)]
    arrays = [[library.put(a) for a in column] for column in host]
    own, expected = scalars(library.put), scalars(np.array)
    for spoiled in (None, None, np.inf, np.nan, None):
        for k, g in enumerate(host[1]):
            g[...] = rng.normal(size=g.size)
            if spoiled is not None and k == 1:
                g[1000] = spoiled
            library.copy_into(arrays[1][k], library.put(g))
        clipped_step(host, expected, max_norm)
        clipped_step(arrays, own, max_norm)
    assert (int(own.step), int(own.skipped)) == (3, 2) == (int(expected.step), int(expected.skipped))
    for name in ("multiplier", "norm"):
        assert_same_bits(name, library.get(getattr(own, name)), getattr(expected, name))
    for column, wanted in zip(arrays, host, strict=True):
        for a, e in zip(column, wanted, strict=True):
            assert_same_bits("adam_step", library.get(a), e)


def test_the_norm_of_nothing(library):
    out = library.put(np.array(7.0))
    fs.ops.global_norm([library.put(np.zeros(0, np.float32))], out=out)
    assert float(out) == 0


def test_autograd_notices(torch):
    """A backward pass that needs the value from before the step is refused."""
    p = torch.ones(5, device="cuda", requires_grad=True)
    loss = (p * p).sum()
    fs.ops.sgd_step(p.detach(), torch.ones(5, device="cuda"), lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
