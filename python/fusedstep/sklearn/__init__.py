"""scikit-learn's multi-layer perceptrons on fused kernels, with its parameters, attributes and more; whitening."""

from .._extras import require

require("sklearn", extra="sklearn")

from .classifier import MLPClassifier  # noqa: E402
from .regressor import MLPRegressor  # noqa: E402
from .whitening import ZCA  # noqa: E402

__all__ = ["ZCA", "MLPClassifier", "MLPRegressor"]
