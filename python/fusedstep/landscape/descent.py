"""The path of an optimizer on a function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._checks import as_array
from ..nn import Parameter
from ..reference.scalars import check_integer

_WHERE = "trajectory"


@dataclass(eq=False, repr=False)
class Trajectory:
    """What `trajectory` gives: the start and the point after each step.

    Attributes
    ----------
    points : ndarray or None
        Shape (steps + 1, ...), with the shape of the start behind; None with ``keep_points=False``.
    final : ndarray
        The last point.
    values : ndarray
        The function there, shape (steps + 1,).
    gradient_norms : ndarray
        The norms of the gradients that the optimizer was given there, noise included, shape (steps + 1,).
    diverged : bool
        A point, the function or a gradient became NaN or infinite, with which the path ends.
    averages, average_values : ndarray or None
        The optimizer's averages of the points and the function there, likewise, where it keeps any (`ema_decay`).
    """

    points: np.ndarray | None
    final: np.ndarray
    values: np.ndarray
    gradient_norms: np.ndarray
    diverged: bool
    averages: np.ndarray | None = None
    average_values: np.ndarray | None = None

    @property
    def steps(self) -> int:
        """How many were taken."""
        return len(self.values) - 1

    def __repr__(self) -> str:
        end = ", diverged" if self.diverged else ""
        return f"Trajectory({self.steps} steps, from {self.values[0]:.4g} to {self.values[-1]:.4g}{end})"


def trajectory(
    optimizer: Callable, f: Callable, grad: Callable, start, steps: int, *, keep_points: bool = True
) -> Trajectory:
    """Descend a function with an optimizer and keep the path.

    Parameters
    ----------
    optimizer : callable
        One of the classes of `fusedstep.optim`, not of the second-order ones, or a function of the list of parameters
        that makes an optimizer: ``lambda params: fs.optim.Adam(params, lr=0.1)``.
    f : callable
        ``f(x) -> float`` with x of the shape and dtype of the start, read-only.
    grad : callable
        ``grad(x) -> array`` of that shape; one with noise is random descent, see `noisy`.
    start : float or array_like
        Where to begin; float32 stays, everything else becomes float64.
    steps : int
        How many to take at most; at least 1.
    keep_points : bool
        False keeps the last point alone, for functions of very many dimensions.

    Returns
    -------
    Trajectory

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, the optimizer has other parameters, or f or grad gives what is no number or has another
        shape. That numbers overflow is no error and no warning: the path ends there, and says so in `diverged`.

    Examples
    --------
    >>> import fusedstep as fs
    >>> f = fs.landscape.rosenbrock()
    >>> run = fs.landscape.trajectory(lambda params: fs.optim.Adam(params, lr=0.1), f.f, f.grad, f.start, steps=900)
    >>> run
    Trajectory(900 steps, from 24.2 to ...)
    >>> run.points.shape, run.diverged
    ((901, 2), False)
    """
    for name, function in (("optimizer", optimizer), ("f", f), ("grad", grad)):
        if not callable(function):
            hint = "; give its class, or a function that makes it" if hasattr(function, "step") else ""
            raise TypeError(f"[{_WHERE}] '{name}' must be callable but got a {type(function).__name__}{hint}")
    steps = check_integer(_WHERE, "steps", steps, 1)
    start = _start(start)
    # An optimizer takes no array without an axis; the functions see the shape of the start.
    array = np.array(start, ndmin=1)
    x = array.reshape(start.shape)
    x.flags.writeable = False
    parameter = Parameter(array, np.zeros_like(array), "x")
    made = optimizer([parameter])
    if not hasattr(made, "step"):
        raise TypeError(f"[{_WHERE}] 'optimizer' must make an optimizer but made {made!r}")
    if getattr(made, "needs_batch", False):
        raise TypeError(
            f"[{_WHERE}] 'optimizer' is {type(made).__name__}, which needs a model's curvature, not f alone"
        )
    if (average := _average(made, parameter)) is not None:
        average = average.reshape(start.shape)
        average.flags.writeable = False  # a view of its own
    points, values, norms, averages, average_values = [], [], [], [], []
    diverged = False
    with np.errstate(all="ignore"):
        for step in range(steps + 1):
            value, gradient = value_at(_WHERE, f, x), _gradient(grad, x)
            values.append(value)
            norms.append(float(np.linalg.norm(gradient)))
            if keep_points:
                points.append(x.copy())
            if average is not None:
                average_values.append(value_at(_WHERE, f, average))
                if keep_points:
                    averages.append(average.copy())
            diverged = not (math.isfinite(value) and np.isfinite(x).all() and np.isfinite(gradient).all())
            if diverged or step == steps:
                break
            parameter.grad[...] = gradient
            made.step()
    return Trajectory(
        np.array(points) if keep_points else None,
        x.copy(),
        np.array(values),
        np.array(norms),
        diverged,
        np.array(averages) if averages else None,
        np.array(average_values) if average_values else None,
    )


def _start(start) -> np.ndarray:
    start = as_array(start)
    if start.dtype.kind not in "biuf":
        raise TypeError(f"[{_WHERE}] 'start' must be a number or an array of real numbers but has dtype {start.dtype}")
    if not start.size or not np.isfinite(start).all():
        raise ValueError(f"[{_WHERE}] 'start' must be finite and not empty but got {start}")
    return start.astype(start.dtype if start.dtype == np.float32 else np.float64)


def _average(optimizer, parameter: Parameter) -> np.ndarray | None:
    """The optimizer's average of the parameter, None where it keeps none; raise where it steps others."""
    averages = optimizer.averages() if getattr(optimizer, "ema_decay", None) is not None else {parameter.name: None}
    owned = [p for group in getattr(optimizer, "param_groups", ()) for p in group["params"]]
    if (owned and all(p is not parameter for p in owned)) or parameter.name not in averages:
        raise ValueError(
            f"[{_WHERE}] 'optimizer' must make an optimizer of the parameters that it is called with, "
            f"but the {type(optimizer).__name__} that it made has others"
        )
    return averages[parameter.name]


def value_at(where: str, f: Callable, x: np.ndarray) -> float:
    """``f(x)``, refused where it is no number; infinite where Python's own floats overflow."""
    try:
        value = as_array(f(x))
    except OverflowError:
        return math.inf
    if value.shape or value.dtype.kind not in "biuf":
        raise TypeError(f"[{where}] 'f' must give a number but gave {value.dtype} of shape {value.shape}")
    return float(value)


def gradient_at(where: str, grad: Callable, x) -> np.ndarray:
    """``grad(x)``, refused where it is no array of numbers; infinite where Python's own floats overflow."""
    try:
        gradient = as_array(grad(x))
    except OverflowError:
        return np.full(np.shape(x), np.inf)
    if gradient.dtype.kind not in "biuf":
        raise TypeError(f"[{where}] 'grad' must give real numbers but gave dtype {gradient.dtype}")
    return gradient


def _gradient(grad: Callable, x: np.ndarray) -> np.ndarray:
    gradient = gradient_at(_WHERE, grad, x)
    if gradient.shape != x.shape:
        raise ValueError(f"[{_WHERE}] 'grad' must give the shape of 'start', {x.shape}, but gave {gradient.shape}")
    return gradient
