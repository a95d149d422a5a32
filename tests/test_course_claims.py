"""What the course's captions claim in numbers, where no other test does."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs


def descend(function, optimizer, steps, start=None):
    return fs.landscape.trajectory(
        optimizer, function.f, function.grad, function.start if start is None else start, steps
    )


# -- batches


class Costs(fs.callbacks.Callback):
    def on_train_begin(self, run):
        self.costs = []

    def on_batch_end(self, run):
        self.costs.append(run.batch_loss)


def test_batch_training_falls_at_each_step_and_mini_batches_fall_further_in_as_many_epochs():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 10)).astype(np.float32)
    y = (X @ rng.normal(size=(10, 3))).argmax(axis=1)
    loss, costs, ends = fs.nn.SoftmaxCrossEntropy(), [], []
    for size in (None, 20):
        model, kept = fs.nn.Sequential(fs.nn.Dense(10, 3), seed=0), Costs()
        optimizer = fs.optim.SGD(model.parameters(), lr=0.3)
        fs.fit(model, optimizer, loss, (X, y), epochs=10, batch_size=size, callbacks=[kept], progress=False)
        costs.append(np.diff(kept.costs))
        ends.append(fs.evaluate(model, loss, X, y)["loss"])
    assert len(costs[0]) == 9 and (costs[0] < 0).all()
    assert len(costs[1]) == 299 and 0.3 < (costs[1] > 0).mean() < 0.7
    assert ends[1] < ends[0] / 2


def test_the_fewer_samples_in_a_step_the_farther_from_the_minimum_it_ends():
    """At the same step size, as 1 / sqrt(samples)."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = X @ [1.0, -2.0] + rng.normal(size=400)
    best = np.linalg.lstsq(X, y, rcond=None)[0]
    far = []
    for size in (400, 25, 1):

        def gradient(w, size=size):
            batch = rng.permutation(400)[:size]
            return X[batch].T @ (X[batch] @ w - y[batch]) / size

        run = fs.landscape.trajectory(
            lambda params: fs.optim.SGD(params, lr=0.1),
            lambda w: float(np.mean((X @ w - y) ** 2)) / 2,
            gradient,
            [3.0, 3.0],
            1500,
        )
        far.append(np.linalg.norm(run.points[500:] - best, axis=1).mean())
    assert far[0] < 1e-6
    assert far[2] / far[1] == pytest.approx(5, rel=0.3)


# -- averages of a series


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.98])
def test_what_the_window_of_an_exponential_average_does(beta):
    noise = np.random.default_rng(0).standard_normal(200_000)
    average = fs.ops.ewma(noise, beta, bias_correction=True)
    assert average[1000:].var() == pytest.approx((1 - beta) / (1 + beta), rel=0.1)  # smoother
    line = np.arange(2000.0)
    assert (line - fs.ops.ewma(line, beta))[-1] == pytest.approx(beta / (1 - beta))  # later
    t, constant = np.arange(1, 201), np.full(200, 7.0)
    assert fs.ops.ewma(constant, beta) == pytest.approx(7 * (1 - beta**t))
    assert fs.ops.ewma(constant, beta, bias_correction=True) == pytest.approx(constant)


# -- a narrow valley


def test_plain_descent_crosses_the_valley_in_each_step_and_the_others_get_further_with_fewer_crossings():
    valley = fs.landscape.quadratic([0.02, 1.0])

    def crossings_and_end(optimizer):
        run = descend(valley, optimizer, 40)
        return int((np.diff(np.sign(run.points[:, 1])) != 0).sum()), run.values[-1]

    crossings, end = crossings_and_end(lambda params: fs.optim.SGD(params, lr=1.9))
    assert crossings == 40
    for optimizer, most in (
        (lambda params: fs.optim.Momentum(params, lr=0.5, momentum=0.85), 10),
        (lambda params: fs.optim.RMSprop(params, lr=0.12, alpha=0.9), 0),
        (lambda params: fs.optim.Adam(params, lr=0.15), 2),
    ):
        crossings, value = crossings_and_end(optimizer)
        assert crossings <= most and value < end / 10


def test_steps_grow_as_the_condition_and_with_momentum_as_its_root():
    needed = []
    for condition in (100, 10_000):
        valley = fs.landscape.ill_conditioned(condition)
        for lr, momentum in ((valley.best_step, 0.0), valley.heavy_ball):
            run = descend(
                valley,
                lambda params, lr=lr, momentum=momentum: fs.optim.Momentum(params, lr=lr, momentum=momentum),
                4 * condition,
                np.ones(2),
            )
            needed.append(int(np.argmax(run.values < 1e-6 * run.values[0])))
    plain, heavy, plain_worse, heavy_worse = needed
    assert plain_worse / plain == pytest.approx(100, rel=0.01)
    assert heavy_worse / heavy == pytest.approx(10, rel=0.3)
    assert heavy < plain / 5 and heavy_worse < plain_worse / 40


@pytest.mark.parametrize("condition", [1, 10, 100, 10_000])
def test_the_error_shrinks_at_the_rate_of_the_condition_in_a_million_dimensions_too(condition):
    for dimensions in (2, 1_000_000):
        valley = fs.landscape.ill_conditioned(condition, dimensions)
        run = fs.landscape.trajectory(
            lambda params, lr=valley.best_step: fs.optim.SGD(params, lr=lr),
            lambda x: float(np.abs(x).max()),
            valley.grad,
            np.ones(dimensions),
            5,
            keep_points=False,
        )
        assert run.values == pytest.approx(valley.best_rate ** np.arange(6), rel=1e-9, abs=1e-12)
