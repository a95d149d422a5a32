"""When training ends, by scikit-learn's rules."""

from __future__ import annotations

import math

import numpy as np

from ..callbacks import Callback

_SMALLEST_ADAPTIVE_LR = 1e-6
_SMALLEST_LR = 1e-30  # velocities are divided by it


def _set_lr(optimizer, lr: float) -> None:
    """A new step size. As in scikit-learn the velocity goes on as the last step, not as the last gradients."""
    ratio = optimizer.param_groups[0]["lr"] / lr
    for group in optimizer.param_groups:
        group["lr"] = lr
        for p in group["params"]:
            velocity = optimizer.state_arrays(p.name).get("momentum_buffer")
            if velocity is not None:
                velocity[...] = velocity * ratio


class Convergence(Callback):
    """Stop, or divide the step size by 5, when more than `n_iter_no_change` epochs in a row gained less than `tol`.

    `fusedstep.callbacks.EarlyStopping` waits for one epoch less, and calls an epoch better, and keeps it, only where
    it gained more than the tolerance; here every better one is kept.

    Parameters
    ----------
    tol : float
    n_iter_no_change : int or inf
    score : str or None
        The column of the history that is to grow; None: the training loss, penalty included, is to fall.
    by_score : bool
        Judge by the score, and go back to the epoch with the best at the end; otherwise scores are only kept.
    adaptive : bool
        Whether to go on with a fifth of the step size, down to 1e-6.
    penalty : L2Penalty or None

    Attributes
    ----------
    losses, scores : list of float
        One an epoch.
    best_score : float
    """

    changes_lr = True

    def __init__(self, *, tol, n_iter_no_change, score, by_score, adaptive, penalty):
        self.tol, self.n_iter_no_change, self.adaptive = tol, n_iter_no_change, adaptive
        self.score, self.by_score, self.penalty = score, by_score, penalty
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.best_score = -math.inf
        self._best_value, self._waited = -math.inf, 0
        self._best: tuple[int, dict[str, np.ndarray]] | None = None

    def on_epoch_end(self, run):
        row = run.history.rows[-1]
        self.losses.append(row["train_loss"] + (0.0 if self.penalty is None else self.penalty.value))
        if self.score is not None:
            self.scores.append(row[self.score])
            if self.scores[-1] > self.best_score:
                self.best_score = self.scores[-1]
                if self.by_score:
                    self._best = run.epoch, run.model_state()
        value = self.scores[-1] if self.by_score else -self.losses[-1]
        self._waited = 0 if value >= self._best_value + self.tol else self._waited + 1  # NaN gains nothing
        if value > self._best_value:
            self._best_value = value
        if self._waited > self.n_iter_no_change:
            self._give_up(run)

    def _give_up(self, run):
        if self.adaptive and run.optimizer.lr > _SMALLEST_ADAPTIVE_LR:
            _set_lr(run.optimizer, run.optimizer.lr / 5)
            self._waited = 0
            return
        run.stop = True
        what = "validation score" if self.by_score else "training loss"
        run.history.stopped_by = f"{what} did not improve by tol={self.tol} for {self.n_iter_no_change} epochs"

    def on_train_end(self, run):
        if self._best is not None:
            run.history.restored_epoch, state = self._best
            run.model.load_state_dict(state)


class InverseScaling(Callback):
    """After each epoch ``lr = lr_init / (t + 1)**power``, t being the samples seen so far, from `seen` on."""

    changes_lr = True

    def __init__(self, lr_init: float, power: float, seen: int):
        self.lr_init, self.power, self.seen = lr_init, power, seen

    def on_epoch_end(self, run):
        self.seen += run.batches.n_samples
        _set_lr(run.optimizer, max(self.lr_init * (self.seen + 1) ** -self.power, _SMALLEST_LR))
