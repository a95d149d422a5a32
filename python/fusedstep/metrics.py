"""Metrics that a training loop reports beside the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(target, output) -> float:
    """Share of predictions that are right, in [0, 1].

    Parameters
    ----------
    target : ndarray
        Class indices (N,) beside scores of C > 1 classes (N, C); or 0/1 values of the shape of `output`.
    output : ndarray
        Logits: the largest of a row is the predicted class; with targets of its own shape, a positive logit predicts 1.
        NaN predicts nothing, so it counts as wrong.

    Raises
    ------
    ValueError
        The shapes fit neither form.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.metrics import accuracy
    >>> accuracy(np.array([0, 1]), np.array([[2.0, 1.0], [3.0, 0.0]]))
    0.5
    """
    target, output = np.asarray(target), np.asarray(output)
    if output.ndim == 2 and output.shape[1] > 1 and target.shape == output.shape[:1]:
        return float(np.mean((output.argmax(axis=1) == target) & ~np.isnan(output).any(axis=1)))
    if target.shape == output.shape:
        return float(np.mean(((output > 0) == (target > 0.5)) & ~np.isnan(output)))
    raise ValueError(
        f"[accuracy] 'target' and 'output' must have shapes (N,) and (N, C) with C > 1, or the same shape, "
        f"but have {target.shape} and {output.shape}"
    )


_BY_NAME: dict[str, Metric] = {"accuracy": accuracy}


def resolve(metrics: Iterable[str | Metric]) -> dict[str, Metric]:
    """Metrics by name: strings are looked up, callables go by their `__name__`.

    Raises
    ------
    TypeError, ValueError
        A name that is unknown, taken twice or missing.
    """
    if isinstance(metrics, str) or callable(metrics):
        metrics = (metrics,)
    found: dict[str, Metric] = {}
    for metric in metrics:
        if isinstance(metric, str) and metric not in _BY_NAME:
            raise ValueError(f"[metrics] must be one of {', '.join(map(repr, _BY_NAME))} or a function, got {metric!r}")
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", None)
        if not name:
            raise TypeError(f"[metrics] must be strings or functions with a __name__ but got {metric!r}")
        if name in found or name == "loss":
            raise ValueError(f"[metrics] {name!r} is already the name of a column")
        found[name] = _BY_NAME[metric] if isinstance(metric, str) else metric
    return found
