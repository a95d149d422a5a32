"""What a model refuses: layers that do not fit together, and inputs that do not fit the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import numpy as np

from .._device import CPU, Device, describe, device_of, is_cupy
from .layers import Dense, Flatten, Layer

if TYPE_CHECKING:
    from .sequential import Sequential

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_models: WeakKeyDictionary[Layer, ref[Sequential]] = WeakKeyDictionary()
"""The model that each layer was put into last, while it lives."""


def register(layers: tuple[Layer, ...], model: Sequential) -> None:
    """Note that the layers are part of `model`."""
    _models.update(dict.fromkeys(layers, ref(model)))


def check_layers(layers: tuple) -> None:
    """Each must be a layer that is used once, and in no other model."""
    if not layers:
        raise ValueError("Sequential needs at least one layer")
    for index, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            hint = "; pass Sequential(*layers)" if isinstance(layer, (list, tuple)) else ""
            raise TypeError(f"layer {index} must be a layer of fusedstep.nn but got {layer!r}{hint}")
        if layer in layers[:index]:
            raise ValueError(
                f"layer {index}, {layer!r}, is the same object as layer {layers.index(layer)}; make a new one"
            )
        if layer in _models and _models[layer]() is not None:
            raise ValueError(f"layer {index}, {layer!r}, is already part of another model; make a new one")


def check_feature_counts(layers: tuple[Layer, ...]) -> None:
    """Each layer must take as many features as the one before it gives, as far as that is known without data."""
    giver, known, flat = "", None, False
    for index, layer in enumerate(layers):
        takes, gives = layer.feature_counts
        if takes is not None and known is not None and takes != known:
            raise ValueError(f"layer {index}, {layer!r}, takes {takes} features but {giver} gives {known}")
        if gives is not None:
            giver, known, flat = f"layer {index}, {layer!r},", gives, flat or isinstance(layer, Dense)
        elif isinstance(layer, Flatten) and not flat:
            known, flat = None, True


def shapes_through(layers: tuple[Layer, ...], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes before each layer and after the last, for an input of `shape`."""
    shapes = [shape]
    for index, layer in enumerate(layers):
        try:
            shape = layer.output_shape(shape)
        except ValueError as error:
            raise ValueError(f"layer {index}, {layer!r}, {error}") from None
        shapes.append(shape)
    return shapes


def check_array(name: str, array, dtype: np.dtype, device: Device) -> np.ndarray:
    """`array`, C-contiguous; TypeError if it is not of the model's dtype on its device, the current one."""
    if not device.holds(array):
        fix = _move(name, array, dtype, device)
        raise TypeError(f"'{name}' must be {device.kind} but got {describe(array)}: {fix}")
    if array.dtype != dtype:
        fix = f"pass {name}.astype(np.{dtype.name})"
        if array.dtype.kind in "OSU":
            fix = "words have to become numbers first, by scikit-learn's OneHotEncoder, say"
        if array.dtype in DTYPES:
            fix += f", or make the model with Sequential(..., dtype=np.{array.dtype.name})"
        raise TypeError(f"'{name}' must be {dtype}, the model's dtype, but got {array.dtype}: {fix}")
    if array.ndim == 0:
        raise ValueError(f"'{name}' must have a batch axis but got shape ()")
    return device.xp.ascontiguousarray(array)


def _move(name: str, array, dtype: np.dtype, device: Device) -> str:
    """What to do about an array that is not where the model is."""
    if device is not CPU:
        there = device_of(array).name
        return f"pass cupy.asarray({name}) of that device, or move the model with model.to('{there}')"
    if is_cupy(array):
        return f"pass cupy.asnumpy({name}), or move the model with model.to('cuda:{array.device.id}')"
    if hasattr(array, "chunk") or hasattr(array, "chunks"):  # a Source, or a dataset of HDF5 or Zarr
        return f"pass {name}[:], or give it to fusedstep.predict, which reads a part at a time"
    return f"pass np.asarray({name}, np.{dtype.name})"
