"""Comparing arrays bit for bit, and input that finds differences."""

from __future__ import annotations

import ml_dtypes
import numpy as np

SIZES = (0, 1, 15, 16, 17, 31, 33, 97, 1000, 100003)
DTYPES = (np.float32, np.float64)
HALF_DTYPES = (np.float16, ml_dtypes.bfloat16)
ALL_DTYPES = (*HALF_DTYPES, *DTYPES)


UNCOUNTED = ("sgd_step", "rmsprop_step", "adadelta_step", "lion_step", "lars_step")


def counted(op: str, step) -> dict:
    """The argument `step` of an op that has it."""
    return {} if op in UNCOUNTED else {"step": step}


def as_bits(array) -> np.ndarray:
    """The values as unsigned integers, every NaN made the same (payloads may differ, positions may not)."""
    array = np.array(array)
    nan = np.isnan(array)
    if nan.any():
        array[nan] = np.nan
    return array.view(f"u{array.itemsize}")


def widened(array) -> np.ndarray:
    """The same values in the type of the arithmetic."""
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def rounded(values, dtype) -> np.ndarray:
    """To nearest even; beyond the largest value to infinity."""
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(dtype)


def assert_same_bits(name, actual, expected) -> None:
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, name
    bits = f"u{actual.itemsize}"
    if np.array_equal(np.asarray(actual).view(bits), np.asarray(expected).view(bits)):
        return  # the payloads, too
    different = np.flatnonzero(as_bits(actual).ravel() != as_bits(expected).ravel())
    if different.size:
        i = different[0]
        raise AssertionError(
            f"{name}: {different.size} of {actual.size} values differ, first at {i}: "
            f"{actual.ravel()[i]!r} instead of {expected.ravel()[i]!r}"
        )


def difficult(rng, size: int, dtype, *, positive: bool = False) -> np.ndarray:
    """Normal values with NaN, infinities, denormals, zeros of both signs and huge values among them."""
    info = ml_dtypes.finfo(dtype)
    largest, tiny, least = (float(v) for v in (info.max, info.smallest_normal, info.smallest_subnormal))
    values = rng.normal(size=size).astype(dtype)
    specials = [np.nan, np.inf, -np.inf, 0.0, -0.0, largest, -largest, tiny, least]
    specials += [-least, tiny / 8, largest / 4, np.sqrt(largest), 1.0, -1.0]
    if size:
        where = rng.integers(0, size, size=max(1, size // 8))
        values[where] = np.array(specials, dtype)[rng.integers(0, len(specials), size=where.size)]
    return np.abs(values) if positive else values


def at_offset(values: np.ndarray, offset: int) -> np.ndarray:
    """A copy of a vector that begins `offset` values into a larger buffer."""
    buffer = np.empty(values.size + offset + 3, values.dtype)
    view = buffer[offset : offset + values.size]
    view[...] = values
    return view
