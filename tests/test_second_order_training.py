"""Gauss-Newton, its diagonal and KFAC as optimizers of fit, of cross-validation and of estimators."""

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import nn
from small_callbacks import Kill, KillAt
from small_second_order import METHODS, data, network, states


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", METHODS)
def test_fit(method, dtype):
    x, y = data(512, dtype)
    model = network(dtype=dtype)
    optimizer = METHODS[method](model.parameters())
    history = fs.fit(model, optimizer, nn.SoftmaxCrossEntropy(), (x, y), epochs=8, batch_size=128, progress=False)
    losses = history.column("train_loss")
    assert losses[-1] < 0.8 * losses[0]
    assert optimizer.steps == 32


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_from_its_checkpoint_to_the_same_bits(method, tmp_path):
    x, y = data(96, np.float32)

    def run(epochs, **options):
        model = network(dtype=np.float32)
        optimizer = METHODS[method](model.parameters(), ema_decay=0.9)
        fs.fit(
            model, optimizer, nn.SoftmaxCrossEntropy(), (x, y), epochs=epochs, batch_size=32, progress=False, **options
        )
        return model.state_dict() | {f"ema {k}": v for k, v in optimizer.averages().items()}

    path = tmp_path / "run.safetensors"
    run(2, callbacks=fs.callbacks.Checkpoint(path))
    resumed, whole = run(5, resume=path, callbacks=fs.callbacks.Checkpoint(path)), run(5)
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


@pytest.mark.parametrize("killed_at", [(2, 0), (3, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_killed_amid_an_epoch_goes_on_to_the_same_bits(method, killed_at, tmp_path):
    (x, y), path = data(96, np.float32), tmp_path / "run.safetensors"

    def run(at, **options):
        model = network(dtype=np.float32)
        optimizer = METHODS[method](model.parameters(), ema_decay=0.9)
        callbacks = [KillAt(*at), fs.callbacks.Checkpoint(path, every_batches=1)]
        options |= {"epochs": 4, "batch_size": 25, "callbacks": callbacks, "progress": False}
        history = fs.fit(model, optimizer, nn.SoftmaxCrossEntropy(), (x[:80], y[:80]), (x[80:], y[80:]), **options)
        losses = [(row["train_loss"], row["validation_loss"]) for row in history.rows]
        return losses, {k: v.tobytes() for k, v in model.state_dict().items()}, states(optimizer), model.random_offset

    never = (9, 9)
    whole = run(never)
    path.unlink()
    with pytest.raises(Kill):
        run(killed_at)
    resumed = run(never, resume=path)
    assert resumed[:2] == whole[:2] and resumed[3] == whole[3]
    for name, array in whole[2].items():
        np.testing.assert_array_equal(resumed[2][name], array, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_averages_are_validated_and_left_in_the_model(method):
    x, y = data(64)
    loss, held_out = nn.SoftmaxCrossEntropy(), (x[40:], y[40:])

    def run(model, **options):
        optimizer = METHODS[method](model.parameters(), ema_decay=0.5)
        history = fs.fit(
            model, optimizer, loss, (x[:40], y[:40]), held_out, epochs=3, batch_size=20, progress=False, **options
        )
        return optimizer, history

    model, raw = network(), network()
    optimizer, history = run(model)
    _, raw_history = run(raw, validate_averages=False)
    for p, q in zip(model.parameters(), raw.parameters(), strict=True):
        np.testing.assert_array_equal(p.array, optimizer.averages()[p.name])
        assert (p.array != q.array).any()
    for trained, rows in ((model, history), (raw, raw_history)):
        assert fs.evaluate(trained, loss, *held_out)["loss"] == rows.column("validation_loss")[-1]
    assert history.column("train_loss") == raw_history.column("train_loss")  # they are looked at, no more


def test_gauss_newton_goes_on_after_it_has_converged():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((64, 3))
    y = x @ np.ones((3, 1))
    model = nn.Sequential(nn.Dense(3, 1), dtype=np.float64)
    optimizer = fs.optim.GaussNewton(model.parameters())

    def fit(y, epochs):
        history = fs.fit(model, optimizer, nn.MeanSquaredError(), (x, y), epochs=epochs, batch_size=16, progress=False)
        return history.column("train_loss")[-1]

    fit(y, 30)  # to a loss that is rounding alone, where no step is better than another
    assert fit(y + 1 + 0.1 * rng.standard_normal(y.shape), 30) < 0.02
    assert optimizer.damping < 1e6


@pytest.mark.parametrize("method", METHODS)
def test_in_cross_validation_with_weights(method):
    x, y = data(60, np.float32)
    result = fs.model_selection.cross_validate(
        lambda seed: network(seed, np.float32),
        lambda model: METHODS[method](model.parameters(), ema_decay=0.5),
        nn.SoftmaxCrossEntropy(),
        x,
        y,
        cv=3,
        epochs=2,
        batch_size=20,
        class_weight="balanced",
        blas_threads=np.int64(1),
        progress=False,
        random_state=0,
    )
    assert len(result.rows) == 3


@pytest.mark.parametrize("method", METHODS)
def test_in_scikit_learns_classifier(method):
    pytest.importorskip("sklearn")
    x, y = data(60, np.float32)
    classifier = fs.sklearn.MLPClassifier((8,), optimizer=lambda model: METHODS[method](model.parameters()), max_iter=3)
    with pytest.warns(match="converge"):
        classifier.fit(x, y > 0)
    assert np.isfinite(classifier.loss_curve_).all()
