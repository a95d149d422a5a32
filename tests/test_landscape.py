"""Functions to descend, and paths on them: what is said of convergence holds."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from fusedstep import landscape, optim
from fusedstep.landscape import trajectory

FUNCTIONS = [
    landscape.parabola(),
    landscape.parabola(3.0),
    landscape.quadratic([0.5, 2.0, 8.0]),
    landscape.ill_conditioned(50.0, rotation=0.6),
    landscape.wells(),
    landscape.plateau(),
    landscape.saddle(),
    landscape.rosenbrock(),
]


def sgd(lr, **options):
    return lambda params: optim.SGD(params, lr=lr, **options)


def descend(function, optimizer, steps, start=None, **options):
    return trajectory(
        optimizer, function.f, function.grad, function.start if start is None else start, steps, **options
    )


# -- the functions


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_gradients_and_hessians_are_those_of_the_function(function):
    rng, h = np.random.default_rng(0), 1e-5
    shape = np.shape(function.start)
    unit = np.eye(max(1, math.prod(shape))).reshape(-1, *shape)
    for x in rng.uniform(-2, 2, (20, *shape)):
        gradient = [(function(x + h * e) - function(x - h * e)) / (2 * h) for e in unit]
        assert np.reshape(gradient, shape) == pytest.approx(function.grad(x), rel=1e-6, abs=1e-5)
        hessian = [(function.grad(x + h * e) - function.grad(x - h * e)) / (2 * h) for e in unit]
        assert np.reshape(hessian, shape * 2) == pytest.approx(function.hessian(x), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_minima_are_minima_and_the_lowest_comes_first(function):
    values = [float(function(x)) for x in function.minima]
    assert values == sorted(values) and function(function.minimum) == values[0]
    for x in function.minima:
        assert np.abs(function.grad(x)).max() < 1e-12
        assert np.linalg.eigvalsh(np.atleast_2d(function.hessian(x))).min() > 0


def test_eigenvalues_and_what_follows_from_them():
    turned = landscape.ill_conditioned(50.0, rotation=0.6)
    assert np.linalg.eigvalsh(turned.hessian(turned.start)) == pytest.approx([0.02, 1.0])
    assert (turned.condition, turned.stable_step) == pytest.approx((50.0, 2.0))
    assert turned.best_step == pytest.approx(2 / 1.02) and turned.best_rate == pytest.approx(49 / 51)
    assert landscape.Function("f", abs, np.sign).minimum is None


# -- step size and convergence


@pytest.mark.parametrize(
    ("curvature", "factors"),
    [(1 / 2, (0.75, 0.25, -2.0)), (3.0, (-0.5, -3.5, -17.0)), (1 / 8, (0.9375, 0.8125, 0.25))],
)
def test_the_good_step_size_depends_on_the_function(curvature, factors):
    """1/2, 3/2 and 6 times the derivative: slow, good, diverges; on other functions another one is good, or none."""
    function = landscape.parabola(curvature)
    for lr, factor in zip((1 / 2, 3 / 2, 6), factors, strict=True):
        run = descend(function, sgd(lr), 10)
        assert run.points == pytest.approx(4.0 * factor ** np.arange(11))
        assert (run.values[-1] < run.values[0]) == (abs(factor) < 1) == (lr < function.stable_step)
        assert not run.diverged


@pytest.mark.parametrize("rotation", [0.0, 0.7])
def test_the_rate_of_gradient_descent(rotation):
    """(1 - lr lambda)^t along each eigenvector."""
    function, lr, steps = landscape.quadratic([0.1, 3.0], rotation), 0.6, 30
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    run = descend(function, sgd(lr), steps)
    factors = (1 - lr * function.eigenvalues) ** np.arange(steps + 1)[:, None]
    assert run.points @ turn == pytest.approx(factors * (4.0, 2.0), rel=1e-9, abs=1e-9)


def test_the_rate_in_a_million_dimensions():
    function, steps = landscape.ill_conditioned(1e6, dimensions=1_000_000), 5
    lr = function.best_step
    run = descend(function, sgd(lr), steps, keep_points=False)
    assert run.points is None and run.steps == steps
    np.testing.assert_allclose(run.final, (1 - lr * function.eigenvalues) ** steps, rtol=1e-9, atol=1e-12)
    assert np.abs(run.final).max() == pytest.approx(function.best_rate**steps)


def test_the_largest_stable_step():
    function = landscape.quadratic([0.1, 4.0])
    below, above = (descend(function, sgd(c * function.stable_step), 300) for c in (0.99, 1.01))
    assert below.values[-1] < 1e-2 * below.values[0]
    assert above.values[-1] > 1e2 * above.values[0]
    best, other = (descend(function, sgd(c * function.best_step), 300) for c in (1.0, 0.9))
    assert best.values[-1] < other.values[-1] and best.values[-1] < below.values[-1]


def test_momentum_beats_gradient_descent_where_the_condition_is_bad():
    """Polyak's rate is the root of the momentum, (sqrt(k) - 1) / (sqrt(k) + 1), that of descent (k - 1) / (k + 1)."""
    function, steps = landscape.ill_conditioned(1000.0), 400
    lr, momentum = function.heavy_ball
    assert math.sqrt(momentum) == pytest.approx((math.sqrt(1000) - 1) / (math.sqrt(1000) + 1))
    plain = descend(function, sgd(function.best_step), steps)
    heavy = descend(function, lambda params: optim.Momentum(params, lr=lr, momentum=momentum), steps)
    assert heavy.values[-1] < 1e-12 * plain.values[-1]
    errors = np.linalg.norm(heavy.points[[100, 400]], axis=1)
    # The two roots of the recurrence are equal at these settings: the error is t times the power.
    assert (errors[1] / errors[0] / 4) ** (1 / 300) == pytest.approx(math.sqrt(momentum), rel=0.002)
    errors = np.linalg.norm(plain.points[[100, 400]], axis=1)
    assert (errors[1] / errors[0]) ** (1 / 300) == pytest.approx(function.best_rate, rel=1e-6)


