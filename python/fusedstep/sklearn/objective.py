"""What training minimizes: scikit-learn's losses, and its L2 penalty."""

from __future__ import annotations

import numpy as np

from .._device import as_host, device_of
from .._loop import host_weights
from ..callbacks import Callback
from ..nn import Loss


class Scaled(Loss):
    """Another loss, its value and its gradient each times a factor.

    scikit-learn sums over the outputs where `fusedstep.nn` takes the mean, halves squares, and reports the mean over
    the outputs of a squared error whose gradient is that of the sum.
    """

    def __init__(self, loss: Loss, value_factor: float, gradient_factor: float):
        self.loss, self.value_factor, self.gradient_factor = loss, value_factor, gradient_factor
        self.name = loss.name

    def __call__(self, output, target, weights=None):
        value, gradient = self.loss(output, target, weights)
        if self.gradient_factor != 1:
            gradient *= self.gradient_factor
        return value * self.value_factor, gradient

    def check_target(self, name, target, output_shape):
        self.loss.check_target(name, target, output_shape)

    def hessian_product(self, output, vector, weights=None):
        return self.loss.hessian_product(output, vector, weights) * self.gradient_factor

    def hessian_diagonal(self, output, weights=None):
        return self.loss.hessian_diagonal(output, weights) * self.gradient_factor

    def sample_gradients(self, output, rng):
        return self.loss.sample_gradients(output, rng) * self.gradient_factor**0.5


class HalfPoissonDeviance(Loss):
    """``y log(y) - y z - y + exp(z)`` for an output z, the logarithm of what is predicted; summed over the outputs.

    The mean over the samples, with weights ``sum(w * l) / sum(w)`` (McCullagh & Nelder 1989, section 2.3).

    >>> value, gradient = HalfPoissonDeviance()(np.zeros((1, 1)), np.ones((1, 1)))
    >>> float(value), gradient
    (0.0, array([[0.]]))
    """

    name = "half_poisson_deviance"

    def __call__(self, output, target, weights=None):
        xp = device_of(output).xp
        share = xp.full(len(output), 1 / len(output)) if weights is None else weights / weights.sum()
        with np.errstate(over="ignore", invalid="ignore"):  # what diverges is refused at the end of training
            predicted = xp.exp(output)
            constant = target * xp.log(xp.where(target > 0, target, 1)) - target
            losses = (constant - target * output + predicted).sum(axis=1, dtype=np.float64)
            value = (share * losses).sum()
            gradient = (predicted - target) * share.astype(output.dtype)[:, None]
        return value, gradient

    def check_target(self, name, target, output_shape):
        negative = np.flatnonzero((target < 0).any(axis=1))
        if negative.size:
            raise ValueError(f"'{name}' must not be negative with loss='poisson' but is in sample {negative[0]}")


class L2Penalty(Callback):
    """``alpha / 2 * ||W||**2``, divided by what the samples of a batch count, as scikit-learn adds to its loss.

    Parameters
    ----------
    alpha : float
    weights : list of Parameter
        All W.
    group : dict
        The optimizer's parameter group of all W: its `weight_decay` is set before each step.

    Attributes
    ----------
    value : float
        The mean of the penalty over the last epoch, each batch by what it counts.
    """

    def __init__(self, alpha: float, weights: list, group: dict):
        self.alpha, self._weights, self._group = alpha, weights, group

    def on_epoch_begin(self, run):
        self._totals = list(run.batches.totals(host_weights(run.batches.arrays)))
        self._squares = 0.0

    def before_step(self, run):
        self._group["weight_decay"] = self.alpha / self._totals[run.batch_index]
        for p in self._weights:
            flat = p.array.reshape(-1)
            self._squares = self._squares + device_of(flat).xp.matmul(flat, flat)

    @property
    def value(self) -> float:
        return 0.5 * self.alpha * float(as_host(self._squares)) / sum(self._totals)
