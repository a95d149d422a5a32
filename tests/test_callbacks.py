import numpy as np
import pytest

import small_problem as small
from fusedstep import nn, optim
from fusedstep.callbacks import Callback, Checkpoint, EarlyStopping, StopOnNaN
from fusedstep.evaluation import evaluate
from fusedstep.training import fit
from small_callbacks import Script


class States(Callback):
    """Keep the model's bits after each epoch."""

    def __init__(self):
        self.states = []

    def on_epoch_end(self, run):
        self.states.append(small.state(run.model))


def train(callbacks, epochs=10, validated=True):
    X, y = small.data()
    model = small.model()
    validation = (X[40:], y[40:]) if validated else None
    history = fit(
        model,
        small.adam(model),
        small.LOSS,
        (X[:40], y[:40]),
        validation,
        epochs=epochs,
        batch_size=8,
        callbacks=callbacks,
        progress=False,
    )
    return model, history


@pytest.mark.parametrize(
    ("values", "options", "best", "length"),
    [
        ([5, 4, 3, 4, 4, 4, 4, 4], {"patience": 2}, 3, 5),
        ([5, 4, 3, 4, 2, 4, 4, 4], {"patience": 2}, 5, 7),
        ([5, 4, 3, 2, 1, 1, 1, 1], {"patience": 10}, 5, 8),
        ([1, 2, 3, 2, 2, 2, 2, 2], {"patience": 3, "mode": "max"}, 3, 6),
        ([5, 4.9, 4.8, 4.7, 4.6, 4.5, 4.4, 4.3], {"patience": 3, "min_delta": 0.5}, 1, 4),
        ([np.nan, 4, np.nan, np.nan, np.nan, 1, 1, 1], {"patience": 3}, 2, 5),
        ([np.inf, np.inf, 3, 4, 4, 4, 4, 4], {"patience": 2}, 3, 5),
        ([np.nan] * 8, {"patience": 2}, None, 2),
    ],
)
def test_early_stopping_restores_parameters_and_buffers_of_the_best_epoch(values, options, best, length):
    states = States()
    callbacks = [states, Script(values), EarlyStopping(monitor="scripted", **{"mode": "min", **options})]
    model, history = train(callbacks, epochs=8)
    assert len(history.rows) == length
    assert history.restored_epoch == best
    assert small.state(model) == states.states[(best or length) - 1]
    assert (history.stopped_by is not None) == (length < 8)


def test_the_restored_model_has_the_best_validation_loss():
    model, history = train([EarlyStopping(patience=5)], epochs=60)
    X, y = small.data()
    loss = evaluate(model, small.LOSS, X[40:], y[40:])["loss"]
    assert loss == min(history.column("validation_loss")) == history.rows[history.best_epoch - 1]["validation_loss"]


def test_early_stopping_without_restoring():
    states = States()
    callbacks = [states, Script([1, 2, 3]), EarlyStopping(2, restore_best=False, monitor="scripted", mode="min")]
    model, history = train(callbacks, epochs=3)
    assert history.restored_epoch is None
    assert small.state(model) == states.states[-1]


def test_early_stopping_can_be_used_again():
    stopping = EarlyStopping(patience=1, monitor="scripted", mode="min")
    for _ in range(2):
        _, history = train([Script([1, 2, 3]), stopping], epochs=3)
        assert len(history.rows) == 2


def test_ctrl_c_restores_the_best_epoch_so_far():
    class Interrupt(Callback):
        def before_step(self, run):
            if run.epoch == 3:
                raise KeyboardInterrupt

    states = States()
    model, history = train([states, Script([1, 2, 3]), EarlyStopping(monitor="scripted", mode="min"), Interrupt()])
    assert history.interrupted and history.restored_epoch == 1
    assert small.state(model) == states.states[0]


