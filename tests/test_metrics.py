import math
import sys
from functools import partial

import numpy as np
import pytest

import small_problem as small
from fusedstep import nn, optim
from fusedstep.evaluation import evaluate
from fusedstep.metrics import accuracy, f1_macro, r2, resolve, rmse, roc_auc
from fusedstep.training import fit

DTYPES = [np.float16, np.float32, np.float64]


def classes(n=60, c=3, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, c, n)
    return target, rng.normal(size=(n, c)) + 0.7 * np.eye(c)[target]


def bits(shape, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, shape)
    return target, rng.normal(size=shape) + target


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# -- each gives what scikit-learn gives


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [2, 3, 5])
def test_classes_that_exclude_each_other(dtype, c):
    sklearn = pytest.importorskip("sklearn.metrics")
    target, output = classes(c=c)
    output = output.astype(dtype)
    wide = output.astype(np.float64)
    assert accuracy(target, output) == sklearn.accuracy_score(target, wide.argmax(axis=1))
    assert f1_macro(target, output) == sklearn.f1_score(target, wide.argmax(axis=1), average="macro")
    if c == 2:
        assert roc_auc(target, output) == sklearn.roc_auc_score(target, wide[:, 1] - wide[:, 0])
    else:
        expected = sklearn.roc_auc_score(target, softmax(wide), multi_class="ovr", average="macro")
        assert math.isclose(roc_auc(target, output), expected, rel_tol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 1, 1)])
@pytest.mark.parametrize("kind", [np.float32, np.int64, bool])
def test_one_logit(dtype, shape, kind):
    sklearn = pytest.importorskip("sklearn.metrics")
    target, output = bits(shape)
    target, output = target.astype(kind), output.astype(dtype)
    flat, score = target.ravel().astype(int), output.ravel().astype(np.float64)
    assert accuracy(target, output) == sklearn.accuracy_score(flat, score > 0)
    assert f1_macro(target, output) == sklearn.f1_score(flat, score > 0, average="macro")
    assert roc_auc(target, output) == sklearn.roc_auc_score(flat, score)


@pytest.mark.parametrize("shape", [(50, 2), (50, 4), (50, 2, 2)])
def test_several_labels_a_sample(shape):
    sklearn = pytest.importorskip("sklearn.metrics")
    target, output = bits(shape)
    flat, score = target.reshape(50, -1), output.reshape(50, -1)
    assert accuracy(target, output) == np.mean((score > 0) == flat)
    assert f1_macro(target, output) == sklearn.f1_score(flat, score > 0, average="macro")
    assert roc_auc(target, output) == sklearn.roc_auc_score(flat, score, average="macro")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3), (40, 2, 2)])
def test_regression(dtype, shape):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    target, noise = rng.normal(size=(2, *shape))
    target, output = target.astype(dtype), (target + 0.3 * noise).astype(dtype)
    t, o = (a.reshape(40, -1).astype(np.float64) for a in (target, output))
    assert rmse(target, output) == math.sqrt(np.mean((t - o) ** 2))
    assert r2(target, output) == sklearn.r2_score(t, o)


@pytest.mark.parametrize("seed", range(40))
def test_small_sets_that_lack_classes(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(1, 7)), int(rng.integers(2, 5))
    target, output = rng.integers(0, c, n), np.round(rng.normal(size=(n, c)), 1)
    predicted = output.argmax(axis=1)
    assert f1_macro(target, output) == sklearn.f1_score(target, predicted, average="macro")
    assert accuracy(target, output) == sklearn.accuracy_score(target, predicted)
    value = roc_auc(target, output)
    assert math.isnan(value) == (len(set(target)) < c)
    if not math.isnan(value):
        columns = softmax(output).T if c > 2 else [output[:, 1] - output[:, 0]]
        own = [sklearn.roc_auc_score(target == k, score) for k, score in enumerate(columns, start=c == 2)]
        assert math.isclose(value, np.mean(own), rel_tol=1e-12)


def test_half_precision_does_not_overflow():
    target, output = np.zeros((4, 1), np.float16), np.full((4, 1), 60000, np.float16)
    assert rmse(target, output) == 59999.0 + 1.0 == float(output[0, 0])


