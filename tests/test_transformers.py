"""Fitted transformers on disk."""

import numpy as np
import pytest

from fusedstep._transformers import load_transformer, save_transformer

pytest.importorskip("skops")
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (makes the next import work)
from sklearn.feature_selection import SelectKBest, f_regression, mutual_info_classif
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    SplineTransformer,
    StandardScaler,
)
from sklearn.random_projection import SparseRandomProjection

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
TABLE = np.array([[1.0, "a"], [np.nan, "b"], [3.0, "a"], [5.0, "c"]], object)
COLUMNS = ColumnTransformer(
    [
        ("number", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), [0]),
        ("category", OneHotEncoder(handle_unknown="ignore", sparse_output=False), [1]),
    ]
)


class Doubled(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return 2 * X


@pytest.mark.parametrize(
    ("transformer", "data"),
    [
        (StandardScaler(), X),
        (PCA(2), X),
        (SelectKBest(k=2), X),
        (SelectKBest(f_regression, k=2), X),
        (SelectKBest(mutual_info_classif, k=2), X),
        (IterativeImputer(), X),
        (SparseRandomProjection(2, random_state=0), X),
        (SplineTransformer(), X),
        (KBinsDiscretizer(quantile_method="averaged_inverted_cdf"), X),
        (COLUMNS, TABLE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_round_trip(transformer, data, tmp_path):
    fitted = transformer.fit(data, np.arange(len(data)) % 2)
    path = tmp_path / "transformer.skops"
    save_transformer(path, fitted)
    expected, got = fitted.transform(data), load_transformer(path).transform(data)
    assert abs(expected - got).max() == 0


def test_own_types_must_be_trusted_by_name(tmp_path):
    path = tmp_path / "doubled.skops"
    save_transformer(path, Doubled())
    name = f"{Doubled.__module__}.Doubled"
    with pytest.raises(ValueError, match=f"doubled.skops: makes {name}, a type that is not trusted"):
        load_transformer(path)
    assert load_transformer(path, [name]).transform(3) == 6


def test_a_lambda_is_not_read_back(tmp_path):
    path = tmp_path / "lambda.skops"
    with pytest.raises((TypeError, ValueError), match=r"lambda"):
        save_transformer(path, FunctionTransformer(lambda x: x))
        load_transformer(path)


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign"])
def test_a_damaged_file(damage, tmp_path):
    path = tmp_path / "scaler.skops"
    save_transformer(path, StandardScaler().fit(X))
    data = path.read_bytes()
    damaged = {"cut": data[: len(data) // 2], "changed": data[:40] + bytes(20) + data[60:], "foreign": b"{}"}
    path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"scaler\.skops: not a transformer that skops wrote, or damaged"):
        load_transformer(path)
    with pytest.raises(FileNotFoundError):
        load_transformer(tmp_path / "none.skops")
