"""What the training loop refuses before it changes anything."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np

from . import _checks
from ._device import all_finite, as_host, get_device, is_cupy
from ._transfer import contiguous, device_dtype
from .data import MiniBatches, Source
from .data.sources import as_samples, is_on_disk
from .nn import Loss

_PARTS = ("X", "y", "weights")


def check_arrays(name: str, data, where: str = "fit") -> tuple[np.ndarray, ...]:
    """(X, y) or (X, y, weights), checked."""
    arrays = data.arrays if isinstance(data, MiniBatches) else data
    if not isinstance(arrays, (tuple, list)) or len(arrays) not in (2, 3):
        got = f"{len(arrays)} arrays" if isinstance(arrays, (tuple, list)) else type(arrays).__name__
        raise TypeError(f"[{where}] '{name}' must be (X, y), (X, y, weights) or MiniBatches of these but got {got}")
    arrays = tuple(as_samples(array) for array in arrays)
    _checks.same_length(where, {f"{name} {part}": a for part, a in zip(_PARTS, arrays, strict=False)})
    if len(arrays) == 3:
        check_weights(f"[{where}] '{name} weights'", as_host(arrays[2]))
    return arrays


def check_finite(name: str, *arrays) -> None:
    """One such value would make all parameters NaN in the first step that sees it.

    What is on disk is looked at when it is read, see `finite_on_disk`.
    """
    for part, array in zip(_PARTS, arrays, strict=False):
        if not is_on_disk(array):
            refuse_nonfinite("fit", f"{name} {part}", array)


def finite_on_disk(name: str, where: str = "fit") -> Callable:
    """A function for `MiniBatches.gathered` that refuses what `check_finite` had not seen."""

    def look(position: int, first: int, samples: np.ndarray) -> None:
        refuse_nonfinite(where, f"{name} {_PARTS[position]}", samples, first)

    return look


def refuse_nonfinite(where: str, name: str, array, first: int = 0) -> None:
    """Raise ValueError for NaN and infinity in `array`, whose first sample has the index `first`."""
    if array.dtype.kind == "f" and not all_finite(array):
        index = int(np.flatnonzero(~np.isfinite(as_host(array)).all(axis=tuple(range(1, array.ndim))))[0])
        raise ValueError(f"[{where}] '{name}' holds NaN or infinity, first in sample {first + index}")


def check_weights(name: str, weights: np.ndarray) -> None:
    """Raise for what are no weights of samples, `name` in the message."""
    if weights.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers but has dtype {weights.dtype}")
    if weights.ndim != 1:
        raise ValueError(f"{name} must be one number a sample but has shape {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"{name} must be finite and not negative, and not all zero")


def check_objects(model, optimizer, loss) -> None:
    if isinstance(loss, type) or not callable(loss):
        raise TypeError(f"[fit] 'loss' must be a loss such as fusedstep.nn.SoftmaxCrossEntropy() but got {loss!r}")
    if isinstance(optimizer, type) or not hasattr(optimizer, "step"):
        raise TypeError(f"[fit] 'optimizer' must be one made for model.parameters() but got {optimizer!r}")
    stepped = {id(p) for group in getattr(optimizer, "param_groups", ()) for p in group["params"]}
    if stepped and stepped.isdisjoint(map(id, model.parameters())):
        raise ValueError(
            "[fit] 'optimizer' was made for another model, or before model.to() moved this one: "
            "make it for this model.parameters(), after model.to()"
        )


def try_out(model, loss, name: str, x, target, weights=None) -> None:
    """Raise what would be raised in the midst of training."""
    # Two samples: batch normalization without running statistics takes no single one.
    two = [contiguous(array[:2]) for array in (x, target)]
    device = get_device(model.device)
    if not is_cupy(x) and device.name != "cpu":
        two = [device.put(a.astype(device_dtype(i, a.dtype), copy=False)) for i, a in enumerate(two)]
    with _about(f"'{name} X' of shape {x.shape} does not fit the model"):
        output = model.predict(two[0])
    with device.active(), _about(f"'{name} y' of shape {target.shape} does not fit the loss"):
        loss(output, two[1])
    if isinstance(loss, Loss) and not isinstance(target, Source):
        loss.check_target(f"{name} y", as_host(target), output.shape)


@contextmanager
def _about(what: str):
    """Say of which of the user's arrays an error of the trial speaks."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"[fit] {what}: {error}") from error
