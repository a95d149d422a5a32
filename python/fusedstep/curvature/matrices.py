"""The Hessian and the Gauss-Newton matrix of a loss, by their products with vectors; neither is ever formed."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np

from .._device import as_host
from ..nn import Sequential
from ..nn.losses import sample_shares
from .linearization import Linearization


class Matrix:
    """A symmetric matrix of second derivatives of ``loss(model(X), y)`` by the parameters: ``matrix @ vector``.

    Parameters
    ----------
    model : Sequential
        Its parameters as they are now; not changed.
    loss : Loss
        One of `fusedstep.nn`, or one with `hessian_product`.
    X : ndarray
        ``(N, ...)`` in the model's dtype, on its device.
    y : ndarray
        As the loss takes it, in any memory order.
    weights : ndarray, optional
        One for each sample, as the loss takes them.
    training : bool
        True: the function that training descends, in which BatchNorm takes the moments of the batch, and Dropout drops
        what it will drop in the model's next training pass. False: that of `predict`.

    Attributes
    ----------
    value : float
        The loss, computed in float64.
    linearization : Linearization
        The layers at this batch.
    shape : (int, int)
        ``(n_parameters, n_parameters)``. The vectors are float64, the parameters in the order of
        ``model.parameters()``, each in C order; all arithmetic is NumPy's in float64.

    Raises
    ------
    TypeError, ValueError
        As `Sequential.forward` and the loss.
    """

    name: ClassVar[str]

    def __init__(self, model, loss, X, y, *, weights=None, training=True, offset=None):
        if not isinstance(model, Sequential):
            raise TypeError(f"[curvature] 'model' must be a fusedstep.nn.Sequential but got {type(model).__name__}")
        if isinstance(loss, type) or not hasattr(loss, "hessian_product"):
            raise TypeError(f"[curvature] 'loss' must be a loss of fusedstep.nn but got {loss!r}")
        if not model.n_parameters:
            raise ValueError("[curvature] 'model' has no parameters")
        self._pass = {"model": model, "x": X, "training": training, "offset": offset}
        self._loss, self._weights = loss, None if weights is None else as_host(weights)
        y = np.asarray(as_host(y), order="C")  # as losses take it
        self._y = y.astype(np.float64) if y.dtype.kind == "f" else y
        self.shape = (model.n_parameters, model.n_parameters)
        self.linearization = Linearization(**self._pass)
        self.value, self._dy = self._loss_of(self.linearization.output)

    def _loss_of(self, output) -> tuple:
        return self._loss(output, self._y, *(() if self._weights is None else (self._weights,)))

    def value_at(self, shift) -> float:
        """The loss with the flat vector `shift` added to the parameters."""
        return self._loss_of(Linearization(**self._pass, shift=shift).output)[0]

    def _bent(self, routput):
        """R{} of the gradient by the output, while the output moves along `routput`."""
        return self._loss.hessian_product(self.linearization.output, routput, self._weights)

    def gradient(self):
        """The gradient of the loss, a flat vector."""
        return self.linearization.gradient(self._dy)

    def __matmul__(self, vector):
        if not isinstance(vector, np.ndarray) or vector.shape != self.shape[:1]:
            got = getattr(vector, "shape", None) or type(vector).__name__
            raise ValueError(f"[curvature] the vector must be an array of shape {self.shape[:1]} but got {got}")
        return self._product(vector.astype(np.float64, copy=False))

    def to_dense(self) -> np.ndarray:
        """The matrix itself, from one product a parameter: for small models."""
        return np.stack([self @ unit for unit in np.eye(self.shape[0])], axis=1)


class Hessian(Matrix):
    """The Hessian, by Pearlmutter's R-operator (1994, section 3): exact, a product costs one to two gradients.

    Second derivatives of ReLU and LeakyReLU count as 0 everywhere, as their first ones do at 0.

    >>> import numpy as np, fusedstep as fs
    >>> model = fs.nn.Sequential(fs.nn.Dense(1, 1), dtype=np.float64)
    >>> X = np.array([[1.0], [3.0]])
    >>> (fs.curvature.Hessian(model, fs.nn.MeanSquaredError(), X, X) @ np.array([1.0, 0.0])).tolist()
    [10.0, 4.0]
    """

    name = "Hessian"

    @cached_property
    def _dys(self):
        return self.linearization.backward(self._dy)[0]

    def _product(self, vector):
        (*rxs, routput), parts = self.linearization.tangents(vector)
        return self.linearization.second(rxs, parts, self._dys, self._bent(routput))


class GaussNewton(Matrix):
    """The generalized Gauss-Newton matrix ``J' H J``, H the Hessian of the loss by the output (Schraudolph 2002).

    Positive semi-definite, and the Hessian where the model is linear in its parameters.

    >>> import numpy as np, fusedstep as fs
    >>> model = fs.nn.Sequential(fs.nn.Dense(1, 1), fs.nn.Tanh(), dtype=np.float64)
    >>> X = np.zeros((2, 1))
    >>> (fs.curvature.GaussNewton(model, fs.nn.MeanSquaredError(), X, X) @ np.array([1.0, 1.0])).tolist()
    [0.0, 2.0]
    """

    name = "Gauss-Newton matrix"

    def _product(self, vector):
        return self.linearization.gradient(self._bent(self.linearization.jacobian_product(vector)))

    def samples(self, rng: np.random.Generator):
        """(layer, node, gradient by its output) of each layer with parameters, for targets drawn from predictions.

        The gradients are those of each sample's own loss; in the mean that `shares` makes, over all targets, their
        outer products by the parameters are this matrix (Martens & Grosse 2015, section 2). Below a BatchNorm in
        training, which mixes samples, they are those of the sum of all these losses by the output for each sample.
        """
        at = self.linearization
        dys, _ = at.backward(self._loss.sample_gradients(at.output, rng))
        layers = zip(at.placed, at.nodes, dys, strict=True)
        return [(placed, node, dy) for placed, node, dy in layers if placed.parameters]

    @cached_property
    def shares(self):
        """What each sample counts in the loss, ``(N, 1)``, 1 in sum."""
        return sample_shares(self.linearization.output, self._weights).reshape(-1, 1)

    def diagonal(self):
        """Its diagonal by back-propagation of second derivatives (LeCun et al. 1998, section 7), a flat vector.

        Exact for one layer of parameters; above that, what couples two units of a layer is left out.
        """
        at = self.linearization
        return at.diagonal(self._loss.hessian_diagonal(at.output, self._weights))
