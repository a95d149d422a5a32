"""The regressor."""

from __future__ import annotations

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if

from .. import _checks, nn
from .base import BaseMLP, goes_on
from .objective import HalfPoissonDeviance, Scaled


class MLPRegressor(RegressorMixin, BaseMLP):
    """Multi-layer perceptron regressor with scikit-learn's parameters and attributes, on fused kernels.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default="squared_error"
        Half the squared error; or half the Poisson deviance, for targets that are not negative, of a model whose
        output is the logarithm of what it predicts.
    hidden_layer_sizes, activation, and all others
        As for `MLPClassifier`, which alone has `class_weight`. The score that early stopping watches is R2.

    Attributes
    ----------
    model_ : fusedstep.nn.Sequential
    out_activation_ : str
        "identity", or "exp" for ``loss="poisson"``.
    history_, coefs_, intercepts_, loss_, and all others
        As for `MLPClassifier`.

    Notes
    -----
    y keeps its unit: standardize it, with `sklearn.compose.TransformedTargetRegressor` say, where it is far from 1.
    As in scikit-learn the gradient of several outputs is that of their sum, while `loss_curve_` reports the mean of
    their squared errors.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.sklearn import MLPRegressor
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> regressor = MLPRegressor(hidden_layer_sizes=(32, 32), learning_rate_init=0.01, random_state=0)
    >>> bool(regressor.fit(X[::2], np.sin(3 * X[::2, 0])).score(X[1::2], np.sin(3 * X[1::2, 0])) > 0.99)
    True
    """

    _metric_name = "r2"
    _y_numeric = True

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        batch_norm=False,
        dropout=0.0,
        optimizer=None,
        schedule=None,
        device="cpu",
        callbacks=(),
        max_norm=None,
    ):
        self._store(locals())

    @available_if(goes_on)
    def partial_fit(self, X, y, sample_weight=None, *, validation=None):
        """Go once through (X, y); the optimizer goes on from the last call, also after pickling.

        Parameters
        ----------
        X, y, sample_weight, validation
            As for `fit`.

        Returns
        -------
        self

        Raises
        ------
        AttributeError
            `schedule` is one that spans the whole training, such as "cosine".
        TypeError, ValueError
            As for `fit`.
        """
        return self._fit(X, y, sample_weight, validation, incremental=True)

    def predict(self, X) -> np.ndarray:
        """Predictions of X's floating type, (n_samples,) or (n_samples, n_outputs)."""
        predicted = self._respond(self._outputs(X), self.out_activation_)
        return predicted[:, 0] if self.n_outputs_ == 1 else predicted

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @staticmethod
    def _respond(output: np.ndarray, out_activation: str) -> np.ndarray:
        return np.exp(output) if out_activation == "exp" else output

    def _learn_targets(self, y, classes):
        _checks.choice("MLPRegressor", "loss", self.loss, ("squared_error", "poisson"))
        return {
            "n_outputs_": 1 if y.ndim == 1 else y.shape[1],
            "out_activation_": "exp" if self.loss == "poisson" else "identity",
        }

    def _encode(self, y, kind, dtype):
        target = y.reshape(len(y), -1).astype(dtype, order="C")
        if target.shape[1] != kind["n_outputs_"]:
            raise ValueError(
                f"[MLPRegressor] y must have as many outputs as before, {kind['n_outputs_']}, but has {target.shape[1]}"
            )
        return target

    def _loss(self, kind):
        if kind["out_activation_"] == "exp":
            return HalfPoissonDeviance()
        return Scaled(nn.MeanSquaredError(), 0.5, 0.5 * kind["n_outputs_"])

    def _score_outputs(self, target, output, weights, kind):
        predicted = self._respond(output, kind["out_activation_"])
        return float(r2_score(target, predicted, sample_weight=weights))
