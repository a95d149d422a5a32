"""Metrics that a training loop reports beside the loss.

Each is a function ``(target, output) -> float`` of what the model gives, logits for a classifier, over all samples at
once; sample weights are left aside. All are computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from ._device import describe
from ._extras import require

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
    TypeError
        The arrays do not hold numbers.
    ValueError
        The shapes fit neither form, there is no sample, or a target is no class of the output: beside logits of its own
        shape, not from 0 to 1 (above 0.5 counts as 1).

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.metrics import accuracy
    >>> accuracy(np.array([0, 1]), np.array([[2.0, 1.0], [3.0, 0.0]]))
    0.5
    """
    target, output, exclusive = _classes("accuracy", target, output)
    return float(np.mean(_predicted(output, exclusive) == target))


def f1_macro(target, output) -> float:
    """The F1 score ``2 * precision * recall / (precision + recall)`` of each class, averaged; in [0, 1].

    scikit-learn's ``f1_score(average="macro")`` (van Rijsbergen 1979): over the classes that are in the target or
    predicted, both classes of a yes-or-no target included, or over the columns of a multi-label one.

    Parameters
    ----------
    target, output : ndarray
        As for `accuracy`. NaN predicts no class.

    Raises
    ------
    ImportError
        scikit-learn is missing.
    TypeError, ValueError
        As for `accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.metrics import f1_macro
    >>> round(f1_macro(np.array([0, 0, 1]), np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0]])), 4)
    0.6667
    """
    sklearn = require("sklearn.metrics", extra="sklearn")
    target, output, exclusive = _classes("f1_macro", target, output)
    predicted = _predicted(output, exclusive)
    if output.ndim == 2 and not exclusive:  # several labels a sample
        return float(sklearn.f1_score(target, np.maximum(predicted, 0), average="macro", zero_division=0))
    present = np.union1d(target, predicted[predicted >= 0])
    return float(sklearn.f1_score(target, predicted, labels=present, average="macro", zero_division=0))


def roc_auc(target, output) -> float:
    """Area under the ROC curve: how often a sample of a class scores higher than one of the others; in [0, 1].

    scikit-learn's `roc_auc_score` (Hanley & McNeil 1982), on the logit, or on the difference of two logits; of more
    classes on the softmax of the logits, each class against the rest, averaged; of a multi-label target on the logits,
    averaged over the columns.

    Parameters
    ----------
    target, output : ndarray
        As for `accuracy`.

    Returns
    -------
    float
        NaN, without a warning, where it is not defined: the target lacks a class, or has no other; or an output is not
        finite.

    Raises
    ------
    ImportError
        scikit-learn is missing.
    TypeError, ValueError
        As for `accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.metrics import roc_auc
    >>> roc_auc(np.array([0.0, 0.0, 1.0]), np.array([-2.0, 0.5, 0.1]))
    0.5
    """
    sklearn = require("sklearn.metrics", extra="sklearn")
    target, output, exclusive = _classes("roc_auc", target, output)
    output = output.astype(np.float64)
    several = exclusive and output.shape[1] > 2
    with np.errstate(over="ignore", invalid="ignore"):
        if several:
            score = require("scipy.special", extra="sklearn").softmax(output, axis=1)
        else:
            score = output[:, 1] - output[:, 0] if exclusive else output
    if several:
        lacks_one = len(np.unique(target)) < output.shape[1]
    else:
        lacks_one = (target.min(axis=0) == target.max(axis=0)).any()
    if lacks_one or not np.isfinite(score).all():
        return float("nan")
    if several:
        labels = np.arange(output.shape[1])
        return float(sklearn.roc_auc_score(target, score, multi_class="ovr", average="macro", labels=labels))
    return float(sklearn.roc_auc_score(target, score, average="macro"))


