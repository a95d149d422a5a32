"""Gauss-Newton, its diagonal and KFAC against closed forms; what they refuse."""

from itertools import pairwise

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import nn
from fusedstep.optim.gauss_newton import conjugate_gradients
from small_second_order import METHODS, data, gradients, network, states


def least_squares(size=20, condition=1e6, seed=0, samples=100):
    """A zero-residual problem whose Hessian has that condition; every direction counts alike in the solution."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((samples, size)))
    right, _ = np.linalg.qr(rng.standard_normal((size, size)))
    x = (left * np.logspace(0, -np.log10(condition) / 2, size)) @ right.T * samples**0.5
    model = nn.Sequential(nn.Dense(size, 1, init="zeros", bias=False), dtype=np.float64)
    return model, x, x @ (right @ np.ones((size, 1)))


def test_gauss_newton_solves_what_gradient_descent_does_not():
    """Condition 1e6: a relative loss of 1e-8 in at most 10 steps, against more than 10,000."""
    loss = nn.MeanSquaredError()
    model, x, y = least_squares()
    assert fs.curvature.extremes(model, loss, x, y).condition == pytest.approx(1e6, rel=1e-5)
    optimizer = fs.optim.GaussNewton(model.parameters())
    first = gradients(model, loss, x, y)
    for _ in range(10):
        optimizer.step(model, loss, x, y)
        reached = gradients(model, loss, x, y) / first
    assert reached <= 1e-8

    model, x, y = least_squares()
    optimizer = fs.optim.SGD(model.parameters(), lr=0.99 * fs.curvature.extremes(model, loss, x, y).stable_step)
    for _ in range(10_000):
        reached = gradients(model, loss, x, y) / first
        optimizer.step()
    assert reached > 1e-6


def test_gauss_newton_beyond_toy_sizes():
    """A hundred directions: more products a solution, but no more steps."""
    loss = nn.MeanSquaredError()
    model, x, y = least_squares(100, samples=400)
    optimizer = fs.optim.GaussNewton(model.parameters())
    first = gradients(model, loss, x, y)
    for _ in range(10):
        optimizer.step(model, loss, x, y)
        reached = gradients(model, loss, x, y) / first
    assert reached <= 1e-8


def test_conjugate_gradients():
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    a, b = (q * np.linspace(1, 100, 30)) @ q.T, rng.standard_normal(30)
    x, _ = conjugate_gradients(lambda v: a @ v, b, max_iter=100, tol=1e-12)
    np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=1e-9)
    _, products = conjugate_gradients(lambda v: a @ v, b, max_iter=5, tol=1e-12)
    assert products == 5
    x, products = conjugate_gradients(lambda v: a @ v, np.zeros(30), max_iter=5, tol=1e-12)
    assert products == 0 and not x.any()
    x, _ = conjugate_gradients(lambda v: 0 * v, b, max_iter=5, tol=1e-12)
    assert np.isfinite(x).all()


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_the_step_of_gauss_newton(weight_decay):
    """``(J' H J + damping + weight_decay) d = g + weight_decay p``, on a network with all kinds of layers."""
    model, loss, (x, y) = network(), nn.SoftmaxCrossEntropy(), data()
    gradients(model, loss, x, y)
    offset = model.random_offset
    matrix = fs.curvature.GaussNewton(model, loss, x, y, offset=offset - 1).to_dense()
    p = np.concatenate([q.array.ravel() for q in model.parameters()])
    g = np.concatenate([q.grad.ravel() for q in model.parameters()])
    expected = p - 0.5 * np.linalg.solve(matrix + (2 + weight_decay) * np.eye(len(p)), g + weight_decay * p)
    optimizer = fs.optim.GaussNewton(
        model.parameters(), lr=0.5, damping=2, weight_decay=weight_decay, cg_tol=1e-12, cg_max_iter=1000
    )
    optimizer.step(model, loss, x, y)
    np.testing.assert_allclose(np.concatenate([q.array.ravel() for q in model.parameters()]), expected, atol=1e-10)
    assert model.random_offset == offset


def test_a_step_that_would_raise_the_loss_is_not_taken():
    """From far out, where the logistic curve is flat, the undamped step overshoots by orders of magnitude."""
    model = nn.Sequential(nn.Dense(1, 1, init="zeros"), nn.Tanh(), dtype=np.float64)
    model.parameters()[0].array[...] = 3
    x, y = np.array([[1.0], [2.0], [-1.0]]), np.array([[0.5], [0.9], [-0.4]])
    loss, optimizer = nn.MeanSquaredError(), fs.optim.GaussNewton(model.parameters(), damping=1e-8)
    values = []
    for _ in range(30):
        values.append(gradients(model, loss, x, y))
        optimizer.step(model, loss, x, y)
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(values))  # rounding alone may raise it
    assert values[-1] < 0.05 * values[0]


