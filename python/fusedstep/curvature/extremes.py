"""The largest and the smallest curvature of a loss, and what follows for gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import _checks
from ..reference.scalars import check_integer, check_range
from .lanczos import spectrum_ends
from .linearization import Linearization
from .matrices import GaussNewton, Hessian

_MATRICES = {"hessian": Hessian, "gauss_newton": GaussNewton}


@dataclass(frozen=True)
class Extremes:
    """The ends of the spectrum of a matrix of second derivatives.

    Attributes
    ----------
    largest, smallest : float
        Eigenvalues: the second derivative of the loss along the direction in which it bends most, and least.
    largest_error, smallest_error : float
        Bounds: an eigenvalue lies within that of each.
    products : int
        Products with vectors that were taken, each for the price of one to two gradients.
    matrix : str
        Whose spectrum it is.
    """

    largest: float
    smallest: float
    largest_error: float
    smallest_error: float
    products: int
    matrix: str

    @property
    def definite(self) -> bool:
        """Whether all curvatures are positive, if none lies below the smallest that was found.

        The bound says that there is one near each that was found. Below, one may hide from a large `tol`.
        """
        return self.smallest > self.smallest_error

    @property
    def condition(self) -> float:
        """``largest / smallest``; inf where the smallest cannot be told from 0, NaN where it is negative."""
        if self.definite:
            return self.largest / self.smallest
        return math.nan if self.smallest < -self.smallest_error else math.inf

    @property
    def stable_step(self) -> float:
        """``2 / largest``: with a larger lr, gradient descent grows along that direction (LeCun et al. 1998, eq. 20).

        inf where nothing bends upwards.
        """
        return 2 / self.largest if self.largest > self.largest_error else math.inf

    def __str__(self):
        if self.definite:
            shape = f"is positive definite, condition {self.condition:.4g}"
        elif self.smallest < -self.smallest_error:
            shape = "is indefinite: no condition number" if self.largest > self.largest_error else "is negative"
        else:
            shape = "has a smallest one that cannot be told from 0: no finite condition number"
        return (
            f"curvature from {self.smallest:.4g} (+- {self.smallest_error:.1g}) "
            f"to {self.largest:.4g} (+- {self.largest_error:.1g}), largest stable step {self.stable_step:.4g}; "
            f"the {self.matrix} {shape}"
        )


def _positions(at: Linearization, names: Sequence[str] | None):
    """Where the parameters called `names` are in the flat vectors."""
    if names is None:
        return slice(None)
    if isinstance(names, str) or not np.iterable(names):
        raise TypeError(f"[extremes] 'parameters' must be a list of names but got {names!r}")
    names = list(names)
    parts = at.split(np.arange(at.n_parameters))
    own = {
        placed.parameters[short].name: part[short].ravel()
        for placed, part in zip(at.placed, parts, strict=True)
        for short in part
    }
    if unknown := [name for name in names if name not in own]:
        raise ValueError(f"[extremes] 'parameters' has {unknown[0]!r}, but the model's are {', '.join(own)}")
    if not names:
        raise ValueError("[extremes] 'parameters' is empty")
    return np.unique(np.concatenate([own[name] for name in names]))


def extremes(
    model,
    loss,
    X,
    y,
    *,
    weights=None,
    matrix: str = "hessian",
    parameters: Sequence[str] | None = None,
    training: bool = True,
    tol: float = 1e-6,
    max_products: int = 300,
    seed: int = 0,
) -> Extremes:
    """The largest and smallest curvature of ``loss(model(X), y)`` by its parameters, by Lanczos on exact products.

    Parameters
    ----------
    model : Sequential
        Its parameters as they are now; not changed.
    loss : Loss
        One of `fusedstep.nn`.
    X : ndarray
        ``(N, ...)`` in the model's dtype, on its device; the arithmetic is NumPy's in float64.
    y : ndarray
        As the loss takes it, in any memory order.
    weights : ndarray, optional
        One for each sample.
    matrix : {"hessian", "gauss_newton"}
        The Hessian, which is often indefinite, or the Gauss-Newton matrix, which is never negative.
    parameters : sequence of str, optional
        Names of the parameters that may move, as ``model.parameters()`` names them: one layer's, say. By default all.
    training : bool
        True: as a training pass computes it, with the moments of the batch and the masks of dropout of the model's
        next pass; False: as `predict` does.
    tol : float
        Relative error of either end at which to stop; not negative.
    max_products : int
        Where to stop at the latest. So many vectors as long as the parameters are kept.
    seed : int
        Of the start vector.

    Returns
    -------
    Extremes
        With `largest`, `smallest`, `condition`, `stable_step`, and bounds of the errors.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, arrays that do not fit the model or the loss, and curvature that is not finite.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> model = fs.nn.Sequential(fs.nn.Dense(2, 1, bias=False), dtype=np.float64)
    >>> X = np.array([[1.0, 0.0], [0.0, 10.0]])
    >>> found = fs.curvature.extremes(model, fs.nn.MeanSquaredError(), X, np.ones((2, 1)))
    >>> round(found.largest), round(found.smallest), round(found.condition), round(found.stable_step, 3)
    (100, 1, 100, 0.02)
    """
    _checks.choice("extremes", "matrix", matrix, tuple(_MATRICES))
    check_range("extremes", "tol", tol, 0)
    check_integer("extremes", "max_products", max_products, 1)
    check_integer("extremes", "seed", seed, 0, 64)
    chosen = _MATRICES[matrix](model, loss, X, y, weights=weights, training=training)
    moving = _positions(chosen.linearization, parameters)
    whole = np.zeros(chosen.shape[0])

    def product(vector):
        whole[moving] = vector
        return (chosen @ whole)[moving]

    size = len(whole[moving])
    large, small, large_error, small_error, products = spectrum_ends(
        product, size, tol=tol, max_products=max_products, seed=seed
    )
    return Extremes(float(large), float(small), float(large_error), float(small_error), products, chosen.name)
