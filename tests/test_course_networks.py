"""What the course says of training runs: schedules, batches, starts, and the best epoch."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.datasets import load_digits

import fusedstep as fs
from fusedstep import nn


def digits(train=1200):
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    return (x[:train], y[:train]), (x[train:], y[train:])


def test_a_late_drop_of_the_step_beats_the_small_step_from_the_start():
    """Under the noise of the large step the flat direction was descended; with the small one it takes 10,000 steps."""
    curvatures, steps = np.array([1.0, 0.01]), 2000

    def end(lr):
        rng, w = np.random.default_rng(0), np.full((200, 2), 3.0)
        for step in range(steps):
            fs.ops.sgd_step(w, curvatures * w + 0.1 * rng.standard_normal(w.shape), lr=lr(step))
        return np.median(0.5 * (curvatures * w**2).sum(axis=1))

    large, small = end(lambda step: 0.5), end(lambda step: 0.01)
    late, early = (end(lambda step, at=at: 0.5 if step < at else 0.01) for at in (steps // 2, 50))
    assert late < 0.5 * large and late < 0.2 * small and late < 0.2 * early


def test_a_restart_brings_the_noise_back_until_the_next_period_ends():
    rng, w, values = np.random.default_rng(0), np.full((200, 1), 3.0), []
    schedule = fs.optim.schedules.cosine_restarts(0.5, period=100, growth=2)
    for step in range(700):
        fs.ops.sgd_step(w, w + rng.standard_normal(w.shape), lr=schedule(step))
        values.append(np.mean(w**2))
    ends = [values[k - 1] for k in (100, 300, 700)]
    assert all(values[k + 20] > 3 * values[k - 1] for k in (100, 300))
    assert ends[0] > ends[1] > ends[2]


def test_a_warm_up_makes_a_large_step_usable():
    train, _ = digits()
    epochs, lr = 8, 0.08
    steps = epochs * 38

    def end(schedule, seed):
        hidden = [layer for _ in range(4) for layer in (nn.Dense(64, 64), nn.Tanh())]
        model = nn.Sequential(*hidden, nn.Dense(64, 10), seed=seed)
        optimizer = fs.optim.Adam(model.parameters(), lr=schedule)
        options = {"epochs": epochs, "batch_size": 32, "seed": seed, "progress": False}
        return fs.fit(model, optimizer, nn.SoftmaxCrossEntropy(), train, **options).rows[-1]["train_loss"]

    cold = [end(fs.optim.schedules.cosine(lr, steps), seed) for seed in range(3)]
    warm = [end(fs.optim.schedules.warmup_cosine(lr, steps, steps // 10), seed) for seed in range(3)]
    assert min(cold) > 1 > max(warm)


def test_batches_win_by_updates_and_single_examples_by_epochs():
    train, test = digits()

    def updates(batch_size, lr):
        """Until 15% of the test set are wrong."""
        model, loss = nn.Sequential(nn.Dense(64, 32), nn.Tanh(), nn.Dense(32, 10), seed=0), nn.SoftmaxCrossEntropy()
        optimizer = fs.optim.SGD(model.parameters(), lr=lr)
        batches = fs.data.MiniBatches(*train, batch_size=batch_size)
        while optimizer.steps < 5000:
            for x, y in batches:
                model.backward(loss(model.forward(x), y)[1])
                optimizer.step()
                if optimizer.steps % 25 == 0 and (model.predict(test[0]).argmax(axis=1) != test[1]).mean() < 0.15:
                    return optimizer.steps
        return optimizer.steps

    batch, single = updates(1200, 0.5), updates(1, 0.04)
    assert batch < single / 4
    assert single / 1200 < batch / 10


def test_the_solution_depends_on_the_start_and_on_the_optimizer():
    """Exclusive or by two hidden units: it is solved, or the run ends where a quarter or more remains wrong."""
    x, y = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]), np.array([[0.0], [1], [1], [0]])
    loss = nn.MeanSquaredError()

    def ends(init, factor, optimizer):
        found = []
        for seed in range(16):
            layers = (nn.Dense(2, 2, init=init), nn.Tanh(), nn.Dense(2, 1, init=init))
            model = nn.Sequential(*layers, seed=seed, dtype=np.float64)
            for p in model.parameters():
                p.array *= factor
            method = optimizer(model.parameters())
            for _ in range(1000):
                value, gradient = loss(model.forward(x), y)
                model.backward(gradient)
                method.step()
            found.append(value)
        return np.array(found)

    def sgd(params):
        return fs.optim.SGD(params, lr=0.3)

    good, large = ends("lecun", 1, sgd), ends("lecun", 4, sgd)
    assert (good < 0.01).mean() > 0.7 > 0.6 > (large < 0.01).mean() > 0
    assert (abs(large - 1 / 8) < 0.01).any() and (abs(large - 1 / 4) < 0.01).any()
    assert (abs(large - ends("lecun", 4, lambda params: fs.optim.Adam(params, lr=0.03))) > 0.1).any()
    np.testing.assert_allclose(ends("zeros", 1, sgd), 1 / 4, atol=1e-6)


def test_who_fits_best_does_not_generalize_best():
    (x, y), _ = digits(1797)
    y = y.copy()
    rng = np.random.default_rng(0)
    y[:300] = np.where(rng.random(300) < 0.1, rng.integers(0, 10, 300), y[:300])
    train, validation = (x[:300], y[:300]), (x[300:1000], y[300:1000])

    def run(optimizer):
        model = nn.Sequential(nn.Dense(64, 128), nn.ReLU(), nn.Dense(128, 10), seed=0)
        stop = fs.callbacks.EarlyStopping(patience=100)
        options = {"epochs": 100, "batch_size": 32, "callbacks": [stop], "progress": False}
        history = fs.fit(model, optimizer(model.parameters()), nn.SoftmaxCrossEntropy(), train, validation, **options)
        kept = fs.evaluate(model, nn.SoftmaxCrossEntropy(), *validation)["loss"]
        return history.rows[-1]["train_loss"], history.rows[-1]["validation_loss"], kept

    plain = run(lambda params: fs.optim.SGD(params, lr=0.1))
    adam = run(lambda params: fs.optim.Adam(params, lr=5e-3))
    assert adam[0] < 0.1 * plain[0]
    assert adam[1] > 1.1 * plain[1]
    assert adam[2] == pytest.approx(plain[2], rel=0.1)
    assert adam[2] < 0.85 * adam[1]
