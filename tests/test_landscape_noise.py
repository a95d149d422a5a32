"""Stochastic gradients: what a step size, a schedule and an average do to the noise, against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusedstep import landscape, optim
from fusedstep.landscape import band, noisy, trajectory
from fusedstep.optim import schedules

SCALE = 1.0
MANY = 4000
"""Coordinates of one run, all alike: as good as runs with as many seeds, and quicker."""


def noisy_runs(curvature, lr, steps, start=0.0, **options):
    """MANY runs at a time, each on curvature / 2 * x**2."""
    function = landscape.quadratic(np.full(MANY, curvature))
    return trajectory(
        lambda params: optim.SGD(params, lr=lr, **options),
        function.f,
        noisy(function.grad, SCALE, seed=1),
        np.full(MANY, start),
        steps,
    )


def test_a_constant_step_size_ends_in_a_floor_of_noise():
    """Its height is lr * scale**2 / (2 * (2 - lr * curvature)): in proportion to the step size, and not zero."""
    curvature = 2.0
    for lr in (0.5, 0.1, 0.02):
        run = noisy_runs(curvature, lr, steps=int(6 / lr), start=0.3)
        floor = lr * SCALE**2 / (2 * (2 - lr * curvature))
        assert run.values[-1] / MANY == pytest.approx(floor, rel=0.1)


def test_one_over_t_goes_below_any_floor():
    """With lr = 1 / (curvature * t) the point is the mean of the noise: f falls as scale**2 / (2 * curvature * t)."""
    curvature = 2.0
    run = noisy_runs(curvature, schedules.inverse_time(1 / curvature, 1.0), 400, start=3.0)
    for t in (10, 100, 400):
        assert run.values[t] / MANY == pytest.approx(SCALE**2 / (2 * curvature * t), rel=0.1)


def test_one_over_sqrt_t_is_slower_and_forgives_a_wrong_curvature():
    """1/t for a curvature that is ten times too large forgets its start as t**-0.1 alone."""
    curvature, steps, start = 0.1, 1000, 10.0
    fast, slow = (schedules.inverse_time(1.0, 1.0), schedules.inverse_sqrt(1.0))
    good = noisy_runs(1.0, fast, steps, start), noisy_runs(1.0, slow, steps, start)
    wrong = noisy_runs(curvature, fast, steps, start), noisy_runs(curvature, slow, steps, start)
    assert good[0].values[-1] < good[1].values[-1] / 10
    assert wrong[1].values[-1] < wrong[0].values[-1] / 10
    # An error along lr_t shrinks as the step size does: the floor of its last one.
    lr = slow(steps)
    assert good[1].values[-1] / MANY == pytest.approx(lr * SCALE**2 / (2 * (2 - lr)), rel=0.1)


def test_restarts_take_the_noise_up_and_down():
    run = noisy_runs(1.0, schedules.cosine_restarts(1.0, 50), 100)
    middle, end = run.values[60] / MANY, run.values[50] / MANY
    assert end < 0.1 * middle and run.values[100] < 0.1 * run.values[60]


# -- averages


def test_a_uniform_average_is_the_mean_of_the_iterates():
    for burn_in in (0, 7):
        run = noisy_runs(1.0, 0.3, 40, ema_decay=schedules.uniform_average(burn_in))
        np.testing.assert_array_equal(run.averages[0], run.points[0])
        for t in (burn_in + 1, burn_in + 2, 40):
            np.testing.assert_allclose(
                run.averages[t], run.points[burn_in + 1 : t + 1].mean(axis=0), rtol=0, atol=1e-13
            )
        if burn_in:
            np.testing.assert_array_equal(run.averages[burn_in - 1], run.points[burn_in - 1])


def test_an_average_lowers_the_floor_of_noise():
    """The uniform one to scale**2 / (2 * curvature * t), as well as 1/t could, at a constant step size."""
    curvature, lr, steps, burn_in, start = 1.0, 0.3, 600, 100, 30.0
    uniform = noisy_runs(curvature, lr, steps, start, ema_decay=schedules.uniform_average(burn_in))
    exponential = noisy_runs(curvature, lr, steps, start, ema_decay=0.95)
    floor = lr * SCALE**2 / (2 * (2 - lr * curvature)) * MANY
    assert uniform.values[-1] == pytest.approx(floor, rel=0.1)
    assert uniform.average_values[-1] == pytest.approx(SCALE**2 / (2 * curvature * (steps - burn_in)) * MANY, rel=0.1)
    assert uniform.average_values[-1] < exponential.average_values[-1] / 5 < floor / 10
    early = noisy_runs(curvature, lr, steps, start, ema_decay=schedules.uniform_average())
    assert early.average_values[-1] > 3 * uniform.average_values[-1]  # without a burn-in it keeps the start


# -- bands


def test_a_band_over_seeds():
    function = landscape.parabola(1.0)

    def run(seed):
        gradient = noisy(function.grad, SCALE, seed)
        return trajectory(lambda params: optim.SGD(params, lr=0.5), function.f, gradient, 4.0, 40)

    found = band(run, 60)
    assert found.values.shape == (60, 41) and len(found.median) == len(found.mean) == 41
    assert (found.lower <= found.median).all() and (found.median <= found.upper).all()
    np.testing.assert_allclose(found.median, np.median(found.values, axis=0))
    np.testing.assert_allclose(found.lower, np.quantile(found.values, 0.1, axis=0))
    assert found.lower[0] == found.upper[0] == function(4.0)  # no noise yet
    assert found.mean[10:].mean() == pytest.approx(0.5 / (2 * 1.5), rel=0.1)
    assert (band(run, [3, 1]).values == found.values[[3, 1]]).all()  # a seed gives the same run
    assert repr(found).startswith("Band(60 seeds, 41 values, last median ")


def test_runs_that_diverge_are_infinite_from_there_on():
    series = {0: [1.0, 2.0, 3.0], 1: [1.0, math.nan], 2: [1.0], 3: [1.0, 4.0, 5.0]}
    found = band(series.get, 4, quantiles=(0.0, 0.5, 1.0))
    assert found.values.tolist() == [[1, 2, 3], [1, math.inf, math.inf], [1, math.inf, math.inf], [1, 4, 5]]
    assert found.lower.tolist() == [1, 2, 3] and found.upper.tolist() == [1, math.inf, math.inf]
    assert found.median.tolist() == [1, math.inf, math.inf]  # halfway to infinity
    assert found.mean.tolist() == [1, math.inf, math.inf]


def test_noise():
    gradient = noisy(lambda x: 2 * x, [0.0, 1.0], seed=3)
    drawn = np.array([gradient(np.array([1.0, 2.0])) for _ in range(2000)])
    assert (drawn[:, 0] == 2).all() and len(np.unique(drawn[:, 1])) == 2000
    assert drawn[:, 1].mean() == pytest.approx(4, abs=0.1) and drawn[:, 1].std() == pytest.approx(1, rel=0.05)
    again = noisy(lambda x: 2 * x, [0.0, 1.0], seed=3)
    assert (again(np.array([1.0, 2.0])) == drawn[0]).all()
    assert noisy(lambda x: math.exp(x[0]), 1.0)([1e4]).tolist() == [math.inf]  # where Python's floats overflow


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: noisy(3, 1.0), TypeError, r"\[noisy\] 'grad' must be callable but got a int"),
        (lambda: noisy(abs, -1.0), ValueError, r"\[noisy\] 'scale' must be finite and not negative but got -1"),
        (lambda: noisy(abs, math.nan), ValueError, r"\[noisy\] 'scale' must be finite"),
        (lambda: noisy(abs, "loud"), TypeError, r"\[noisy\] 'scale' must be a number or an array of numbers"),
        (
            lambda: noisy(lambda x: [[1.0], [1.0, 2.0]], 1.0)(0),
            TypeError,
            r"\[noisy\] 'grad' must give real numbers but",
        ),
        (
            lambda: noisy(lambda x: None, 1.0)(0),
            TypeError,
            r"\[noisy\] 'grad' must give real numbers but gave .* object",
        ),
        (
            lambda: noisy(abs, [1.0, 2.0])(np.ones(3)),
            ValueError,
            r"'scale' must .* shape \(2,\), and 'grad' gave \(3,\)",
        ),
        (
            lambda: noisy(abs, [1.0, 2.0])(np.ones(1)),
            ValueError,
            r"'scale' must .* shape \(2,\), and 'grad' gave \(1,\)",
        ),
        (lambda: noisy(abs, [1.0])(1.0), ValueError, r"'scale' must .* shape \(1,\), and 'grad' gave \(\)"),
        (lambda: noisy(abs, 1.0, 0.5), TypeError, r"\[noisy\] 'seed' must be an integer but got 0.5"),
        (lambda: band(3), TypeError, r"\[band\] 'run' must be a function of the seed but got a int"),
        (lambda: band(float), TypeError, r"\[band\] 'run' must give a Trajectory or a series of numbers but gave 0.0"),
        (lambda: band(lambda seed: []), TypeError, r"\[band\] 'run' must give a Trajectory or a series"),
        (lambda: band(float, 0), ValueError, r"\[band\] 'seeds' must be in \[1"),
        (lambda: band(float, []), ValueError, r"\[band\] 'seeds' must be a number of seeds, or different seeds"),
        (lambda: band(float, [1, 1]), ValueError, r"\[band\] 'seeds' must be a number of seeds, or different seeds"),
        (lambda: band(float, [0.5]), TypeError, r"\[band\] 'seeds' must be an integer but got 0.5"),
        (lambda: band(float, quantiles=(0.5, 0.1, 0.9)), ValueError, r"\[band\] 'quantiles' must be three rising"),
        (lambda: band(float, quantiles=0.5), TypeError, r"\[band\] 'quantiles' must be three rising .* but got 0.5"),
        (lambda: band(lambda seed: [[1], [1, 2]]), TypeError, r"\[band\] 'run' must give a Trajectory or a series"),
        (lambda: band(float, quantiles=(0.1, 0.9)), ValueError, r"\[band\] 'quantiles' must be three rising levels"),
        (lambda: band(float, quantiles=(0.1, 0.5, 2)), ValueError, r"\[band\] 'quantiles' must be in \[0, 1\]"),
    ],
)
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
