"""What fit refuses, and what it says of it; the memory layouts that it takes."""

import tracemalloc

import numpy as np
import pytest

import small_problem as small
from fusedstep import nn, ops, optim
from fusedstep._device import all_finite
from fusedstep.callbacks import Checkpoint, StopOnNaN
from fusedstep.evaluation import evaluate, predict
from fusedstep.metrics import accuracy
from fusedstep.training import fit


def spoiled(array, value):
    array = array.copy()
    array[5, 1] = value
    return array


X, Y = small.data(8)
DOUBLE = X.astype(np.float64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "'epochs' must be"),
        ({"epochs": 1.0}, TypeError, "'epochs' must be an integer"),
        ({"batch_size": 0}, ValueError, "'batch_size' must be"),
        ({"train": X}, TypeError, "'train' must be .* but got ndarray"),
        ({"train": (X,)}, TypeError, "'train' must be .* but got 1 arrays"),
        ({"train": (X, Y[:5])}, ValueError, r"'train X' and 'train y'.*\(8, 2\) and \(5,\)"),
        ({"train": (X[:0], Y[:0])}, ValueError, "'train X' is empty"),
        ({"validation": (X[:0], Y[:0])}, ValueError, "'validation X' is empty"),
        ({"train": (X, Y, -np.ones(8))}, ValueError, "'train weights' must be finite and not negative"),
        ({"train": (X, Y, np.zeros(8))}, ValueError, "not all zero"),
        ({"train": (X, Y, np.ones((8, 1)))}, ValueError, "one number a sample"),
        ({"train": (X, Y, ["1"] * 8)}, TypeError, "'train weights' must be real numbers but has dtype <U1"),
        ({"train": (X, Y, np.ones(8, complex))}, TypeError, "'train weights' must be real numbers"),
        ({"train": (DOUBLE, Y)}, TypeError, "float32"),
        ({"validation": (DOUBLE, Y)}, TypeError, "float32"),
        ({"validation": (X[:, :1], Y)}, ValueError, "features"),
        ({"validation": (X, Y + 2)}, ValueError, "label"),
        ({"train": (spoiled(X, np.nan), Y)}, ValueError, "'train X' holds NaN or infinity, first in sample 5"),
        ({"validation": (spoiled(X, -np.inf), Y)}, ValueError, "'validation X' holds NaN or infinity"),
        ({"train": (X, spoiled(X, np.nan))}, ValueError, "'train y' holds NaN or infinity"),
        ({"metrics": ["f2"]}, ValueError, "must be one of 'accuracy'"),
        ({"metrics": [3]}, TypeError, "__name__"),
        ({"metrics": ["accuracy", accuracy]}, ValueError, "already the name"),
        ({"metrics": ["accuracy"], "validation": None}, ValueError, "'metrics' are computed on validation data"),
        ({"callbacks": [StopOnNaN]}, TypeError, "must be instances"),
        ({"callbacks": None}, TypeError, r"\[fit\] 'callbacks' must be instances of .* but got None"),
        ({"callbacks": 3}, TypeError, r"\[fit\] 'callbacks' must be instances of .* but got 3"),
        ({"last": "pad"}, ValueError, "'last' must be one of"),
        ({"seed": -1}, ValueError, "'seed' must be"),
    ],
)
def test_wrong_input_leaves_the_model_as_it_was(options, error, message):
    model = small.model()
    before = small.state(model)
    arguments = {"train": (X, Y), "validation": (X, Y), "epochs": 1, "batch_size": 4, "progress": False} | options
    with pytest.raises(error, match=message):
        fit(model, small.adam(model), small.LOSS, **arguments)
    assert small.state(model) == before
    assert model.random_offset == 0


@pytest.mark.parametrize(
    ("train", "loss", "message"),
    [
        ((X.astype(object), Y), small.LOSS, "words have to become numbers first, by scikit-learn's OneHotEncoder"),
        (
            (X[:, :1], Y),
            small.LOSS,
            r"batches of 'train X' have the shape \(4, 1\): layer 0.* takes x of shape \(N, 2\)",
        ),
        ((X, X.astype(np.float64)), nn.MeanSquaredError(), r"pass target\.astype\(np\.float32\)"),
        (
            (X, X[:, 0]),
            nn.MeanSquaredError(),
            r"'train y' of shape \(40,\) does not fit.*reshape\(-1, 2\)|must have the",
        ),
    ],
)
def test_what_to_do_about_typical_mistakes(train, loss, message):
    model = small.model()
    with pytest.raises((TypeError, ValueError), match=message):
        fit(model, small.adam(model), loss, train, epochs=1, batch_size=4, progress=False)


def test_a_diverged_run_is_told():
    X, _ = small.data(40)
    model = nn.Sequential(nn.Dense(2, 8), nn.Dense(8, 2))

    def run(**options):
        target = np.float32(X * 1e3)
        optimizer = optim.SGD(model.parameters(), lr=1e3)
        with np.errstate(all="ignore"):
            return fit(model, optimizer, nn.MeanSquaredError(), (X, target), epochs=30, progress=False, **options)

    state = model.state_dict()
    with pytest.warns(RuntimeWarning, match="the training diverged: parameters are NaN or infinite"):
        run()
    model.load_state_dict(state)
    assert "StopOnNaN" in run(callbacks=StopOnNaN()).stopped_by  # which says it, so nothing else does


def test_resume_from_a_file_that_is_still_to_be_written(tmp_path):
    X, y = small.data(40)
    path = tmp_path / "run.safetensors"

    def run(epochs, **options):
        model = small.model()
        fit(model, small.adam(model), small.LOSS, (X, y), epochs=epochs, progress=False, **options)
        return small.state(model)

    def again(epochs):
        return run(epochs, callbacks=[Checkpoint(path)], resume=path)

    assert again(2) == run(2)
    assert again(4) == run(4)
    with pytest.raises(FileNotFoundError):
        run(2, callbacks=[Checkpoint(tmp_path / "other")], resume=tmp_path / "none")


