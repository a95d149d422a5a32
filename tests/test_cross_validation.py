import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import small_problem as small
from fusedstep import get_num_threads, nn, optim, set_num_threads
from fusedstep._blas import blas_threads
from fusedstep.callbacks import Callback, Checkpoint, EarlyStopping
from fusedstep.cross_validation.rounds import Task
from fusedstep.evaluation import evaluate
from fusedstep.model_selection import RotatingKFold, cross_validate
from fusedstep.tune import step_size_sweep

pytest.importorskip("threadpoolctl")
X, Y = small.data(90)


def validate(X=X, y=Y, make_model=small.model, **options):
    options = {
        "metrics": ["accuracy"],
        "random_state": 1,
        "epochs": 4,
        "batch_size": 16,
        "progress": False,
        "callbacks": [EarlyStopping(2)],
    } | options
    return cross_validate(make_model, small.adam, small.LOSS, X, y, **options)


def test_rows_models_and_predictions_agree():
    result = validate()
    assert [row["fold"] for row in result.rows] == [1, 2, 3, 4, 5]
    names = [f"{part}_{name}" for part in ("train", "validation", "test") for name in ("loss", "accuracy")]
    assert list(result.rows[0]) == ["fold", "best_epoch", *names]
    assert sorted(np.concatenate([test for _, _, test in result.folds])) == list(range(90))
    for row, model, history, (_, validation, test) in zip(
        result.rows, result.models, result.histories, result.folds, strict=True
    ):
        assert row["best_epoch"] == history.best_epoch == history.restored_epoch
        assert row["validation_loss"] == min(history.column("validation_loss"))
        assert row["test_accuracy"] == evaluate(model, small.LOSS, X[test], Y[test], metrics=["accuracy"])["accuracy"]
        assert row["validation_loss"] == evaluate(model, small.LOSS, X[validation], Y[validation])["loss"]
        assert (result.predictions[test] == model.predict(X[test])).all()
    accuracies = [row["test_accuracy"] for row in result.rows]
    assert result.mean["test_accuracy"] == np.mean(accuracies)
    assert result.std["test_accuracy"] == np.std(accuracies)
    assert np.mean(result.predictions.argmax(axis=1) == Y) == pytest.approx(np.mean(accuracies))


def test_printing_gives_the_table():
    lines = str(validate()).splitlines()
    assert lines[0].split() == ["best", *["train"] * 2, *["validation"] * 2, *["test"] * 2]
    assert lines[1].split() == ["fold", "epoch", *["loss", "accuracy"] * 3]
    assert [line.split()[0] for line in lines[3:8]] == list("12345")
    assert [line.split()[0] for line in lines[9:]] == ["mean", "std"]
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 100


def test_repr_is_the_table_and_plot_has_a_panel_a_fold():
    pytest.importorskip("matplotlib")
    result = validate()
    assert repr(result) == str(result)
    assert [axes.get_title() for axes in result.plot().axes] == [f"fold {k}" for k in (1, 2, 3, 4, 5)]
    result.rows[0]["test_loss"] = 12345678.9
    assert "1.235e+07" in str(result)


def test_the_seed_decides_the_rows():
    a = validate()
    assert validate().rows == a.rows
    assert validate(random_state=np.random.default_rng(0)).rows == validate(random_state=np.random.default_rng(0)).rows
    assert validate(random_state=2).rows != a.rows
    assert validate(random_state=None).rows != validate(random_state=None).rows


def test_the_threads_of_the_kernels_do_not_change_the_rows():
    before = get_num_threads()
    try:
        rows = []
        for threads in (1, 2):
            set_num_threads(threads)
            rows.append(validate().rows)
    finally:
        set_num_threads(before)
    assert rows[0] == rows[1]


def script(code):
    """The end of a process of its own that may import these tests."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_processes_do_not_change_the_rows():
    code = """
        import json, warnings
        import test_cross_validation as t
        serial, parallel = t.validate(), t.validate(n_jobs=2)
        assert parallel.rows == serial.rows
        assert (parallel.predictions == serial.predictions).all()
        (_, _, test), model = parallel.folds[0], parallel.models[0]
        assert (model.predict(t.X[test]) == parallel.predictions[test]).all()
        print("same")
    """
    result = script(code)
    assert result.stdout.strip() == "same", result.stderr


class Unpicklable:
    def __len__(self):
        return len(X)

    def __getitem__(self, samples):
        return X[samples]

    def __reduce__(self):
        raise TypeError("h5py objects cannot be pickled")


def test_backends_of_joblib():
    """Of processes that give all rounds at once, as Ray's, and of threads, which nothing is sent to."""
    joblib = pytest.importorskip("joblib")
    expected = validate(cv=3).rows
    if "fork" in multiprocessing.get_all_start_methods():
        with joblib.parallel_config(backend="multiprocessing"):
            assert validate(cv=3, n_jobs=2).rows == expected
    with joblib.parallel_config(backend="threading"):
        assert validate(Unpicklable(), cv=3, n_jobs=2).rows == expected
    with pytest.raises(TypeError, match=r"\[cross_validate\] with 'n_jobs' all arguments must .* be pickled"):
        validate(Unpicklable(), cv=3, n_jobs=2)