def test_damping_falls_with_good_steps_and_rises_with_bad_ones():
    model, x, y = least_squares(5, 10)
    loss, optimizer = nn.MeanSquaredError(), fs.optim.GaussNewton(model.parameters(), damping=1.0)
    gradients(model, loss, x, y)
    optimizer.step(model, loss, x, y)
    assert optimizer.damping == pytest.approx(0.1)
    assert optimizer.param_groups[0]["damping"] == 1.0


def test_the_step_of_the_diagonal():
    model, loss, (x, y) = network(), nn.SoftmaxCrossEntropy(), data()
    optimizer = fs.optim.DiagonalGaussNewton(model.parameters(), lr=0.1, damping=0.2, beta=0.75, weight_decay=0.3)
    h = None
    for _ in range(3):
        gradients(model, loss, x, y)
        matrix = fs.curvature.GaussNewton(model, loss, x, y, offset=model.random_offset - 1)
        h = matrix.diagonal() if h is None else 0.75 * h + 0.25 * matrix.diagonal()
        p = np.concatenate([q.array.ravel() for q in model.parameters()])
        g = np.concatenate([q.grad.ravel() for q in model.parameters()])
        optimizer.step(model, loss, x, y)
        expected = p - 0.1 * (g + 0.3 * p) / (h + 0.2 + 0.3)
        np.testing.assert_allclose(np.concatenate([q.array.ravel() for q in model.parameters()]), expected, rtol=1e-12)


def test_the_diagonal_is_looked_at_now_and_then():
    model, loss, (x, y) = network(), nn.SoftmaxCrossEntropy(), data()
    optimizer = fs.optim.DiagonalGaussNewton(model.parameters(), every=3)
    kept = []
    for _ in range(4):
        gradients(model, loss, x, y)
        optimizer.step(model, loss, x, y)
        kept.append(optimizer.state_arrays("0.weight")["curvature"].copy())
    np.testing.assert_array_equal(kept[0], kept[2])
    assert (kept[3] != kept[0]).any()


def test_kfac_is_newton_on_whitened_inputs():
    """One linear layer and squared errors: the Fisher matrix is ``A (x) G``, G a multiple of 1.

    G from 4,000 drawn targets is off by some 4000**-0.5, and so is the step, so each takes at least a factor of 1e-3
    off the loss.
    """
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4000, 3)) @ np.array([[3.0, 0, 0], [1, 0.1, 0], [0, 1, 0.5]])
    target = rng.standard_normal((4, 2))
    y = np.column_stack([x, np.ones(4000)]) @ target
    model = nn.Sequential(nn.Dense(3, 2), dtype=np.float64)
    loss, optimizer = nn.MeanSquaredError(), fs.optim.KFAC(model.parameters(), damping=1e-12)
    first = gradients(model, loss, x, y)
    for step in range(1, 5):
        optimizer.step(model, loss, x, y)
        assert gradients(model, loss, x, y) / first < 1e-3**step
    np.testing.assert_allclose(np.vstack([p.array for p in model.parameters()]), target, atol=1e-3)


