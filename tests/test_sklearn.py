"""The estimators within scikit-learn: targets, meta-estimators, going on, pickling."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

import joblib
import scipy.sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fusedstep as fs
from fusedstep.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
X = rng.standard_normal((80, 5))
TWO = (X[:, 0] > 0).astype(int)
THREE = np.digitize(X[:, 0], [-0.5, 0.5])
INDICATORS = (X[:, :3] > 0).astype(int)
NUMBER = X[:, 0] - 2 * X[:, 1]
QUICK = {"hidden_layer_sizes": (16,), "learning_rate_init": 0.02, "max_iter": 60, "random_state": 0}
KINDS = [(MLPClassifier, THREE), (MLPRegressor, NUMBER)]


def same(a, b) -> bool:
    """Equal bits of all parameters and buffers."""
    a, b = a.model_.state_dict(), b.model_.state_dict()
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# -- targets


@pytest.mark.parametrize(
    "labels",
    [
        np.array([3, 7]),
        np.array([-1.0, 1.0]),
        np.array([False, True]),
        np.array(["no", "yes"]),
        np.array(["b", "a", "c"], dtype=object),
        np.array([10, 20, 30]),
    ],
    ids=lambda labels: f"{labels.dtype}{len(labels)}",
)
def test_labels_of_any_type_come_back(labels):
    y = labels[TWO if len(labels) == 2 else THREE]
    model = MLPClassifier(**QUICK).fit(X, y)
    assert np.array_equal(model.classes_, np.unique(labels)) and model.classes_.dtype == labels.dtype
    assert model.predict(X).dtype == labels.dtype and model.score(X, y) > 0.9
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (80, len(labels))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), probabilities)
    assert np.array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(X))
    assert model.n_outputs_ == (1 if len(labels) == 2 else 3)


def test_log_probabilities_are_finite_where_probabilities_are_not():
    model = MLPClassifier(**QUICK).fit(X, TWO)
    far = 1e5 * X[:4]
    assert (model.predict_proba(far) == 0).any() and np.isfinite(model.predict_log_proba(far)).all()


@pytest.mark.parametrize("as_sparse", [False, True])
def test_an_indicator_matrix_is_several_labels(as_sparse):
    y = scipy.sparse.csr_array(INDICATORS) if as_sparse else INDICATORS
    model = MLPClassifier(**QUICK).fit(X, y)
    assert model.predict(X).shape == (80, 3) and model.score(X, INDICATORS) > 0.7
    assert model.out_activation_ == "logistic" and model.classes_.tolist() == [0, 1, 2]
    probabilities = model.predict_proba(X)
    assert np.array_equal(probabilities > 0.5, model.predict(X) == 1)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), probabilities)
    stopped = MLPClassifier(early_stopping=True, **QUICK).fit(X, y)
    assert 0 <= stopped.best_validation_score_ <= 1
    assert model.partial_fit(X, y).n_iter_ == 1
    with pytest.raises(ValueError, match="y must have 3 columns but has 2"):
        model.partial_fit(X, INDICATORS[:, :2])


def test_one_class_alone_is_always_predicted():
    model = MLPClassifier(**QUICK).fit(X, np.full(80, "only"))
    assert set(model.predict(X)) == {"only"} and (model.predict_proba(X) == 1).all()
    assert model.n_iter_ == 12 and model.out_activation_ == "softmax"


def test_a_column_of_labels_warns_as_in_scikit_learn():
    with pytest.warns(DataConversionWarning):
        assert MLPClassifier(max_iter=1).fit(X, TWO[:, None]).predict(X).shape == (80,)


def test_several_numbers():
    model = MLPRegressor(**QUICK).fit(X, X[:, :2])
    assert model.predict(X).shape == (80, 2) and model.score(X, X[:, :2]) > 0.8


@pytest.mark.parametrize("kind, y", [(MLPClassifier, INDICATORS), (MLPRegressor, X[:, :2])])
def test_columns_of_targets_in_any_memory_order(kind, y):
    turned = np.asfortranarray(y)  # as pandas keeps them
    options = {"max_iter": 3, "random_state": 0}
    for early_stopping in (False, True):
        one, other = (kind(early_stopping=early_stopping, **options).fit(X, t) for t in (y, turned))
        assert same(one, other)
    assert same(*(kind(**options).fit(X, y, validation=(X, t)) for t in (y, turned)))
    assert same(*(kind(**options).partial_fit(X, t) for t in (y, turned)))


def test_a_single_callback_needs_no_list():
    model = MLPClassifier(callbacks=fs.callbacks.EarlyStopping(2, monitor="train_loss"), **QUICK)
    assert clone(model).fit(X, TWO).n_iter_ == model.fit(X, TWO).n_iter_


def test_the_poisson_loss_predicts_what_is_positive_and_refuses_what_is_negative():
    model = MLPRegressor("poisson", **QUICK).fit(X, np.exp(X[:, 0]))
    assert (model.predict(X) > 0).all() and model.out_activation_ == "exp" and model.score(X, np.exp(X[:, 0])) > 0.7
    with pytest.raises(ValueError, match=r"'train y' must not be negative with loss='poisson' but is in sample 0"):
        MLPRegressor("poisson", shuffle=False).fit(X, -np.exp(X[:, 0]))


def test_class_weights_go_by_the_original_labels():
    y = np.array(["b", "a"])[(rng.random(80) < 0.15).astype(int)]
    share = {
        name: np.mean(MLPClassifier(class_weight=weight, **QUICK).fit(X, y).predict(X) == "a")
        for name, weight in {"none": None, "heavy": {"a": 50.0}, "light": {"a": 1e-6}, "balanced": "balanced"}.items()
    }
    assert share["light"] == 0 < share["none"] <= share["balanced"] <= share["heavy"]
    counts = {"a": np.mean(y == "b"), "b": np.mean(y == "a")}
    assert np.allclose(
        *[MLPClassifier(class_weight=w, **QUICK).fit(X, y).predict_proba(X) for w in ("balanced", counts)], atol=0.02
    )


# -- in scikit-learn's hands


def test_pipeline_and_grid_search():
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(batch_norm=True, **QUICK))
    grid = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__optimizer": ["adam", "rmsprop"]}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(X * 100, THREE)
    assert search.best_score_ > 0.75 and len(search.cv_results_["params"]) == 4


@pytest.mark.parametrize("kind, y", KINDS)
def test_cross_val_score_with_weights(kind, y):
    scores = cross_val_score(kind(**QUICK), X, y, cv=3, params={"sample_weight": np.arange(80)})
    assert scores.shape == (3,) and scores.min() > 0.5


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration(method):
    model = CalibratedClassifierCV(MLPClassifier(**QUICK), method=method, cv=3).fit(X, THREE)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    assert model.score(X, THREE) > 0.8


def test_transformed_target():
    model = TransformedTargetRegressor(MLPRegressor(**QUICK), transformer=StandardScaler()).fit(X, 1e4 * NUMBER)
    assert model.score(X, 1e4 * NUMBER) > 0.9


@pytest.mark.parametrize("kind, y", KINDS)
def test_clone_and_repr(kind, y):
    model = kind(dropout=0.25, callbacks=[fs.callbacks.StopOnNaN()], optimizer="adamw", **QUICK).fit(X, y)
    other = clone(model)
    assert not hasattr(other, "model_") and other.get_params()["dropout"] == 0.25
    assert same(model, other.fit(X, y))
    assert repr(kind(max_norm=1.0)) == f"{kind.__name__}(max_norm=1.0)"


def test_data_frames_carry_names_into_the_model():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = MLPRegressor(**QUICK).fit(frame, pd.Series(NUMBER))
    assert model.feature_names_in_.tolist() == list("abcde") and model.n_features_in_ == 5
    assert np.array_equal(model.predict(frame), MLPRegressor(**QUICK).fit(X, NUMBER).predict(X))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["b", "a", "c", "d", "e"]])
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**QUICK)).set_output(transform="pandas")
    assert pipeline.fit(frame, THREE)[-1].feature_names_in_.tolist() == list("abcde")


@pytest.mark.parametrize("kind, y", KINDS)
def test_the_same_random_state_gives_the_same_bits(kind, y):
    make = lambda state: kind(batch_size=16, dropout=0.2, **{**QUICK, "max_iter": 5, "random_state": state})  # noqa: E731
    assert same(make(1).fit(X, y), make(1).fit(X, y))
    assert same(make(1).fit(X, y), make(np.random.RandomState(1)).fit(X, y))
    assert not same(make(None).fit(X, y), make(None).fit(X, y))


# -- going on


@pytest.mark.parametrize("through", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "joblib"])
@pytest.mark.parametrize("kind, y", KINDS)
def test_partial_fit_goes_on_with_the_same_bits_after_pickling(kind, y, through, tmp_path):
    options = {"batch_size": 16, "dropout": 0.3, "batch_norm": True, "learning_rate": "invscaling", "solver": "sgd"}
    model = kind(**{**QUICK, **options, "random_state": None})
    model.partial_fit(X[:50], y[:50], **({"classes": [0, 1, 2]} if kind is MLPClassifier else {}))
    if through == "joblib":
        joblib.dump(model, tmp_path / "model.joblib")
        other = joblib.load(tmp_path / "model.joblib")
    else:
        other = through(model)
    assert np.array_equal(model.predict(X), other.predict(X))
    for part in (model, other):
        part.partial_fit(X[30:], y[30:], sample_weight=np.arange(50)).partial_fit(X, y)
    assert same(model, other) and model.loss_curve_ == other.loss_curve_
    assert model.t_ == 50 + 49 + 80 and [row["epoch"] for row in model.history_.rows] == [1, 2, 3]
    assert model.n_iter_ == 1 and len(model.loss_curve_) == 3


def test_partial_fit_is_fit_in_parts():
    """Passes one by one are those of one fit: same order of the samples, same state of the optimizer."""
    options = {**QUICK, "batch_size": 32, "dropout": 0.2, "max_iter": 4}
    whole = MLPRegressor(**options).fit(X, NUMBER)
    parts = MLPRegressor(**options)
    for _ in range(4):
        parts.partial_fit(X, NUMBER)
    assert same(whole, parts) and whole.loss_curve_ == parts.loss_curve_
    assert same(whole.partial_fit(X, NUMBER), parts.partial_fit(X, NUMBER))


def test_partial_fit_of_a_classifier_knows_all_classes_from_the_first_call():
    model = MLPClassifier(**QUICK)
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        model.partial_fit(X, THREE)
    some = THREE > 0
    model.partial_fit(X[some], THREE[some], classes=[2, 0, 1])
    assert model.classes_.tolist() == [0, 1, 2] and model.predict_proba(X).shape == (80, 3)
    model.partial_fit(X, THREE).partial_fit(X, THREE, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"must be those of the first call, \[0, 1, 2\]"):
        model.partial_fit(X, THREE, classes=[0, 1])
    with pytest.raises(ValueError, match="previously unseen labels"):
        model.partial_fit(X, THREE + 1)


@pytest.mark.parametrize("kind, y", KINDS)
def test_early_stopping_scores_each_partial_fit_but_neither_stops_nor_goes_back(kind, y):
    model = kind(early_stopping=True, **QUICK)
    first = {"classes": np.unique(y)} if kind is MLPClassifier else {}
    model.partial_fit(X, y, sample_weight=np.ones(80), **first)
    model.partial_fit(X, y, validation=(X, y))
    assert model.t_ == 72 + 80 and len(model.validation_scores_) == 2
    assert model.validation_scores_[-1] == pytest.approx(model.score(X, y))


@pytest.mark.parametrize("kind, y", KINDS)
def test_warm_start_goes_on_and_a_plain_fit_begins_anew(kind, y):
    model = kind(warm_start=True, **{**QUICK, "max_iter": 5})
    model.fit(X, y)
    first = model.loss_
    model.fit(X, y)
    assert len(model.loss_curve_) == 10 and model.loss_curve_[5] < first and model.t_ == 800
    assert model.n_iter_ == 5
    model.set_params(warm_start=False).fit(X, y)
    assert len(model.loss_curve_) == 5 and model.loss_ == first
    model.set_params(warm_start=True, hidden_layer_sizes=(7,))
    with pytest.raises(ValueError, match="hidden_layer_sizes, activation, batch_norm, dropout or the number of out"):
        model.fit(X, y)


def test_zero_weights_leave_samples_out():
    weights = (np.arange(80) < 50).astype(float)
    left_out = MLPRegressor(**QUICK).fit(X, NUMBER, sample_weight=weights)
    assert left_out.t_ == 50 * left_out.n_iter_
    np.testing.assert_allclose(left_out.predict(X), MLPRegressor(**QUICK).fit(X[:50], NUMBER[:50]).predict(X))


def test_a_class_that_counts_nothing_is_not_there():
    model = MLPClassifier(**QUICK).fit(X, THREE, sample_weight=THREE)
    assert model.classes_.tolist() == [1, 2] and same(model, MLPClassifier(**QUICK).fit(X, THREE, THREE))
    model = MLPClassifier(**QUICK).partial_fit(X, THREE, THREE, classes=[0, 1, 2])
    assert model.classes_.tolist() == [0, 1, 2]


def test_coefs_are_the_memory_of_the_model():
    model = MLPRegressor(**QUICK).fit(X, NUMBER)
    for array in (*model.coefs_, *model.intercepts_):
        array[...] = 0
    assert not model.predict(X).any()


def test_there_is_nothing_before_fit():
    model = MLPClassifier()
    assert not hasattr(model, "coefs_") and not hasattr(model, "intercepts_")
    for method in (model.predict, model.predict_proba, model.predict_log_proba):
        with pytest.raises(NotFittedError):
            method(X)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind, y", KINDS)
def test_a_device_trains_to_the_bits_of_the_cpu(kind, y):
    options = {"early_stopping": True, "batch_norm": True, "learning_rate": "adaptive", "solver": "sgd", "tol": 0.5}
    on_cpu, on_gpu = (
        kind(device=device, batch_size=30, n_iter_no_change=1, **options, **{**QUICK, "max_iter": 6})
        for device in ("cpu", "cuda")
    )
    for model in (on_cpu, on_gpu):
        model.fit(X, y, sample_weight=np.arange(80) % 3)
    assert on_gpu.model_.device == "cuda:0" and same(on_cpu, on_gpu) and on_cpu.loss_curve_ == on_gpu.loss_curve_
    assert np.array_equal(on_cpu.predict(X), on_gpu.predict(X))
    assert all(np.array_equal(a, b) for a, b in zip(on_cpu.coefs_, on_gpu.coefs_, strict=True))
    again = pickle.loads(pickle.dumps(on_gpu))
    assert same(on_gpu.partial_fit(X, y), again.partial_fit(X, y))


# -- imports


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_scikit_learn_is_imported_only_when_asked_for():
    code = "import sys, fusedstep as fs; print('sklearn' in sys.modules); fs.sklearn; print('sklearn' in sys.modules)"
    assert run(code).split() == ["False", "True"]


def test_the_extra_is_named_where_scikit_learn_is_missing():
    code = """
import sys
sys.modules["sklearn"] = None
import fusedstep as fs
try:
    fs.sklearn
except ImportError as error:
    print(error)
"""
    assert run(code).strip() == "sklearn is missing: pip install 'fusedstep[sklearn]'"
    with pytest.raises(AttributeError, match="module 'fusedstep' has no attribute 'nothing'"):
        fs.nothing  # noqa: B018
