"""Sweeps of the step size, and the range test."""

from __future__ import annotations

import json
import math
import sys
import threading

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


# -- the sweep


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
    [((-1.0, 2.0), -1.15, 2.15), ((-1.0, -2.0), -2.05, -0.95), ((0.0, 2.0), -0.1, 2.1), ((0.0, 0.0), -1, 1)],
)
def test_plot_of_a_sweep_with_losses_that_are_not_positive(losses, low, high, tmp_path):
    pytest.importorskip("matplotlib")
    found = result({"SGD": {0.1: losses[0], 1.0: losses[1], 10.0: math.inf}})
    (panel,) = found.plot(tmp_path / "sweep.png").axes
    line = panel.get_lines()[0]
    assert panel.get_yscale() == "linear" and panel.get_ylim() == pytest.approx((low, high))
    assert line.get_ydata() == pytest.approx([*losses, math.nan], nan_ok=True)


SAME = small.model(), small.model()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"make_model": 3}, TypeError, "'make_model' must be a function of the seed but got 3"),
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


# -- the range test


def range_test(model=None, optimizer=None, train=None, **options):
    model = linear() if model is None else model
    optimizer = optim.SGD(model.parameters(), lr=0.01) if optimizer is None else optimizer
    train = regression(256) if train is None else train
    return tune.lr_range_test(model, optimizer, MSE, train, **{"batch_size": 32, **options})


def test_losses_are_those_of_a_run_whose_step_size_rises():
    X, y = regression(128)
    found = range_test(train=(X, y), start=1e-4, stop=1.0, steps=20, explode=1e9)
    model, lrs = linear(), np.geomspace(1e-4, 1.0, 20)
    optimizer = optim.SGD(model.parameters(), lr=lambda step: float(lrs[step]))
    batches, losses = MiniBatches(X, y, batch_size=32, seed=0), []
    while len(losses) < 20:
        for x, target in batches:
            value, gradient = MSE(model.forward(x), target)
            model.backward(gradient)
            optimizer.step()
            losses.append(float(value))
    assert (found.lrs == lrs).all() and found.losses.tolist() == losses and not found.exploded
    assert (found.smoothed == fs.ops.ewma(losses, 0.9, bias_correction=True)).all()


def test_the_suggestion_is_a_step_size_that_trains():
    found = range_test(steps=200)
    assert found.exploded and len(found.lrs) < 200
    X, y = regression(256)
    largest = np.linalg.eigvalsh(2 / len(X) * X.T @ X).max()
    assert 0.01 < found.suggestion < 2 / largest < found.lrs[-1]
    assert found.suggestion == found.steepest
    lowest = found.lrs[found.smoothed.argmin() - found.lag]
    assert found.tenth_of_minimum == pytest.approx(lowest / 10)
    for lr in (found.suggestion, found.tenth_of_minimum):
        model = linear()
        optimizer = optim.SGD(model.parameters(), lr=lr)
        history = fs.fit(model, optimizer, MSE, (X, y), epochs=30, batch_size=32, progress=False)
        assert history.rows[-1]["train_loss"] < 0.01 * found.losses[0]
    assert repr(found).startswith("RangeTest(") and "suggestion 0." in repr(found)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.95])
def test_the_lag_of_the_average_is_taken_off(beta):
    """What is suggested is where the losses themselves fall most, and are lowest, not where their average does."""
    steps, place = 600, 300
    batch, lrs = np.arange(steps) - place, np.geomspace(1e-6, 10, steps)

    def found(losses):
        smoothed = fs.ops.ewma(losses, beta, bias_correction=True)
        return tune.RangeTest(lrs, losses, smoothed, False, round(1 / (1 - beta)))

    steepest = np.searchsorted(lrs, found(-np.tanh(batch / 60)).suggestion)
    assert abs(steepest - place) <= 3
    assert found(batch**2.0).tenth_of_minimum == pytest.approx(lrs[place] / 10)
    with_lag = range_test(beta=beta, steps=20)
    assert with_lag.lag == round(beta / (1 - beta)) and with_lag.window == with_lag.lag + 1


def test_more_steps_move_the_suggestion_down():
    few, many = (range_test(steps=steps).suggestion for steps in (50, 400))
    assert many < few


def test_nothing_is_suggested_where_the_loss_never_falls():
    X, _ = regression(64)
    found = range_test(train=(X, np.zeros((64, 1), np.float32)), start=5.0, stop=1e3, steps=20)
    assert found.exploded and found.suggestion is found.tenth_of_minimum is None
    assert "suggestion none" in repr(found)


def bits(model, optimizer):
    state = optimizer.state_dict()
    averages = {name: {k: v.tobytes() for k, v in views.items()} for name, views in state["state"].items()}
    rest = (averages, state["steps"], state["skipped"], [g["lr"] for g in optimizer.param_groups], model.random_offset)
    return small.state(model), [p.grad.tobytes() for p in model.parameters()], rest


