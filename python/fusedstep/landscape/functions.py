"""Functions to descend: each shows one thing that makes descent slow, wrong or impossible."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..reference.scalars import check_finite, check_integer, check_positive, check_range


@dataclass(frozen=True, eq=False)
class Function:
    """A function to descend, with what is known of it; calling it gives its value.

    Attributes
    ----------
    name : str
        Its formula, for titles.
    f : callable
        ``f(x) -> float``, x of shape () where there is one dimension, otherwise (dimensions,).
    grad : callable
        ``grad(x) -> array`` of the shape of x.
    domain : tuple of (low, high), or None
        What to draw, a pair for each of one or two dimensions.
    start : float or ndarray
        A start that shows what the function is for.
    minima : tuple of ndarray
        The minima in the domain, the lowest first.
    hessian : callable or None
        ``hessian(x) -> array`` of shape () or (dimensions, dimensions).

    Examples
    --------
    >>> import math
    >>> hill = Function("cos x", math.cos, lambda x: -math.sin(x), domain=((-1.0, 7.0),), start=0.5, minima=(math.pi,))
    >>> hill(hill.minimum)
    -1.0
    """

    name: str
    f: Callable = field(repr=False)
    grad: Callable = field(repr=False)
    domain: tuple[tuple[float, float], ...] | None = None
    start: float | np.ndarray | None = field(default=None, repr=False)
    minima: tuple = field(default=(), repr=False)
    hessian: Callable | None = field(default=None, repr=False)

    def __call__(self, x) -> float:
        return self.f(x)

    @property
    def minimum(self):
        """The lowest of the minima; None where none is known."""
        return self.minima[0] if self.minima else None


@dataclass(frozen=True, eq=False)
class Quadratic(Function):
    """A convex quadratic, whose rates of convergence are known.

    With L and mu the largest and smallest eigenvalue of its Hessian, an error along an eigenvector shrinks by
    ``1 - lr * eigenvalue`` in each step of gradient descent.

    Attributes
    ----------
    eigenvalues : ndarray
        Of the Hessian.

    Examples
    --------
    >>> q = quadratic([1.0, 100.0])
    >>> q.condition, q.stable_step, round(q.best_step, 6), round(q.best_rate, 6)
    (100.0, 0.02, 0.019802, 0.980198)
    >>> lr, momentum = q.heavy_ball
    >>> round(lr, 6), round(momentum, 6)
    (0.033058, 0.669421)
    """

    eigenvalues: np.ndarray = field(default_factory=lambda: np.ones(1), repr=False)

    @property
    def _ends(self) -> tuple[float, float]:
        return float(self.eigenvalues.min()), float(self.eigenvalues.max())

    @property
    def condition(self) -> float:
        """The condition number, L / mu."""
        smallest, largest = self._ends
        return largest / smallest

    @property
    def stable_step(self) -> float:
        """2 / L: with a larger step size gradient descent diverges."""
        return 2 / self._ends[1]

    @property
    def best_step(self) -> float:
        """2 / (mu + L), the step size with which gradient descent is fastest (Nesterov 2004, theorem 2.1.15)."""
        return 2 / sum(self._ends)

    @property
    def best_rate(self) -> float:
        """(condition - 1) / (condition + 1), by which a step of `best_step` shrinks the error at least."""
        return (self.condition - 1) / (self.condition + 1)

    @property
    def heavy_ball(self) -> tuple[float, float]:
        """(lr, momentum) with which `fusedstep.optim.Momentum` is fastest (Polyak 1964).

        ``4 / (sqrt(L) + sqrt(mu))**2`` and ``((sqrt(L) - sqrt(mu)) / (sqrt(L) + sqrt(mu)))**2``; a step then shrinks
        the error by the root of the momentum, in the long run.
        """
        low, high = map(math.sqrt, self._ends)
        return 4 / (low + high) ** 2, ((high - low) / (high + low)) ** 2


def parabola(curvature: float = 0.5) -> Quadratic:
    """curvature / 2 * x**2: in one dimension, the step size that is good is the inverse of the curvature.

    With a curvature of 1/2 gradient descent converges slowly at a step size of 1/2, well at 3/2, and diverges at 6;
    with 3 it converges at 1/2 alone, with 1/8 best at 6.

    >>> f = parabola(3.0)
    >>> f(2.0), f.grad(2.0), round(f.stable_step, 3)
    (6.0, 6.0, 0.667)
    """
    curvature = check_positive("parabola", "curvature", curvature)
    return Quadratic(
        f"{curvature / 2:g} x²",
        lambda x: curvature / 2 * x**2,
        lambda x: curvature * x,
        domain=((-5.0, 5.0),),
        start=4.0,
        minima=(0.0,),
        hessian=lambda x: curvature,
        eigenvalues=np.array([curvature]),
    )


def quadratic(eigenvalues, rotation: float = 0.0) -> Quadratic:
    """The sum of ``eigenvalue / 2 * x_i**2``, in as many dimensions as there are eigenvalues.

    Parameters
    ----------
    eigenvalues : sequence of float
        Greater than 0; a vector is all that is stored, also of a million.
    rotation : float
        In two dimensions: an angle in radians by which the axes of the ellipses are turned, which methods with a step
        size for each coordinate notice.

    >>> f = quadratic([1.0, 9.0])
    >>> f(np.array([1.0, 1.0])), f.grad(np.array([1.0, 1.0]))
    (5.0, array([1., 9.]))
    """
    try:
        eigenvalues = np.array(eigenvalues, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"[quadratic] 'eigenvalues' must be a sequence of finite numbers greater than 0 but got {eigenvalues!r}"
        ) from None
    if eigenvalues.ndim != 1 or not eigenvalues.size or not (np.isfinite(eigenvalues) & (eigenvalues > 0)).all():
        raise ValueError("[quadratic] 'eigenvalues' must be a sequence of finite numbers greater than 0")
    rotation, dimensions = check_finite("quadratic", "rotation", rotation), len(eigenvalues)
    if rotation and dimensions != 2:
        raise ValueError(f"[quadratic] 'rotation' is for two dimensions but 'eigenvalues' are {dimensions}")
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    matrix = turn * eigenvalues @ turn.T if rotation else None

    def grad(x):
        return matrix @ x if rotation else eigenvalues * x

    condition = eigenvalues.max() / eigenvalues.min()
    domain = ((-5.0, 5.0), (-5.0, 5.0) if rotation else (-3.0, 3.0)) if dimensions == 2 else None
    return Quadratic(
        f"quadratic in {dimensions:,} dimension{'s' * (dimensions > 1)}, condition number {condition:.3g}",
        lambda x: float(x @ grad(x)) / 2,
        grad,
        domain=domain,
        start=turn @ (4.0, 2.0) if dimensions == 2 else np.ones(dimensions),
        minima=(np.zeros(dimensions),),
        hessian=lambda x: matrix.copy() if rotation else np.diag(eigenvalues),
        eigenvalues=eigenvalues,
    )


def ill_conditioned(condition: float = 100.0, dimensions: int = 2, rotation: float = 0.0) -> Quadratic:
    """A `quadratic` with eigenvalues from 1 / condition to 1 in geometric steps: a valley that is long and narrow.

    >>> ill_conditioned(1e6, dimensions=3).eigenvalues
    array([1.e-06, 1.e-03, 1.e+00])
    """
    condition = check_finite("ill_conditioned", "condition", check_range("ill_conditioned", "condition", condition, 1))
    dimensions = check_integer("ill_conditioned", "dimensions", dimensions, 2)
    return quadratic(np.geomspace(1 / condition, 1, dimensions), rotation)


_DIP, _WIDTH = 3.0, 0.3


def wells() -> Function:
    """``x**2 / 4 - exp(-(x - 3)**2 / 0.18)``: a wide well at 0 and, higher up, a narrow one at 2.86.

    Gradient descent with a step size of 0.1 ends in the narrow well from 4 and in the wide one from -4. A step size of
    1.5 is too large for the curvature of the narrow well and jumps out of it, and stays in the wide one.

    >>> f = wells()
    >>> [round(x, 3) for x in f.minima]
    [0.0, 2.856]
    """

    def dip(x):
        return np.exp(-(((x - _DIP) / _WIDTH) ** 2) / 2)

    def grad(x):
        return x / 2 + (x - _DIP) / _WIDTH**2 * dip(x)

    def hessian(x):
        return 0.5 + (1 - ((x - _DIP) / _WIDTH) ** 2) / _WIDTH**2 * dip(x)

    narrow = 2.86
    for _ in range(5):  # Newton's method: the minimum to the last bits
        narrow -= float(grad(narrow) / hessian(narrow))
    return Function(
        f"x²/4 - exp(-(x - {_DIP:g})² / {2 * _WIDTH**2:g})",
        lambda x: x**2 / 4 - dip(x),
        grad,
        domain=((-4.5, 4.5),),
        start=4.0,
        minima=(0.0, narrow),
        hessian=hessian,
    )


def plateau() -> Function:
    """``x**2 / (1 + x**2)``: far from the minimum the gradient vanishes as 2 / x**3, and descent begins slowly.

    >>> f = plateau()
    >>> f.grad(0.5), round(f.grad(10.0), 5)
    (0.64, 0.00196)
    """
    return Function(
        "x² / (1 + x²)",
        lambda x: x**2 / (1 + x**2),
        lambda x: 2 * x / (1 + x**2) ** 2,
        domain=((-8.0, 8.0),),
        start=6.0,
        minima=(0.0,),
        hessian=lambda x: 2 * (1 - 3 * x**2) / (1 + x**2) ** 3,
    )


def saddle() -> Function:
    """``x**2 / 2 - y**2 / 2 + y**4 / 4``: a saddle point at (0, 0) between minima at (0, 1) and (0, -1).

    From y = 0 gradient descent ends in the saddle; from elsewhere y grows by a factor 1 + lr in each step at first, so
    it stays near the saddle for the longer the nearer it comes, and noise helps.

    >>> f = saddle()
    >>> f(np.zeros(2)), f.grad(np.zeros(2)).tolist(), f(f.minimum)
    (0.0, [0.0, 0.0], -0.25)
    """
    return Function(
        "x²/2 - y²/2 + y⁴/4",
        lambda x: float(x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[1] ** 4 / 4),
        lambda x: np.array([x[0], x[1] ** 3 - x[1]]),
        domain=((-1.5, 1.5), (-1.6, 1.6)),
        start=np.array([1.2, 1e-3]),
        minima=(np.array([0.0, 1.0]), np.array([0.0, -1.0])),
        hessian=lambda x: np.diag([1.0, 3 * x[1] ** 2 - 1]),
    )


def rosenbrock() -> Function:
    """``(1 - x)**2 + 100 * (y - x**2)**2`` (Rosenbrock 1960): a curved valley, found at once and followed slowly.

    >>> f = rosenbrock()
    >>> f(np.array([1.0, 1.0])), round(f(f.start), 9)
    (0.0, 24.2)
    """

    def hessian(x):
        return np.array([[2 - 400 * x[1] + 1200 * x[0] ** 2, -400 * x[0]], [-400 * x[0], 200.0]])

    return Function(
        "Rosenbrock",
        lambda x: float((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2),
        lambda x: np.array(
            [2 * (x[0] - 1) - 400 * x[0] * (x[1] - x[0] ** 2), 200 * (x[1] - x[0] ** 2)],
        ),
        domain=((-2.0, 2.0), (-1.0, 3.0)),
        start=np.array([-1.2, 1.0]),
        minima=(np.ones(2),),
        hessian=hessian,
    )