def test_rounds_in_threads_leave_the_threads_of_the_kernels(monkeypatch):
    joblib = pytest.importorskip("joblib")
    begun, done, run = threading.Event(), threading.Event(), Task.run

    def first_begins_and_ends_before_the_others(task, number, *rest, **options):
        if number > 1:
            begun.wait(30)
        result = run(task, number, *rest, **options)
        if number == 1:
            done.set()
        return result

    class Wait(Callback):
        def __init__(self, fold):
            self.fold = fold

        def on_train_begin(self, run):
            begun.set()
            if self.fold > 1:
                done.wait(30)

    monkeypatch.setattr(Task, "run", first_begins_and_ends_before_the_others)
    before = get_num_threads()
    set_num_threads(8)
    try:
        available = get_num_threads()
        with joblib.parallel_config(backend="threading"):
            validate(cv=3, n_jobs=3, callbacks=Wait)
        assert get_num_threads() == available
    finally:
        set_num_threads(before)


def test_each_model_has_its_own_seed():
    seeds = []

    def make(seed):
        seeds.append(seed)
        return small.model(seed)

    validate(make_model=make)
    assert len(set(seeds)) == 5
    assert len(validate(make_model=lambda: small.model(4)).models) == 5


def test_own_splitter():
    cv = RotatingKFold(3, random_state=7)
    result = validate(cv=cv)
    assert [test.tolist() for _, _, test in result.folds] == [t.tolist() for _, _, t in cv.split(X, Y)]
    assert cv.random_state == 7
    groups = np.arange(90) // 6
    for parts in validate(cv=RotatingKFold(3), groups=groups).folds:
        assert not set(groups[parts[0]]) & set(groups[parts[2]])


def test_preprocessing_sees_the_training_part_alone():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    scaler = preprocessing.StandardScaler()
    result = validate(preprocess=scaler)
    assert not hasattr(scaler, "mean_")
    for (train, _, test), fitted, model in zip(result.folds, result.preprocessors, result.models, strict=True):
        np.testing.assert_allclose(fitted.mean_, X[train].mean(axis=0), rtol=1e-5)
        outputs = model.predict(fitted.transform(X[test]).astype(np.float32))
        assert (result.predictions[test] == outputs).all()


def test_folds_share_no_state():
    stopping = EarlyStopping(1)
    validate(callbacks=[stopping])
    assert stopping.best_epoch is None


def test_callbacks_from_a_function(tmp_path):
    validate(callbacks=lambda fold: [Checkpoint(tmp_path / f"{fold}.safetensors")])
    assert sorted(path.stem for path in tmp_path.iterdir()) == list("12345")
    validate(callbacks=lambda: [EarlyStopping(1)])


def test_ctrl_c_is_no_result():
    class Interrupt(Callback):
        def before_step(self, run):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate(callbacks=[Interrupt()])


def test_regression():
    y = (X @ np.float32([[1], [2]])).astype(np.float32)
    result = cross_validate(
        lambda seed: nn.Sequential(nn.Dense(2, 1), seed=seed),
        lambda model: small.adam(model, lr=0.1),
        nn.MeanSquaredError(),
        X,
        y,
        random_state=0,
        epochs=20,
        batch_size=8,
        progress=False,
    )
    assert result.predictions.shape == (90, 1) and result.mean["test_loss"] < 0.1 * y.var()


def test_blas_threads_are_set_and_put_back():
    info = pytest.importorskip("threadpoolctl").threadpool_info

    def threads():
        return [pool["num_threads"] for pool in info() if pool["user_api"] == "blas"]

    before = threads()
    with blas_threads(1):
        assert set(threads()) <= {1}
    assert threads() == before
    with blas_threads(None):
        assert threads() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"y": Y[:5]}, ValueError, r"'X' and 'y'.*\(90, 2\) and \(5,\)"),
        ({"cv": "5"}, TypeError, "'cv' must be a number of folds or a RotatingKFold but got '5'"),
        ({"cv": RotatingKFold(3).as_sklearn()}, TypeError, "'cv' must be a number of folds or a RotatingKFold"),
        ({"cv": 2}, ValueError, "'n_splits'"),
        ({"make_model": small.model()}, TypeError, "'make_model' must be a function, which is called for each fold"),
        ({"preprocess": dict}, TypeError, r"must be instances, dict\(\), but got the class"),
        ({"X": np.where(X[70, 1] == X, np.nan, X)}, ValueError, "'X' holds NaN or infinity, first in sample 70"),
        (
            {"make_model": lambda seed, width: None},
            TypeError,
            "'make_model' is called .* but asks for 'width', too",
        ),
        ({"seed": 3}, TypeError, "'seed' .* use 'random_state'"),
        ({"resume": "x"}, TypeError, "'resume' .* use 'folder'"),
        ({"callbacks": [Checkpoint("x")]}, ValueError, "all rounds would write the same checkpoint"),
        ({"metrics": ["f2"]}, ValueError, "must be one of 'accuracy'"),
        ({"epochs": 0}, ValueError, "'epochs'"),
        ({"stratify": [1]}, ValueError, "'stratify'"),
        ({"random_state": "a"}, TypeError, r"\[cross_validate\] 'random_state' must be an integer but got 'a'"),
        ({"random_state": -1}, ValueError, r"\[cross_validate\] 'random_state' must be in \[0"),
        ({"n_jobs": 2.5}, TypeError, r"\[cross_validate\] 'n_jobs' must be an integer but got 2.5"),
        ({"blas_threads": 0}, ValueError, r"\[cross_validate\] 'blas_threads' must be in \[1"),
        ({"callbacks": None}, TypeError, r"\[cross_validate\] 'callbacks' must be instances of .* but got None"),
        ({"callbacks": 3}, TypeError, r"\[cross_validate\] 'callbacks' must be instances of .* but got 3"),
        ({"trusted": "my.Type"}, TypeError, r"\[cross_validate\] 'trusted' must be a sequence of names"),
    ],
)
def test_wrong_input(options, error, message):
    with pytest.raises(error, match=message):
        validate(**options)


