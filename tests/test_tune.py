"""Sweeps of the step size."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

import fusedstep as fs
import small_problem as small
from fusedstep import nn, optim, tune
from fusedstep.callbacks import Checkpoint, EarlyStopping
from fusedstep.data import MiniBatches

TRAIN, VALIDATION = small.data(60), small.data(40, seed=1)
OPTIMIZERS = {
    "SGD": optim.SGD,
    "momentum": lambda params, lr: optim.Momentum(params, lr, momentum=0.9),
    "Adam": optim.Adam,
}
MSE = nn.MeanSquaredError()


def sweep(**options):
    options = {"lrs": [1e-2, 1e-1], "seeds": 2, "epochs": 2, "batch_size": 16, "progress": False, **options}
    arguments = [options.pop(name, default) for name, default in ARGUMENTS.items()]
    options.setdefault("blas_threads", None)
    return tune.step_size_sweep(*arguments, **options)


ARGUMENTS = {
    "make_model": small.model,
    "optimizers": OPTIMIZERS,
    "loss": small.LOSS,
    "train": TRAIN,
    "validation": VALIDATION,
}


def linear(seed=0):
    return nn.Sequential(nn.Dense(4, 1), seed=seed)


def regression(n=64, seed=0):
    X = np.random.default_rng(seed).standard_normal((n, 4)).astype(np.float32)
    return X, X.sum(axis=1, keepdims=True)


def test_a_row_is_a_run_of_fit():
    found = sweep()
    keys = [(row["optimizer"], row["lr"], row["seed"]) for row in found.rows]
    assert keys == [(name, lr, seed) for name in OPTIMIZERS for lr in (1e-2, 1e-1) for seed in (0, 1)]
    for row in found.rows[1::3]:
        model = small.model(row["seed"])
        optimizer = OPTIMIZERS[row["optimizer"]](model.parameters(), row["lr"])
        options = {"epochs": 2, "batch_size": 16, "seed": row["seed"], "progress": False}
        history = fs.fit(model, optimizer, small.LOSS, TRAIN, VALIDATION, **options)
        losses = history.column("validation_loss")
        assert row["validation_loss"] == losses[-1] and row["best_validation_loss"] == min(losses)
        assert row["best_epoch"] == history.best_epoch and row["diverged"] is False


def test_the_bits_do_not_depend_on_the_number_of_jobs():
    pytest.importorskip("joblib")
    pytest.importorskip("threadpoolctl")
    before = fs.get_num_threads()
    serial, parallel = (sweep(blas_threads=1, n_jobs=n).rows for n in (None, np.int64(2)))
    assert serial == parallel == sweep(blas_threads=np.int64(1)).rows
    assert fs.get_num_threads() == before


def test_jobs_in_threads_share_nothing():
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend="threading"):
        assert sweep(n_jobs=2).rows == sweep().rows


def test_a_run_that_diverges_is_data():
    """No warning, as pytest makes errors of these."""
    data = {"train": regression(), "validation": regression(32, 1), "make_model": linear, "loss": MSE}
    found = sweep(**data, optimizers={"SGD": optim.SGD}, lrs=[1e-1, 1e2, 1e38], epochs=30)
    assert [row["diverged"] for row in found.rows] == [False] * 2 + [True] * 4
    assert all(row["validation_loss"] == math.inf for row in found.rows[2:])
    assert found.best()["SGD"]["lr"] == 0.1
    assert [cell["diverged"] for cell in found.summary()] == [0, 1, 1]
    gone = sweep(**data, optimizers={"SGD": optim.SGD}, lrs=[1e20, 1e38], epochs=30)
    assert gone.best() == {"SGD": None} and gone.width() == {"SGD": 0.0}
    assert gone.rows[0]["best_validation_loss"] == math.inf and gone.rows[0]["best_epoch"] is None


def test_the_valley_of_a_quadratic_ends_at_the_stable_step():
    """Full-batch descent on least squares: beyond 2 / L the loss grows."""
    X, y = regression(256)
    largest = np.linalg.eigvalsh(2 / len(X) * np.c_[X, np.ones(len(X))].T @ np.c_[X, np.ones(len(X))]).max()
    lrs = 2 / largest * np.array([0.9, 1.1])
    options = {"train": (X, y), "validation": (X, y), "make_model": linear, "loss": MSE, "batch_size": None}
    found = sweep(**options, optimizers={"SGD": optim.SGD}, lrs=lrs, epochs=100)
    below, above = (cell["median"] for cell in found.summary())
    assert below < 1e-2 and above > 10


def test_default_step_sizes_and_seeds():
    found = sweep(lrs=None, seeds=[7], epochs=1, optimizers={"SGD": optim.SGD})
    assert [row["lr"] for row in found.rows] == pytest.approx(10 ** np.arange(-4, 0.1, 0.5))
    assert {row["seed"] for row in found.rows} == {7}


def test_callbacks_are_made_or_copied_for_each_run():
    stop = EarlyStopping(patience=1)
    copied = sweep(callbacks=stop, epochs=8, lrs=[1.0])
    made = sweep(callbacks=lambda: [EarlyStopping(patience=1)], epochs=8, lrs=[1.0])
    assert copied.rows == made.rows and stop.best_epoch is None
    assert any(row["best_epoch"] < 6 for row in made.rows)


def test_callbacks_of_a_generator_are_those_of_all_runs():
    stop = [EarlyStopping(patience=1)]
    assert sweep(callbacks=iter(stop), epochs=8, lrs=[1.0]).rows == sweep(callbacks=stop, epochs=8, lrs=[1.0]).rows


def test_a_model_of_an_earlier_sweep_is_refused():
    options = {"lrs": [0.1], "seeds": [1], "epochs": 1, "optimizers": {"SGD": optim.SGD}}
    model = small.model()
    sweep(make_model=lambda seed: model, **options)
    with pytest.raises(ValueError, match="'make_model' returned the same model again"):
        sweep(make_model=lambda seed: model, **options)


def test_a_bar_counts_the_runs(capsys):
    sweep(progress=True, epochs=1)
    assert "12/12" in capsys.readouterr().err
    sweep(epochs=1)
    assert capsys.readouterr().err == ""


LOSSES = {
    "sharp": {1e-3: 4.0, 1e-2: 1.0, 1e-1: 3.0, 1.0: math.inf},
    "wide": {1e-3: 1.0, 1e-2: 0.5, 1e-1: 0.5, 1.0: math.inf},
    "gap": {1e-3: 1.0, 1e-2: 9.0, 1e-1: 1.0, 1.0: 0.9},
    "none": dict.fromkeys((1e-3, 1e-2, 1e-1, 1.0), math.inf),
}
SHARP = {"sharp": LOSSES["sharp"]}


def result(losses=LOSSES):
    rows = [
        {"optimizer": name, "lr": lr, "seed": 0, "validation_loss": loss, "best_validation_loss": loss / 2}
        | {"best_epoch": 1, "diverged": loss == math.inf}
        for name, curve in losses.items()
        for lr, loss in curve.items()
    ]
    return tune.StepSizeSweep(rows)


def test_the_width_of_the_valley():
    width = result().width(0.5)
    assert width["sharp"] == pytest.approx(0.5 / 3 + 0.5 / 2)
    assert width["wide"] == pytest.approx(1 + 0.5)  # nothing on the way to what diverged
    assert width["gap"] == pytest.approx(1 + (1.35 - 1) / 8)  # up to the edge of the grid; what is beyond the hill not
    assert width["none"] == 0
    assert result().width(0.0) == pytest.approx({"sharp": 0, "wide": 1, "gap": 0, "none": 0})
    assert result().width(10.0)["gap"] == pytest.approx(3)
    assert [cell and cell["lr"] for cell in result().best().values()] == [1e-2, 1e-2, 1.0, None]


def test_summary_gives_quantiles_over_the_seeds():
    rows = [
        {"optimizer": "SGD", "lr": 0.1, "seed": i, "validation_loss": loss, "diverged": loss == math.inf}
        for i, loss in enumerate([3.0, 1.0, math.inf, 2.0])
    ]
    (cell,) = tune.StepSizeSweep(rows).summary((0.0, 0.5, 1.0))
    expected = {"lower": 1.0, "median": 2.5, "upper": math.inf, "diverged": 0.25}
    assert cell == {"optimizer": "SGD", "lr": 0.1, **expected}
    assert "SGD        0.1" in repr(tune.StepSizeSweep(rows))


def test_json_keeps_every_bit(tmp_path):
    found, path = result(), tmp_path / "sweep.json"
    found.rows[0]["validation_loss"] = 0.1 + 0.2
    found.to_json(path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert tune.StepSizeSweep.from_json(path) == found
    tune.StepSizeSweep([]).to_json(path)
    assert tune.StepSizeSweep.from_json(path).rows == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("[]", "it has no list of 'rows'"),
        ('{"rows": {}}', "it has no list of 'rows'"),
        ('{"rows": [3]}', "row 0 is 3"),
        ('{"rows": [{"epoch": 1, "seed": 0, "lr": 1}]}', "row 0 lacks 'optimizer', 'validation_loss', "),
        ({"optimizer": 3}, "'optimizer' of row 1 must be a name but is 3"),
        ({"lr": "fast"}, "'lr' of row 1 must be a number but is 'fast'"),
        ({"lr": 0}, "'lr' of row 1 must be greater than 0 but is 0"),
        ({"seed": 0.5}, "'seed' of row 1 must be an integer but is 0.5"),
        ({"validation_loss": "low"}, "'validation_loss' of row 1 must be a number but is 'low'"),
        ({"best_validation_loss": None}, "'best_validation_loss' of row 1 must be a number but is None"),
        ({"best_epoch": True}, "'best_epoch' of row 1 must be an integer or null but is True"),
        ({"diverged": 0}, "'diverged' of row 1 must be true or false but is 0"),
    ],
)
def test_what_is_no_sweep_is_refused(text, words, tmp_path):
    path = tmp_path / "sweep.json"
    if isinstance(text, dict):
        text = json.dumps({"rows": [row | (text if i == 1 else {}) for i, row in enumerate(result(SHARP).rows)]})
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"sweep\.json: not a sweep: {words}"):
        tune.StepSizeSweep.from_json(path)


def test_rows_may_come_in_any_order():
    found, ordered = result(), result()
    np.random.default_rng(0).shuffle(found.rows)
    assert found.width(0.5) == {name: ordered.width(0.5)[name] for name in found.optimizers}
    assert found.best() == {name: ordered.best()[name] for name in found.optimizers}
    lrs = [cell["lr"] for cell in found.summary() if cell["optimizer"] == "sharp"]
    assert lrs == sorted(LOSSES["sharp"])


def test_plot_of_a_sweep(tmp_path):
    pytest.importorskip("matplotlib")
    had_pyplot = "matplotlib.pyplot" in sys.modules
    figure = result().plot(tmp_path / "sweep.png")
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot and (tmp_path / "sweep.png").stat().st_size > 10_000
    (panel,) = figure.axes
    assert panel.get_xscale() == panel.get_yscale() == "log"
    assert [text.get_text() for text in panel.get_legend().get_texts()] == list(LOSSES)
    crosses = [line.get_xdata() for line in panel.get_lines() if line.get_marker() == "x"]
    assert [len(points) for points in crosses] == [1, 1, 0, 4]
    low, high = panel.get_ylim()
    assert low < 0.5 and 9 < high < 20
    with pytest.raises(ValueError, match=r"\[StepSizeSweep\] there is no run to draw"):
        tune.StepSizeSweep([]).plot()


def test_plot_of_a_sweep_where_the_median_run_diverged(tmp_path):
    """No warning; a band is drawn up to where its upper edge is infinite."""
    pytest.importorskip("matplotlib")
    (panel,) = result({"none": LOSSES["none"]}).plot(tmp_path / "gone.png").axes
    *_, crosses = panel.get_lines()
    assert len(crosses.get_xdata()) == 4
    rows = result({"SGD": {0.1: 2.0, 1.0: math.inf}}).rows
    rows += [row | {"seed": 1, "validation_loss": loss} for row, loss in zip(rows, (3.0, 4.0), strict=True)]
    (panel,) = tune.StepSizeSweep(rows).plot(tmp_path / "half.png").axes
    line, crosses = panel.get_lines()
    assert line.get_ydata() == pytest.approx([2.5, math.nan], nan_ok=True) and crosses.get_xdata() == [1.0]
    edges = panel.collections[0].get_paths()[0].vertices
    assert np.isfinite(edges).all() and edges[:, 0].max() == 1.0 and edges[:, 1].max() > 10 * panel.get_ylim()[1]
    (panel,) = tune.StepSizeSweep([row for row in rows if row["lr"] == 1.0]).plot(tmp_path / "lower.png").axes
    assert len(panel.collections[0].get_paths()) == 1


@pytest.mark.parametrize(
    ("losses", "low", "high"),
    [
        ((-1.0, 2.0), -1.15, 2.15),
        ((-1.0, -2.0), -2.05, -0.95),
        ((0.0, 2.0), -0.1, 2.1),
        ((0.0, 0.0), -1, 1),
        ((-1e20, -1e20), -1.05e20, -0.95e20),
    ],
)
def test_plot_of_a_sweep_with_losses_that_are_not_positive(losses, low, high, tmp_path):
    pytest.importorskip("matplotlib")
    found = result({"SGD": {0.1: losses[0], 1.0: losses[1], 10.0: math.inf}})
    (panel,) = found.plot(tmp_path / "sweep.png").axes
    line = panel.get_lines()[0]
    assert panel.get_yscale() == "linear" and panel.get_ylim() == pytest.approx((low, high))
    assert line.get_ydata() == pytest.approx([*losses, math.nan], nan_ok=True)


@pytest.mark.parametrize("low", [-5.0, 5.0])
def test_plot_of_a_sweep_with_a_lower_edge_at_minus_infinity(low, tmp_path):
    """Beside a step size of which a few runs did not diverge."""
    pytest.importorskip("matplotlib")
    curves = [{0.1: -math.inf, 1.0: 1.0}] * 2 + [{0.1: low, 1.0: math.inf}] * 9
    rows = [row for curve in curves for row in result({"SGD": curve}).rows]
    found = tune.StepSizeSweep(rows)
    edges = [(cell["lower"], cell["median"]) for cell in found.summary()]
    assert edges == [(-math.inf, low), (1.0, math.inf)]
    (panel,) = found.plot(tmp_path / "edge.png").axes
    bottom, top = panel.get_ylim()
    assert bottom < low < top and panel.get_yscale() == ("linear" if low < 0 else "log")


SAME = small.model(), small.model()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"make_model": 3}, TypeError, "'make_model' must be a function of the seed but got 3"),
        (
            {"make_model": lambda seed: None},
            TypeError,
            "'make_model' must return a fusedstep.nn.Sequential but returned N",
        ),
        ({"make_model": lambda seed: SAME[0]}, ValueError, "'make_model' returned the same model again"),
        ({"make_model": lambda seed: SAME[seed]}, ValueError, "'make_model' returned the same model again"),
        ({"optimizers": [optim.SGD]}, TypeError, "'optimizers' must be a dict of names and functions"),
        ({"optimizers": {"SGD": 0.1}}, TypeError, "'optimizers' must be a dict of names and functions"),
        ({"optimizers": {}}, ValueError, "'optimizers' is empty"),
        ({"train": MiniBatches(*TRAIN, batch_size=8)}, TypeError, r"'train' must be \(X, y\) or \(X, y, weights\), as"),
        ({"validation": None}, TypeError, r"'validation' must be \(X, y\), \(X, y, weights\) or MiniBatches"),
        ({"lrs": []}, ValueError, "'lrs' must be different step sizes but got"),
        ({"lrs": [0.1, 0.1]}, ValueError, "'lrs' must be different step sizes but got"),
        ({"lrs": [0.0]}, ValueError, "'lrs' must be greater than 0 but got 0.0"),
        ({"lrs": [math.inf]}, ValueError, r"'lrs' must be in \[0, inf\) but got inf"),
        ({"lrs": 0.1}, TypeError, "'lrs' must be a sequence of step sizes but got 0.1"),
        ({"lrs": ["fast"]}, TypeError, "'lrs' must be a number but got 'fast'"),
        ({"seeds": 0}, ValueError, r"'seeds' must be in \[1"),
        ({"seeds": [1, 1]}, ValueError, "'seeds' must be a number of seeds, or different seeds"),
        ({"epochs": 0}, ValueError, r"'epochs' must be in \[1"),
        ({"n_jobs": 0}, ValueError, "'n_jobs' must be a number of processes"),
        ({"blas_threads": 0}, ValueError, r"'blas_threads' must be in \[1"),
        ({"seed": 1}, TypeError, "'seed' is no option of a sweep's runs; use 'seeds'"),
        ({"resume": "x"}, TypeError, "'resume' is no option of a sweep's runs"),
        ({"callbacks": [Checkpoint("x")]}, ValueError, "all runs would write the same checkpoint"),
        ({"callbacks": Checkpoint("x")}, ValueError, "all runs would write the same checkpoint"),
        ({"callbacks": lambda: [Checkpoint("x")]}, ValueError, "all runs would write the same checkpoint"),
        ({"callbacks": lambda: Checkpoint("x")}, ValueError, "all runs would write the same checkpoint"),
        ({"callbacks": None}, TypeError, "'callbacks' must be instances of .* but got None"),
        ({"callbacks": 3}, TypeError, "'callbacks' must be instances of .* but got 3"),
        ({"callbacks": lambda: 3}, TypeError, "'callbacks' must be instances of .* but got 3"),
        ({"callbacks": [print]}, TypeError, "'callbacks' must be instances of .* but got <built-in"),
    ],
)
def test_bad_arguments_of_a_sweep_are_named(options, error, words):
    with pytest.raises(error, match=rf"\[step_size_sweep\] {words}"):
        sweep(**options)


def test_what_fit_refuses_is_refused():
    with pytest.raises(ValueError, match=r"\[fit\] 'train X' holds NaN"):
        sweep(train=(np.full((4, 2), np.nan, np.float32), TRAIN[1][:4]))
    for tolerance in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"\[StepSizeSweep\] 'tolerance' must be in \[0"):
            result().width(tolerance)
    with pytest.raises(ValueError, match=r"\[StepSizeSweep\] 'quantiles' must be three rising levels"):
        result().summary((0.5, 0.5, 0.9))
    with pytest.raises(TypeError, match=r"\[StepSizeSweep\] 'quantiles' must be three rising levels .* but got 0.5"):
        result().summary(0.5)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'fusedstep\[plot\]'"):
        result().plot()