def test_where_descent_ends_depends_on_the_start_and_on_the_step_size():
    function = landscape.wells()
    wide, narrow = function.minima
    assert descend(function, sgd(0.1), 300, start=4.0).final == pytest.approx(narrow)
    assert descend(function, sgd(0.1), 300, start=-4.0).final == pytest.approx(wide, abs=1e-6)
    large = 1.5
    assert 2 / function.hessian(narrow) < large < 2 / function.hessian(wide)
    out = descend(function, sgd(large), 100, start=narrow + 1e-3)
    assert out.final == pytest.approx(wide, abs=1e-6) and not out.diverged
    assert descend(function, sgd(large), 100, start=4.0).final == pytest.approx(wide, abs=1e-6)


def test_descent_begins_slowly_on_a_plateau():
    function = landscape.plateau()
    plain = descend(function, sgd(0.5), 1000)
    reached = int(np.argmax(plain.values < 0.5))
    assert 300 < reached < 500 and plain.values[reached // 2] > 0.94
    assert plain.values[reached + 20] < 1e-6  # and once it has left, it is there at once
    normalized = descend(function, lambda params: optim.RMSprop(params, lr=0.1), 1000)
    assert np.argmax(normalized.values < 0.5) < reached / 5


def test_a_saddle_point_is_left_slowly_and_not_at_all_from_its_axis():
    function, lr = landscape.saddle(), 0.1
    run = descend(function, sgd(lr), 200)
    assert run.points[:40, 1] == pytest.approx(1e-3 * (1 + lr) ** np.arange(40), rel=2e-3)
    assert abs(run.values[60]) < 0.1 and run.final == pytest.approx([0, 1], abs=1e-6)
    nearer = descend(function, sgd(lr), 400, start=[1.2, 1e-9])
    waited = [int(np.argmax(r.points[:, 1] > 0.5)) for r in (run, nearer)]
    assert waited[1] - waited[0] == pytest.approx(math.log(1e6) / math.log(1 + lr), abs=1)
    stuck = descend(function, sgd(lr), 400, start=[1.2, 0.0])
    assert stuck.final == pytest.approx([0, 0], abs=1e-12) and stuck.gradient_norms[-1] < 1e-12
    noisy = landscape.noisy(function.grad, 1e-3, seed=0)
    assert abs(trajectory(sgd(lr), function.f, noisy, [1.2, 0.0], 400).final[1]) == pytest.approx(1, abs=0.01)


def test_the_valley_of_rosenbrock_is_found_at_once_and_followed_slowly():
    function = landscape.rosenbrock()
    run = descend(function, sgd(1e-3), 3000)
    assert run.values[10] < 5 and run.values[1000] > 0.1  # from 24
    assert descend(function, lambda params: optim.Adam(params, lr=0.1), 3000).values[-1] < 1e-6 < run.values[-1]


# -- what a trajectory is


SECOND_ORDER = ["DiagonalGaussNewton", "GaussNewton", "KFAC"]
METHODS = sorted(set(optim.__all__) - {"Optimizer", "schedules", *SECOND_ORDER})


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_optimizers_are_refused(name):
    f = landscape.parabola()
    with pytest.raises(TypeError, match=f"{name}, which needs a model's curvature"):
        landscape.trajectory(getattr(optim, name), f.f, f.grad, 1.0, 5)


@pytest.mark.parametrize("name", METHODS)
def test_every_optimizer_by_its_class(name):
    function = landscape.quadratic([0.5, 1.0])
    run = descend(function, getattr(optim, name), 50)
    assert run.points.shape == (51, 2) and run.values.shape == run.gradient_norms.shape == (51,)
    assert run.values[-1] < run.values[0] and not run.diverged
    assert run.values == pytest.approx([function(x) for x in run.points])
    assert run.gradient_norms == pytest.approx([np.linalg.norm(function.grad(x)) for x in run.points])
    assert (run.final == run.points[-1]).all() and (run.points[0] == function.start).all()
    assert run.averages is None and run.average_values is None
    assert repr(run).startswith("Trajectory(50 steps, from ")


def test_it_diverges_without_an_error_or_a_warning():
    function = landscape.parabola(3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = descend(function, sgd(6.0), 10_000)
        assert run.diverged and 100 < run.steps < 1000
        assert np.isfinite(run.values[:-1]).all() and not math.isfinite(run.values[-1])
        assert len(run.points) == len(run.values) == len(run.gradient_norms)
        python = trajectory(sgd(6.0), lambda x: float(x) ** 4, lambda x: 4 * float(x) ** 3, 2.0, 100)
        assert python.diverged and python.values[-1] == math.inf
        gradient = trajectory(sgd(1.0), lambda x: 1.0, lambda x: math.exp(1000), 2.0, 100)
        assert gradient.diverged and gradient.steps == 0
        nan = trajectory(sgd(1.0), lambda x: 1.0, np.sqrt, 0.5, 100)
        assert nan.diverged and math.isnan(nan.gradient_norms[-1])


@pytest.mark.parametrize("start", [3, 3.0, np.float32(3.0), [3.0], np.full((2, 3), 3.0, np.float32)])
def test_the_functions_see_the_shape_and_dtype_of_the_start(start):
    seen = []

    def f(x):
        seen.append((x.shape, x.dtype, x.flags.writeable))
        return (x**2).sum() / 2

    given = np.copy(start)
    run = trajectory(sgd(0.5), f, lambda x: x, start, 3)
    dtype = np.asarray(start).dtype if np.asarray(start).dtype == np.float32 else np.dtype(np.float64)
    assert set(seen) == {(np.shape(start), dtype, False)}
    assert run.points.shape == (4, *np.shape(start)) and run.points.dtype == dtype
    assert np.unique(run.points).tolist() == [0.375, 0.75, 1.5, 3.0]
    assert (given == start).all()


def test_averages_are_kept_where_the_optimizer_keeps_some():
    run = descend(landscape.parabola(), sgd(1.0, ema_decay=0.5), 3)
    assert run.points.tolist() == [4, 2, 1, 0.5] and run.averages.tolist() == [4, 3, 2, 1.25]
    assert run.average_values == pytest.approx(run.averages**2 / 4)
    alone = descend(landscape.parabola(), sgd(1.0, ema_decay=0.5), 3, keep_points=False)
    assert alone.averages is None and (alone.average_values == run.average_values).all()


F = landscape.parabola()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((optim.SGD, None, F.grad, 1.0, 5), TypeError, "'f' must be callable but got a NoneType"),
        ((optim.SGD, F.f, 3, 1.0, 5), TypeError, "'grad' must be callable but got a int"),
        ((lambda params: 3, F.f, F.grad, 1.0, 5), TypeError, "'optimizer' must make an optimizer but made 3"),
        ((optim.SGD, F.f, F.grad, "far", 5), TypeError, "'start' must be a number or an array of real numbers"),
        ((optim.SGD, F.f, F.grad, math.nan, 5), ValueError, "'start' must be finite and not empty but got nan"),
        ((optim.SGD, F.f, F.grad, [[1.0], [1.0, 2.0]], 5), TypeError, "'start' must be a number or .* dtype object"),
        ((optim.SGD, F.f, F.grad, [], 5), ValueError, "'start' must be finite and not empty"),
        ((optim.SGD, F.f, F.grad, 1.0, 0), ValueError, r"'steps' must be in \[1"),
        ((optim.SGD, F.f, F.grad, 1.0, 2.5), TypeError, "'steps' must be an integer but got 2.5"),
        ((optim.SGD, lambda x: x, F.grad, [1.0], 5), TypeError, r"'f' must give a number but gave .* shape \(1,\)"),
        ((optim.SGD, lambda x: "?", F.grad, 1.0, 5), TypeError, "'f' must give a number but gave <U1"),
        ((optim.SGD, lambda x: [[1], [1, 2]], F.grad, 1.0, 5), TypeError, "'f' must give a number but gave object"),
        (
            (optim.SGD, F.f, lambda x: [[1], [1, 2]], 1.0, 5),
            TypeError,
            "'grad' must give real numbers but gave dtype o",
        ),
        ((optim.SGD, F.f, lambda x: [x], 1.0, 5), ValueError, r"'grad' must give the shape of 'start', \(\), but gave"),
        ((optim.SGD, F.f, lambda x: None, 1.0, 5), TypeError, "'grad' must give real numbers but gave dtype object"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=rf"\[trajectory\] {words}"):
        trajectory(*arguments)


def test_an_optimizer_that_is_made_already_is_refused():
    from fusedstep.nn import Parameter

    made = optim.SGD([Parameter(np.ones(1), np.ones(1), "p")])
    with pytest.raises(TypeError, match=r"'optimizer' must be callable but got a SGD; give its class, or a function"):
        trajectory(made, F.f, F.grad, 1.0, 5)


@pytest.mark.parametrize("name", ["x", "p"])
@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_an_optimizer_of_other_parameters_is_refused(name, ema_decay):
    from fusedstep.nn import Parameter

    other = optim.SGD([Parameter(np.ones(1), np.zeros(1), name)], ema_decay=ema_decay)
    words = "'optimizer' must make an optimizer of the parameters that it is called with, but the SGD .* has others"
    with pytest.raises(ValueError, match=rf"\[trajectory\] {words}"):
        trajectory(lambda params: other, F.f, F.grad, 1.0, 5)


def test_an_optimizer_with_averages_of_other_parameters_is_refused():
    from fusedstep.nn import Parameter

    def make(params):
        other = optim.SGD([Parameter(np.ones(1), np.zeros(1), "p")], ema_decay=0.5)
        other.param_groups[0]["params"] = params
        return other

    with pytest.raises(ValueError, match=r"\[trajectory\] 'optimizer' must make an optimizer of the parameters"):
        trajectory(make, F.f, F.grad, 1.0, 5)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "words"),
    [
        ("parabola", (0.0,), ValueError, "'curvature' must be greater than 0 but got 0.0"),
        ("parabola", (-1.0,), ValueError, r"'curvature' must be in \[0"),
        ("parabola", ("?",), TypeError, "'curvature' must be a number but got '\\?'"),
        ("quadratic", ([],), ValueError, "'eigenvalues' must be a sequence of finite numbers greater than 0"),
        ("quadratic", ([1.0, 0.0],), ValueError, "'eigenvalues' must be a sequence of finite numbers"),
        ("quadratic", ([1.0, math.inf],), ValueError, "'eigenvalues' must be a sequence of finite numbers"),
        ("quadratic", ("abc",), TypeError, "'eigenvalues' must be a sequence of finite numbers .* but got 'abc'"),
        ("quadratic", ([[1.0], [1.0, 2.0]],), TypeError, "'eigenvalues' must be a sequence of finite numbers"),
        ("quadratic", (3.0,), ValueError, "'eigenvalues' must be a sequence of finite numbers"),
        ("quadratic", ([1.0, 2.0, 3.0], 0.5), ValueError, "'rotation' is for two dimensions but 'eigenvalues' are 3"),
        ("quadratic", ([1.0, 2.0], math.nan), ValueError, "'rotation' must be finite"),
        ("ill_conditioned", (0.5,), ValueError, r"'condition' must be in \[1"),
        ("ill_conditioned", (10.0, 1), ValueError, r"'dimensions' must be in \[2"),
    ],
)
def test_bad_functions_are_named(make, arguments, error, words):
    with pytest.raises(error, match=rf"\[{make}\] {words}"):
        getattr(landscape, make)(*arguments)
