"""Splits that keep the distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from . import _checks, _splitting
from .cross_validation import CrossValidationResult, cross_validate
from .reference.scalars import check_integer

__all__ = ["CrossValidationResult", "RotatingKFold", "cross_validate", "train_val_test_split"]

RandomState = int | np.random.Generator | None


class RotatingKFold:
    """k-fold cross-validation in which each fold is the test set once and the validation set once.

    In round k (from 0) fold k tests, fold k + 1 (cyclically) validates, and the others train. So every sample is
    tested exactly once and validated exactly once, and what early stopping sees is never what is reported.

    Parameters
    ----------
    n_splits : int
        The number of folds, at least 3.
    shuffle : bool
        Deal the samples in random order. Without it the order is kept: unstratified folds are contiguous blocks.
    random_state : None, int or numpy.random.Generator
        An int gives the same folds in every call of `split`, None others each time; a Generator moves on.

    Raises
    ------
    TypeError, ValueError
        `n_splits` is not an integer or below 3.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.model_selection import RotatingKFold
    >>> for train, validation, test in RotatingKFold(3, shuffle=False).split(np.zeros((6, 2))):
    ...     print(train, validation, test)
    [4 5] [2 3] [0 1]
    [0 1] [4 5] [2 3]
    [2 3] [0 1] [4 5]
    """

    def __init__(self, n_splits: int = 5, *, shuffle: bool = True, random_state: RandomState = None):
        self.n_splits = check_integer("RotatingKFold", "n_splits", n_splits, 3)
        self.shuffle = bool(shuffle)
        self.random_state = random_state

    def split(self, X, y=None, groups=None, *, stratify=None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the indices of train, validation and test samples, round by round.

        Without groups, folds differ by at most one sample, over all and in each class.

        Parameters
        ----------
        X : array_like
            Only its length matters.
        y : array_like, optional
            Targets. Integers, booleans and strings of shape (n_samples,) are classes, and stratified.
        groups : array_like, optional
            One value a sample; samples of equal value (one patient's, say) stay in one fold. Fold sizes are then as
            equal as dealing whole groups, the largest first, makes them.
        stratify : array_like, optional
            Labels to stratify on instead of `y`, one a sample.

        Yields
        ------
        train, validation, test : ndarray of int64
            Sorted.

        Raises
        ------
        ValueError
            Lengths differ, or there are fewer samples or groups than folds.

        Warns
        -----
        UserWarning
            A class has fewer members than there are folds.
        """
        n_samples = len(X)
        if n_samples < self.n_splits:
            raise ValueError(f"[RotatingKFold] needs at least {self.n_splits} samples but got {n_samples}")
        folds = self._folds(n_samples, y, groups, stratify)
        for k in range(self.n_splits):
            validation = (k + 1) % self.n_splits
            parts = (
                np.flatnonzero((folds != k) & (folds != validation)),
                np.flatnonzero(folds == validation),
                np.flatnonzero(folds == k),
            )
            _splitting.check_partition("RotatingKFold", parts, n_samples)
            yield parts

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
        """The number of folds."""
        return self.n_splits

    def _folds(self, n_samples: int, y, groups, stratify) -> np.ndarray:
        """The fold of each sample."""
        if y is not None and len(y) != n_samples:
            raise ValueError(f"[RotatingKFold] 'X' has {n_samples} samples but 'y' has {len(y)}")
        if stratify is None and y is not None and np.ndim(y) == 1 and np.asarray(y).dtype.kind in "biuOSUT":
            stratify = y
        classes = _splitting.class_indices("RotatingKFold", stratify, n_samples, self.n_splits)
        rng = np.random.default_rng(self.random_state) if self.shuffle else None
        if groups is None:
            return _splitting.deal_evenly(classes, self.n_splits, rng)
        groups = _splitting.group_indices("RotatingKFold", groups, n_samples, self.n_splits)
        return _splitting.deal_groups(groups, classes, [1 / self.n_splits] * self.n_splits, rng)


def train_val_test_split(
    *arrays,
    sizes: Sequence[float] = (0.6, 0.2, 0.2),
    stratify=None,
    groups=None,
    random_state: RandomState = None,
) -> list:
    """Split arrays at random into train, validation and test parts.

    Parameters
    ----------
    *arrays : array_like
        All of the same length.
    sizes : three floats
        Shares of the samples; positive, with sum 1. In each class of `stratify` a part is less than one sample away
        from its share.
    stratify : array_like, optional
        Labels whose distribution all parts keep, one a sample.
    groups : array_like, optional
        One value a sample; samples of equal value stay in one part, and the shares hold as well as that allows.
    random_state : None, int or numpy.random.Generator
        An int gives the same split in every call.

    Returns
    -------
    list of ndarray
        Train, validation and test part of each array, in scikit-learn's order: X_train, X_validation, X_test,
        y_train, ... Samples keep their order. The samples are copied.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, lengths differ, or a part would be empty.

    Warns
    -----
    UserWarning
        A class has fewer than three members.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.model_selection import train_val_test_split
    >>> X, y = np.arange(20).reshape(10, 2), np.arange(10) % 2
    >>> X_tr, X_va, X_te, y_tr, y_va, y_te = train_val_test_split(X, y, stratify=y, random_state=0)
    >>> X_tr.shape, X_va.shape, X_te.shape, y_va.tolist()
    ((6, 2), (2, 2), (2, 2), [0, 1])
    """
    where = "train_val_test_split"
    if not arrays:
        raise TypeError(f"[{where}] needs at least one array")
    arrays = [np.asarray(array) for array in arrays]
    n_samples = _checks.same_length(where, {f"arrays[{i}]": array for i, array in enumerate(arrays)})
    shares = [float(size) for size in sizes]
    if len(shares) != 3 or not all(share > 0 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-9):
        raise ValueError(f"[{where}] 'sizes' must be three positive shares with sum 1 but got {tuple(sizes)}")
    classes = _splitting.class_indices(where, stratify, n_samples, 3)
    rng = np.random.default_rng(random_state)
    if groups is None:
        part = _splitting.deal_shares(classes, shares, rng)
    else:
        part = _splitting.deal_groups(_splitting.group_indices(where, groups, n_samples, 3), classes, shares, rng)
    parts = [np.flatnonzero(part == k) for k in range(3)]
    _splitting.check_partition(where, parts, n_samples)
    return [array[indices] for array in arrays for indices in parts]
