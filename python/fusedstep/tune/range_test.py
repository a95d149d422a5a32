"""The learning-rate range test: one short run in which the step size rises from batch to batch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .. import ops
from .._device import device_of
from .._training_checks import check_arrays, check_objects
from ..callbacks import Callback
from ..callbacks.rates import set_rates
from ..data import MiniBatches
from ..reference.scalars import check_integer, check_positive, check_range
from ..training import fit

_WHERE = "lr_range_test"


@dataclass(eq=False, repr=False)
class RangeTest:
    """What `lr_range_test` gives.

    Attributes
    ----------
    lrs, losses, smoothed : ndarray
        Of each batch: the step size, the loss before the step, and its corrected exponential average.
    exploded : bool
        The test ended before the largest step size, as the loss had grown too much or was not finite.
    window : int
        How many batches the average is about, 1 / (1 - beta). As many at the start are no ground for a suggestion, as
        few were averaged there.
    """

    lrs: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    exploded: bool
    window: int = 1

    @property
    def steepest(self) -> float | None:
        """The middle of the window in which the smoothed loss falls most, less its lag; None where it never falls."""
        falling = self.smoothed[self.window : self._lowest() + 1]
        width = min(max(2, self.window), len(falling) - 1)
        if width < 1:
            return None
        falls = falling[:-width] - falling[width:]  # the step sizes are geometric: all windows are as wide in log(lr)
        return self._lr_behind(self.window + int(falls.argmax()) + width // 2)

    @property
    def tenth_of_minimum(self) -> float | None:
        """A tenth of the step size at which the smoothed loss is lowest, less its lag; None where it never falls."""
        lowest = self._lowest()
        return self._lr_behind(lowest) / 10 if lowest > self.window else None

    @property
    def suggestion(self) -> float | None:
        """A step size to begin with: `steepest`."""
        return self.steepest

    @property
    def lag(self) -> int:
        """How many batches the average is behind, beta / (1 - beta).

        The loss of k batches ago has the weight (1 - beta) * beta**k, and the mean of k is beta / (1 - beta), one less
        than 1 / (1 - beta), the window: what the average shows at a batch had happened so many before.
        """
        return self.window - 1

    def _lr_behind(self, place: int) -> float:
        """The step size at which that happened which the average shows at `place`, after the first window."""
        return float(self.lrs[place - self.lag])

    def _lowest(self) -> int:
        return int(np.where(np.isfinite(self.smoothed), self.smoothed, np.inf).argmin())

    def plot(self, path: str | os.PathLike | None = None):
        """Draw the loss against the step size, with what is suggested.

        Parameters
        ----------
        path : str or path, optional
            Also save the figure there; the suffix decides the format.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            matplotlib is missing.
        """
        from .drawing import plot_range_test

        return plot_range_test(self, path)

    def __repr__(self) -> str:
        suggested = "none" if self.suggestion is None else f"{self.suggestion:.2g}"
        return f"RangeTest({len(self.lrs)} steps up to {self.lrs[-1]:.2g}, suggestion {suggested})"


def lr_range_test(
    model,
    optimizer,
    loss,
    train,
    *,
    start: float = 1e-6,
    stop: float = 10.0,
    steps: int = 100,
    batch_size: int | None = 128,
    beta: float = 0.9,
    explode: float = 4.0,
    seed: int = 0,
) -> RangeTest:
    """Raise the step size from batch to batch, and see where the loss falls and where it explodes (Smith 2017).

    Afterwards model, optimizer and data are what they were before, bit for bit; a pending backward pass is dropped.

    Parameters
    ----------
    model, optimizer, loss, train
        As for `fusedstep.fit`. The optimizer's own step sizes and schedules are set aside for the while, and all
        groups get the same one.
    start, stop : float
        The first and the last step size; in between they rise geometrically.
    steps : int
        How many batches; at least 2. Epochs follow one another as long as it takes. The more there are, the longer the
        model has learned when a step size comes, the earlier the loss falls, and the smaller is the suggestion; of very
        many the noise of the batches decides, unless `beta` grows with them.
    batch_size : int or None
        As for `fusedstep.fit`.
    beta : float
        Decay of the exponential average of the losses, see `fusedstep.ops.ewma`.
    explode : float
        The test ends where the average is more than so many times the lowest one.
    seed : int
        For the order of the data.

    Returns
    -------
    RangeTest

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; also as `fusedstep.fit` does.
    KeyboardInterrupt
        Ctrl-C; all is put back then, too.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> X = np.random.default_rng(0).standard_normal((256, 8)).astype(np.float32)
    >>> y = X.sum(axis=1, keepdims=True)
    >>> model = fs.nn.Sequential(fs.nn.Dense(8, 1))
    >>> optimizer = fs.optim.SGD(model.parameters())
    >>> test = fs.tune.lr_range_test(model, optimizer, fs.nn.MeanSquaredError(), (X, y), batch_size=32)
    >>> test.exploded, 1e-3 < test.suggestion < 1
    (True, True)
    """
    start, stop = (check_positive(_WHERE, name, value) for name, value in (("start", start), ("stop", stop)))
    if stop <= start:
        raise ValueError(f"[{_WHERE}] 'stop' must be greater than 'start' ({start:g}) but got {stop:g}")
    steps = check_integer(_WHERE, "steps", steps, 2)
    beta = check_range(_WHERE, "beta", beta, 0, 1)
    if (explode := check_range(_WHERE, "explode", explode, 1)) == 1:
        raise ValueError(f"[{_WHERE}] 'explode' must be greater than 1 but got {explode}")
    batches = train
    if not isinstance(train, MiniBatches):
        batches = MiniBatches(*check_arrays("train", train, _WHERE), batch_size=batch_size, seed=seed)
    check_objects(model, optimizer, loss)
    ramp = _Ramp(np.geomspace(start, stop, steps), beta, explode)
    with _as_before(model, optimizer, batches, start), np.errstate(all="ignore"):
        # An epoch is a batch at least, so there are enough.
        history = fit(model, optimizer, loss, batches, epochs=steps, callbacks=[ramp], progress=False)
    if history.interrupted:
        raise KeyboardInterrupt
    losses = np.array(ramp.losses)
    return RangeTest(ramp.lrs[: len(losses)], losses, ramp.smoothed(), ramp.exploded, round(1 / (1 - beta)))


class _Ramp(Callback):
    """Sets the step size before each step, and ends the run."""

    changes_lr = True

    def __init__(self, lrs: np.ndarray, beta: float, explode: float):
        self.lrs, self.beta, self.explode = lrs, beta, explode
        self.losses: list[float] = []
        self.exploded = False

    def smoothed(self) -> np.ndarray:
        return ops.ewma(self.losses, self.beta, bias_correction=True)

    def before_step(self, run):
        lr = float(self.lrs[len(self.losses)])
        self.losses.append(run.batch_loss)
        averages = self.smoothed()
        last, lowest = float(averages[-1]), float(averages.min())
        # For losses above 0 this is last > explode * lowest; others have no such multiple.
        self.exploded = not math.isfinite(last) or last > lowest + (self.explode - 1) * abs(lowest)
        if self.exploded or len(self.losses) == len(self.lrs):
            run.stop, run.history.stopped_by = True, _WHERE  # the step of the last loss would be seen by none
            return
        set_rates(run.optimizer, lambda _: lr)


@contextmanager
def _as_before(model, optimizer, batches: MiniBatches, lr: float) -> Iterator[None]:
    """A while after which model, optimizer and batches are what they were; step sizes are numbers or arrays in it."""
    state, offset, counted = model.state_dict(), model.random_offset, batches.state_dict()
    parameters = model.parameters()
    grads = [p.grad.copy() for p in parameters]
    optimizer_state, lrs = optimizer.state_dict(), [group["lr"] for group in optimizer.param_groups]
    try:
        for group in optimizer.param_groups:
            if callable(group["lr"]):
                group["lr"] = lr
        yield
    finally:
        for group, own in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = own
        optimizer.load_state_dict(optimizer_state)
        model.load_state_dict(state)
        model.random_offset = offset
        batches.load_state_dict(counted)
        for p, grad in zip(parameters, grads, strict=True):
            device_of(p.grad).write(p.grad, grad)
