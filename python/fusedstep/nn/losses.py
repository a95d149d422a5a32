"""Losses: their mean over a batch and its gradient, in one pass (formulas: `fusedstep.ops`)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .. import ops
from ..reference.losses import check_weights


class Loss:
    """Base of the losses: ``loss(output, target, weights=None) -> (value, gradient)``.

    On arrays of a GPU the value is a 0-d float64 array there, which nothing has waited for; labels must be int64 and
    weights float64. A target out of range cannot be refused without waiting: it makes loss and gradient NaN.
    """

    name: ClassVar[str]
    """What histories and saved files call it."""

    def check_target(self, name: str, target: np.ndarray, output_shape: tuple[int, ...]) -> None:
        """Look at all targets of a data set, for outputs of `output_shape`, before the first batch is trained on.

        Raises
        ------
        ValueError
            A value is out of range; `name` is what the message calls the targets.
        """

    def hessian_product(self, output, vector, weights=None) -> np.ndarray:
        """The Hessian of the loss by `output`, times `vector`: both ``(N, ...)``, NumPy, float64; so is the result.

        None of these Hessians depends on the target, and each is positive semi-definite.
        """
        raise NotImplementedError(f"{type(self).__name__} has no hessian_product, which curvature needs")

    def hessian_diagonal(self, output, weights=None) -> np.ndarray:
        """The diagonal of that Hessian, of the shape of `output`, float64."""
        raise NotImplementedError(f"{type(self).__name__} has no hessian_diagonal, which curvature needs")

    def sample_gradients(self, output, rng: np.random.Generator) -> np.ndarray:
        """Gradients of each sample's own loss by its output, for targets drawn as the output predicts them.

        Their covariance is the Hessian of the sample's loss (Martens 2014, section 6).
        """
        raise NotImplementedError(f"{type(self).__name__} has no sample_gradients, which curvature needs")

    def __repr__(self):
        return f"{type(self).__name__}()"


def sample_shares(output, weights) -> np.ndarray:
    """What each sample counts in the mean, of a shape that broadcasts against `output`."""
    weights, total = check_weights(weights, output.shape[0])
    shares = np.full(output.shape[0], 1 / total) if weights is None else weights / total
    return shares.reshape(-1, *[1] * (output.ndim - 1))


def _require_same_form(output, target) -> None:
    """Broadcasting (N, 1) against (N,) would give (N, N) losses without a word."""
    if np.shape(output) != np.shape(target):
        shape = ", ".join(map(str, (-1, *np.shape(output)[1:])))
        hint = f"; pass target.reshape({shape})" if np.size(output) == np.size(target) else ""
        raise ValueError(
            f"'target' must have the shape of 'output', {np.shape(output)}, but got {np.shape(target)}{hint}"
        )
    if getattr(target, "dtype", None) != getattr(output, "dtype", None) and isinstance(target, np.ndarray):
        raise TypeError(
            f"'target' must be {output.dtype}, the output's dtype, but got {target.dtype}: "
            f"pass target.astype(np.{output.dtype})"
        )


class SoftmaxCrossEntropy(Loss):
    """``-log softmax(output)[label]``, for classes that exclude each other (Bridle 1990).

    Without weights the mean over the samples, with weights ``sum(w * l) / sum(w)``.

    Parameters of a call
    --------------------
    output : ndarray
        Logits, ``(N, C)``, float32 or float64.
    target : ndarray
        Labels in 0 ... C - 1, ``(N,)``, of any integer dtype.
    weights : ndarray, optional
        One for each sample, ``(N,)``: finite, not negative, not all zero.

    Returns
    -------
    value : float
        In nats.
    gradient : ndarray
        By `output`; a new array of its shape and dtype.

    Raises
    ------
    TypeError, ValueError
        For wrong dtypes, shapes and labels, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> value, gradient = SoftmaxCrossEntropy()(np.zeros((1, 2)), np.array([0]))
    >>> round(value, 4), gradient
    (0.6931, array([[-0.5,  0.5]]))
    """

    name: ClassVar[str] = "softmax_cross_entropy"

    def __call__(self, output, target, weights=None) -> tuple[float, np.ndarray]:
        if np.ndim(target) == 2:
            one_hot = np.shape(target) == np.shape(output) and np.shape(target)[1] > 1
            fix = "target.argmax(axis=1)" if one_hot else "target.ravel()"
            raise ValueError(f"'target' must hold one label a sample, (N,), but got {np.shape(target)}; pass {fix}")
        return ops.softmax_cross_entropy(output, target, weights)

    @staticmethod
    def _probabilities(output):
        """The softmax, from the gradient for the label 0, which is its mean over the samples but for that 1."""
        labels = np.zeros(len(output), np.int64)
        probabilities = ops.softmax_cross_entropy(output, labels)[1] * len(output)
        probabilities[:, 0] += 1
        return probabilities

    def hessian_product(self, output, vector, weights=None):
        p = self._probabilities(output)
        pv = p * vector
        return (pv - p * pv.sum(axis=1, keepdims=True)) * sample_shares(output, weights)

    def hessian_diagonal(self, output, weights=None):
        p = self._probabilities(output)
        return p * (1 - p) * sample_shares(output, weights)

    def sample_gradients(self, output, rng):
        gradients = self._probabilities(output)
        below = gradients.cumsum(axis=1)
        drawn = (below <= rng.random((len(below), 1)) * below[:, -1:]).sum(axis=1)
        gradients[np.arange(len(below)), np.minimum(drawn, below.shape[1] - 1)] -= 1
        return gradients

    def check_target(self, name, target, output_shape):
        classes = output_shape[1]
        wrong = np.flatnonzero((target < 0) | (target >= classes))
        if wrong.size:
            index = int(wrong[0])
            raise ValueError(
                f"'{name}' has the label {target[index]} at index {index} "
                f"but the model's classes are 0 ... {classes - 1}"
            )


class SigmoidCrossEntropy(Loss):
    """``-t log(s) - (1 - t) log(1 - s)`` with ``s = sigmoid(output)``, for yes-or-no targets.

    The mean over all elements; with weights, each sample's mean counts by its share of the weights.

    Parameters of a call
    --------------------
    output : ndarray
        Logits, ``(N, ...)``, float32 or float64.
    target : ndarray
        In [0, 1], of the shape and dtype of `output`.
    weights : ndarray, optional
        One for each sample, ``(N,)``: finite, not negative, not all zero.

    Returns
    -------
    value : float
        In nats.
    gradient : ndarray
        By `output`; a new array of its shape and dtype.

    Raises
    ------
    TypeError, ValueError
        For wrong dtypes, shapes and targets, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> value, gradient = SigmoidCrossEntropy()(np.zeros((1, 1)), np.ones((1, 1)))
    >>> round(value, 4), gradient
    (0.6931, array([[-0.5]]))
    """

    name: ClassVar[str] = "sigmoid_cross_entropy"

    def __call__(self, output, target, weights=None) -> tuple[float, np.ndarray]:
        _require_same_form(output, target)
        return ops.sigmoid_cross_entropy(output, target, weights)

    @staticmethod
    def _probabilities(output):
        """The sigmoid, from the gradient for the target 0, which is its mean over the elements."""
        return ops.sigmoid_cross_entropy(output, np.zeros_like(output))[1] * output.size

    def hessian_product(self, output, vector, weights=None):
        return self.hessian_diagonal(output, weights) * vector

    def hessian_diagonal(self, output, weights=None):
        p = self._probabilities(output)
        return p * (1 - p) * (sample_shares(output, weights) * (len(output) / output.size))

    def sample_gradients(self, output, rng):
        p = self._probabilities(output)
        return (p - (rng.random(output.shape) < p)) * (len(output) / output.size) ** 0.5

    def check_target(self, name, target, output_shape):
        inside = (target >= 0) & (target <= 1)
        if not inside.all():
            index = np.argwhere(~inside)[0].tolist()
            raise ValueError(f"'{name}' must be in [0, 1] but holds {target[tuple(index)]} in sample {index[0]}")


class MeanSquaredError(Loss):
    """``(output - target)**2``, the mean over all elements; with weights, each sample's mean counts by its share.

    Parameters of a call
    --------------------
    output : ndarray
        ``(N, ...)``, float32 or float64.
    target : ndarray
        Of the shape and dtype of `output`.
    weights : ndarray, optional
        One for each sample, ``(N,)``: finite, not negative, not all zero.

    Returns
    -------
    value : float
        In the square of the target's unit.
    gradient : ndarray
        By `output`; a new array of its shape and dtype.

    Raises
    ------
    TypeError, ValueError
        For wrong dtypes and shapes, before anything is computed.

    Examples
    --------
    >>> import numpy as np
    >>> MeanSquaredError()(np.array([[3.0]]), np.array([[1.0]]))
    (4.0, array([[4.]]))
    """

    name: ClassVar[str] = "mean_squared_error"

    def __call__(self, output, target, weights=None) -> tuple[float, np.ndarray]:
        _require_same_form(output, target)
        return ops.mean_squared_error(output, target, weights)

    def hessian_product(self, output, vector, weights=None):
        return self.hessian_diagonal(output, weights) * vector

    def hessian_diagonal(self, output, weights=None):
        shares = sample_shares(output, weights) * (2 * len(output) / output.size)
        return np.broadcast_to(shares, output.shape)

    def sample_gradients(self, output, rng):
        return rng.standard_normal(output.shape) * (2 * len(output) / output.size) ** 0.5