@pytest.mark.parametrize("lr", [0.01, optim.schedules.cosine(0.01, 100)], ids=["number", "schedule"])
def test_all_is_as_it_was_before(lr):
    """Of a model with batch norm and dropout, in the midst of its training."""
    X, y = small.data()
    model = small.model()
    optimizer = optim.Adam(model.parameters(), lr=lr, ema_decay=0.9)
    batches = MiniBatches(X, y, batch_size=16)
    fs.fit(model, optimizer, small.LOSS, batches, epochs=2, progress=False)
    next(iter(batches))
    before, place = bits(model, optimizer), batches.state_dict()
    found = tune.lr_range_test(model, optimizer, small.LOSS, batches, steps=30)
    assert bits(model, optimizer) == before and batches.state_dict() == place
    again = tune.lr_range_test(model, optimizer, small.LOSS, batches, steps=30)
    assert (found.losses == again.losses).all()
    # Of a run that overflows, or is broken off, as well.
    tune.lr_range_test(model, optimizer, small.LOSS, (X, y), start=1e30, stop=1e38, steps=30, explode=1e300)
    assert bits(model, optimizer) == before
    with pytest.raises(ZeroDivisionError):
        tune.lr_range_test(model, optimizer, Breaks(), (X, y), batch_size=16)
    assert bits(model, optimizer) == before


class Breaks:
    """A loss that fails in the fifth batch."""

    calls = 0

    def __call__(self, output, target, weights=None):
        self.calls += 1
        if self.calls == 5:
            raise ZeroDivisionError
        return small.LOSS(output, target, weights)


def test_a_loss_that_is_not_finite_ends_the_test():
    found = range_test(start=1.0, stop=1e38, steps=10, explode=1e300)
    assert found.exploded and not math.isfinite(found.smoothed[-1]) and np.isfinite(found.losses[:-1]).all()
    assert found.suggestion is None or found.suggestion < 1e38


def test_groups_get_the_same_step_size_and_their_own_back():
    model = linear()
    weight, bias = model.parameters()
    optimizer = optim.SGD([{"params": [weight], "lr": 0.5}, {"params": [bias], "lr": lambda step: 0.1}])
    grouped = range_test(model, optimizer, steps=20)
    assert (grouped.losses == range_test(steps=20).losses).all()
    assert optimizer.param_groups[0]["lr"] == 0.5 and optimizer.param_groups[1]["lr"](0) == 0.1


def test_it_runs_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(range_test(steps=20)))
    thread.start()
    thread.join()
    assert (found[0].losses == range_test(steps=20).losses).all()


def test_plot_of_a_range_test(tmp_path):
    pytest.importorskip("matplotlib")
    found = range_test()
    (panel,) = found.plot(tmp_path / "range.png").axes
    assert (tmp_path / "range.png").stat().st_size > 10_000 and panel.get_xscale() == "log"
    labels = [text.get_text() for text in panel.get_legend().get_texts()]
    assert (
        labels[:2] == ["each batch", "smoothed, 9 batches late"]
        and labels[2] == f"steepest descent: {found.steepest:.2g}"
    )
    nothing = tune.RangeTest(np.array([0.1, 1.0]), np.array([1.0, np.inf]), np.array([1.0, np.inf]), True)
    assert len(nothing.plot(tmp_path / "nothing.png").axes[0].get_legend().get_texts()) == 2


def less(offset):
    """The squared error less a number, which may make it negative; its gradients are the same."""

    def loss(output, target, weights=None):
        value, gradient = MSE(output, target, weights)
        return value - offset, gradient

    return loss


def test_of_losses_that_are_negative(tmp_path):
    pytest.importorskip("matplotlib")
    model = linear()
    arguments = model, optim.SGD(model.parameters()), less(100.0), regression(256)
    found = tune.lr_range_test(*arguments, batch_size=32, stop=1.0)
    assert (found.losses < 0).all() and not found.exploded
    assert found.losses == pytest.approx(range_test(stop=1.0, explode=1e9).losses - 100, abs=1e-4)
    (panel,) = found.plot(tmp_path / "negative.png").axes
    low, high = panel.get_ylim()
    assert low < found.smoothed.min() < found.smoothed[0] < high
    gone = tune.lr_range_test(*arguments, batch_size=32, stop=1e3)
    assert gone.exploded and gone.smoothed[-1] > 2 * 100 and (gone.smoothed[:-1] <= 2 * 100).all()
    low, high = gone.plot().axes[0].get_ylim()
    assert low < gone.smoothed[0] < high


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"start": 0.0}, ValueError, "'start' must be greater than 0 but got 0.0"),
        ({"start": -1.0}, ValueError, r"'start' must be in \[0"),
        ({"stop": math.inf}, ValueError, r"'stop' must be in \[0, inf\) but got inf"),
        ({"start": 1.0, "stop": 0.5}, ValueError, r"'stop' must be greater than 'start' \(1\) but got 0.5"),
        ({"steps": 1}, ValueError, r"'steps' must be in \[2"),
        ({"steps": 2.5}, TypeError, "'steps' must be an integer but got 2.5"),
        ({"beta": 1.0}, ValueError, r"'beta' must be in \[0, 1\) but got 1.0"),
        ({"explode": 1.0}, ValueError, "'explode' must be greater than 1 but got 1.0"),
        ({"train": 3}, TypeError, r"'train' must be \(X, y\), \(X, y, weights\) or MiniBatches of these but got int"),
    ],
)
def test_bad_arguments_of_a_range_test_are_named(options, error, words):
    with pytest.raises(error, match=rf"\[lr_range_test\] {words}"):
        range_test(**options)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for drawn in (result(), tune.RangeTest(np.ones(2), np.ones(2), np.ones(2), False)):
        with pytest.raises(ImportError, match=r"pip install 'fusedstep\[plot\]'"):
            drawn.plot()
