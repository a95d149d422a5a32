"""Checks of arguments that the Python layer shares. Each names who refuses, which argument, and what it got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def choice(where: str, name: str, value, accepted: Sequence[str]) -> str:
    """`value`, refused when it is not one of `accepted`."""
    if value not in accepted:
        raise ValueError(f"[{where}] '{name}' must be one of {', '.join(map(repr, accepted))} but got {value!r}")
    return value


def as_array(value) -> np.ndarray:
    """`value` as an array, whose dtype the caller has to look at: object where lengths differ, which NumPy refuses."""
    try:
        return np.asarray(value)
    except ValueError:
        array = np.empty((), object)
        array[()] = value
        return array


def same_length(where: str, arrays: Mapping[str, np.ndarray]) -> int:
    """The number of samples (length of axis 0) that all `arrays` have in common, at least 1."""
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    for name, shape in shapes.items():
        if not shape:
            raise ValueError(f"[{where}] '{name}' must have at least one axis, one entry a sample, but its shape is ()")
    (first, first_shape), *others = shapes.items()
    for name, shape in others:
        if shape[0] != first_shape[0]:
            raise ValueError(
                f"[{where}] '{first}' and '{name}' must have the same number of samples "
                f"but their shapes are {first_shape} and {shape}"
            )
    if first_shape[0] == 0:
        raise ValueError(f"[{where}] '{first}' is empty: its shape is {first_shape}")
    return first_shape[0]
