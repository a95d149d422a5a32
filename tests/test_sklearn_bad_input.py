"""What the estimators refuse, by name, before they change."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

import scipy.sparse

import fusedstep as fs
from fusedstep.sklearn import MLPClassifier, MLPRegressor

rng = np.random.default_rng(0)
X = rng.standard_normal((80, 5))
TWO = (X[:, 0] > 0).astype(int)
THREE = np.digitize(X[:, 0], [-0.5, 0.5])
INDICATORS = (X[:, :3] > 0).astype(int)
NUMBER = X[:, 0] - 2 * X[:, 1]
KINDS = [(MLPClassifier, THREE), (MLPRegressor, NUMBER)]


@pytest.mark.parametrize("kind, y", KINDS)
@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"hidden_layer_sizes": (5, 0)}, ValueError, "'hidden_layer_sizes' must be in"),
        ({"hidden_layer_sizes": "100"}, TypeError, "'hidden_layer_sizes' must be an integer but got '100'"),
        ({"hidden_layer_sizes": 2.5}, TypeError, "'hidden_layer_sizes' must be an integer"),
        ({"activation": "swish"}, ValueError, "'activation' must be one of 'identity', 'logistic'"),
        ({"solver": "lbfgs"}, ValueError, "'solver' must be 'adam' or 'sgd' but got 'lbfgs': there is no kernel"),
        ({"solver": "newton"}, ValueError, "'solver' must be one of 'adam', 'sgd'"),
        ({"alpha": -1}, ValueError, r"'alpha' must be in \[0, inf\) but got -1"),
        ({"batch_size": 0}, ValueError, "'batch_size' must be in"),
        ({"batch_size": "all"}, TypeError, "'batch_size' must be an integer but got 'all'"),
        ({"learning_rate": "fast"}, ValueError, "'learning_rate' must be one of"),
        ({"learning_rate_init": 0}, ValueError, "'learning_rate_init' must be greater than 0"),
        ({"power_t": -1}, ValueError, "'power_t' must be in"),
        ({"max_iter": 0}, ValueError, "'max_iter' must be in"),
        ({"max_fun": 0}, ValueError, "'max_fun' must be in"),
        ({"shuffle": 1}, TypeError, "'shuffle' must be True or False but got 1"),
        ({"early_stopping": "yes"}, TypeError, "'early_stopping' must be True or False"),
        ({"random_state": "x"}, ValueError, "cannot be used to seed"),
        ({"tol": float("nan")}, ValueError, "'tol' must be in"),
        ({"momentum": 1.5}, ValueError, r"'momentum' must be in \[0, 1\] but got 1.5"),
        ({"validation_fraction": 1.0}, ValueError, r"'validation_fraction' must be in \[0, 1\) but got 1.0"),
        ({"beta_1": 1.0}, ValueError, "'beta_1' must be in"),
        ({"beta_2": -0.1}, ValueError, "'beta_2' must be in"),
        ({"epsilon": 0.0}, ValueError, "'epsilon' must be greater than 0"),
        ({"n_iter_no_change": 0}, ValueError, "'n_iter_no_change' must be in"),
        ({"verbose": -1}, ValueError, "'verbose' must be in"),
        ({"batch_norm": "on"}, TypeError, "'batch_norm' must be True or False"),
        ({"dropout": 1.0}, ValueError, r"'dropout' must be in \[0, 1\) but got 1.0"),
        ({"optimizer": "lion"}, ValueError, "'optimizer' must be one of 'sgd', 'momentum'"),
        ({"schedule": "linear"}, ValueError, "'schedule' must be one of 'constant'"),
        ({"schedule": "cosine", "learning_rate": "adaptive"}, ValueError, "both set the step size: give one"),
        ({"optimizer": fs.optim.Adam, "schedule": "cosine"}, ValueError, "'schedule' belongs into the function"),
        ({"optimizer": fs.optim.Adam, "max_norm": 1.0}, ValueError, "'max_norm' belongs into the function"),
        ({"optimizer": fs.optim.Adam, "learning_rate": "adaptive"}, ValueError, "'learning_rate' belongs into"),
        ({"max_norm": 0.0}, ValueError, "'max_norm' must be greater than 0"),
        ({"device": "tpu"}, ValueError, "'device' must be 'cpu', 'cuda' or"),
        ({"callbacks": [print]}, TypeError, r"\[MLP.*\] 'callbacks' must be instances of .* but got <built-in"),
        ({"callbacks": None}, TypeError, r"\[MLP.*\] 'callbacks' must be instances of .* but got None"),
        ({"early_stopping": True, "validation_fraction": 0.0}, ValueError, "of 80 samples holds out 0"),
        ({"batch_norm": True, "batch_size": 1}, ValueError, "BatchNorm"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_parameters(kind, y, options, error, message):
    model = kind(**options)
    with pytest.raises(error, match=message):
        model.fit(X, y)
    assert not hasattr(model, "model_")


@pytest.mark.parametrize("kind, y", KINDS)
@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"sample_weight": np.ones(79)}, ValueError, "sample_weight.shape"),
        ({"sample_weight": -np.ones(80)}, ValueError, "'sample_weight' must not be negative"),
        ({"sample_weight": np.zeros(80)}, ValueError, "at least one non-zero"),
        ({"sample_weight": np.full(80, np.nan)}, ValueError, "sample_weight contains NaN"),
        ({"validation": X}, TypeError, r"'validation' must be \(X, y\) or \(X, y, sample_weight\) but got ndarray"),
        ({"validation": (X[:, :2], np.zeros(80))}, ValueError, "2 features"),
        ({"validation": (X, np.zeros(80), np.zeros(80))}, ValueError, "at least one non-zero"),
    ],
)
def test_wrong_weights_and_validation_data(kind, y, given, error, message):
    with pytest.raises(error, match=message):
        kind().fit(X, y, **given)


@pytest.mark.parametrize(
    "options, y, message",
    [
        ({"class_weight": {5: 1.0}}, THREE, "names the class 5, which y has not"),
        ({"class_weight": {1: -1.0}}, THREE, "'class_weight' must be in"),
        ({"class_weight": "equal"}, THREE, "must be 'balanced' or a dict but got 'equal'"),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, THREE, "have the weight 0 in 'class_weight'"),
        ({"class_weight": "balanced"}, INDICATORS, "needs one label a sample"),
        ({}, NUMBER, "Unknown label type"),
        ({}, np.stack([THREE, THREE], axis=1), "must hold 0 and 1, a column a label"),
    ],
)
def test_wrong_targets_and_class_weights(options, y, message):
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**options).fit(X, y)


def test_wrong_targets_of_a_regressor():
    with pytest.raises(ValueError, match="'loss' must be one of 'squared_error', 'poisson'"):
        MLPRegressor(loss="absolute").fit(X, NUMBER)
    model = MLPRegressor(warm_start=True, tol=1.0).fit(X, NUMBER)
    with pytest.raises(ValueError, match="as many outputs as before, 1, but has 2"):
        model.fit(X, X[:, :2])


def test_labels_that_only_validation_data_have_are_refused():
    with pytest.raises(ValueError, match="previously unseen labels"):
        MLPClassifier().fit(X, TWO, validation=(X, THREE))


def test_partial_fit_refuses_what_needs_all_steps_or_all_samples():
    model = MLPClassifier(schedule="cosine")
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError):
        model.partial_fit(X, TWO, classes=[0, 1])
    with pytest.raises(ValueError, match="needs all samples at once"):
        MLPClassifier(class_weight="balanced").partial_fit(X, TWO, classes=[0, 1])


def test_sparse_and_single_samples_are_refused():
    with pytest.raises(TypeError, match="Sparse data was passed"):
        MLPClassifier().fit(scipy.sparse.csr_array(X), TWO)
    with pytest.raises(ValueError, match="needs more than 1 sample to train on"):
        MLPRegressor(batch_norm=True).fit(X[:1], NUMBER[:1])
