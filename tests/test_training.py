import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import small_problem as small
from fusedstep import nn, optim
from fusedstep.callbacks import Callback
from fusedstep.data import MiniBatches
from fusedstep.evaluation import evaluate, predict
from fusedstep.metrics import accuracy
from fusedstep.training import fit


def train(epochs=3, seed=0, model=None, loss=small.LOSS, validated=True, **options):
    model = model or small.model(seed)
    X, y = small.data()
    validation = (X[40:], y[40:]) if validated else None
    options = {"batch_size": 8, "progress": False, "seed": seed, "train": (X[:40], y[:40])} | options
    data = options.pop("train")
    history = fit(model, small.adam(model), loss, data, validation, epochs=epochs, **options)
    return model, history


def test_history_rows():
    model, history = train(metrics=["accuracy"])
    names = ["epoch", "train_loss", "validation_loss", "validation_accuracy", "lr", "seconds"]
    assert [list(row) for row in history.rows] == [names] * 3
    assert history.column("epoch") == [1, 2, 3]
    assert history.column("lr") == [0.01] * 3 and min(history.column("seconds")) > 0
    X, y = small.data()
    result = evaluate(model, small.LOSS, X[40:], y[40:], metrics=["accuracy"])
    assert result == {name: history.rows[-1][f"validation_{name}"] for name in ("loss", "accuracy")}


def test_the_step_size_of_a_row_is_that_of_the_last_step():
    X, y = small.data(40)
    model = small.model()
    optimizer = small.adam(model, lr=optim.schedules.inverse_time(0.1, 1.0))
    history = fit(model, optimizer, small.LOSS, (X, y), epochs=2, batch_size=8, progress=False)
    assert history.column("lr") == [0.1 / 5, 0.1 / 10] and optimizer.lr == 0.1 / 11


def test_it_learns():
    _, history = train(epochs=40, metrics=["accuracy"])
    assert history.rows[-1]["train_loss"] < 0.5 * history.rows[0]["train_loss"]
    assert history.rows[-1]["validation_accuracy"] >= 0.9


