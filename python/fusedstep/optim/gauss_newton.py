"""One step size for each direction: Gauss-Newton, and its diagonal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..reference import scalars
from .second_order import Damped, SecondOrder, flat


def conjugate_gradients(product: Callable, b: np.ndarray, *, max_iter: int, tol: float) -> tuple[np.ndarray, int]:
    """``x`` with ``|A x - b| <= tol |b|``, or what `max_iter` products give, and how many there were.

    A is symmetric and positive definite, by its products with vectors (Hestenes & Stiefel 1952).
    """
    x, r = np.zeros_like(b), b.copy()
    p, square = r.copy(), float(r @ r)
    enough = tol * tol * square
    for iteration in range(max_iter):
        if square <= enough:
            return x, iteration
        product_p = product(p)
        bend = float(p @ product_p)
        if not bend > 0:  # rounding
            return x, iteration
        alpha = square / bend
        x += alpha * p
        r -= alpha * product_p
        before, square = square, float(r @ r)
        p = r + (square / before) * p
    return x, max_iter


class GaussNewton(Damped):
    """Gauss-Newton, damped: ``p = p - lr * d`` with ``(J' H J + damping) d = g`` (Levenberg 1944, Marquardt 1963).

    ``J' H J`` is the generalized Gauss-Newton matrix of the batch (Schraudolph 2002), which is never formed: d comes
    from conjugate gradients on its products with vectors (Martens 2010), each for the price of one to two gradients.
    A step that would raise the loss of the batch, by more than rounding, is not taken, but tried again with ten times
    the damping.

    Parameters
    ----------
    params : list of Parameter
        ``model.parameters()``, all of them, on the CPU.
    lr : float or callable
        Share of the step that is taken, or a function of the step.
    damping : float
        At the start; above 0. It is divided by 10 after a step that lowered the loss by more than 3/4 of what the
        quadratic model had foretold, and multiplied by 10 after less than 1/4.
    weight_decay : float
        L2: it is added to the gradient, and to the curvature.
    cg_max_iter : int
        Products a solution at most.
    cg_tol : float
        Norm of the residual, as a share of that of g, at which a solution is good enough.
    ema_decay, skip_nonfinite
        As in `Optimizer`.

    Notes
    -----
    Gradient and curvature are those of one batch, so batches should be large: some hundreds of samples or more. A
    smaller `cg_max_iter`, 30 say, is faster on networks, and keeps to what the batch tells for certain.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> model = fs.nn.Sequential(fs.nn.Dense(2, 1, bias=False), dtype=np.float64)
    >>> X, y = np.array([[1.0, 0.0], [0.0, 30.0]]), np.array([[1.0], [60.0]])
    >>> loss, optimizer = fs.nn.MeanSquaredError(), fs.optim.GaussNewton(model.parameters(), damping=1e-8)
    >>> for _ in range(2):
    ...     value, gradient = loss(model.forward(X), y)
    ...     _ = model.backward(gradient)
    ...     optimizer.step(model, loss, X, y)
    >>> model.parameters()[0].array.round(4).tolist()
    [[1.0], [2.0]]
    """

    _method = "GaussNewton"
    _TRIES = 10
    _LEAST, _MOST = 1e-30, 1e30  # from 0 and infinity there would be no way back

    def __init__(self, params, lr=1.0, damping=1e-3, weight_decay=0.0, *, cg_max_iter=250, cg_tol=1e-4, **options):
        defaults = {
            "lr": lr,
            "damping": damping,
            "weight_decay": weight_decay,
            "cg_max_iter": cg_max_iter,
            "cg_tol": cg_tol,
        }
        super().__init__(params, defaults, **options)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_integer(self._method, "cg_max_iter", group["cg_max_iter"], 1)
        scalars.check_range(self._method, "cg_tol", group["cg_tol"], 0, 1)

    def _direction(self, matrix, gradient, group):
        decay, lr = group["weight_decay"], self._lr(group)
        if not gradient.any():
            return gradient
        damping = self.damping
        for _ in range(self._TRIES):
            shift = damping + decay
            d, _ = conjugate_gradients(
                lambda v, shift=shift: matrix @ v + shift * v,
                gradient,
                max_iter=group["cg_max_iter"],
                tol=group["cg_tol"],
            )
            ratio = self._reduction_ratio(matrix, gradient, -lr * d, decay)
            if ratio is None:
                return d
            if ratio > 0.75:
                damping = max(damping / 10, self._LEAST)
            elif ratio < 0.25:
                damping = min(damping * 10, self._MOST)
            if ratio > 0:
                self._damping[...] = damping
                return d
        self._damping[...] = min(10 * self.damping, self._MOST)  # not all that was tried: the next batch is another
        return np.zeros_like(gradient)


class DiagonalGaussNewton(SecondOrder):
    """One step size a parameter: ``p = p - lr * g / (h + damping)`` (LeCun et al. 1998, equation 52).

    ``h = beta * h + (1 - beta) * diag(J' H J)``, from the first batch on: the diagonal of the Gauss-Newton matrix by
    back-propagation of second derivatives, for the price of a gradient ("stochastic diagonal Levenberg-Marquardt").

    Parameters
    ----------
    params : list of Parameter
        ``model.parameters()``, all of them, on the CPU.
    lr : float or callable
        Step size where the curvature is 1, or a function of the step.
    damping : float
        Above 0: keeps the step from blowing up in flat directions.
    beta : float
        Decay of the average of the curvature, in [0, 1).
    every : int
        Look at the curvature in each `every`-th step alone.
    weight_decay : float
        L2: it is added to the gradient, and to the curvature.
    ema_decay, skip_nonfinite
        As in `Optimizer`.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> model = fs.nn.Sequential(fs.nn.Dense(2, 1, bias=False, init="zeros"), dtype=np.float64)
    >>> X, y = np.array([[1.0, 0.0], [0.0, 1000.0]]), np.array([[1.0], [2000.0]])
    >>> loss, optimizer = fs.nn.MeanSquaredError(), fs.optim.DiagonalGaussNewton(model.parameters(), lr=1.0)
    >>> value, gradient = loss(model.forward(X), y)
    >>> _ = model.backward(gradient)
    >>> optimizer.step(model, loss, X, y)
    >>> model.parameters()[0].array.round(3).tolist()
    [[0.999], [2.0]]
    """

    _method = "DiagonalGaussNewton"
    _states = ("curvature",)

    def __init__(self, params, lr=1e-2, damping=1e-3, beta=0.95, every=1, weight_decay=0.0, **options):
        defaults = {"lr": lr, "damping": damping, "beta": beta, "every": every, "weight_decay": weight_decay}
        super().__init__(params, defaults, **options)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_range(self._method, "beta", group["beta"], 0, 1)
        scalars.check_integer(self._method, "every", group["every"], 1)

    def _direction(self, matrix, gradient, group):
        views = self._views("curvature")
        if self._steps % group["every"] == 0:
            beta = group["beta"] if self._steps else 0.0
            self._write(views, beta * flat(views) + (1 - beta) * matrix.diagonal())
        return gradient / (flat(views) + (group["damping"] + group["weight_decay"]))