def test_a_class_that_nobody_has_or_predicts_is_left_out_of_f1():
    sklearn = pytest.importorskip("sklearn.metrics")
    target = np.array([0, 0, 1, 1])
    output = np.array([[2.0, 1, 0], [0, 1, 0], [0, 1, 0], [3, 1, 0]])
    assert f1_macro(target, output) == sklearn.f1_score(target, output.argmax(1), average="macro") == 0.5
    # Predicted, but nobody's: it counts, with F1 = 0.
    output[1] = [0, 0, 9]
    assert f1_macro(target, output) == sklearn.f1_score(target, output.argmax(1), average="macro") < 0.5


# -- what has no value is NaN, without a warning (warnings are errors here)


@pytest.mark.parametrize(
    ("target", "output"),
    [
        (np.zeros(4, int), np.eye(4, 2)),
        (np.array([0, 1, 1, 0]), np.eye(4, 3)),
        (np.ones(4), np.arange(4.0)),
        (np.ones((4, 1)), np.arange(4.0)[:, None]),
        (np.array([[0, 1], [1, 1], [0, 1]]), np.arange(6.0).reshape(3, 2)),
        (np.array([0, 1, 0]), np.array([0.0, np.nan, 1.0])),
        (np.array([0, 1, 0]), np.array([0.0, np.inf, 1.0])),
        (np.array([0, 1, 0]), np.array([[0.0, 1], [np.inf, np.inf], [0, 2]])),
        (np.array([0, 1, 0]), np.array([[-1e308, 1e308], [0, 1], [0, 2]])),
        (np.array([0, 1, 2]), np.array([[0.0, 1, 2], [np.nan, 0, 0], [0, 2, 1]])),
        (np.array([0, 1, 2]), np.array([[0.0, 1, 2], [np.inf, 0, 0], [0, 2, 1]])),
    ],
)
def test_auc_that_is_not_defined(target, output):
    pytest.importorskip("sklearn")
    value = roc_auc(target, output)
    assert isinstance(value, float) and math.isnan(value)


def test_huge_logits_have_an_auc():
    pytest.importorskip("sklearn")
    assert roc_auc(np.arange(3), np.eye(3) * 1e308 * 1.5 - 1e308) == 1.0


def test_nan_predicts_no_class():
    sklearn = pytest.importorskip("sklearn.metrics")
    target = np.array([0, 0, 1, 1])
    output = np.array([[2.0, 1], [2, 1], [0, 1], [np.nan, 1]])
    assert accuracy(target, output) == 0.75
    expected = sklearn.f1_score(target, [0, 0, 1, -1], labels=[0, 1], average="macro")
    assert f1_macro(target, output) == expected == (1 + 2 / 3) / 2
    assert f1_macro(target, np.full((4, 2), np.nan)) == 0 == accuracy(target, np.full((4, 2), np.nan))
    one = np.array([-1.0, -1.0, 1.0, np.nan])
    assert accuracy(target, one) == 0.75 and f1_macro(target, one) == expected
    several = np.stack([one, one], axis=1)
    assert f1_macro(np.stack([target, target], axis=1), several) == 2 / 3
    assert accuracy(np.stack([target, target], axis=1), several) == 0.75


@pytest.mark.parametrize(
    ("target", "output"),
    [([1.0, 2.0], [np.nan, 2.0]), ([1.0, 2.0], [np.inf, 2.0]), ([np.nan, 2.0], [1.0, 2.0]), ([1.0], [1.0])],
)
def test_r2_that_is_not_defined(target, output):
    pytest.importorskip("sklearn")
    assert math.isnan(r2(np.array(target), np.array(output)))


def test_rmse_of_what_is_not_finite():
    assert math.isnan(rmse(np.ones(2), np.array([np.nan, 1])))
    assert rmse(np.ones(2), np.array([np.inf, 1])) == math.inf
    assert rmse(np.array([-1e308]), np.array([1e308])) == math.inf


def test_r2_of_a_constant_target():
    pytest.importorskip("sklearn")
    assert r2(np.ones(3), np.ones(3)) == 1 and r2(np.ones(3), np.arange(3.0)) == 0


