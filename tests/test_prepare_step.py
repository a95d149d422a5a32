"""prepare_step: counts, clips and skips as the formulas say, and refuses what it cannot use."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.reference.scalars import clipping_factor
from valid_calls import Call, check_refused

BOTH = pytest.mark.parametrize("module", [fs.ops, fs.reference], ids=["ops", "reference"])
DTYPES = {
    "step": np.int64,
    "multiplier": np.float64,
    "skip": np.int32,
    "norm": np.float64,
    "nonfinite": np.int32,
    "skipped": np.int64,
}
OUTPUTS = ("step", "multiplier", "skip", "skipped")


def arrays(**values) -> dict[str, np.ndarray]:
    """A 0-d array of the right dtype for each value."""
    return {name: np.array(value, DTYPES[name]) for name, value in values.items()}


def full(**values) -> dict[str, np.ndarray]:
    start = {"step": 4, "multiplier": 9.0, "skip": 5, "norm": 3.0, "nonfinite": 0, "skipped": 2}
    return arrays(**{**start, **values})


def items(given) -> dict:
    return {name: a.item() for name, a in given.items()}


@BOTH
def test_counting_alone(module):
    given = arrays(step=0, multiplier=9.0)
    for t in (1, 2, 3):
        assert module.prepare_step(**given) is None
        assert items(given) == {"step": t, "multiplier": 1.0}
    module.prepare_step(**given, grad_multiplier=-0.25)
    assert items(given) == {"step": 4, "multiplier": -0.25}


@BOTH
@pytest.mark.parametrize("norm", [0.0, 1e-300, 0.7, 0.999999, 1.0, 1.000001, 3.0, 1e300, math.inf, math.nan])
@pytest.mark.parametrize("scale", [1.0, -1.0, 0.0, 2.0**-10, 0.3, 1e-200])
@pytest.mark.parametrize("max_norm", [1.0, 1e-3, 7.5])
def test_clipping(norm, scale, max_norm, module):
    factor = max_norm / (norm * abs(scale) + 1e-6)
    expected = np.float64(scale * (factor if factor < 1 or math.isnan(factor) else 1.0))
    for multiplier in (scale, np.array(scale)):
        given = arrays(step=0, multiplier=9.0, norm=norm)
        module.prepare_step(**given, grad_multiplier=multiplier, max_norm=max_norm)
        assert given["step"] == 1 and given["norm"].tobytes() == np.float64(norm).tobytes()
        assert np.isnan(expected) == np.isnan(given["multiplier"])
        assert np.isnan(expected) or given["multiplier"].tobytes() == expected.tobytes()


@BOTH
def test_a_float32_multiplier(module):
    given = arrays(step=0, multiplier=9.0)
    module.prepare_step(**given, grad_multiplier=np.array(0.1, np.float32))
    assert given["multiplier"] == float(np.float32(0.1))


@BOTH
@pytest.mark.parametrize("nonfinite", [1, -1, 2**30])
def test_skipping(nonfinite, module):
    given = full(nonfinite=nonfinite, norm=np.nan)
    module.prepare_step(**given, max_norm=1.0, grad_multiplier=0.5)
    given.pop("norm")
    assert items(given) == {"step": 4, "multiplier": 9.0, "skip": 1, "nonfinite": nonfinite, "skipped": 3}
    without = {name: a for name, a in full(nonfinite=nonfinite).items() if name != "skipped"}
    module.prepare_step(**without)
    assert without["skip"] == 1 and without["step"] == 4


@BOTH
def test_a_step_that_is_not_skipped(module):
    given = full()
    module.prepare_step(**given, max_norm=1.5)
    factor = 1.5 / (3.0 + 1e-6)
    assert items(given) == {"step": 5, "multiplier": factor, "skip": 0, "norm": 3.0, "nonfinite": 0, "skipped": 2}


@BOTH
def test_nonfinite_gradients_are_not_skipped_without_skip(module):
    given = arrays(step=4, multiplier=9.0, norm=math.nan, nonfinite=1, skipped=2)
    module.prepare_step(**given, max_norm=1.0)
    assert given["step"] == 5 and given["skipped"] == 2 and np.isnan(given["multiplier"])


@BOTH
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_training_without_a_look_at_the_numbers(dtype, module):
    """Three arrays of numbers carry a whole training: the same bits as reading the norm and deciding in Python."""
    rng = np.random.default_rng(0)
    params = [rng.normal(size=n).astype(dtype) for n in (5, 1000)]
    wanted = [p.copy() for p in params]
    states, wanted_states = ([[np.zeros_like(p) for p in params] for _ in range(2)] for _ in range(2))
    given = arrays(step=0, multiplier=1.0, skip=0, norm=0.0, nonfinite=0, skipped=0)
    steps, skipped = 0, 0
    for t in range(6):
        grads = [(rng.normal(size=p.shape) * 8).astype(dtype) for p in params]
        if t in (0, 3):
            grads[1][-1] = np.inf
        module.global_norm(grads, out=given["norm"], nonfinite=given["nonfinite"])
        module.prepare_step(**given, grad_multiplier=0.125, max_norm=1.0)
        scalars = {"step": given["step"], "grad_multiplier": given["multiplier"], "skip": given["skip"]}
        module.adam_step(params, grads, *states, lr=np.array(0.01, np.float32), **scalars)

        norm = fs.reference.global_norm(grads)
        if not all(np.isfinite(g).all() for g in grads):
            skipped += 1
            continue
        steps += 1
        multiplier = 0.125 * clipping_factor(1.0, norm * 0.125)
        fs.reference.adam_step(
            wanted, grads, *wanted_states, lr=float(np.float32(0.01)), step=steps, grad_multiplier=multiplier
        )
    assert given["step"] == steps == 4 and given["skipped"] == skipped == 2
    for actual, expected in zip([params, *states], [wanted, *wanted_states], strict=True):
        assert all(a.tobytes() == e.tobytes() for a, e in zip(actual, expected, strict=True))


def refused(given, error, *words, **options):
    check_refused(Call("prepare_step", given, OUTPUTS, options), error, *words)


@pytest.mark.parametrize("name", DTYPES)
def test_bad_arrays(name):
    right = np.dtype(DTYPES[name])
    for dtype in {"int32", "int64", "float32", "float64", "uint8", "bool"} - {right.name}:
        refused({**full(), name: np.array(1, dtype)}, TypeError, f"'{name}' has dtype {dtype}; accepted is {right}")
    refused({**full(), name: np.zeros(1, right)}, ValueError, f"'{name}' must be 0-dimensional but has shape (1,)")
    for value in (1, 1.0, [1], "1"):
        refused({**full(), name: value}, TypeError, f"'{name}' must be an array but got {type(value).__name__}")
    if name in OUTPUTS:
        given = full()
        given[name].flags.writeable = False
        refused(given, ValueError, f"'{name}' is read-only and would be written")


@pytest.mark.parametrize("name", ["step", "multiplier"])
def test_none_where_an_array_is_needed(name):
    refused({**full(), name: None}, TypeError, f"'{name}' must be an array but got NoneType")


@pytest.mark.parametrize("written", OUTPUTS)
@pytest.mark.parametrize("other", DTYPES)
def test_overlap(written, other):
    if written != other:
        memory = np.zeros(1)
        given = full()
        for name in (written, other):
            given[name] = memory.view(DTYPES[name])[:1].reshape(())
        refused(given, ValueError, f"'{written}'", f"'{other}'", "overlap in memory")


def test_overlap_with_the_multiplier_that_is_read():
    given = full()
    refused(given, ValueError, "'multiplier' and 'grad_multiplier' overlap", grad_multiplier=given["multiplier"])


@pytest.mark.parametrize(
    ("without", "options", "error", "words"),
    [
        ((), {"max_norm": 0.0}, ValueError, "[prepare_step] 'max_norm' must be greater than 0 but got 0.0"),
        ((), {"max_norm": -1}, ValueError, "[prepare_step] 'max_norm' must be in [0, inf) but got -1"),
        ((), {"max_norm": math.nan}, ValueError, "[prepare_step] 'max_norm' must be in [0, inf) but got nan"),
        ((), {"max_norm": "1"}, TypeError, "[prepare_step] 'max_norm' must be a number but got '1'"),
        ((), {"grad_multiplier": math.inf}, ValueError, "[prepare_step] 'grad_multiplier' must be finite but got inf"),
        ((), {"grad_multiplier": None}, TypeError, "[prepare_step] 'grad_multiplier' must be a number but got None"),
        ((), {"grad_multiplier": np.ones(1)}, ValueError, "'grad_multiplier' must be 0-dimensional but has shape (1,)"),
        ((), {"grad_multiplier": np.array(1)}, TypeError, "'grad_multiplier' has dtype int64; accepted are float32"),
        (("norm",), {"max_norm": 1.0}, ValueError, "[prepare_step] 'max_norm' needs 'norm'"),
        (("nonfinite",), {}, ValueError, "[prepare_step] 'skip' needs 'nonfinite'"),
    ],
)
def test_bad_arguments(without, options, error, words):
    given = {name: a for name, a in full().items() if name not in without}
    refused(given, error, words, **options)
