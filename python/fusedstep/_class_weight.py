"""What the samples of each class count."""

from __future__ import annotations

import math

import numpy as np

from ._device import as_host


def class_weights(where: str, class_weight, y, weights=None) -> np.ndarray:
    """One weight a sample, float64: that of its class, times its own in `weights`.

    >>> class_weights("fit", "balanced", np.array([0, 0, 0, 1])).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise TypeError(f"[{where}] 'class_weight' needs integer labels, one a sample, but y is {y.dtype}{y.shape}")
    labels = as_host(y)
    classes, index, members = np.unique(labels, return_inverse=True, return_counts=True)
    if isinstance(class_weight, str) and class_weight == "balanced":
        by_class = len(labels) / (len(classes) * members)
    elif isinstance(class_weight, dict):
        by_class = np.array([_weight(where, key, class_weight.get(key, 1.0)) for key in classes.tolist()])
        unknown = [key for key in class_weight if key not in classes]
        if unknown:
            raise ValueError(f"[{where}] 'class_weight' names the class {unknown[0]!r}, which 'train y' has not")
    else:
        raise ValueError(f"[{where}] 'class_weight' must be 'balanced' or a dict of weights but got {class_weight!r}")
    result = by_class[index.reshape(-1)]
    with np.errstate(over="ignore"):  # what is not finite is refused by the caller
        return result if weights is None else result * as_host(weights)


def _weight(where: str, key, value) -> float:
    if not isinstance(value, (int, float, np.integer, np.floating)) or not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"[{where}] 'class_weight' of {key!r} must be finite and not negative but got {value!r}")
    return float(value)
