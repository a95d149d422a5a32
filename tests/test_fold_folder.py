"""Cross-validations that are interrupted, and go on from their folder."""

import os
import re
import subprocess
import sys
import textwrap
from contextlib import nullcontext

import numpy as np
import pytest

import small_problem as small
from fusedstep import backend, nn, optim
from fusedstep.callbacks import Callback, EarlyStopping
from fusedstep.cross_validation import rounds
from fusedstep.data import Source
from fusedstep.model_selection import RotatingKFold, cross_validate
from fusedstep.training import fit

pytest.importorskip("threadpoolctl")
X, Y = small.data(90)


def validate(X=X, y=Y, make_model=small.model, **options):
    options = {
        "cv": 3,
        "metrics": ["accuracy"],
        "random_state": 1,
        "epochs": 4,
        "batch_size": 16,
        "progress": False,
        "callbacks": lambda: [EarlyStopping(2)],
    } | options
    return cross_validate(make_model, small.adam, small.LOSS, X, y, **options)


class InterruptAt(Callback):
    """Ctrl-C in a batch of an epoch of a fold; without `fold` only takes part."""

    fold = None
    __qualname__ = "Stop"

    def __init__(self, fold):
        self.here = fold

    def on_batch_end(self, run):
        if (self.here, run.epoch, run.batch_index) == (self.fold, 2, 1):
            run.history.interrupted = True


def stopping(fold):
    return [EarlyStopping(2), InterruptAt(fold)]


def assert_same(a, b):
    assert a.rows == b.rows
    np.testing.assert_array_equal(a.predictions, b.predictions)
    for one, two in zip(a.models, b.models, strict=True):
        for name, array in one.state_dict().items():
            np.testing.assert_array_equal(array, two.state_dict()[name])
    assert [h.restored_epoch for h in a.histories] == [h.restored_epoch for h in b.histories]


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_the_same_call_goes_on_and_ends_with_the_same_bits(fold, tmp_path, monkeypatch):
    expected = validate(callbacks=stopping)
    monkeypatch.setattr(InterruptAt, "fold", fold)
    with pytest.raises(KeyboardInterrupt):
        validate(folder=tmp_path / "cv", callbacks=stopping)
    monkeypatch.setattr(InterruptAt, "fold", None)
    trained = []
    monkeypatch.setattr(rounds, "fit", lambda *args, **options: trained.append(1) or fit(*args, **options))
    result = validate(folder=tmp_path / "cv", callbacks=stopping)
    assert len(trained) == 4 - fold
    assert_same(result, expected)
    again = validate(folder=tmp_path / "cv", callbacks=stopping)
    assert len(trained) == 4 - fold
    assert_same(again, expected)
    assert not list((tmp_path / "cv").glob("*checkpoint*"))


def test_killed_in_the_midst(tmp_path):
    code = """
        import os, signal, sys
        import test_fold_folder as t
        from fusedstep.callbacks import Callback
        from fusedstep.cross_validation import folder

        folder.MIN_SECONDS = 0.0

        class Kill(Callback):
            def on_epoch_begin(self, run):
                self.begun = getattr(self, "begun", 0) + 1
                if (self.fold, run.epoch, sys.argv[2]) == (2, 3, "kill"):
                    os.kill(os.getpid(), signal.SIGKILL)

        def callbacks(fold):
            kill = Kill()
            kill.fold = fold
            return [kill]

        result = t.validate(folder=sys.argv[1] or None, callbacks=callbacks)
        print(result.rows, result.predictions.tobytes().hex())
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])}

    def run(*arguments):
        command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    expected = run("", "")
    assert expected.returncode == 0, expected.stderr
    assert run(str(tmp_path / "cv"), "kill").returncode < 0
    assert {path.name for path in (tmp_path / "cv").glob("fold-*")} == {
        "fold-1-model.safetensors",
        "fold-1-result.safetensors",
        "fold-2-checkpoint.safetensors",
    }
    result = run(str(tmp_path / "cv"), "")
    assert result.stdout == expected.stdout, result.stderr


def test_in_processes(tmp_path):
    expected = validate()
    code = """
        import sys
        import test_fold_folder as t
        t.validate(folder=sys.argv[1], n_jobs=2)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert_same(validate(folder=tmp_path), expected)


