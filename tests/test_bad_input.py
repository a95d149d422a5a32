"""Every op refuses bad arrays before it writes anything, with one message for the kernels and the reference."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from bits import HALF_DTYPES
from fusedstep import ops, reference
from valid_calls import CHANNELS, KEPT, MATRIX, STEPS, Call, calls, cases, check_refused, make


def of_outputs(call):
    return call.outputs


def not_strided(call):
    return [name for name in call.arrays if name not in call.strided]


@pytest.mark.parametrize("key", calls())
def test_the_calls_are_valid(key):
    for module in (ops, reference):
        calls()[key].run(module)


DTYPES = ("int64", "int32", "uint8", "bool", "complex64", "complex128", ">f2", ">f4", ">f8", "O", "longdouble")


@pytest.mark.parametrize(("key", "name"), cases())
def test_wrong_dtype(key, name):
    half = calls()[key].takes_half
    accepted = "float16, bfloat16, float32 and float64" if half else "float32 and float64"
    for dtype in (*DTYPES, ml_dtypes.float8_e4m3fn, *(() if half else HALF_DTYPES)):
        call = calls()[key]
        call.arrays[name] = call.arrays[name].astype(dtype)
        shown = str(np.dtype(dtype)).replace("longdouble", "float128")
        check_refused(call, TypeError, f"'{name}' has dtype {shown}; accepted are {accepted}")


@pytest.mark.parametrize(("key", "name"), cases(lambda call: call.arrays if len(call.arrays) > 1 else ()))
def test_mixed_dtypes(key, name):
    call = calls()[key]
    call.arrays[name] = call.arrays[name].astype(np.float64)
    check_refused(call, TypeError, f"'{name}'", "float32", "float64", "they must be the same")


def half_cases(kept: bool):
    """(call, name) of arrays that are, or are not, kept beside the values of the call."""
    halves = {key: call for key, call in calls().items() if call.takes_half and len(call.arrays) > 1}
    return [
        pytest.param(key, name, id=f"{key}-{name}")
        for key, call in halves.items()
        for name in call.arrays
        if (name in KEPT) == kept
    ]


@pytest.mark.parametrize(("key", "name"), half_cases(kept=False))
def test_half_types_are_not_mixed(key, name):
    for dtype, other in [(HALF_DTYPES[0], HALF_DTYPES[1]), (HALF_DTYPES[1], np.float32)]:
        call = calls()[key].in_half(dtype)
        call.arrays[name] = call.arrays[name].astype(other)
        check_refused(call, TypeError, f"'{name}'", np.dtype(dtype).name, np.dtype(other).name)


@pytest.mark.parametrize(("key", "name"), half_cases(kept=True))
def test_what_is_kept_beside_half_types(key, name):
    for dtype, wrong in [(HALF_DTYPES[0], HALF_DTYPES[1]), (HALF_DTYPES[1], np.float16), (np.float16, np.float64)]:
        call = calls()[key].in_half(dtype)
        call.arrays[name] = call.arrays[name].astype(wrong)
        own, first, rule = np.dtype(dtype).name, "x", f"it must be {np.dtype(dtype)} or float32"
        if call.op in STEPS:  # the first state goes by the parameters, the others by it
            first_state = next(n for n in call.arrays if n in KEPT)
            first, rule = ("params", rule) if name == first_state else (first_state, "they must be the same")
        words = f"'{name}' has dtype {np.dtype(wrong)} but '{first}' has {own}; {rule}"
        check_refused(call, TypeError, words)


@pytest.mark.parametrize("key", STEPS)
def test_states_of_several_types(key):
    call = calls()[key].in_half(np.float16, np.float32)
    _, _, first, *_, last = call.arrays
    call.arrays[last] = call.arrays[last].astype(np.float16)
    words = f"'{last}' has dtype float16 but '{first}' has float32; they must be the same"
    check_refused(call, TypeError, words)


@pytest.mark.parametrize("name", ["mean", "var"])
def test_moments_of_another_type(name):
    for dtype, wrong in [(np.float16, np.float16), (np.float16, np.float64), (ml_dtypes.bfloat16, np.float16)]:
        call = calls()["batch_norm_backward"].in_half(dtype)
        call.saved = dataclasses.replace(call.saved, **{name: getattr(call.saved, name).astype(wrong)})
        words = f"'saved.{name}' has dtype {np.dtype(wrong)} but 'x' has {np.dtype(dtype)}; it must be float32"
        check_refused(call, TypeError, words)


@pytest.mark.parametrize("key", [key for key, call in calls().items() if call.takes_half])
def test_half_types_are_taken(key):
    for dtype, kept in [(np.float16, None), (ml_dtypes.bfloat16, None), (np.float16, np.float32)]:
        expected, call = (calls()[key].in_half(dtype, kept) for _ in range(2))
        expected.run(reference)
        call.run(ops)
        assert all(a.tobytes() == expected.arrays[name].tobytes() for name, a in call.arrays.items())


@pytest.mark.parametrize(("key", "name"), cases())
@pytest.mark.parametrize("value", ["text", 1.5, np.float32(1.5), {"a": 1}, b"bytes", (x for x in ())], ids=repr)
def test_not_an_array(key, name, value):
    call = calls()[key]
    call.arrays[name] = value
    check_refused(call, TypeError, f"'{name}' must be an array but got {type(value).__name__}")


@pytest.mark.parametrize(("key", "name"), cases())
def test_list_of_numbers(key, name):
    call = calls()[key]
    call.arrays[name] = [0.5]
    place = f"'{name}[0]' must be an array but got float" if key.endswith("_step") or name == "grads" else f"'{name}'"
    check_refused(call, TypeError, place)


def fits_alone(call, name) -> bool:
    """Whether the array agrees with the others: without outputs, or where only the channels count."""
    array = call.arrays[name]
    others = [a for n, a in call.arrays.items() if n != name and a.ndim == 2]
    return not others and name == "x" and array.ndim and array.shape[-1] == CHANNELS


@pytest.mark.parametrize(("key", "name"), cases(lambda call: call.arrays if len(call.arrays) > 1 else ()))
def test_wrong_shape(key, name):
    for shape in ((3, 5), (24,), (4, 6), (1, *MATRIX), (5,), (0, CHANNELS), ()):
        call = calls()[key]
        call.arrays[name] = make(name, shape)
        if not fits_alone(call, name):
            check_refused(call, ValueError, f"'{name}'")


@pytest.mark.parametrize(("key", "name"), cases(of_outputs))
def test_read_only(key, name):
    call = calls()[key]
    call.arrays[name].flags.writeable = False
    check_refused(call, ValueError, f"'{name}' is read-only and would be written")


@pytest.mark.parametrize(("key", "name"), cases(of_outputs))
def test_memmap_opened_for_reading(key, name, tmp_path):
    call = calls()[key]
    path = tmp_path / "array.npy"
    np.save(path, call.arrays[name])
    before = path.read_bytes()
    call.arrays[name] = np.load(path, mmap_mode="r")
    check_refused(call, ValueError, f"'{name}' is read-only and would be written")
    assert path.read_bytes() == before


LAYOUTS = {
    "gaps": lambda a: np.repeat(a, 2, axis=0)[::2],
    "column gaps": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "broadcast": lambda a: np.lib.stride_tricks.as_strided(a, a.shape, (0,) * a.ndim),
    "windows": lambda a: np.lib.stride_tricks.as_strided(np.tile(a, 2), a.shape, (a.itemsize,) * a.ndim),
    "unaligned": lambda a: np.frombuffer(bytearray(b"x" + a.tobytes()), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "a field of records": lambda a: np.rec.fromarrays([a, a], dtype=[("a", a.dtype), ("b", "i2")])["a"].view(
        np.ndarray
    ),
}


@pytest.mark.parametrize(("key", "name"), cases(not_strided))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_that_cannot_be_walked(key, name, layout):
    call = calls()[key]
    if layout == "windows" and call.arrays[name].ndim == 1:
        return
    call.arrays[name] = LAYOUTS[layout](call.arrays[name])
    check_refused(call, ValueError, f"'{name}'", "numpy.")


@pytest.mark.parametrize(("key", "name"), cases(lambda call: [n for n in call.strided if n in call.outputs]))
@pytest.mark.parametrize("layout", ["broadcast", "windows"])
def test_output_whose_values_share_memory(key, name, layout):
    call = calls()[key]
    call.arrays[name] = LAYOUTS[layout](call.arrays[name])
    check_refused(call, ValueError, f"'{name}' has values that share memory")


@pytest.mark.parametrize(("key", "name"), cases(not_strided))
def test_fortran_among_c(key, name):
    call = calls()[key]
    matrices = [a for a in call.arrays.values() if a.ndim == 2]
    if call.arrays[name].ndim == 1 or (len(matrices) == 1 and not key.startswith(("bias_act", "softmax"))):
        return
    call.arrays[name] = np.asfortranarray(call.arrays[name])
    check_refused(call, ValueError, f"'{name}'", "numpy.")


def pairs(same: bool):
    """Two arrays of one shape, of which one is written."""
    found = []
    for key, call in calls().items():
        names = list(call.arrays)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                fits = call.arrays[a].shape == call.arrays[b].shape and {a, b} & set(call.outputs)
                allowed = (a, b) in call.in_place or (b, a) in call.in_place
                if fits and not (same and allowed):
                    found.append(pytest.param(key, a, b, id=f"{key}-{a}-{b}"))
    return found


@pytest.mark.parametrize(("key", "a", "b"), pairs(same=True))
def test_the_same_memory_twice(key, a, b):
    call = calls()[key]
    call.arrays[b] = call.arrays[a]
    check_refused(call, ValueError, f"'{a}'", f"'{b}'", "overlap in memory")


@pytest.mark.parametrize(("key", "a", "b"), pairs(same=False))
@pytest.mark.parametrize("shift", [1, 7])
def test_overlap(key, a, b, shift):
    call = calls()[key]
    shape = call.arrays[a].shape
    size = call.arrays[a].size
    if shift >= size:
        return
    buffer = np.full(size + shift, 0.5, np.float32)
    call.arrays[a], call.arrays[b] = buffer[:size].reshape(shape), buffer[shift:].reshape(shape)
    check_refused(call, ValueError, f"'{a}' and '{b}' overlap in memory")
    call.arrays[a], call.arrays[b] = call.arrays[b], call.arrays[a]
    check_refused(call, ValueError, f"'{b}' and '{a}' overlap in memory")


@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize(("key", "pair"), [(key, pair) for key, call in calls().items() for pair in call.in_place])
def test_exactly_in_place_is_allowed(module, key, pair):
    call, expected = calls()[key], calls()[key]
    expected.run(module)
    call.arrays[pair[1]] = call.arrays[pair[0]]
    call.run(module)
    assert call.arrays[pair[1]].tobytes() == expected.arrays[pair[1]].tobytes()


def listed(key) -> Call:
    """The step on three arrays of each kind."""
    call = calls()[key]
    call.arrays = {name: [a, a.copy(), a[:2].copy()] for name, a in call.arrays.items()}
    return call


def list_cases():
    return [pytest.param(key, name, id=f"{key}-{name}") for key in STEPS for name in calls()[key].arrays]


@pytest.mark.parametrize(("key", "name"), list_cases())
def test_lists(key, name):
    first = "grads" if name == "params" else "params"
    spoiled = {
        "a short list": (lambda a: a[:2], ValueError, "arrays but"),
        "an empty list": (lambda a: [], ValueError, "arrays but"),
        "a single array": (lambda a: a[0], ValueError, "arrays but"),
        "a string within": (lambda a: [a[0], a[1], "text"], TypeError, f"'{name}[2]' must be an array but got str"),
        "another dtype": (lambda a: [a[0], a[1].astype("f8"), a[2]], TypeError, f"'{name}[1]' has dtype float64 but"),
        "another shape": (lambda a: [a[0], a[1], a[2][:1]], ValueError, "[2]' has shape"),
        "gaps": (lambda a: [a[0], LAYOUTS["gaps"](a[1]), a[2]], ValueError, f"{name}[1]"),
    }
    if name != "grads":
        spoiled["an array twice"] = (lambda a: [a[0], a[0], a[2]], ValueError, f"'{name}[0]' and '{name}[1]' overlap")
    for change, error, words in spoiled.values():
        call = listed(key)
        call.arrays[name] = change(call.arrays[name])
        check_refused(call, error, words)
    call = listed(key)
    call.arrays[first] = tuple(call.arrays[first])
    call.run(ops)  # tuples serve as well


def test_list_of_gradients_for_the_norm():
    good = make("grads")
    for bad, error, words in [
        (good.astype("f8"), TypeError, "'grads[1]' has dtype float64 but 'grads[0]' has float32"),
        (good[:, ::2], ValueError, "'grads[1]' has gaps in memory"),
        (1.5, TypeError, "'grads[1]' must be an array but got float"),
    ]:
        check_refused(Call("global_norm", {"grads": [good, bad]}, ()), error, words)
    out = good[0, 0:1].reshape(())
    check_refused(Call("global_norm", {"grads": good, "out": out}, ()), ValueError, "'out' and 'grads' overlap")
    check_refused(Call("global_norm", {"grads": good, "out": good[0].copy()}, ()), ValueError, "0-dimensional")