@pytest.mark.parametrize("metric", [accuracy, f1_macro, roc_auc])
@pytest.mark.parametrize(
    ("target", "output", "message"),
    [
        (np.zeros(3), np.zeros((3, 1)), r"but have \(3,\) and \(3, 1\)"),
        (np.zeros((3, 1)), np.zeros((3, 2)), r"but have \(3, 1\) and \(3, 2\)"),
        (np.zeros(4), np.zeros((3, 2)), r"but have \(4,\) and \(3, 2\)"),
        (1.0, 1.0, r"but have \(\) and \(\)"),
        (np.zeros(0), np.zeros((0, 2)), r"is empty: its shape is \(0,\)"),
        (np.array([0, 2]), np.zeros((2, 2)), r"holds 2 at index 1 but the classes of 'output' are 0 \.\.\. 1"),
        (np.array([0, -1]), np.zeros((2, 2)), "holds -1 at index 1"),
        (np.array([0.5, 1]), np.zeros((2, 2)), r"holds 0\.5 at index 0"),
        (np.array([np.nan, 1]), np.zeros((2, 2)), "holds nan at index 0"),
        (np.array([1, 2]), np.zeros(2), "must be 0 or 1 where each 'output' is a logit but holds 2"),
        (np.array([[1, 0], [-1, 0]]), np.zeros((2, 2)), "but holds -1"),
        (np.array([1, np.nan]), np.zeros(2), "but holds nan"),
    ],
)
def test_wrong_targets_of_classes(metric, target, output, message):
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=rf"\[{metric.__name__}\] 'target'.*{message}"):
        metric(target, output)


@pytest.mark.parametrize("metric", [accuracy, f1_macro, roc_auc, rmse, r2])
def test_arrays_of_other_than_numbers(metric):
    pytest.importorskip("sklearn")
    for values, dtype in ((["a", "b"], "<U1"), ([None, 1.0], "object"), ([1j, 0j], "complex128")):
        for arguments, name in (((values, [0, 1]), "target"), (([0, 1], values), "output")):
            with pytest.raises(TypeError, match=rf"\[{metric.__name__}\] '{name}' must be numbers but got {dtype}"):
                metric(*arguments)


@pytest.mark.parametrize("metric", [rmse, r2])
@pytest.mark.parametrize(("target", "output"), [((3,), (3, 1)), ((3, 1), (3, 2)), ((), ()), ((0, 2), (0, 2))])
def test_wrong_shapes_of_values(metric, target, output):
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=rf"\[{metric.__name__}\] 'target'.*\(.*\)"):
        metric(np.zeros(target), np.zeros(output))


# -- by name


def mae(target, output):
    return np.abs(target - output).mean()


def test_names():
    pytest.importorskip("sklearn")
    names = ["accuracy", "f1_macro", "roc_auc", "rmse", "r2"]
    found = resolve(names)
    assert list(found) == names and found["rmse"] is rmse
    assert list(resolve("rmse")) == ["rmse"] and list(resolve(mae)) == ["mae"] and resolve(()) == {}
    found = resolve(["rmse", {"error": lambda t, o: 3, "auc": "roc_auc"}, mae])
    assert list(found) == ["rmse", "error", "auc", "mae"]
    assert found["auc"](np.array([0, 1]), np.array([0.0, 1.0])) == 1.0 and found["error"](1, 1) == 3.0
    # What was resolved once keeps its names.
    assert resolve(found) == resolve(found.values()) == found
    assert list(resolve({"half": partial(mae, output=0.5)})) == ["half"]


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ("f1", ValueError, r"must be one of 'accuracy', 'f1_macro', 'roc_auc', 'rmse', 'r2' or a function, got 'f1'"),
        ({"a": "f1"}, ValueError, "got 'f1'"),
        ([lambda t, o: 0.0], TypeError, r"__name__.*<lambda>.*pass \{'name': function\}"),
        ([partial(mae)], TypeError, r"pass \{'name': function\}"),
        ([3], TypeError, "__name__ of their own but got 3"),
        (3, TypeError, r"\[metrics\] must be strings, functions or a sequence of these but got 3"),
        (None, TypeError, "a sequence of these but got None"),
        ({"a": 3}, TypeError, "'a' must be a string or a function but got 3"),
        ({3: mae}, TypeError, "names must be strings, not empty, but got 3"),
        ({"": mae}, TypeError, "not empty"),
        ({"loss": mae}, ValueError, "'loss' is already the name of a column"),
        ([mae, {"mae": mae}], ValueError, "'mae' is already the name of a column"),
        (["rmse", "rmse"], ValueError, "'rmse' is already the name of a column"),
    ],
)
def test_wrong_names(metrics, error, message):
    with pytest.raises(error, match=message):
        resolve(metrics)