def test_transformers_come_back(tmp_path):
    pytest.importorskip("skops")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    y = (X @ np.array([[3.0], [1.0]], np.float32) + 5).astype(np.float32)

    def make(seed):
        return nn.Sequential(nn.Dense(2, 1), seed=seed)

    def once():
        scaler = preprocessing.StandardScaler
        return cross_validate(
            make,
            small.adam,
            nn.MeanSquaredError(),
            X,
            y,
            cv=3,
            epochs=2,
            metrics=["rmse"],
            preprocess=scaler(),
            preprocess_target=scaler(),
            random_state=0,
            progress=False,
            folder=tmp_path / "cv",
        )

    first, second = once(), once()
    assert_same(first, second)
    for kind in ("preprocessors", "target_preprocessors"):
        for a, b in zip(getattr(first, kind), getattr(second, kind), strict=True):
            assert a is not b and (a.mean_ == b.mean_).all()


def test_a_random_state_of_numpy(tmp_path):
    assert_same(validate(folder=tmp_path / "cv", random_state=np.int64(1)), validate(folder=tmp_path / "cv"))


def test_without_a_random_state_that_of_the_folder_goes_on(tmp_path):
    first = validate(folder=tmp_path / "cv", random_state=None)
    assert_same(validate(folder=tmp_path / "cv", random_state=None), first)
    assert validate(random_state=None).rows != first.rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"X": X + 1}, "with another 'X': 'float32"),
        ({"y": 1 - Y}, "with another 'y'"),
        ({"random_state": 2}, "with another 'random_state': 1 there, 2 here"),
        ({"epochs": 5}, "with another 'epochs': 4 there, 5 here"),
        ({"cv": 4}, "with another 'folds'; choose another folder"),
        ({"metrics": []}, "with another 'metrics'"),
        ({"class_weight": "balanced"}, "with another 'class_weight': None there, 'balanced' here"),
    ],
)
def test_the_folder_of_another_cross_validation_is_refused(options, message, tmp_path):
    validate(folder=tmp_path / "cv")
    with pytest.raises(ValueError, match=message):
        validate(folder=tmp_path / "cv", **options)


def test_callbacks_with_other_arguments_are_refused(tmp_path):
    first = validate(folder=tmp_path / "cv", callbacks=[EarlyStopping(2)])
    assert_same(validate(folder=tmp_path / "cv", callbacks=[EarlyStopping(2)]), first)
    with pytest.raises(ValueError, match="with another 'callbacks'"):
        validate(folder=tmp_path / "cv", callbacks=[EarlyStopping(3)])


def adam(**options):
    return lambda model: optim.Adam(model.parameters(), **{"lr": 0.01, **options})


def other_model(seed):
    return nn.Sequential(nn.Dense(2, 3), nn.Dense(3, 2), seed=seed)


OTHER_METHODS = {
    "optimizer.groups[0].lr 0.01, which is 0.02": (small.model, adam(lr=0.02)),
    "optimizer.groups[0].lr 0.01, which is [0.01": (small.model, adam(lr=optim.schedules.cosine(0.01, 99))),
    "optimizer.name 'Adam', which is 'SGD'": (small.model, lambda model: optim.SGD(model.parameters(), lr=0.01)),
    "optimizer.max_norm None, which is 1.0": (small.model, adam(max_norm=1.0)),
    "optimizer.ema_decay None, which is [0.0, 0.5": (small.model, adam(ema_decay=optim.schedules.uniform_average())),
    "model.layers": (other_model, adam()),
}


@pytest.mark.parametrize("name", OTHER_METHODS)
@pytest.mark.parametrize("finished", [True, False])
def test_another_model_or_optimizer_is_refused(name, finished, tmp_path, monkeypatch):
    if not finished:
        monkeypatch.setattr(InterruptAt, "fold", 1)
    with nullcontext() if finished else pytest.raises(KeyboardInterrupt):
        validate(folder=tmp_path, callbacks=stopping)
    monkeypatch.setattr(InterruptAt, "fold", None)
    make_model, make_optimizer = OTHER_METHODS[name]
    monkeypatch.setattr(small, "adam", make_optimizer)
    expected = (
        rf"{re.escape(str(tmp_path))}.* was trained with {re.escape(name)}.*choose another folder, or remove this"
    )
    with pytest.raises(ValueError, match=expected if finished else "trained with"):
        validate(folder=tmp_path, callbacks=stopping, make_model=make_model)


@pytest.mark.parametrize("name", ["cross_validation.json", "fold-2-result.safetensors", "fold-2-model.safetensors"])
def test_a_damaged_file_is_named(name, tmp_path):
    validate(folder=tmp_path / "cv")
    (tmp_path / "cv" / name).write_bytes(b"{")
    with pytest.raises(ValueError, match=name):
        validate(folder=tmp_path / "cv")


