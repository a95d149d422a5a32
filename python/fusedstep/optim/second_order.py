"""What the optimizers share that need the batch itself, to see how the loss bends there."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from .. import ops
from ..curvature import GaussNewton as GaussNewtonMatrix
from ..nn import Sequential
from ..reference.scalars import check_range
from .optimizer import Optimizer
from .options import Checked
from .runs import zeros_like

_UNSEEN = 1e-12
"""A change of a loss by less than this share of it says nothing: rounding is some 1e-16 for each of its steps."""


def _no_clipping(method: str, max_norm) -> None:
    """The check of a later ``optimizer.max_norm = 1.0``: the constructor takes none."""
    if max_norm is not None:
        raise TypeError(f"[{method}] clips no gradients: 'max_norm' must be None but got {max_norm!r}")


class SecondOrder(Optimizer):
    """Base of the optimizers that step along ``C**-1 g``, C a positive definite picture of the loss's curvature.

    They take all parameters of one model, in one group, and look at the batch that the gradients are of:
    ``optimizer.step(model, loss, x, y)``, as `fusedstep.fit` does it. All but the parameters is computed in float64.
    The curvature is that of the last training pass, with its masks of dropout.
    """

    max_norm = Checked(_no_clipping)
    needs_batch = True
    """Whether `step` takes the model, the loss and the batch."""

    def __init__(self, params, defaults: dict, *, ema_decay=None, skip_nonfinite=False, **unknown):
        if unknown:
            known = ", ".join([*defaults, "ema_decay", "skip_nonfinite"])
            raise TypeError(f"[{self._method}] has no argument {min(unknown)!r}; it takes {known}")
        super().__init__(params, defaults, ema_decay=ema_decay, skip_nonfinite=skip_nonfinite)
        if len(self.param_groups) != 1:
            raise ValueError(f"[{self._method}] takes one group of parameters but got {len(self.param_groups)}")
        if self._scalars is not None:
            raise ValueError(f"[{self._method}] takes parameters on the CPU but got some on {self._device.name}")
        _, runs, _ = self._plans[0]
        self._directions = [zeros_like(run.array) for run in runs]
        self._direction_views = [
            view for run, array in zip(runs, self._directions, strict=True) for view in run.views(array)
        ]

    def _check_group(self, group):
        super()._check_group(group)
        check_range(self._method, "damping", group["damping"], 0)
        if not group["damping"]:
            raise ValueError(f"[{self._method}] 'damping' must be above 0: there are directions without curvature")

    @abstractmethod
    def _direction(self, matrix: GaussNewtonMatrix, gradient: np.ndarray, group: dict) -> np.ndarray:
        """What `lr` times is taken off the parameters, a flat float64 vector, from a finite gradient."""

    def step(self, model: Sequential, loss, x, y, weights=None) -> None:
        """Update all parameters from their gradients and from the curvature of the batch these are of.

        Parameters
        ----------
        model : Sequential
            The one whose parameters this optimizer has, after `backward`.
        loss : Loss
            One of `fusedstep.nn`.
        x, y, weights
            The batch: `x` as the model took it, the others as the loss did, each in any memory order.

        Raises
        ------
        TypeError, ValueError
            For a model of other parameters, and as the model and the loss raise.
        RuntimeError
            No training pass of a model with Dropout went before.
        """
        group, params, _, states = self._calls[0]
        lr = self._lr(group)
        self._check_group({**group, "lr": lr})
        if not isinstance(model, Sequential) or list(map(id, model.parameters())) != list(map(id, self._parameters)):
            raise ValueError(f"[{self._method}] must be made for all of model.parameters(), in their order")
        offset = model.random_offset - model._n_dropouts
        if offset < 0:
            raise RuntimeError(
                f"[{self._method}] step needs a training pass before it, for its masks of dropout: call "
                "model.forward(x, training=True) and model.backward(dy) first"
            )
        decay = self._decay()
        if self.skip_nonfinite and not self._gradients_are_finite():
            self._skipped += 1
            return
        matrix = GaussNewtonMatrix(model, loss, x, y, weights=weights, offset=offset)
        gradient = flat(self._grads) + group["weight_decay"] * flat([p.array for p in self._parameters])
        if np.isfinite(gradient).all() and math.isfinite(matrix.value):
            gradient = self._direction(matrix, gradient, group)
        # Otherwise NaN and infinity go into the parameters, as with every optimizer, and into no state.
        self._write(self._direction_views, gradient)
        directions = self._directions[0] if len(self._directions) == 1 else self._directions
        ops.sgd_step(params, directions, lr=lr, ema_params=states.get("ema"), ema_decay=decay)
        self._steps += 1

    def _views(self, state: str) -> list[np.ndarray]:
        """That state of each parameter."""
        own = self._state_views()
        return [own[p.name][state] for p in self._parameters]

    @staticmethod
    def _write(views: list[np.ndarray], flat: np.ndarray) -> None:
        start = 0
        for view in views:
            view[...] = flat[start : start + view.size].reshape(view.shape)
            start += view.size


class Damped(SecondOrder):
    """Those whose damping follows from how well the quadratic model foretold the loss (Levenberg-Marquardt)."""

    def __init__(self, params, defaults, **options):
        super().__init__(params, defaults, **options)
        self._damping = np.array(float(self.param_groups[0]["damping"]))

    @property
    def damping(self) -> float:
        """The damping of the next step; the group's is where it began, and changes nothing later."""
        return float(self._damping)

    def _checked(self, state_dict):
        state, groups = super()._checked(state_dict)
        name = self._parameters[0].name
        damping = float(state[name]["damping"])
        if not (math.isfinite(damping) and damping > 0):
            raise ValueError(
                f"[{self._method}] 'damping' of {name!r} must be above 0 but is {damping} in the state dict"
            )
        return state, groups

    def _state_views(self):
        views = super()._state_views()
        views[self._parameters[0].name]["damping"] = self._damping
        return views

    def _reduction_ratio(self, matrix, gradient: np.ndarray, shift: np.ndarray, decay: float) -> float | None:
        """By how much `shift` lowers the loss, in units of what the quadratic model foretells (Marquardt 1963).

        -inf where the loss is not finite there; None where so little is foretold that the loss's rounding hides it.
        Weight decay is part of both.
        """
        p = flat([p.array for p in self._parameters])
        foretold = -(gradient @ shift + 0.5 * (shift @ (matrix @ shift) + decay * (shift @ shift)))
        if abs(foretold) <= _UNSEEN * abs(matrix.value):
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            after = matrix.value_at(shift)
        if not math.isfinite(after) or not foretold > 0:
            return -math.inf
        return (matrix.value - after - decay * (p @ shift + 0.5 * (shift @ shift))) / foretold


def flat(arrays) -> np.ndarray:
    """All values of `arrays` in one float64 vector."""
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
