"""Whitening that stays as close to the data as whitening can."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.utils.validation import check_is_fitted, validate_data

from ..reference.scalars import check_range


class ZCA(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """ZCA whitening: features without correlation and with variance 1, as like the old ones as can be.

    ``(x - mean) V diag(1 / sqrt(variances + eps)) V'`` with the principal axes V: what
    ``sklearn.decomposition.PCA(whiten=True)`` does, turned back to the axes of the data (Bell & Sejnowski 1997;
    Kessy, Lewin & Strimmer 2018, section 2.1). A network's first layer then sees inputs whose second moments are a
    multiple of 1 (LeCun et al. 1998, section 4.3).

    Parameters
    ----------
    n_components : int, float or None
        As in PCA: how many axes are kept, or what share of the variance; the others become 0. None: all.
    eps : float
        Added to the variances: directions of almost none, which are mostly noise, are then blown up less.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
    whitening_ : ndarray of shape (n_features, n_features)
        Symmetric.
    pca_ : PCA or IncrementalPCA
        Where mean, axes and variances come from.

    Notes
    -----
    For data that do not fit into memory, call `partial_fit` on slices of at least as many samples as features; or
    use ``sklearn.decomposition.IncrementalPCA(whiten=True)`` in the same way, for PCA whitening. Directions without
    variance become 0.

    Examples
    --------
    >>> import numpy as np, fusedstep as fs
    >>> X = np.random.default_rng(0).normal(size=(500, 2)) @ np.array([[3.0, 1.0], [0.0, 0.5]])
    >>> bool(np.allclose(np.cov(fs.sklearn.ZCA().fit_transform(X).T), np.eye(2)))
    True
    """

    def __init__(self, n_components=None, *, eps=0.0):
        self.n_components = n_components
        self.eps = eps

    def fit(self, X, y=None):
        """Learn mean and whitening matrix from X, ``(n_samples, n_features)``; at least 2 samples."""
        check_range("ZCA", "eps", self.eps, 0)
        X = validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=2)
        self.pca_ = PCA(self.n_components, svd_solver="full").fit(X)  # the others are random or lose digits
        return self._whiten()

    def partial_fit(self, X, y=None):
        """Learn from one more slice of the data; after `fit` it begins anew.

        Raises
        ------
        ValueError
            The first slice has fewer samples than features, so that axes would be lost, or `n_components` is a share.
        """
        check_range("ZCA", "eps", self.eps, 0)
        first = not isinstance(getattr(self, "pca_", None), IncrementalPCA)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=first)
        if first:
            if isinstance(self.n_components, (float, str)):
                raise ValueError("[ZCA] 'n_components' must be an integer or None for partial_fit")
            if len(X) < (least := self.n_components or X.shape[1]):
                raise ValueError(f"[ZCA] the first slice must have at least {least} samples but has {len(X)}")
            self.pca_ = IncrementalPCA(self.n_components)
        self.pca_.partial_fit(X)
        return self._whiten()

    def _whiten(self):
        axes, variances = self.pca_.components_, self.pca_.explained_variance_
        self.mean_ = self.pca_.mean_
        least = variances[0] * len(self.mean_) * np.finfo(axes.dtype).eps
        self._root = np.where(variances > least, np.sqrt(variances + self.eps), 0).astype(axes.dtype)
        inverse = np.divide(1, self._root, out=np.zeros_like(self._root), where=self._root > 0)
        self.whitening_ = (axes.T * inverse) @ axes
        return self

    def transform(self, X):
        """The whitened X, of its shape."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return (X - self.mean_) @ self.whitening_

    def inverse_transform(self, X):
        """What `transform` made of X, undone, but for directions that it set to 0."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        axes = self.pca_.components_
        return X @ ((axes.T * self._root) @ axes) + self.mean_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
