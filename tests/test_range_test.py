"""The range test of the step size."""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
import pytest

import fusedstep as fs
import small_problem as small
from fusedstep import optim, tune
from fusedstep.data import MiniBatches
from test_tune import MSE, linear, regression


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
    for losses, low, high in (([1e20, 1e20], 0.95e20, 1.05e20), ([2.0, 1.0, 1e30], 0.7, 4.3)):
        losses = np.array(losses)
        (panel,) = tune.RangeTest(np.geomspace(0.1, 1, len(losses)), losses, losses, True).plot().axes
        assert panel.get_ylim() == pytest.approx((low, high))
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
    with pytest.raises(ImportError, match=r"pip install 'fusedstep\[plot\]'"):
        tune.RangeTest(np.ones(2), np.ones(2), np.ones(2), False).plot()