def test_the_factors_of_kfac():
    rng = np.random.default_rng(2)
    model, loss = nn.Sequential(nn.Dense(3, 2), dtype=np.float64), nn.MeanSquaredError()
    optimizer = fs.optim.KFAC(model.parameters(), beta=0.5, every=1)
    expected = np.zeros((4, 4))
    for step in range(1, 5):
        x, y, weights = rng.standard_normal((10, 3)), rng.standard_normal((10, 2)), rng.random(10)
        gradients(model, loss, x, y, weights)
        optimizer.step(model, loss, x, y, weights)
        keep = min(1 - 1 / step, 0.5)
        a = np.column_stack([x, np.ones(10)])
        expected = keep * expected + (1 - keep) * (a * (weights / weights.sum())[:, None]).T @ a
    states = optimizer.state_arrays("0.weight")
    np.testing.assert_allclose(states["input_factor"], expected, rtol=1e-12)
    assert states["output_factor"].shape == (2, 2)
    damped = np.linalg.inv(states["input_inverse"]) - expected  # its part of the damping, a multiple of 1
    np.testing.assert_allclose(damped, damped[0, 0] * np.eye(4), atol=1e-12)
    assert damped[0, 0] > 0


@pytest.mark.parametrize("method", METHODS)
def test_averages_of_weights(method):
    model, loss, (x, y) = network(), nn.SoftmaxCrossEntropy(), data()
    optimizer = METHODS[method](model.parameters(), ema_decay=0.75)
    expected = model.parameters()[0].array.copy()
    for _ in range(3):
        gradients(model, loss, x, y)
        optimizer.step(model, loss, x, y)
        expected = 0.75 * expected + 0.25 * model.parameters()[0].array
    np.testing.assert_allclose(optimizer.averages()["0.weight"], expected, rtol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_nonfinite_gradients_are_skipped(method):
    model, loss, (x, y) = network(), nn.SoftmaxCrossEntropy(), data()
    optimizer = METHODS[method](model.parameters(), skip_nonfinite=True)
    gradients(model, loss, x, y)
    model.parameters()[0].grad[0, 0] = np.nan
    before = model.state_dict()
    optimizer.step(model, loss, x, y)
    assert (optimizer.skipped, optimizer.steps) == (1, 0)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("method", METHODS)
def test_nan_goes_into_the_parameters_and_into_no_state(method):
    model, loss, (x, y) = network(), nn.SoftmaxCrossEntropy(), data()
    optimizer = METHODS[method](model.parameters())
    for _ in range(2):
        gradients(model, loss, x, y)
        optimizer.step(model, loss, x, y)
    kept = states(optimizer)
    gradients(model, loss, x, y)
    model.parameters()[0].grad[0, 0] = np.nan
    optimizer.step(model, loss, x, y)
    assert np.isnan(model.parameters()[0].array).sum() == 1
    for name, array in states(optimizer).items():
        np.testing.assert_array_equal(array, kept[name], err_msg=name)


@pytest.mark.parametrize("method", ["GaussNewton", "KFAC"])
def test_a_step_size_of_zero_says_nothing_about_the_damping(method):
    model, loss, (x, y) = network(), nn.SoftmaxCrossEntropy(), data()
    optimizer = METHODS[method](model.parameters(), lr=0.0)
    before = optimizer.damping
    for _ in range(6):
        gradients(model, loss, x, y)
        optimizer.step(model, loss, x, y)
    assert optimizer.damping == before


@pytest.mark.parametrize("damping", [np.nan, np.inf, 0.0, -1.0])
@pytest.mark.parametrize("method", ["GaussNewton", "KFAC"])
def test_a_state_dict_with_a_wrong_damping_is_refused(method, damping):
    optimizer = METHODS[method](network().parameters())
    state = optimizer.state_dict()
    state["state"]["0.weight"]["damping"] = np.array(damping)
    with pytest.raises(ValueError, match=r"'damping' of '0.weight' must be above 0"):
        optimizer.load_state_dict(state)
    assert optimizer.damping > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_zero_gradient_moves_nothing(method):
    model, loss, (x, y) = network(), nn.SoftmaxCrossEntropy(), data()
    optimizer = METHODS[method](model.parameters())
    gradients(model, loss, x, y)
    optimizer.zero_grad()
    before = model.state_dict()
    optimizer.step(model, loss, x, y)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("method", METHODS)
def test_refusals(method):
    model, other, loss, (x, y) = network(), network(), nn.SoftmaxCrossEntropy(), data()
    make = METHODS[method]
    with pytest.raises(ValueError, match=r"'damping' must be above 0"):
        make(model.parameters(), damping=0)
    with pytest.raises(ValueError, match="'damping' must be"):
        make(model.parameters(), damping=-1)
    with pytest.raises(ValueError, match="'lr'"):
        make(model.parameters(), lr=float("nan"))
    with pytest.raises(ValueError, match="unknown key 'maximize'"):
        make([{"params": model.parameters(), "maximize": True}])
    with pytest.raises(TypeError, match="no argument 'max_norm'"):
        make(model.parameters(), max_norm=1.0)
    optimizer = make(model.parameters())
    with pytest.raises(TypeError, match=r"'max_norm' must be None but got 1\.0"):
        optimizer.max_norm = 1.0
    with pytest.raises(ValueError, match="one group"):
        make([{"params": model.parameters()[:2]}, {"params": model.parameters()[2:]}])
    optimizer = make(model.parameters())
    gradients(model, loss, x, y)
    gradients(other, loss, x, y)
    with pytest.raises(ValueError, match=r"for all of model.parameters\(\)"):
        optimizer.step(other, loss, x, y)
    with pytest.raises(ValueError, match=r"for all of model.parameters\(\)"):
        make(model.parameters()[:-1]).step(model, loss, x, y)
    with pytest.raises(TypeError, match="missing 4 required positional arguments"):
        optimizer.step()
    with pytest.raises(ValueError, match="'accumulate' must be 1"):
        fs.fit(model, optimizer, loss, (x, y), epochs=1, accumulate=2, progress=False)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_before_any_training_pass_is_refused(method):
    model, (x, y) = network(), data()
    optimizer, before = METHODS[method](model.parameters()), model.state_dict()
    model.predict(x)
    with pytest.raises(
        RuntimeError, match=rf"\[{method}\] step needs a training pass .* call model\.forward\(x, .*first"
    ):
        optimizer.step(model, nn.SoftmaxCrossEntropy(), x, y)
    assert optimizer.steps == 0
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_refused_hyper_parameters():
    parameters = network().parameters()
    for make, name in (
        (lambda: fs.optim.GaussNewton(parameters, cg_max_iter=0), "cg_max_iter"),
        (lambda: fs.optim.GaussNewton(parameters, cg_tol=2.0), "cg_tol"),
        (lambda: fs.optim.DiagonalGaussNewton(parameters, beta=1.0), "beta"),
        (lambda: fs.optim.DiagonalGaussNewton(parameters, every=0), "every"),
        (lambda: fs.optim.KFAC(parameters, beta=-0.1), "beta"),
        (lambda: fs.optim.KFAC(parameters, every=1.5), "every"),
        (lambda: fs.optim.KFAC(parameters, seed=-1), "seed"),
        (lambda: fs.optim.KFAC(parameters, momentum=0.9), "momentum"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"'{name}'"):
            make()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_batch_in_any_memory_order_will_do(method):
    loss, (x, _) = nn.MeanSquaredError(), data()
    y = x[:, :3] ** 2

    def stepped(x, y):
        model = network()
        optimizer = method(model.parameters())
        gradients(model, loss, x, np.ascontiguousarray(y))
        optimizer.step(model, loss, x, y)
        return [p.array.tobytes() for p in model.parameters()]

    assert stepped(np.asfortranarray(x), np.asfortranarray(y)) == stepped(x, y)