def test_the_checkpoint_of_another_fold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(InterruptAt, "fold", 2)
    with pytest.raises(KeyboardInterrupt):
        validate(folder=tmp_path, callbacks=stopping)
    os.rename(tmp_path / "fold-2-checkpoint.safetensors", tmp_path / "fold-3-checkpoint.safetensors")
    monkeypatch.setattr(InterruptAt, "fold", None)
    with pytest.raises(ValueError, match="the checkpoint is of fold 2, not of fold 3"):
        validate(folder=tmp_path, callbacks=stopping)


def test_what_a_kill_leaves_is_removed(tmp_path):
    expected = validate(folder=tmp_path / "cv")
    left = [
        ".fold-1-model.safetensors.0a.tmp",
        ".fold-2-checkpoint.safetensors.0a.tmp",
        "fold-3-checkpoint.safetensors",
    ]
    for name in (*left, ".cross_validation.json.0a.tmp"):
        (tmp_path / "cv" / name).write_bytes(b"{")
    assert_same(validate(folder=tmp_path / "cv"), expected)
    kept = {f"fold-{fold}-{name}.safetensors" for fold in (1, 2, 3) for name in ("model", "result")}
    assert {path.name for path in (tmp_path / "cv").iterdir()} == kept | {"cross_validation.json"}


@pytest.mark.skipif(os.name != "posix", reason="locks")
def test_a_folder_in_use_is_refused(tmp_path):
    class Again(Callback):
        def on_train_begin(self, run):
            with pytest.raises(RuntimeError, match=r"cv: another cross-validation is under way in this folder"):
                validate(folder=tmp_path / "cv")
            refused.append(run)

    refused = []
    validate(folder=tmp_path / "cv", callbacks=[Again()])
    assert len(refused) == 3
    validate(folder=tmp_path / "cv", callbacks=[Again()])


def test_a_folder_that_cannot_be(tmp_path):
    with pytest.raises(FileNotFoundError):
        validate(folder=tmp_path / "none" / "cv")


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_data_on_disk_give_the_rows_of_data_in_memory(tmp_path, n_jobs):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same(validate(mapped, n_jobs=n_jobs), validate())
    with pytest.raises(ValueError, match="'preprocess' needs samples in memory"):
        validate(mapped, preprocess=pytest.importorskip("sklearn.preprocessing").StandardScaler())


def test_a_source_is_split_without_being_read(tmp_path):
    np.save(tmp_path / "x.npy", X)
    source = Source(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert_same(validate(source), validate())


@pytest.mark.skipif(backend.info()["backend"] == "reference", reason="the compiled module has threads")
@pytest.mark.parametrize(("available", "n_jobs", "expected"), [(2, 2, 1), (8, 2, 4), (8, 3, 2), (1, 2, 1), (8, 8, 2)])
def test_rounds_at_the_same_time_share_the_threads(available, n_jobs, expected, monkeypatch):
    seen = []

    class Serial:
        """joblib without processes."""

        def __init__(self, n_jobs, return_as):
            seen.append(n_jobs)

        def __call__(self, jobs):
            return [call() for call in jobs]

    joblib = pytest.importorskip("joblib")
    monkeypatch.setattr(joblib, "Parallel", Serial)
    monkeypatch.setattr(joblib, "delayed", lambda f: lambda *a, **k: lambda: f(*a, **k))
    before = backend.get_num_threads()
    backend.set_num_threads(available)
    try:
        made = []

        def make(seed):
            made.append(backend.get_num_threads())
            return small.model(seed)

        validate(make_model=make, n_jobs=n_jobs)
        assert made == [expected] * 3 and seen == [min(n_jobs, 3)]
        assert backend.get_num_threads() == available
        validate(make_model=make)
        assert made[3:] == [available] * 3
    finally:
        backend.set_num_threads(before)


def test_an_integer_is_a_number_of_folds():
    assert_same(validate(cv=4), validate(cv=RotatingKFold(4)))


def test_what_make_model_may_take():
    expected = validate()
    assert_same(validate(make_model=lambda s: small.model(s)), expected)
    assert_same(validate(make_model=lambda s, sample_shape: small.model(s)), expected)
    assert_same(validate(make_model=lambda **kw: small.model(kw["seed"])), expected)
    assert rounds.call(lambda seed, other=3: (seed, other), "make_model", seed=1) == (1, 3)
    for make in (lambda a, b: None, lambda seed, b: None):
        with pytest.raises(TypeError, match=r"\[cross_validate\] 'make_model' is called with 'seed'.* 'b', too"):
            rounds.call(make, "make_model", seed=1)
