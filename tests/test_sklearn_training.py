"""The training of the estimators: scikit-learn's, step for step where both are defined alike, and what is our own."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn import neural_network as theirs
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler, scale

import fusedstep as fs
from fusedstep.sklearn import MLPClassifier, MLPRegressor
from fusedstep.sklearn.objective import HalfPoissonDeviance, L2Penalty

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = ("MLPClassifier", "MLPRegressor")
rng = np.random.default_rng(0)
X = rng.standard_normal((90, 6))
TARGETS = {
    "two classes": (X[:, 0] + 0.3 * rng.standard_normal(90) > 0).astype(int),
    "three classes": np.digitize(X[:, 0] + 0.3 * rng.standard_normal(90), [-0.5, 0.5]),
    "indicators": (X[:, :3] + 0.3 * rng.standard_normal((90, 3)) > 0).astype(int),
    "one number": X[:, 0] * X[:, 1],
    "two numbers": X[:, :2] ** 2,
}
WEIGHTS = rng.integers(1, 4, 90).astype(float)


def kind_for(target: str) -> str:
    return "MLPRegressor" if "number" in target else "MLPClassifier"


def both(kind: str, **options):
    """scikit-learn's estimator and ours."""
    options = {"random_state": 3, "max_iter": 12, "shuffle": False, "hidden_layer_sizes": (9, 5), **options}
    return getattr(theirs, kind)(**options), getattr(fs.sklearn, kind)(**options)


