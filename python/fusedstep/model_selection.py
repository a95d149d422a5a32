"""Splits that keep the distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from . import _checks, _columns, _splitting
from ._as_sklearn import SklearnSplitter
from ._distribution import DistributionReport, distribution_report
from .cross_validation import CrossValidationResult, cross_validate
from .data.sources import as_samples, select
from .reference.scalars import check_integer

__all__ = [
    "CrossValidationResult",
    "DistributionReport",
    "RotatingKFold",
    "cross_validate",
    "distribution_report",
    "train_val_test_split",
]

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
    bins : int
        Into how many bins, by quantile, continuous columns of `stratify` are cut; at least 2.

    Raises
    ------
    TypeError, ValueError
        `n_splits` or `bins` is not an integer, or too small.

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

    def __init__(self, n_splits: int = 5, *, shuffle: bool = True, random_state: RandomState = None, bins: int = 5):
        self.n_splits = check_integer("RotatingKFold", "n_splits", n_splits, 3)
        self.bins = check_integer("RotatingKFold", "bins", bins, 2)
        self.shuffle = bool(shuffle)
        self.random_state = random_state

    def split(self, X, y=None, groups=None, *, stratify=None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the indices of train, validation and test samples, round by round.

        Without groups, folds differ by at most one sample, over all and in each class of a single column. Several
        columns are dealt by their joint cells where each has at least `n_splits` members, otherwise by iterative
        stratification (Sechidis, Tsoumakas & Vlahavas 2011, algorithm 1). Either keeps the share of each column's
        values to about three samples, and the first that of each joint cell to one.

        Parameters
        ----------
        X : array_like
            Only its length matters.
        y : array_like, optional
            Targets. Integers, booleans and strings of shape (n_samples,) are classes, and stratified unless `stratify`
            is given.
        groups : array_like, optional
            One value a sample; samples of equal value (one patient's, say) stay in one fold. Fold sizes are then as
            equal as dealing whole groups, the largest first, makes them.
        stratify : array_like, dict or data frame, optional
            What to stratify on instead of `y`, which belongs among these columns if it is to count: labels of shape
            (n_samples,), an array of shape (n_samples, n_columns), a dict of arrays by name, or a DataFrame.
            Strings, booleans, objects and pandas categoricals are classes. Numbers are binned by quantile where some
            are not whole or where more than 20 of them differ (then give codes of classes as strings); 1-D integers
            are labels and always classes.

        Yields
        ------
        train, validation, test : ndarray of int64
            Sorted.

        Raises
        ------
        TypeError, ValueError
            Lengths differ, `random_state` is no seed, there are fewer samples or groups than folds, `stratify` or
            `groups` has a missing or infinite value, or `stratify` no column or one of dates, complex numbers or the
            like.

        Warns
        -----
        UserWarning
            A class has fewer members (or, with groups, is in fewer groups) than there are folds.

        Examples
        --------
        >>> import numpy as np
        >>> from fusedstep.model_selection import RotatingKFold
        >>> table = {"sick": np.arange(60) % 2 == 0, "age": np.linspace(20, 79.5, 60)}
        >>> for train, validation, test in RotatingKFold(3, random_state=0).split(table["age"], stratify=table):
        ...     print(len(train), len(validation), len(test), table["sick"][test].sum())
        20 20 20 10
        20 20 20 10
        20 20 20 10
        """
        n_samples = _splitting.length("RotatingKFold", "X", X)
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

    def as_sklearn(self, stratify=None, groups=None) -> SklearnSplitter:
        """These folds for scikit-learn's ``cv=``: (train and validation, test) in each round.

        scikit-learn asks for folds once in each search or scoring, so all candidates see the same ones; with
        `random_state` None the next call sees others.

        Parameters
        ----------
        stratify : array_like, dict or data frame, optional
            As for `split`; it must fit the X that scikit-learn hands over. scikit-learn's `y` counts where None.
        groups : array_like, optional
            Used where scikit-learn hands over no groups.

        Returns
        -------
        object
            With ``split(X, y=None, groups=None)`` and ``get_n_splits()``.

        Examples
        --------
        >>> import numpy as np
        >>> from fusedstep.model_selection import RotatingKFold
        >>> for train, test in RotatingKFold(3, shuffle=False).as_sklearn().split(np.zeros((6, 2))):
        ...     print(train, test)
        [2 3 4 5] [0 1]
        [0 1 4 5] [2 3]
        [0 1 2 3] [4 5]
        """
        return SklearnSplitter(self, stratify, groups)

    def _folds(self, n_samples: int, y, groups, stratify) -> np.ndarray:
        """The fold of each sample."""
        where = "RotatingKFold"
        if y is not None and (n_targets := _splitting.length(where, "y", y)) != n_samples:
            raise ValueError(f"[{where}] 'X' has {n_samples} samples but 'y' has {n_targets}")
        argument = "stratify"
        if stratify is None and y is not None and _columns.is_labels(where, "y", y):
            argument, stratify = "y", y
        columns = [column.binned(self.bins) for column in _columns.read(where, argument, stratify, n_samples)]
        groups = _splitting.group_indices(where, groups, n_samples, self.n_splits)
        _splitting.warn_of_small_classes(where, columns, self.n_splits, groups, stacklevel=3)
        rng = _splitting.generator(where, self.random_state) if self.shuffle else None
        return _splitting.deal(columns, n_samples, self.n_splits, groups, rng)


