"""Kronecker-factored approximate curvature."""

from __future__ import annotations

import numpy as np

from .._random import generator
from ..nn import Dense
from ..reference import scalars
from .second_order import Damped, flat


class KFAC(Damped):
    """Natural gradient with one small matrix for each side of a Dense layer (Martens & Grosse 2015).

    The Fisher matrix of a layer is taken as ``A (x) G``: A the mean of ``a a'`` over its inputs with a 1 for the bias,
    G that of ``g g'`` over the gradients by its outputs for targets that are drawn from the model's own predictions
    (section 3). The step ``A**-1 (gradient) G**-1`` is then scaled, together with the step before, so that it is best
    under the quadratic model with the batch's exact Gauss-Newton matrix (sections 6.4 and 7): there is no step size to
    tune. Parameters of BatchNorm get the diagonal of the Fisher matrix instead.

    Parameters
    ----------
    params : list of Parameter
        ``model.parameters()``, all of them, on the CPU.
    lr : float or callable
        Share of the step that is taken, or a function of the step.
    damping : float
        At the start; above 0. Every fifth step it is divided or multiplied by ``(20 / 19)**5``, as the loss fell by
        more than 3/4 or by less than 1/4 of what was foretold (section 6.5).
    beta : float
        Decay of the averages of A and G once ``1 - 1 / step`` has reached it, in [0, 1).
    every : int
        Steps between two inversions of A and G.
    weight_decay : float
        L2: it is added to the gradient, and to the curvature.
    momentum : bool
        Whether the step before takes part.
    seed : int
        Of the targets that are drawn.
    ema_decay, skip_nonfinite
        As in `Optimizer`.

    Notes
    -----
    The two sides share the damping by the ratio of their mean traces (section 6.3).

    A and G take samples to be independent of each other. Below a BatchNorm they are not, as its moments join the batch
    in training: there the g of a sample is the derivative, by the output for this sample, of the sum of all samples'
    drawn losses, each counted once whatever its weight, and not that of its own loss alone. So G, and the diagonal of
    a BatchNorm below another one, are an approximation there, on top of ``A (x) G``. The gradient, and the Gauss-Newton
    matrix that scales the step, stay exact.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> model = fs.nn.Sequential(fs.nn.Dense(2, 1, bias=False), dtype=np.float64)
    >>> X, y = np.array([[1.0, 0.0], [0.0, 1000.0]]), np.array([[1.0], [2000.0]])
    >>> loss, optimizer = fs.nn.MeanSquaredError(), fs.optim.KFAC(model.parameters(), damping=1e-6)
    >>> for _ in range(3):
    ...     value, gradient = loss(model.forward(X), y)
    ...     _ = model.backward(gradient)
    ...     optimizer.step(model, loss, X, y)
    >>> model.parameters()[0].array.round(2).tolist()
    [[1.0], [2.0]]
    """

    _method = "KFAC"
    _LOOK = 5  # steps between two looks at the damping
    _FACTOR = (19 / 20) ** _LOOK
    _LEAST, _MOST = 1e-30, 1e30

    def __init__(
        self,
        params,
        lr=1.0,
        damping=0.1,
        beta=0.95,
        every=10,
        weight_decay=0.0,
        *,
        momentum=True,
        seed=0,
        **options,
    ):
        defaults = {
            "lr": lr,
            "damping": damping,
            "beta": beta,
            "every": every,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "seed": seed,
        }
        super().__init__(params, defaults, **options)
        self._factors: dict[str, dict[str, np.ndarray]] = {}
        names = {p.name for p in self._parameters}
        for p in self._parameters:
            if p.array.ndim == 2:  # the weight of a Dense layer
                n_in, n_out = p.array.shape
                n_in += p.name.removesuffix("weight") + "bias" in names
                sizes = {"input_factor": n_in, "output_factor": n_out, "input_inverse": n_in, "output_inverse": n_out}
                self._factors[p.name] = {name: np.zeros((n, n)) for name, n in sizes.items()}

    def _state_names(self, group):
        return ("momentum_buffer", "curvature")

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_range(self._method, "beta", group["beta"], 0, 1)
        scalars.check_integer(self._method, "every", group["every"], 1)
        scalars.check_integer(self._method, "seed", group["seed"], 0, 64)
        scalars.check_flag(self._method, "momentum", group["momentum"])

    def _state_views(self):
        views = super()._state_views()
        for name, factors in self._factors.items():
            views[name] |= factors
        return views

    def _direction(self, matrix, gradient, group):
        decay, lr = group["weight_decay"], self._lr(group)
        shift = self.damping + decay
        self._look_at(matrix, group)
        if self._steps % group["every"] == 0:
            self._invert(shift)
        proposal = self._preconditioned(matrix, gradient, shift)
        before = self._views("momentum_buffer")
        steps = [proposal] if not (group["momentum"] and self._steps) else [proposal, flat(before)]
        d = _best(matrix, gradient, steps, shift)
        if d is None:
            return np.zeros_like(gradient)
        self._write(before, d)
        if (self._steps + 1) % self._LOOK == 0:
            ratio = self._reduction_ratio(matrix, gradient, -lr * d, decay)
            if ratio is not None and ratio > 0.75:
                self._damping[...] = max(self._damping * self._FACTOR, self._LEAST)
            elif ratio is not None and ratio < 0.25:
                self._damping[...] = min(self._damping / self._FACTOR, self._MOST)
        return d

    def _look_at(self, matrix, group) -> None:
        """Take the batch into the averages of the factors, and of the diagonals of what is no Dense layer."""
        keep = min(1 - 1 / (self._steps + 1), group["beta"])
        views = self._state_views()

        def average(array, batch):
            array[...] = keep * array + (1 - keep) * batch

        for placed, node, g in matrix.samples(generator(group["seed"], "targets", self._steps)):
            if isinstance(placed.layer, Dense):
                factors = self._factors[placed.parameters["weight"].name]
                a = np.column_stack([node.x, np.ones(len(node.x))]) if "bias" in placed.parameters else node.x
                for side, rows in (("input_factor", a), ("output_factor", g)):
                    average(factors[side], (matrix.shares * rows).T @ rows)
            else:
                for short, each in node.sample_gradients(g).items():
                    average(
                        views[placed.parameters[short].name]["curvature"], (matrix.shares * (each * each)).sum(axis=0)
                    )

    def _invert(self, shift: float) -> None:
        for factors in self._factors.values():
            a, g = factors["input_factor"], factors["output_factor"]
            mean_a, mean_g = np.trace(a) / len(a), np.trace(g) / len(g)
            ratio = (mean_a / mean_g) ** 0.5 if mean_a > 0 and mean_g > 0 else 1.0
            factors["input_inverse"][...] = np.linalg.inv(a + ratio * shift**0.5 * np.eye(len(a)))
            factors["output_inverse"][...] = np.linalg.inv(g + shift**0.5 / ratio * np.eye(len(g)))

    def _preconditioned(self, matrix, gradient, shift: float) -> np.ndarray:
        views, parts = self._state_views(), matrix.linearization.split(gradient)
        result = []
        for placed, part in zip(matrix.linearization.placed, parts, strict=True):
            if isinstance(placed.layer, Dense):
                factors = self._factors[placed.parameters["weight"].name]
                rows = np.vstack(list(part.values()))  # the bias, if there is one, is the last row
                rows = factors["input_inverse"] @ rows @ factors["output_inverse"]
                result.append({"weight": rows[: len(part["weight"])], "bias": rows[-1]})
            else:
                seen = {short: views[p.name]["curvature"] for short, p in placed.parameters.items()}
                result.append({short: part[short] / (seen[short] + shift) for short in part})
        return matrix.linearization.join(result)


def _best(matrix, gradient, steps: list[np.ndarray], shift: float) -> np.ndarray | None:
    """The combination of `steps` with the least ``-g d + d (C + shift) d / 2``; None where none descends."""
    products = [matrix @ step + shift * step for step in steps]
    square = np.array([[step @ product for product in products] for step in steps])
    slope = np.array([step @ gradient for step in steps])
    if not slope.any():
        return None
    return np.linalg.lstsq(square, slope, rcond=None)[0] @ np.array(steps)