def test_a_batch_too_small_for_batch_norm_is_refused_before_training():
    X, y = small.data(129)
    model = small.model()
    before = small.state(model)
    with pytest.raises(ValueError, match="last='merge'"):
        fit(model, small.adam(model), small.LOSS, (X, y), epochs=1, progress=False)
    assert small.state(model) == before
    fit(model, small.adam(model), small.LOSS, (X, y), epochs=1, progress=False, last="merge")


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("label", [-1, 2])
def test_a_wrong_label_anywhere_is_refused_before_training(part, label):
    X, y = small.data(40)
    wrong = y.copy()
    wrong[[17, 30]] = label
    data = {"train": (X, y), "validation": (X, y)} | {part: (X, wrong)}
    model = small.model()
    before = small.state(model)
    with pytest.raises(ValueError, match=f"'{part} y' has the label {label} at index 17 .* 0 ... 1"):
        fit(model, small.adam(model), small.LOSS, epochs=1, progress=False, **data)
    assert small.state(model) == before


@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_a_wrong_target_of_the_sigmoid_loss_is_refused_before_training(value):
    X, _ = small.data(40)
    model = nn.Sequential(nn.Dense(2, 2))
    target = spoiled(np.abs(X) % 1, value)
    before = small.state(model)
    with pytest.raises(ValueError, match=rf"'train y' must be in \[0, 1\] but holds {value} in sample 5"):
        fit(model, small.adam(model), nn.SigmoidCrossEntropy(), (X, target), epochs=1, progress=False)
    assert small.state(model) == before


def test_values_whose_sum_overflows_are_finite():
    assert all_finite(np.full(8, 3e38, np.float32)) and not all_finite(np.array([1.0, np.inf, -np.inf]))


def test_models_without_running_statistics():
    X, y = small.data(1025)
    model = nn.Sequential(nn.Dense(2, 4), nn.BatchNorm(4, track_running_stats=False), nn.Dense(4, 2))
    fit(model, small.adam(model), small.LOSS, (X, y), (X, y), epochs=1, progress=False, last="merge")
    assert len(predict(model, X)) == 1025
    with pytest.raises(ValueError, match="one value a channel"):
        fit(model, small.adam(model), small.LOSS, (X, y), (X[:1], y[:1]), epochs=1, progress=False, last="merge")


def test_an_optimizer_of_another_model_is_refused():
    model, other = (nn.Sequential(nn.Dense(X.shape[1], 3)) for _ in range(2))
    for optimizer, error in [(optim.Adam(other.parameters()), ValueError), (optim.Adam, TypeError)]:
        with pytest.raises(error, match=r"model\.parameters\(\)"):
            fit(model, optimizer, nn.SoftmaxCrossEntropy(), (X, Y), epochs=1, progress=False)
    for loss in (nn.SoftmaxCrossEntropy, "mse"):
        with pytest.raises(TypeError, match="'loss' must be a loss such as"):
            fit(model, optim.Adam(model.parameters()), loss, (X, Y), epochs=1, progress=False)


def parts(rng, columns):
    """Arrays of shape (40, columns) in every layout but C order, by name."""
    wide = rng.random((80, 2 * columns + 2)).astype(np.float32)
    return {
        "Fortran": np.asfortranarray(wide[:40, :columns]),
        "columns": wide[:40, 1 : columns + 1],
        "every other column": wide[:40, 1 : 2 * columns + 1 : 2],
        "every other sample": wide[::2, :columns],
        "reversed": wide[:40, :columns][::-1],
        "reversed columns": wide[:40, :columns][:, ::-1],
        "repeated": np.broadcast_to(wide[0, :columns], (40, columns)),
    }


@pytest.mark.parametrize("loss", [nn.MeanSquaredError(), nn.SigmoidCrossEntropy(), ops.mean_squared_error])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("layout", parts(np.random.default_rng(0), 1))
def test_arrays_in_any_memory_order(layout, columns, shuffle, loss):
    """As their copies in C order train, to the bit; the loss takes no other order."""
    rng = np.random.default_rng(1)
    X, y, weights = parts(rng, 3)[layout], parts(rng, columns)[layout], rng.random(80)[::-2]
    if loss is ops.mean_squared_error:
        weights = np.ones(40)

    def run(X, y, weights):
        model = nn.Sequential(nn.Dense(3, 4), nn.BatchNorm(4), nn.Tanh(), nn.Dense(4, columns))
        optimizer = optim.GaussNewton(model.parameters()) if isinstance(loss, nn.Loss) else small.adam(model)
        options = {"epochs": 2, "batch_size": 16, "shuffle": shuffle, "metrics": "rmse", "progress": False}
        history = fit(model, optimizer, loss, (X, y, weights), (X, y, weights), **options)
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
        return small.state(model), rows, evaluate(model, loss, X, y, weights)

    assert run(X, y, weights) == run(*map(np.ascontiguousarray, (X, y, weights)))


@pytest.mark.parametrize("shuffle", [True, False])
def test_no_set_is_copied_as_a_whole_for_its_order(shuffle):
    X, y = (np.asfortranarray(np.random.default_rng(0).random((4000, 500), np.float32)) for _ in range(2))
    model = nn.Sequential(nn.Dense(500, 2), nn.Dense(2, 500))
    tracemalloc.start()
    try:
        options = {"epochs": 1, "batch_size": 16, "shuffle": shuffle, "progress": False}
        fit(model, small.adam(model), nn.MeanSquaredError(), (X, y), **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < y.nbytes
