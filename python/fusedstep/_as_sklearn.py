"""RotatingKFold as scikit-learn's `cv=`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class SklearnSplitter:
    """What `RotatingKFold.as_sklearn` returns: (train and validation, test), round by round."""

    def __init__(self, cv, stratify, groups):
        self.cv = cv
        self.stratify = stratify
        self.groups = groups

    def split(self, X, y=None, groups=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the sorted indices of train and test samples; as `RotatingKFold.split`, which says what is refused."""
        if groups is not None and self.groups is not None:
            raise ValueError("[as_sklearn] 'groups' must be given to 'as_sklearn' or to scikit-learn, not to both")
        groups = self.groups if groups is None else groups
        for train, validation, test in self.cv.split(X, y, groups, stratify=self.stratify):
            yield np.sort(np.concatenate([train, validation])), test

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
        """The number of folds."""
        return self.cv.n_splits
