import numpy as np
import pytest

import small_problem as small
from fusedstep import nn
from fusedstep.callbacks import Callback, Checkpoint, EarlyStopping, StopOnNaN
from fusedstep.training import evaluate, fit


class States(Callback):
    """Keep the model's bits after each epoch."""

    def __init__(self):
        self.states = []

    def on_epoch_end(self, run):
        self.states.append(small.state(run.model))


class Script(Callback):
    """Write given values into the history, as a column to monitor."""

    def __init__(self, values):
        self.values = values

    def on_train_begin(self, run):
        run.columns = (*run.columns, "scripted")

    def on_epoch_end(self, run):
        run.history.rows[-1]["scripted"] = self.values[run.epoch - 1]


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
    callbacks = [states, Script(values), EarlyStopping(monitor="scripted", **options)]
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
    callbacks = [states, Script([1, 2, 3]), EarlyStopping(2, restore_best=False, monitor="scripted")]
    model, history = train(callbacks, epochs=3)
    assert history.restored_epoch is None
    assert small.state(model) == states.states[-1]


def test_early_stopping_can_be_used_again():
    stopping = EarlyStopping(patience=1, monitor="scripted")
    for _ in range(2):
        _, history = train([Script([1, 2, 3]), stopping], epochs=3)
        assert len(history.rows) == 2


def test_ctrl_c_restores_the_best_epoch_so_far():
    class Interrupt(Callback):
        def before_step(self, run):
            if run.epoch == 3:
                raise KeyboardInterrupt

    states = States()
    model, history = train([states, Script([1, 2, 3]), EarlyStopping(monitor="scripted"), Interrupt()])
    assert history.interrupted and history.restored_epoch == 1
    assert small.state(model) == states.states[0]


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
        (spoil_parameter, "parameter 4.weight"),
        (spoil_buffer, "buffer 1.running_var"),
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
    assert "loss of batch 1 of epoch 1 is inf; first value that is not finite: gradient of 0.bias" in history.stopped_by


def test_stop_on_nan_lets_finite_training_run():
    _, history = train([StopOnNaN()], epochs=2)
    assert len(history.rows) == 2 and history.stopped_by is None
