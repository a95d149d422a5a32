"""Fitted scikit-learn transformers on disk, through skops: reading one runs nothing that was not allowed by name."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ._extras import require
from ._files import atomic_write

# Those of scikit-learn's own transformers that skops does not vouch for by itself.
_KNOWN = (
    "numpy.dtype",
    "numpy.mean",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    "scipy.interpolate._bsplines.BSpline",
    "scipy.sparse._csr.csr_array",
    "scipy.sparse._csr.csr_matrix",
    "sklearn.cluster._bisect_k_means._BisectingTree",
    "sklearn.cluster._kmeans._kmeans_single_lloyd",
    "sklearn.feature_selection._mutual_info.mutual_info_classif",
    "sklearn.feature_selection._mutual_info.mutual_info_regression",
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_oneway",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.feature_selection._univariate_selection.r_regression",
    "sklearn.impute._iterative._ImputerTriplet",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
)


def save_transformer(path: str | os.PathLike, transformer) -> None:
    """Write a fitted transformer to a .skops file, replacing an old one only when all is written.

    Raises
    ------
    ImportError
        skops is missing.
    TypeError
        skops cannot keep something in it, a lambda, say.
    """
    require("skops", extra="sklearn")
    from skops.io import dumps

    try:
        data = dumps(transformer)
    except Exception as error:
        raise TypeError(f"[save_transformer] {transformer!r} cannot be kept by skops: {error}") from error
    atomic_write(path, data)


def load_transformer(path: str | os.PathLike, trusted: Sequence[str] = ()):
    """Read what `save_transformer` wrote.

    Parameters
    ----------
    path : str or path
    trusted : sequence of str
        Types that the file may make beside those that scikit-learn's transformers are made of, such as
        "my_module.MyTransformer". Only trust what you know: making an object of a type can run its code.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, or makes a type that is not trusted; names the path.
    """
    require("skops", extra="sklearn")
    from skops.io import get_untrusted_types, loads

    with open(path, "rb") as file:
        data = file.read()
    try:
        types = get_untrusted_types(data=data)
        unknown = [name for name in types if name not in _KNOWN and name not in trusted]
        if not unknown:
            return loads(data, trusted=types)
    except Exception as error:  # a damaged archive fails in many ways
        raise ValueError(f"{os.fspath(path)}: not a transformer that skops wrote, or damaged: {error!r}") from error
    raise ValueError(f"{os.fspath(path)}: makes {unknown[0]}, a type that is not trusted")