def train_val_test_split(
    *arrays,
    sizes: Sequence[float] = (0.6, 0.2, 0.2),
    stratify=None,
    groups=None,
    random_state: RandomState = None,
    bins: int = 5,
) -> list:
    """Split arrays at random into train, validation and test parts.

    Parameters
    ----------
    *arrays : array_like
        All of the same length.
    sizes : three floats
        Shares of the samples; positive, with sum 1. In each class of `stratify`, if it is one column, a part is less
        than one sample away from its share.
    stratify : array_like, dict or data frame, optional
        Labels or columns whose distribution all parts keep, as for `RotatingKFold.split`.
    groups : array_like, optional
        One value a sample; samples of equal value stay in one part, and the shares hold as well as that allows.
    random_state : None, int or numpy.random.Generator
        An int gives the same split in every call.
    bins : int
        Into how many bins, by quantile, continuous columns of `stratify` are cut; at least 2.

    Returns
    -------
    list of ndarray or Source
        Train, validation and test part of each array, in scikit-learn's order: X_train, X_validation, X_test,
        y_train, ... Samples keep their order. Those in memory are copied, data frames of pandas as such; of a memory
        map, an HDF5 or Zarr dataset each part is a `fusedstep.data.Source`, and nothing is read.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, lengths differ, or a part would be empty.

    Warns
    -----
    UserWarning
        A class has fewer than three members (or, with groups, is in fewer than three).

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
    arrays = [array if hasattr(array, "iloc") else as_samples(array) for array in arrays]
    n_samples = _checks.same_length(where, {f"arrays[{i}]": array for i, array in enumerate(arrays)})
    try:
        shares = [float(size) for size in sizes]
    except (TypeError, ValueError):
        raise TypeError(f"[{where}] 'sizes' must be three positive shares with sum 1 but got {sizes!r}") from None
    if len(shares) != 3 or not all(share > 0 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-9):
        raise ValueError(f"[{where}] 'sizes' must be three positive shares with sum 1 but got {tuple(sizes)}")
    bins = check_integer(where, "bins", bins, 2)
    columns = [column.binned(bins) for column in _columns.read(where, "stratify", stratify, n_samples)]
    groups = _splitting.group_indices(where, groups, n_samples, 3)
    _splitting.warn_of_small_classes(where, columns, 3, groups, stacklevel=2)
    part = _splitting.deal(columns, n_samples, shares, groups, _splitting.generator(where, random_state))
    parts = [np.flatnonzero(part == k) for k in range(3)]
    _splitting.check_partition(where, parts, n_samples)
    return [
        array.iloc[indices] if hasattr(array, "iloc") else select(array, indices)
        for array in arrays
        for indices in parts
    ]