@pytest.mark.parametrize("name", ["f1_macro", "roc_auc", "r2"])
def test_a_missing_scikit_learn_is_told_before_training(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.metrics", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'fusedstep\[sklearn\]'"):
        resolve([name])
    assert list(resolve(["accuracy", "rmse"])) == ["accuracy", "rmse"]


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (None, "returned None"),
        ("0.5", "returned '0.5'"),
        ({}, "returned dict"),
        (np.zeros(1), "returned ndarray"),
        (np.zeros((2, 2)), "returned ndarray"),
        (1j, "returned 1j"),
    ],
)
def test_what_is_no_number_is_refused_by_the_name_of_its_metric(value, got):
    model = nn.Sequential(nn.Dense(2, 2))
    with pytest.raises(TypeError, match=rf"\[metrics\] 'odd' must return a number but {got}"):
        evaluate(model, small.LOSS, *small.data(), metrics={"odd": lambda t, o: value})


@pytest.mark.parametrize("value", [2, True, np.float32(0.5), np.array(3.0), math.nan])
def test_any_number_will_do(value):
    model = nn.Sequential(nn.Dense(2, 2))
    result = evaluate(model, small.LOSS, *small.data(), metrics={"odd": lambda t, o: value})
    assert type(result["odd"]) is float
    np.testing.assert_equal(result["odd"], float(value))


def test_an_error_of_the_user_s_own_comes_through():
    def broken(target, output):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        resolve(broken)["broken"](0, 0)


# -- in training


def test_all_in_a_history():
    pytest.importorskip("sklearn")
    X, y = small.data()
    model = small.model()
    metrics = ["accuracy", "f1_macro", {"auc": "roc_auc", "share": lambda t, o: t.mean()}]
    history = fit(
        model,
        small.adam(model),
        small.LOSS,
        (X[:40], y[:40]),
        (X[40:], y[40:]),
        epochs=3,
        metrics=metrics,
        progress=False,
    )
    output = model.predict(X[40:])
    last = history.rows[-1]
    assert last["validation_accuracy"] == accuracy(y[40:], output)
    assert last["validation_f1_macro"] == f1_macro(y[40:], output)
    assert last["validation_auc"] == roc_auc(y[40:], output)
    assert history.column("validation_share") == [y[40:].mean()] * 3


def test_a_validation_set_without_a_class_gives_nan_in_the_history():
    pytest.importorskip("sklearn")
    X, y = small.data()
    model = small.model()
    only = y == 1
    history = fit(
        model,
        small.adam(model),
        small.LOSS,
        (X, y),
        (X[only], y[only]),
        epochs=2,
        metrics=["roc_auc", "f1_macro"],
        progress=False,
    )
    assert all(math.isnan(value) for value in history.column("validation_roc_auc"))
    assert not any(math.isnan(value) for value in history.column("validation_f1_macro"))


def test_regression_with_several_outputs():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)).astype(np.float32)
    y = X @ rng.normal(size=(3, 2)).astype(np.float32)
    model = nn.Sequential(nn.Dense(3, 2))
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    history = fit(
        model,
        optimizer,
        nn.MeanSquaredError(),
        (X[:40], y[:40]),
        (X[40:], y[40:]),
        epochs=40,
        batch_size=8,
        metrics=["rmse", "r2"],
        progress=False,
    )
    last = history.rows[-1]
    assert last["validation_r2"] > 0.9 > history.rows[0]["validation_r2"]
    assert math.isclose(last["validation_rmse"] ** 2, last["validation_loss"], rel_tol=1e-5)