def test_train_loss_is_the_mean_over_samples():
    X, y = small.data(10)
    model = nn.Sequential(nn.Dense(2, 2))
    expected = evaluate(model, small.LOSS, X, y)["loss"]
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    history = fit(model, optimizer, small.LOSS, (X, y), epochs=1, batch_size=4, progress=False)
    assert history.rows[0]["train_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 40, None])
def test_evaluation_does_not_depend_on_the_batch_size(batch_size):
    X, y = small.data(40)
    weights = np.linspace(0, 1, 40)
    model = small.model()
    whole = evaluate(model, small.LOSS, X, y, weights, metrics=["accuracy"])
    parts = evaluate(model, small.LOSS, X, y, weights, metrics=["accuracy"], batch_size=batch_size)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert whole["loss"] == pytest.approx(small.LOSS(model.predict(X), y, weights)[0], rel=1e-6)
    np.testing.assert_allclose(predict(model, X, batch_size=batch_size), model.predict(X), rtol=1e-5)


def test_the_seed_decides_every_bit():
    (a, history_a), (b, history_b), (c, _) = train(seed=1), train(seed=1, prefetch=2), train(seed=2)
    assert small.state(a) == small.state(b) != small.state(c)
    assert history_a.column("validation_loss") == history_b.column("validation_loss")


def test_training_on_batches_is_training_on_arrays():
    X, y = small.data()
    batches = MiniBatches(X[:40], y[:40], batch_size=8)
    a, _ = train(train=batches)
    b, _ = train()
    assert small.state(a) == small.state(b)
    assert batches.epoch == 3


def test_weights_of_zero_leave_samples_out():
    X, y = small.data(40)
    weights = np.repeat([1.0, 0.0], 20)
    models = []
    for data in ((X, y, weights), (X[:20], y[:20])):
        model = nn.Sequential(nn.Dense(2, 2))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        fit(model, optimizer, small.LOSS, data, epochs=2, batch_size=20, shuffle=False, progress=False)
        models.append(model)
    np.testing.assert_allclose(*(model.predict(X) for model in models), rtol=1e-5)


def test_function_as_metric():
    def right(target, output):
        return np.sum(output.argmax(axis=1) == target)

    _, history = train(metrics=[right, accuracy])
    row = history.rows[-1]
    assert row["validation_right"] == 20 * row["validation_accuracy"]


def test_accuracy():
    assert accuracy([0, 2], [[1, 0, 0], [0, 1, 0]]) == 0.5
    assert accuracy([[1.0], [0.0]], [[3.0], [-1.0]]) == 1
    assert accuracy([1, 0, 1], [0.1, 0.2, -0.1]) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"have \(3,\) and \(2, 2\)"):
        accuracy([0, 1, 0], [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match=r"C > 1.*have \(2,\) and \(2, 1\)"):
        accuracy([0, 1], [[-3.0], [3.0]])


def test_nan_is_never_right():
    nan = np.nan
    assert accuracy([0, 1, 0], [[nan, 1.0], [0.0, nan], [1.0, 0.0]]) == pytest.approx(1 / 3)
    assert accuracy([0.0, 1.0], [nan, 2.0]) == 0.5


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_train_begin(self, run):
        self.calls.append("begin")

    def before_step(self, run):
        self.calls.append((run.epoch, run.batch_index, len(run.batch[0])))

    def on_epoch_end(self, run):
        self.calls.append(("end of epoch", run.epoch, len(run.history.rows)))

    def on_train_end(self, run):
        self.calls.append("end")


def test_order_of_hooks():
    recorder = Recorder()
    train(epochs=2, batch_size=16, callbacks=[recorder])
    steps = [(0, 16), (1, 16), (2, 8)]
    expected = ["begin"]
    for epoch in (1, 2):
        expected += [*((epoch, *step) for step in steps), ("end of epoch", epoch, epoch)]
    assert recorder.calls == [*expected, "end"]


class InterruptAt(Recorder):
    """Press Ctrl-C in a batch of the second epoch."""

    def __init__(self, press):
        super().__init__()
        self.press = press

    def before_step(self, run):
        super().before_step(run)
        if (run.epoch, run.batch_index) == (2, 1):
            self.press()


def raise_interrupt():
    raise KeyboardInterrupt


def send_interrupt():
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("press", [raise_interrupt, send_interrupt])
def test_ctrl_c_returns_the_history_so_far(press):
    recorder = InterruptAt(press)
    handler = signal.getsignal(signal.SIGINT)
    _, history = train(epochs=9, callbacks=[recorder])
    assert history.interrupted and history.column("epoch") == [1]
    assert recorder.calls[-2:] == [(2, 1, 8), "end"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_finishes_the_batch():
    """One signal lets the step happen; a second one ends at once."""
    steps = []

    class Counting(optim.SGD):
        def step(self):
            super().step()
            steps.append(1)

    def press(times):
        steps.clear()
        model = small.model()
        X, y = small.data()
        recorder = InterruptAt(lambda: [send_interrupt() for _ in range(times)])
        optimizer = Counting(model.parameters(), lr=0.1)
        fit(model, optimizer, small.LOSS, (X, y), epochs=3, batch_size=20, callbacks=[recorder], progress=False)
        return len(steps)

    assert press(1) == 3 + 2
    assert press(2) == 3 + 1


def test_a_real_ctrl_c(tmp_path):
    code = """
        import os, signal, threading
        import small_problem as small
        from fusedstep.training import fit
        model = small.model()
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        history = fit(model, small.adam(model), small.LOSS, small.data(), epochs=10**6, batch_size=8, progress=False)
        print(history.interrupted, len(history.rows) > 0)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_other_exceptions_pass_through():
    def broken(output, target, weights=None):
        if len(target) > 1:
            raise OSError("disk")
        return small.LOSS(output, target)

    with pytest.raises(OSError, match="disk"):
        train(loss=broken)


@pytest.mark.parametrize(("progress", "title"), [(True, ""), ("fold 3", "fold 3"), (False, None)])
def test_progress_bar(progress, title, capsys):
    train(progress=progress, metrics=["accuracy"])
    shown = capsys.readouterr().err
    if title is None:
        assert shown == ""
    else:
        last = shown.split("\r")[-1]
        assert last.startswith(title) and "15/15" in last
        for name in ("epoch=3", "train_loss=", "val_loss=", "val_accuracy="):
            assert name in last


X, Y = small.data(8)


def test_an_epoch_without_weight_has_no_loss():
    X, y = small.data(5)
    weights = np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    _, history = train(1, train=(X, y, weights), batch_size=4, last="drop", shuffle=False)
    assert np.isnan(history.rows[0]["train_loss"])


def test_accumulated_batches_step_as_one_large_one():
    """In float64 the two differ by the rounding of a few sums of 10 products: far below 1e-12."""
    X = np.random.default_rng(0).standard_normal((20, 3))
    y = (X[:, 0] > 0).astype(np.int64)
    weights = np.linspace(0.1, 2, 20)
    states = []
    for batch_size, accumulate in ((10, 1), (5, 2), (2, 5)):
        model = nn.Sequential(nn.Dense(3, 4), nn.Tanh(), nn.Dense(4, 2), dtype=np.float64)
        optimizer = optim.SGD(model.parameters(), lr=0.5)
        options = {"batch_size": batch_size, "accumulate": accumulate, "shuffle": False, "progress": False}
        fit(model, optimizer, small.LOSS, (X, y, weights), epochs=3, **options)
        assert optimizer.steps == 6
        states.append(np.concatenate([p.array.ravel() for p in model.parameters()]))
    assert np.abs(states[1] - states[0]).max() < 1e-12 and np.abs(states[2] - states[0]).max() < 1e-12


def test_a_remainder_of_accumulated_batches_steps():
    X, y = small.data()
    model = small.model()
    optimizer = small.adam(model)
    fit(model, optimizer, small.LOSS, (X, y), epochs=2, batch_size=20, accumulate=2, progress=False)
    assert optimizer.steps == 4


def test_class_weights_are_sample_weights():
    X, y = small.data()
    by_class = np.bincount(y, minlength=2)
    balanced = (len(y) / (2 * by_class))[y]
    states = []
    for data, class_weight in (((X, y, balanced), None), ((X, y), "balanced"), ((X, y), dict(enumerate(balanced)))):
        if isinstance(class_weight, dict):
            class_weight = {k: len(y) / (2 * by_class[k]) for k in (0, 1)}
        model = small.model()
        fit(model, small.adam(model), small.LOSS, data, epochs=2, class_weight=class_weight, progress=False)
        states.append(small.state(model))
    assert states[0] == states[1] == states[2]


@pytest.mark.parametrize(
    ("class_weight", "match"),
    [
        ("even", "must be 'balanced' or a dict"),
        ({5: 1.0}, "names the class 5"),
        ({0: -1.0}, "finite and not negative"),
        ({0: 0.0, 1: 0}, r"\[fit\] 'class_weight' must be finite .* not all zero"),
    ],
)
def test_wrong_class_weights(class_weight, match):
    X, y = small.data()
    model = small.model()
    before = small.state(model)
    with pytest.raises(ValueError, match=match):
        fit(model, small.adam(model), small.LOSS, (X, y), epochs=1, class_weight=class_weight, progress=False)
    assert small.state(model) == before


@pytest.mark.parametrize(("class_weight", "own"), [({0: 0.0}, Y == 0), ({1: 1e300}, np.full(8, 1e300))])
def test_class_weights_that_leave_no_weights(class_weight, own):
    with pytest.raises(
        ValueError, match=r"'class_weight' times the weights of the samples must be finite .* not all zero"
    ):
        train(1, train=(X, Y, own), class_weight=class_weight)


def test_metrics_that_fail_on_a_few_samples():
    """Every other of 2048 samples has one class; the first 1024 on disk, too."""

    def of_two_classes(target, output):
        if len(np.unique(target)) < 2:
            raise ValueError("one class")
        return len(target)

    class OnDisk:
        def __len__(self):
            return 2048

        def __getitem__(self, samples):
            return x[samples]

    x, y = np.tile(small.data(1)[0], (2048, 1)), np.arange(2048) % 2
    for validation in ((x, y), (OnDisk(), np.sort(y))):
        model = small.model()
        options = {"epochs": 1, "metrics": of_two_classes, "progress": False}
        history = fit(model, small.adam(model), small.LOSS, small.data(), validation, **options)
        assert history.rows[0]["validation_of_two_classes"] == 2048
        before = small.state(model)
        with pytest.raises(ValueError, match="one class"):
            fit(model, small.adam(model), small.LOSS, small.data(), (validation[0], 0 * y), **options)
        assert small.state(model) == before


def test_batches_may_start_within_an_epoch():
    positions = []

    class Positions(Callback):
        def on_batch_end(self, run):
            positions.append((run.batch_index, run.progress.position))

    batches = MiniBatches(*small.data(40), batch_size=8)
    batches.load_state_dict(batches.state_dict(position=3))
    train(1, train=batches, callbacks=[Positions()])
    assert positions == [(3, 4), (4, 5)]


def test_averages_are_judged_and_left_in_the_model():
    X, y = small.data()
    raw, model = small.model(), small.model()
    fit(raw, small.adam(raw), small.LOSS, (X, y), (X, y), epochs=4, progress=False)
    optimizer = optim.Adam(model.parameters(), lr=0.01, ema_decay=0.9)
    history = fit(model, optimizer, small.LOSS, (X, y), (X, y), epochs=4, progress=False)
    averages = optimizer.averages()
    assert all((p.array == averages[p.name]).all() for p in model.parameters())
    assert evaluate(model, small.LOSS, X, y)["loss"] == history.rows[-1]["validation_loss"]
    # The weights themselves were trained as without averages.
    other = small.model()
    keeps = optim.Adam(other.parameters(), lr=0.01, ema_decay=0.9)
    fit(other, keeps, small.LOSS, (X, y), (X, y), epochs=4, validate_averages=False, progress=False)
    assert small.state(other) == small.state(raw)
    with pytest.raises(ValueError, match="keeps none"):
        fit(raw, small.adam(raw), small.LOSS, (X, y), (X, y), epochs=1, validate_averages=True, progress=False)
