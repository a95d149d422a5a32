"""Losses on logits together with their gradients; the twin of csrc/math/losses.h.

The value is a mean over all elements, or with weights w (one a sample) sum(w l) / sum(w) of the samples' means.
"""

from __future__ import annotations

import numpy as np

from . import functions
from .activations import check_rows
from .arrays import check_array, check_elementwise, check_overlap, check_shape
from .reduction import tree_sum


def check_weights(weights, samples: int) -> tuple[np.ndarray | None, float]:
    """(weights as float64 or None, their sum)."""
    if weights is None:
        return None, float(samples)
    weights = np.asarray(weights)
    if weights.dtype.kind not in "biuf":
        raise TypeError(f"'weights' has dtype {weights.dtype}; accepted are real numbers")
    if weights.shape != (samples,):
        raise ValueError(f"'weights' has shape {weights.shape} but there are {samples} samples")
    weights = np.ascontiguousarray(weights, np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("'weights' must be finite and not negative")
    total = float(tree_sum(weights))  # infinite for huge ones, without a warning
    if total == 0:
        raise ValueError("'weights' are all zero")
    if total == np.inf:
        raise ValueError("'weights' add up to infinity")
    return weights, total


def convert_labels(labels, samples: int, classes: int) -> np.ndarray:
    """`labels` as int64, their range not yet checked."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"'labels' has dtype {labels.dtype}; accepted are integers, the index of each sample's class: "
            "y.astype(np.int64) for whole numbers, np.unique(y, return_inverse=True)[1] for names"
        )
    if labels.shape != (samples,):
        raise ValueError(f"'labels' has shape {labels.shape} but 'logits' has shape ({samples}, {classes})")
    return np.ascontiguousarray(labels, np.int64)


def check_output(name: str, x, out):
    """The array for the gradient; ValueError for an empty batch."""
    check_array(name, x)
    if x.size == 0:
        raise ValueError(f"'{name}' is empty (shape {x.shape}): there is no mean over no element")
    out = check_elementwise(name, x, out)
    check_rows(name, x)
    check_rows("out", out)
    return out


def check_pair(name: str, x, target, out):
    out = check_output(name, x, out)
    check_array("target", target, like=(name, x.dtype))
    check_shape("target", target, name, x.shape)
    check_rows("target", target)
    return out


def check_gradient_overlap(out, **inputs) -> None:
    check_overlap([("out", out)], [(name, array) for name, array in inputs.items() if array is not None])


def check_probabilities(target) -> None:
    if not (target.min() >= 0 and target.max() <= 1):
        raise ValueError("'target' must hold values in [0, 1]")


def _scale(weights, total, elements, kind):
    """What each sample's gradient is multiplied by: w / (sum(w) elements), folded in double."""
    return kind(1 / (total * elements)) if weights is None else (weights / (total * elements)).astype(kind)


def _mean(losses, weights, total):
    """losses: one row a sample, in the arithmetic type; summed row by row, then over the rows, in double."""
    rows = tree_sum(losses.astype(np.float64))
    return float(tree_sum(rows if weights is None else weights * rows)) / (total * losses.shape[1])


def softmax_cross_entropy(logits, labels, weights=None, *, out=None):
    """-log softmax(logits)[label], and (softmax - onehot) scaled by the weight of the sample in the mean."""
    check_array("logits", logits)
    if logits.ndim != 2:
        raise ValueError(f"'logits' must have shape (samples, classes) but has shape {logits.shape}")
    samples, classes = logits.shape
    labels = convert_labels(labels, samples, classes)
    weights, total = check_weights(weights, samples)
    out = check_output("logits", logits, out)
    check_gradient_overlap(out, labels=labels, weights=weights)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise ValueError(f"'labels' must be in [0, {classes}) but labels[{wrong[0]}] is {labels[wrong[0]]}")
    kind = logits.dtype.type
    rows = np.arange(samples)
    with np.errstate(all="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
        e = functions.exp(shifted)
        s = tree_sum(e)
        losses = functions.log(s) - shifted[rows, labels]
        gradient = e / s[:, None]
        gradient[rows, labels] -= kind(1)
        scale = _scale(weights, total, 1, kind)
        out[...] = gradient * (scale if weights is None else scale[:, None])
    return _mean(losses[:, None], weights, total), out


def _elementwise_loss(name, x, target, weights, out, probabilities, formula):
    out = check_pair(name, x, target, out)
    if probabilities:
        check_probabilities(target)
    weights, total = check_weights(weights, x.shape[0])
    check_gradient_overlap(out, target=target, weights=weights)
    x2, target2 = x.reshape(x.shape[0], -1), target.reshape(x.shape[0], -1)
    with np.errstate(all="ignore"):
        losses, gradient = formula(x2, target2, x.dtype.type)
        scale = _scale(weights, total, x2.shape[1], x.dtype.type)
        out[...] = (gradient * (scale if weights is None else scale[:, None])).reshape(x.shape)
    return _mean(losses, weights, total), out


def sigmoid_cross_entropy(logits, target, weights=None, *, out=None):
    """max(x, 0) - x t + log(1 + e**-|x|), and sigmoid(x) - t."""

    def formula(x, t, kind):
        losses = (np.where(x <= 0, kind(0), x) - x * t) + functions.log1p(functions.exp(-np.abs(x)))
        return losses, functions.sigmoid(x) - t

    return _elementwise_loss("logits", logits, target, weights, out, True, formula)


def mean_squared_error(output, target, weights=None, *, out=None):
    """(o - t)**2, and 2 (o - t)."""

    def formula(o, t, kind):
        d = o - t
        return d * d, kind(2) * d

    return _elementwise_loss("output", output, target, weights, out, False, formula)