def test_threadpoolctl_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(ImportError, match=r"pip install 'fusedstep\[sklearn\]'"):
        validate()
    assert len(validate(blas_threads=None).rows) == 5


def test_metrics_from_a_generator():
    result = validate(metrics=(name for name in ["accuracy"]))
    assert all("test_accuracy" in row for row in result.rows)
    assert validate(metrics=["accuracy"]).rows == result.rows


def test_each_round_has_a_bar_and_rounds_at_the_same_time_share_one(capsys):
    joblib = pytest.importorskip("joblib")
    validate(progress=True, epochs=1)
    assert "fold 5/5" in capsys.readouterr().err
    with joblib.parallel_config(backend="threading"):
        validate(progress=True, epochs=1, n_jobs=2)
    shown = capsys.readouterr().err
    assert "5/5" in shown and "fold 5/5" not in shown
    validate()
    assert capsys.readouterr().err == ""


def test_no_jobs():
    with pytest.raises(ValueError, match="'n_jobs' must be"):
        validate(n_jobs=0)


def test_a_model_that_comes_back_is_refused():
    X, y = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), np.arange(30) % 2
    model = nn.Sequential(nn.Dense(4, 2))

    def make_optimizer(model):
        return optim.SGD(model.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="returned the same model again for fold 2"):
        cross_validate(lambda: model, make_optimizer, nn.SoftmaxCrossEntropy(), X, y, epochs=1, progress=False)


SHARED = small.model()


def shared():
    return SHARED


def test_a_model_that_comes_back_in_a_process_is_refused():
    """There the module is loaded once, and each round gets a task of its own."""
    pytest.importorskip("joblib")
    code = """
        import test_cross_validation as t
        t.validate(make_model=t.shared, n_jobs=2)
    """
    result = script(code)
    assert "ValueError: [cross_validate] 'make_model' returned the same model again for fold" in result.stderr


def test_a_model_that_something_else_has_trained_is_refused():
    model = small.model()
    data, options = (X, Y), {"epochs": 1, "progress": False}
    optimizers = {"Adam": optim.Adam}
    step_size_sweep(lambda seed: model, optimizers, small.LOSS, data, data, lrs=[0.1], seeds=1, **options)
    with pytest.raises(ValueError, match="returned the same model again for fold 1"):
        validate(make_model=lambda: model)


def test_what_is_no_model_is_refused_before_an_optimizer_is_made():
    with pytest.raises(TypeError, match=r"'make_model' must return a fusedstep\.nn\.Sequential but returned None"):
        validate(make_model=lambda: None)


def test_targets_are_scaled_by_the_training_part_and_reported_in_their_own_unit():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3)).astype(np.float32)
    y = 1e6 + 1e3 * (X @ np.array([[1.0], [2.0], [3.0]]) + 0.1 * rng.normal(size=(90, 1)))  # float64, far from 0
    shapes = []

    def make_model(seed, sample_shape):
        shapes.append(sample_shape)
        return nn.Sequential(nn.Dense(3, 1), seed=seed)

    def rmse(target, output):
        return float(np.sqrt(np.mean((target - output) ** 2)))

    result = cross_validate(
        make_model,
        lambda model: optim.SGD(model.parameters(), lr=0.1),
        nn.MeanSquaredError(),
        X,
        y,
        cv=RotatingKFold(3),
        preprocess_target=preprocessing.StandardScaler(),
        metrics=[rmse],
        random_state=0,
        epochs=30,
        batch_size=10,
        progress=False,
    )
    assert shapes == [(3,)] * 3
    assert result.predictions.shape == (90, 1) and result.predictions.dtype == np.float64
    for (train, _, test), scaler, row in zip(result.folds, result.target_preprocessors, result.rows, strict=True):
        np.testing.assert_allclose(scaler.mean_, y[train].mean())
        assert row["test_rmse"] == pytest.approx(rmse(y[test], result.predictions[test]), rel=1e-3)
        assert row["test_rmse"] < 0.1 * y.std() and row["test_loss"] < 0.01
