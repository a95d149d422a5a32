"""scikit-learn's multi-layer perceptrons on fused kernels: the same parameters and attributes, and more of both."""

from .._extras import require

require("sklearn", extra="sklearn")

from .classifier import MLPClassifier  # noqa: E402
from .regressor import MLPRegressor  # noqa: E402

__all__ = ["MLPClassifier", "MLPRegressor"]
