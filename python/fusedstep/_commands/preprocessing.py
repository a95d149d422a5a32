"""Numbers standardized, categories one-hot encoded, missing values filled in: by scikit-learn, inside each fold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def as_rows(X: np.ndarray) -> np.ndarray:
    """A float64 matrix as one structured value a sample, without a copy.

    Trained on floating samples, a model has their type: these hold large numbers and codes of categories in float64,
    and are float32 only after the preprocessing.
    """
    X = np.ascontiguousarray(X, np.float64)
    return X.view([("values", np.float64, (X.shape[1],))])[:, 0]


@dataclass
class Preprocessor:
    """A scikit-learn transformer of `as_rows`, whose fitted part is the ColumnTransformer `columns_`.

    Parameters
    ----------
    n_numbers, n_categories : int
        The first columns are numbers, the others codes of categories.
    impute : bool
        Fill missing numbers in by the median, missing categories by the most frequent one.
    """

    n_numbers: int
    n_categories: int
    impute: bool

    def get_params(self, deep: bool = True) -> dict:
        return {"n_numbers": self.n_numbers, "n_categories": self.n_categories, "impute": self.impute}

    def fit(self, rows: np.ndarray, y=None) -> Preprocessor:
        from sklearn.compose import ColumnTransformer
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        numbers = list(range(self.n_numbers))
        categories = list(range(self.n_numbers, self.n_numbers + self.n_categories))
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
        parts = [
            ("numbers", self._steps("median", StandardScaler()), numbers),
            ("categories", self._steps("most_frequent", encoder), categories),
        ]
        self.columns_ = ColumnTransformer([part for part in parts if part[2]]).fit(rows["values"])
        return self

    def transform(self, rows: np.ndarray) -> np.ndarray:
        return transform(self.columns_, rows["values"])

    def _steps(self, strategy: str, last):
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline

        return make_pipeline(SimpleImputer(strategy=strategy, keep_empty_features=True), last) if self.impute else last


def transform(columns, X: np.ndarray) -> np.ndarray:
    """What the model takes."""
    return np.asarray(columns.transform(X), np.float32)


TRUSTED = f"{Preprocessor.__module__}.{Preprocessor.__qualname__}"