def rmse(target, output) -> float:
    """Root of the mean squared error, over all elements, in the unit of the target.

    Parameters
    ----------
    target, output : ndarray
        Of the same shape, (N, ...).

    Raises
    ------
    TypeError
        The arrays do not hold numbers.
    ValueError
        The shapes differ, or there is no sample.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.metrics import rmse
    >>> rmse(np.array([[1.0], [2.0]]), np.array([[4.0], [-1.0]]))
    3.0
    """
    target, output = _values("rmse", target, output)
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.mean((output - target) ** 2)))


def r2(target, output) -> float:
    """Coefficient of determination: 1 for an exact output, 0 for the mean of the target, negative for worse.

    scikit-learn's `r2_score`, averaged over the columns of several outputs. A constant target gives 1 where it is met
    exactly, and 0 otherwise.

    Parameters
    ----------
    target, output : ndarray
        Of the same shape, (N, ...).

    Returns
    -------
    float
        NaN, without a warning, for a single sample, or where a value is not finite.

    Raises
    ------
    ImportError
        scikit-learn is missing.
    TypeError
        The arrays do not hold numbers.
    ValueError
        The shapes differ, or there is no sample.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.metrics import r2
    >>> r2(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [2.0]]))
    0.5
    """
    sklearn = require("sklearn.metrics", extra="sklearn")
    target, output = _values("r2", target, output)
    if len(target) < 2 or not (np.isfinite(target).all() and np.isfinite(output).all()):
        return float("nan")
    with np.errstate(over="ignore", invalid="ignore"):
        return float(sklearn.r2_score(target.reshape(len(target), -1), output.reshape(len(output), -1)))


def _numbers(name: str, argument: str, values) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"[{name}] '{argument}' must be numbers but got {values.dtype}")
    return values


def _values(name: str, target, output) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the same shape, in float64."""
    target, output = _numbers(name, "target", target), _numbers(name, "output", output)
    if target.shape != output.shape or target.ndim == 0:  # broadcasting (N, 1) against (N,) would give (N, N)
        raise ValueError(
            f"[{name}] 'target' and 'output' must have the same shape, (N, ...), "
            f"but have {target.shape} and {output.shape}"
        )
    if not target.size:
        raise ValueError(f"[{name}] 'target' is empty: its shape is {target.shape}")
    return target.astype(np.float64), output.astype(np.float64)


def _classes(name: str, target, output) -> tuple[np.ndarray, np.ndarray, bool]:
    """(classes as integers, logits, whether the columns of the logits exclude each other).

    Without exclusion each logit stands for itself: (N,), or (N, k) with k > 1 labels a sample.
    """
    target, output = _numbers(name, "target", target), _numbers(name, "output", output)
    exclusive = output.ndim == 2 and output.shape[1] > 1 and target.shape == output.shape[:1]
    if not exclusive and (target.shape != output.shape or target.ndim == 0):
        raise ValueError(
            f"[{name}] 'target' and 'output' must have shapes (N,) and (N, C) with C > 1, or the same shape, "
            f"but have {target.shape} and {output.shape}"
        )
    if not target.size:
        raise ValueError(f"[{name}] 'target' is empty: its shape is {target.shape}")
    if exclusive:
        wrong = np.flatnonzero(~((target >= 0) & (target < output.shape[1]) & (target == np.floor(target))))
        if wrong.size:
            raise ValueError(
                f"[{name}] 'target' holds {target[wrong[0]]} at index {wrong[0]} "
                f"but the classes of 'output' are 0 ... {output.shape[1] - 1}"
            )
        return target.astype(np.int64), output, True
    wrong = target[~((target >= 0) & (target <= 1))]
    if wrong.size:
        raise ValueError(f"[{name}] 'target' must be 0 or 1 where each 'output' is a logit but holds {wrong[0]}")
    labels = (target > 0.5).astype(np.int64).reshape(len(target), -1)
    logits = output.reshape(labels.shape)
    return (labels.ravel(), logits.ravel(), False) if labels.shape[1] == 1 else (labels, logits, False)


def _predicted(logits: np.ndarray, exclusive: bool) -> np.ndarray:
    """Classes as integers; -1 where NaN predicts none."""
    if exclusive:
        return np.where(np.isnan(logits).any(axis=1), -1, logits.argmax(axis=1))
    return np.where(np.isnan(logits), -1, logits > 0)


_BY_NAME: dict[str, Metric] = {f.__name__: f for f in (accuracy, f1_macro, roc_auc, rmse, r2)}
LARGER_IS_BETTER = {"accuracy": True, "f1_macro": True, "roc_auc": True, "rmse": False, "r2": True}
_OF_SKLEARN = {"f1_macro", "roc_auc", "r2"}


class _Own:
    """A function of the user's under the name of its column."""

    def __init__(self, name: str, function: Metric):
        self.__name__, self.function = name, function

    def __call__(self, target, output) -> float:
        value = self.function(target, output)
        try:
            if isinstance(value, str | bytes) or getattr(value, "ndim", 0):
                raise TypeError
            return float(value)
        except (TypeError, ValueError):
            got = repr(value) if isinstance(value, str | bytes | complex | None) else describe(value)
            raise TypeError(f"[metrics] {self.__name__!r} must return a number but returned {got}") from None