@pytest.mark.parametrize(
    ("monitor", "larger"),
    [("validation_loss", False), ("train_loss", False), ("validation_accuracy", True), ("validation_rmse", False)],
)
def test_without_a_mode_metrics_grow_and_losses_fall(monitor, larger):
    stopping = EarlyStopping(patience=9, monitor=monitor)
    X, y = small.data()
    model = small.model()
    metrics = ["accuracy", {"rmse": lambda target, output: -float(np.mean(output))}]
    data = (X[:40], y[:40]), (X[40:], y[40:])
    history = fit(
        model, small.adam(model), small.LOSS, *data, epochs=8, metrics=metrics, callbacks=stopping, progress=False
    )
    values = history.column(monitor)
    assert values[history.restored_epoch - 1] == (max(values) if larger else min(values))
    assert stopping.mode is None  # as it was given: it may follow another run next


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: EarlyStopping(0), ValueError, "'patience' must be"),
        (lambda: EarlyStopping(1.5), TypeError, "'patience' must be an integer"),
        (lambda: EarlyStopping(mode="best"), ValueError, "'mode' must be one of 'min', 'max'"),
        (lambda: EarlyStopping(min_delta=-1), ValueError, "'min_delta' must be"),
        (lambda: EarlyStopping(min_delta=np.nan), ValueError, "'min_delta' must be"),
        (lambda: Checkpoint("x", every=0), ValueError, "'every' must be"),
        (lambda: train([EarlyStopping()], validated=False), ValueError, "give fit validation data"),
        (lambda: train([EarlyStopping(monitor="val_loss")]), ValueError, "did you mean 'validation_loss'"),
        (lambda: train([EarlyStopping(monitor="validation_accuracy")]), ValueError, "metric in fit's 'metrics'"),
        (
            lambda: train([EarlyStopping(monitor="seconds")]),
            ValueError,
            "'mode' must be 'min' or 'max' to judge 'seconds'",
        ),
        (lambda: train([EarlyStopping(monitor="f1")]), ValueError, "'monitor' must be one of 'epoch', 'train_loss'"),
        (lambda: train([Checkpoint("no/such/folder/x")]), FileNotFoundError, "folder"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


class Poison(Callback):
    """Spoil a value before a batch of the second epoch."""

    def __init__(self, spoil):
        self.spoil = spoil

    def before_step(self, run):
        if (run.epoch, run.batch_index) == (2, 1):
            self.spoil(run)


def spoil_parameter(run):
    run.model.parameters()[4].array[0, 0] = np.inf


def spoil_buffer(run):
    run.model.buffers()["1.running_var"][0] = np.nan


def spoil_data(run):
    run.batches.arrays[0][:] = np.nan


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (spoil_parameter, "layer 4, Dense(in_features=8, out_features=2, init='he', bias=True), parameter 4.weight"),
        (spoil_buffer, "unbiased_running_var=True), buffer 1.running_var"),
        (spoil_data, "X of the batch"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_stop_on_nan_names_the_first_place(spoil, where):
    X, y = small.data(40)
    model = small.model()
    history = fit(
        model,
        small.adam(model),
        small.LOSS,
        (X, y),
        epochs=5,
        batch_size=8,
        callbacks=[Poison(spoil), StopOnNaN()],
        progress=False,
    )
    assert len(history.rows) <= 2
    assert history.stopped_by.startswith("StopOnNaN: ") and history.stopped_by.endswith(where)


def test_stop_on_nan_keeps_the_parameters_before_the_step():
    model = nn.Sequential(nn.Dense(2, 2))
    before = small.state(model)
    X, y = small.data(8)

    def infinite(output, target, weights=None):
        return (np.inf if len(target) > 1 else 0.0), np.full_like(output, np.nan)

    history = fit(
        model, small.adam(model), infinite, (X, y), epochs=5, batch_size=8, callbacks=[StopOnNaN()], progress=False
    )
    assert history.rows == [] and small.state(model) == before
    assert "loss of batch 1 of epoch 1 is inf; first value that is not finite: the loss itself" in history.stopped_by


def stopped(model, optimizer=None, loss=small.LOSS, X=None, accumulate=1):
    """The first place that is not finite in the first batch, whose step is not taken."""
    samples, y = small.data(8)
    X = samples.astype(model.dtype) if X is None else X
    optimizer = optimizer or optim.SGD(model.parameters(), lr=0.1)
    before = model.state_dict()
    with np.errstate(all="ignore"):
        history = fit(
            *(model, optimizer, loss, (X, y)),
            epochs=2,
            batch_size=8,
            callbacks=[StopOnNaN()],
            progress=False,
            accumulate=accumulate,
        )
    for parameter in model.parameters():
        np.testing.assert_array_equal(parameter.array, before[parameter.name])
    assert history.rows == [] and history.stopped_by.startswith("StopOnNaN: ")
    return history.stopped_by.partition("first value that is not finite: ")[2]


LAYERS = [
    lambda: nn.Dense(2, 8),
    lambda: nn.GELU(),
    lambda: nn.BatchNorm(8),
    lambda: nn.ReLU(),
    lambda: nn.Dropout(0.25),
    lambda: nn.Dense(8, 8),
    lambda: nn.BatchNorm(8, momentum=None),
    lambda: nn.Tanh(),
    lambda: nn.Dense(8, 8, bias=False),
    lambda: nn.LeakyReLU(),
    lambda: nn.Dropout(0.5),
    lambda: nn.Dense(8, 2),
]


def deep(dtype=np.float32):
    return nn.Sequential(*(make() for make in LAYERS), dtype=dtype, seed=3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index", [0, 5, 8, 11])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_stop_on_nan_names_the_parameter(dtype, index, value):
    model = deep(dtype)
    parameter = next(p for p in model.parameters() if p.name == f"{index}.weight")
    parameter.array[0, 1] = value
    assert stopped(model) == f"layer {index}, {model.layers[index]!r}, parameter {index}.weight"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index", [0, 5, 8, 11])
def test_stop_on_nan_names_the_layer_that_overflows(dtype, index):
    """Its parameters are finite, and so is all before it; all after it is not."""
    model = deep(dtype)
    parameter = next(p for p in model.parameters() if p.name == f"{index}.weight")
    parameter.array[...] = np.finfo(dtype).max
    X = np.full((8, 2), 3, dtype) * np.arange(1, 9, dtype=dtype)[:, None]
    assert stopped(model, X=X) == f"output of layer {index}, {model.layers[index]!r}"


def test_stop_on_nan_names_the_batch_norm_whose_variance_overflows():
    model = nn.Sequential(nn.Dense(2, 4), nn.ReLU(), nn.BatchNorm(4), nn.Dense(4, 2))
    model.parameters()[0].array[...] = 1e30
    with np.errstate(all="ignore"):
        history = fit(
            model, small.adam(model), small.LOSS, small.data(), epochs=9, callbacks=StopOnNaN(), progress=False
        )
    # Divided by an infinite deviation, all is finite but the running statistics.
    assert history.stopped_by.startswith("StopOnNaN: epoch 1; first value that is not finite: layer 2, BatchNorm(feat")
    assert history.stopped_by.endswith("buffer 2.running_var") and len(history.rows) == 1


def test_stop_on_nan_names_the_buffers_after_the_output_before_them():
    """Batch normalization's running statistics are NaN then, too."""
    model = nn.Sequential(nn.Dense(2, 4), nn.BatchNorm(4), nn.Dense(4, 2))
    model.parameters()[0].array[...] = 3e38
    assert stopped(model, X=np.full((8, 2), 9, np.float32)).startswith("output of layer 0, Dense(in_features=2, ")


def test_stop_on_nan_names_the_batch_that_a_check_has_missed():
    class Spoil(Callback):
        def on_epoch_begin(self, run):
            run.batches.arrays[0][3, 0] = np.nan

    X, y = small.data(8)
    model = deep()
    history = fit(
        model, small.adam(model), small.LOSS, (X, y), epochs=1, callbacks=[Spoil(), StopOnNaN()], progress=False
    )
    assert history.stopped_by.endswith("not finite: X of the batch")


@pytest.mark.parametrize("accumulate", [1, 4])
def test_stop_on_nan_names_the_gradient_of_a_finite_loss(accumulate):
    model = deep()

    def loss(output, target, weights=None):
        value, gradient = small.LOSS(output, target, weights)
        gradient[0] = np.nan
        return value, gradient

    assert stopped(model, loss=loss, accumulate=accumulate) == f"layer 11, {model.layers[11]!r}, gradient of 11.bias"


def test_stop_on_nan_names_the_layer_whose_backward_pass_overflows():
    model = nn.Sequential(nn.Dense(2, 4), nn.Tanh(), nn.Dense(4, 4), nn.Dense(4, 2))
    for name in ("2.weight", "3.weight"):
        parameter = next(p for p in model.parameters() if p.name == name)
        parameter.array[...] = 1e20
    parameter.array[:, 1] *= -1
    model.parameters()[0].array[...] = 0  # the outputs are 0, whatever the weights after it
    where = stopped(model)
    assert where == "layer 0, Dense(in_features=2, out_features=4, init='he', bias=True), gradient of 0.bias"


def test_gradients_are_left_to_an_optimizer_that_skips():
    model = small.model()
    X, y = small.data(8)

    def loss(output, target, weights=None):
        value, gradient = small.LOSS(output, target, weights)
        return value, np.full_like(gradient, np.nan)

    optimizer = optim.SGD(model.parameters(), lr=0.1, skip_nonfinite=True)
    history = fit(model, optimizer, loss, (X, y), epochs=2, callbacks=StopOnNaN(), progress=False)
    assert history.stopped_by is None and optimizer.skipped == 2


def test_stop_on_nan_lets_finite_training_run():
    _, history = train([StopOnNaN()], epochs=2)
    assert len(history.rows) == 2 and history.stopped_by is None
