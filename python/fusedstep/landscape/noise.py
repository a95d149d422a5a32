"""Gradients with noise, and what it does, as a band over many seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import _quantiles
from .._checks import as_array
from .._quantiles import check_levels, check_seeds
from ..reference.scalars import check_integer
from .descent import Trajectory, gradient_at


def noisy(grad: Callable, scale, seed: int = 0) -> Callable:
    """``grad(x) + scale * noise``, normal and new at each call, as the gradient of a mini-batch is noisy.

    Parameters
    ----------
    grad : callable
        ``grad(x) -> array``.
    scale : float or array_like
        The standard deviation, one for all coordinates or one each; a batch of b examples divides it by sqrt(b).
    seed : int
        Make a new one for each run: the noise goes on from call to call.

    Returns
    -------
    callable

    Raises
    ------
    TypeError, ValueError
        `grad` is not callable, or `scale` is negative or not finite; at a call, what `grad` gives is no array of real
        numbers, or `scale` is not one number for each.

    Examples
    --------
    >>> noisy(lambda x: np.array([2.0, 2.0]) * x, scale=0.1, seed=0)([1.0])
    array([2.01257302, 1.98678951])
    """
    if not callable(grad):
        raise TypeError(f"[noisy] 'grad' must be callable but got a {type(grad).__name__}")
    try:
        scale = np.asarray(scale, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"[noisy] 'scale' must be a number or an array of numbers but got {scale!r}") from None
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise ValueError(f"[noisy] 'scale' must be finite and not negative but got {scale}")
    rng = np.random.default_rng(check_integer("noisy", "seed", seed, 0))

    def noisy_grad(x):
        gradient = gradient_at("noisy", grad, x)
        try:
            np.broadcast_to(scale, gradient.shape)
        except ValueError:
            raise ValueError(
                f"[noisy] 'scale' must be one number, or one for each coordinate, but has shape {scale.shape}, and "
                f"'grad' gave {gradient.shape}"
            ) from None
        return gradient + scale * rng.standard_normal(gradient.shape)

    return noisy_grad


@dataclass(eq=False, repr=False)
class Band:
    """Quantiles over many seeds of a series, step by step.

    Attributes
    ----------
    values : ndarray
        A row a seed, shape (seeds, length); infinite from where a run diverged on.
    lower, median, upper : ndarray
        The quantiles that were asked for, shape (length,).
    mean : ndarray
    """

    values: np.ndarray
    lower: np.ndarray
    median: np.ndarray
    upper: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.values.mean(axis=0)

    def __repr__(self) -> str:
        return f"Band({len(self.values)} seeds, {len(self.median)} values, last median {self.median[-1]:.4g})"


def band(
    run: Callable, seeds: int | Sequence[int] = 100, *, quantiles: tuple[float, float, float] = (0.1, 0.5, 0.9)
) -> Band:
    """Run again with many seeds, and give the quantiles over them at each step.

    Parameters
    ----------
    run : callable
        ``run(seed)`` gives a `Trajectory`, of which the values count, or any series of numbers. A shorter one, as of a
        run that diverged, is infinite from its end on.
    seeds : int or sequence of int
        How many, from 0, or which.
    quantiles : three floats
        Lower edge, middle and upper edge of the band.

    Returns
    -------
    Band

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or a run gives no series.

    Examples
    --------
    The floor of the noise, lr * scale**2 / (2 * (2 - lr * curvature)) in the mean:

    >>> import fusedstep as fs
    >>> f = fs.landscape.parabola(curvature=1.0)
    >>> def run(seed):
    ...     noisy = fs.landscape.noisy(f.grad, scale=1.0, seed=seed)
    ...     return fs.landscape.trajectory(lambda p: fs.optim.SGD(p, lr=0.5), f.f, noisy, start=0.0, steps=50)
    >>> print(round(fs.landscape.band(run, seeds=100).mean[10:].mean(), 1), round(0.5 / 3, 1))
    0.2 0.2
    """
    if not callable(run):
        raise TypeError(f"[band] 'run' must be a function of the seed but got a {type(run).__name__}")
    levels = check_levels("band", quantiles)
    series = [_series(run(seed)) for seed in check_seeds("band", seeds)]
    values = np.full((len(series), max(map(len, series))), np.inf)
    for row, found in zip(values, series, strict=True):
        row[: len(found)] = np.where(np.isnan(found), np.inf, found)
    return Band(values, *_quantiles.quantiles(values, levels))


def _series(found) -> np.ndarray:
    values = as_array(found.values if isinstance(found, Trajectory) else found)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "biuf":
        raise TypeError(f"[band] 'run' must give a Trajectory or a series of numbers but gave {found!r}")
    return values