def resolve(metrics: str | Metric | Mapping | Iterable) -> dict[str, Metric]:
    """Metrics by name.

    Parameters
    ----------
    metrics : str, callable, mapping, or an iterable of these
        ``"accuracy"``, ``"f1_macro"``, ``"roc_auc"``, ``"rmse"`` or ``"r2"``; functions ``(target, output) -> float``
        of NumPy arrays, which go by their `__name__`; or ``{name: string or function}``.

    Returns
    -------
    dict of str to callable
        Each value has its key as its `__name__`; one that calls a function of the user's raises a TypeError with that
        name where the function returns no number.

    Raises
    ------
    TypeError, ValueError
        A name that is unknown, taken twice or missing.
    ImportError
        A metric needs scikit-learn, which is missing.

    Examples
    --------
    >>> from fusedstep.metrics import resolve
    >>> list(resolve(["accuracy", {"mae": lambda target, output: abs(target - output).mean()}]))
    ['accuracy', 'mae']
    """
    found: dict[str, Metric] = {}
    for name, metric in _named(metrics):
        if isinstance(metric, str):
            if metric not in _BY_NAME:
                raise ValueError(
                    f"[metrics] must be one of {', '.join(map(repr, _BY_NAME))} or a function, got {metric!r}"
                )
            if metric in _OF_SKLEARN:  # here, as training must not end for it after its first epoch
                require("sklearn.metrics", extra="sklearn")
            metric = _BY_NAME[metric]
        elif not callable(metric):
            raise TypeError(f"[metrics] {name!r} must be a string or a function but got {metric!r}")
        if name in found or name == "loss":
            raise ValueError(f"[metrics] {name!r} is already the name of a column")
        known = isinstance(metric, _Own) or metric in _BY_NAME.values()
        found[name] = metric if known and metric.__name__ == name else _Own(name, metric)
    return found


def _named(metrics) -> Iterator[tuple[str, str | Metric]]:
    if isinstance(metrics, str) or callable(metrics):
        metrics = (metrics,)
    if not isinstance(metrics, Iterable):
        raise TypeError(f"[metrics] must be strings, functions or a sequence of these but got {metrics!r}")
    if isinstance(metrics, Mapping):
        for name, metric in metrics.items():
            if not isinstance(name, str) or not name:
                raise TypeError(f"[metrics] the names must be strings, not empty, but got {name!r}")
            yield name, metric
        return
    for metric in metrics:
        if isinstance(metric, Mapping):
            yield from _named(metric)
            continue
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", None)
        if not isinstance(name, str) or not name.isidentifier():
            raise TypeError(
                f"[metrics] must be strings or functions with a __name__ of their own but got {metric!r}; "
                "pass {'name': function} otherwise"
            )
        yield name, metric