def assert_same_training(their, our, rtol=1e-9):
    np.testing.assert_allclose(our.loss_curve_, their.loss_curve_, rtol=rtol)
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(our, name), getattr(their, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(our, name) == getattr(their, name), name
    np.testing.assert_allclose(our.loss_, their.loss_, rtol=rtol)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.5, "batch_size": 40},
        {"alpha": 0.0, "activation": "tanh"},
        {"activation": "logistic", "nesterovs_momentum": False},
        {"momentum": 0.0, "hidden_layer_sizes": ()},
        {"learning_rate": "invscaling", "learning_rate_init": 0.5},
        {"learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1, "learning_rate_init": 0.05},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_sgd_takes_the_steps_of_scikit_learn(target, options):
    """A remainder's larger penalty, the velocity when the rate falls, the sums over several outputs."""
    options = {"learning_rate_init": 0.05, **options}
    their, our = (model.fit(X, TARGETS[target]) for model in both(kind_for(target), solver="sgd", **options))
    assert_same_training(their, our)
    np.testing.assert_allclose(our.predict(X), their.predict(X), rtol=1e-9, atol=1e-9)
    if hasattr(our, "predict_proba"):
        np.testing.assert_allclose(our.predict_proba(X), their.predict_proba(X), rtol=1e-9)


@pytest.mark.parametrize("target", TARGETS)
def test_adam_takes_the_steps_of_scikit_learn_but_for_epsilon(target):
    their, our = (model.fit(X, TARGETS[target]) for model in both(kind_for(target), epsilon=1e-30, alpha=0.3))
    assert_same_training(their, our, rtol=1e-7)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_count_as_in_scikit_learn(target):
    their, our = both(kind_for(target), solver="sgd", alpha=1.0, learning_rate_init=0.05)
    assert_same_training(*(model.fit(X, TARGETS[target], sample_weight=WEIGHTS) for model in (their, our)))


def test_the_poisson_loss_is_that_of_scikit_learn():
    counts = np.random.default_rng(1).poisson(np.exp(X[:, :1] + X[:, 1:2] / 2)).astype(float)
    for y in (counts[:, 0], np.hstack([counts, counts + 1])):
        pair = both("MLPRegressor", loss="poisson", solver="sgd", learning_rate_init=0.01)
        their, our = (model.fit(X, y, sample_weight=WEIGHTS) for model in pair)
        assert_same_training(their, our)
        np.testing.assert_allclose(our.predict(X), their.predict(X), rtol=1e-9)


def test_the_gradient_of_the_poisson_loss():
    output, target = np.array([[0.3, -1.0], [2.0, 0.1]]), np.array([[1.0, 0.0], [3.0, 2.0]])
    loss, weights = HalfPoissonDeviance(), np.array([1.0, 3.0])
    _, gradient = loss(output, target, weights)
    for index in np.ndindex(2, 2):
        step = np.zeros((2, 2))
        step[index] = 1e-6
        difference = loss(output + step, target, weights)[0] - loss(output - step, target, weights)[0]
        assert gradient[index] == pytest.approx(difference / 2e-6, rel=1e-6)


@pytest.mark.parametrize("target", ["two classes", "one number"])
def test_early_stopping_holds_out_the_samples_of_scikit_learn_and_stops_in_the_same_epoch(target):
    options = {"solver": "sgd", "early_stopping": True, "max_iter": 100, "learning_rate_init": 0.02, "tol": 0.01}
    pair = both(kind_for(target), validation_fraction=0.2, n_iter_no_change=3, **options)
    their, our = (model.fit(X, TARGETS[target], sample_weight=WEIGHTS) for model in pair)
    assert_same_training(their, our)
    assert our.n_iter_ < 100 and our.best_loss_ is None
    np.testing.assert_allclose(our.validation_scores_, their.validation_scores_)
    assert our.best_validation_score_ == pytest.approx(their.best_validation_score_)


def test_digits_as_well_as_scikit_learn():
    data = train_test_split(*load_digits(return_X_y=True), random_state=0)
    scores = []
    for model in (theirs.MLPClassifier, MLPClassifier):
        model = model(random_state=0, max_iter=60).fit(data[0] / 16, data[2])
        scores.append(model.score(data[1] / 16, data[3]))
    assert scores[1] > 0.95 and scores[1] > scores[0] - 0.01


def test_diabetes_as_well_as_scikit_learn():
    features, y = load_diabetes(return_X_y=True)
    data = train_test_split(scale(features), scale(y), random_state=0)
    scores = []
    for model in (theirs.MLPRegressor, MLPRegressor):
        model = model(hidden_layer_sizes=(20,), random_state=0, max_iter=100, alpha=1.0, early_stopping=True)
        scores.append(model.fit(data[0], data[2]).score(data[1], data[3]))
    assert scores[1] > 0.3 and scores[1] > scores[0] - 0.05


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("MLPRegressor", {}),
        ("MLPClassifier", {}),
        ("MLPClassifier", {"class_weight": "balanced"}),
        ("MLPClassifier", {"class_weight": {0: 2.0}}),
    ],
)
def test_weights_and_repeated_samples_give_the_same_model(kind, more):
    """Of a full batch, weights of 0 among them."""
    y = TARGETS["three classes" if kind == "MLPClassifier" else "one number"]
    counts = np.random.default_rng(2).integers(0, 4, len(X))
    make = lambda: getattr(fs.sklearn, kind)(random_state=0, batch_size=None, max_iter=30, **more)  # noqa: E731
    weighted = make().fit(X, y, sample_weight=counts)
    repeated = make().fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(weighted.coefs_[0], repeated.coefs_[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_type_of_x_is_the_type_of_training(kind, dtype):
    y = TARGETS["three classes" if kind == "MLPClassifier" else "one number"]
    model = getattr(fs.sklearn, kind)(max_iter=3, batch_norm=True, dropout=0.1).fit(X.astype(dtype), y)
    arrays = [*model.coefs_, *model.intercepts_, *model.model_.buffers().values()]
    assert {a.dtype for a in arrays if a.dtype.kind == "f"} == {np.dtype(dtype)} == {model.model_.dtype}
    assert model._outputs(X).dtype == dtype
    assert kind == "MLPClassifier" or model.predict(X).dtype == dtype


def test_other_types_are_trained_in_float64():
    assert MLPRegressor(max_iter=1).fit(np.arange(10)[:, None], np.arange(10)).model_.dtype == np.float64
    assert MLPRegressor(max_iter=1).fit([[1.5], [2]], [1, 2]).predict(np.float32([[1]])).dtype == np.float64


OPTIMIZERS = {
    "sgd": fs.optim.SGD,
    "momentum": fs.optim.Momentum,
    "adagrad": fs.optim.Adagrad,
    "rmsprop": fs.optim.RMSprop,
    "adam": fs.optim.Adam,
    "adamw": fs.optim.AdamW,
    "adamax": fs.optim.Adamax,
    "nadam": fs.optim.NAdam,
    "radam": fs.optim.RAdam,
}


class Watch(fs.callbacks.Callback):
    """Keeps the optimizer of the last run and the step sizes; the same object also in a clone."""

    def __init__(self):
        self.lrs, self.decays, self.norms = [], [], []

    def on_train_begin(self, run):
        self.lrs, self.decays, self.norms, self.optimizer = [], [], [], run.optimizer

    def before_step(self, run):
        self.lrs.append(run.optimizer.lr)
        self.decays.append([group["weight_decay"] for group in run.optimizer.param_groups])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name):
    watch = Watch()
    model = MLPClassifier(optimizer=name, learning_rate_init=0.02, max_iter=60, random_state=0, callbacks=[watch])
    assert model.fit(X, TARGETS["two classes"]).score(X, TARGETS["two classes"]) > 0.85
    assert type(watch.optimizer) is OPTIMIZERS[name]


def test_an_optimizer_of_the_users_own():
    watch = Watch()
    model = MLPClassifier(
        optimizer=lambda model: fs.optim.RMSprop(model.parameters(), lr=0.01, centered=True, weight_decay=0.25),
        callbacks=[watch],
        max_iter=3,
    ).fit(X, TARGETS["two classes"])
    assert watch.optimizer.param_groups[0]["centered"] and watch.decays == [[0.25]] * 3
    assert model.loss_curve_ == model.history_.column("train_loss")
    with pytest.raises(TypeError, match=r"must be a function model -> fusedstep\.optim\.Optimizer but gave None"):
        MLPClassifier(optimizer=lambda model: None).fit(X, TARGETS["two classes"])


def test_the_penalty_is_divided_by_what_the_batch_counts_and_spares_biases_and_batch_norm():
    watch = Watch()
    weights = np.full(90, 0.5)
    MLPClassifier(alpha=1.0, batch_size=40, max_iter=1, callbacks=[watch], batch_norm=True).fit(
        X, TARGETS["two classes"], sample_weight=weights
    )
    assert watch.decays == [[1 / 20, 0.0], [1 / 25, 0.0]]  # the remainder of 10 joins the batch before it
    decayed, spared = ([p.name for p in group["params"]] for group in watch.optimizer.param_groups)
    assert decayed == ["0.weight", "3.weight"]
    assert spared == ["1.weight", "1.bias", "3.bias"]


def test_adamw_decouples_the_penalty_which_is_then_no_part_of_the_loss():
    y = TARGETS["one number"]
    model = MLPRegressor(optimizer="adamw", alpha=5.0, max_iter=4).fit(X, y)
    assert model.loss_curve_ == model.history_.column("train_loss")
    coupled = MLPRegressor(optimizer="adam", alpha=5.0, max_iter=4).fit(X, y)
    assert all(a > b for a, b in zip(coupled.loss_curve_, coupled.history_.column("train_loss"), strict=True))


@pytest.mark.parametrize("name", ["constant", "inverse_sqrt", "cosine", "warmup_cosine", "one_cycle"])
def test_schedules_by_name_span_the_whole_training(name):
    watch = Watch()
    model = MLPRegressor(schedule=name, batch_size=30, max_iter=20, learning_rate_init=0.5, n_iter_no_change=math.inf)
    model.set_params(callbacks=[watch]).fit(X, TARGETS["one number"])
    assert len(watch.lrs) == 60 and max(watch.lrs) == 0.5
    expected = {"constant": 0.5, "inverse_sqrt": 0.5 / math.sqrt(60)}
    if name in expected:
        assert watch.lrs[-1] == pytest.approx(expected[name])
    else:
        assert watch.lrs[-1] < 0.005
    assert (watch.lrs[0] == 0.5) == (name in ("constant", "inverse_sqrt", "cosine"))


def test_a_schedule_of_the_users_own():
    watch = Watch()
    model = MLPRegressor(schedule=lambda step: 0.1 / (step + 1), max_iter=3, callbacks=[watch])
    model.fit(X, TARGETS["one number"])
    assert watch.lrs == [0.1, 0.05, 0.1 / 3]
    model.partial_fit(X, TARGETS["one number"])
    assert watch.lrs == [0.1 / 4]


def test_clipping():
    watch = Watch()
    MLPRegressor(max_norm=0.25, max_iter=1, callbacks=[watch]).fit(X, TARGETS["one number"])
    assert watch.optimizer.max_norm == 0.25


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu", "leaky_relu", "gelu"])
def test_activations(activation):
    model = MLPRegressor(hidden_layer_sizes=(4, 3), activation=activation, max_iter=2, batch_norm=True, dropout=0.5)
    model.fit(X, TARGETS["one number"])
    own = {"logistic": "Sigmoid", "relu": "ReLU", "leaky_relu": "LeakyReLU", "gelu": "GELU", "tanh": "Tanh"}
    hidden = ["Dense", "BatchNorm", *([own[activation]] if activation in own else []), "Dropout"]
    assert [type(layer).__name__ for layer in model.model_.layers] == [*hidden, *hidden, "Dense"]
    assert [c.shape for c in model.coefs_] == [(6, 4), (4, 3), (3, 1)]
    assert [b.shape for b in model.intercepts_] == [(4,), (3,), (1,)]
    assert not model.intercepts_[0].any() and model.intercepts_[2].any()


def test_the_penalty_of_the_loss_is_the_mean_over_the_batches():
    class Batches:
        arrays = (None, None)

        def totals(self, weights):
            return [2, 6]

    p = fs.nn.Parameter(np.array([[3.0, 4.0]]), np.zeros((1, 2)), "p")
    group = {"weight_decay": None}
    penalty = L2Penalty(0.5, [p], group)
    run = type("Run", (), {"batches": Batches(), "batch_index": 0})()
    penalty.on_epoch_begin(run)
    for index, decay in enumerate((0.25, 0.5 / 6)):
        run.batch_index = index
        penalty.before_step(run)
        assert group["weight_decay"] == decay
    assert penalty.value == pytest.approx((0.25 * 25 / 2 * 2 + 0.25 * 25 / 6 * 6) / 8)


def test_standardized_inputs_in_float32_and_float64_start_alike():
    features = StandardScaler().fit_transform(X)
    losses = [
        MLPRegressor(random_state=5, max_iter=5).fit(features.astype(t), TARGETS["one number"]).loss_curve_
        for t in (np.float32, np.float64)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
