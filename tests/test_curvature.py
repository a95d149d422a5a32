"""Products with Hessian and Gauss-Newton matrix against differences of gradients; the ends of spectra."""

import math

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import nn
from fusedstep.curvature.linearization import Linearization

STEP = 1e-5
TOLERANCE = 1e-7  # the differences have an error of about STEP**2 + 1e-16 / STEP, times third derivatives
N = 12


def matrix_by_differences(model, loss, x, y, weights=None):
    """The Hessian from central differences of `backward`, which knows nothing of second derivatives."""

    def gradient():
        offset = model.random_offset
        _, dy = loss(model.forward(x), y, *(() if weights is None else (weights,)))
        model.random_offset = offset  # the same masks again
        model.backward(dy)
        return np.concatenate([p.grad.ravel() for p in model.parameters()])

    columns = []
    for p in model.parameters():
        values = p.array.reshape(-1)
        for i in range(values.size):
            value = values[i]
            values[i] = value + STEP
            above = gradient()
            values[i] = value - STEP
            columns.append((above - gradient()) / (2 * STEP))
            values[i] = value
    return np.stack(columns, axis=1)


def targets(loss, rng, classes=3, n=N):
    if isinstance(loss, nn.SoftmaxCrossEntropy):
        return rng.integers(0, classes, n)
    return rng.random((n, classes))


def randomized(model, seed=0):
    """Parameters none of which is 0: behind a dropped layer, a ReLU would stand at its corner."""
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.array[...] = rng.standard_normal(p.array.shape)
    return model


ACTIVATIONS = [nn.Tanh, nn.Sigmoid, nn.GELU, nn.ReLU, lambda: nn.LeakyReLU(0.2)]
LOSSES = [nn.SoftmaxCrossEntropy(), nn.SigmoidCrossEntropy(), nn.MeanSquaredError()]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_hessian_is_that_of_differences(activation, loss, weighted):
    rng = np.random.default_rng(1)
    model = randomized(
        nn.Sequential(
            *(nn.Flatten(), nn.Dense(4, 5), nn.BatchNorm(5), activation(), nn.Dropout(0.3)),
            *(nn.Dense(5, 4, bias=False), nn.BatchNorm(4, affine=False), activation(), nn.Dropout(0.2)),
            *(nn.Dense(4, 4), activation(), nn.Dense(4, 3)),
            dtype=np.float64,
            seed=3,
        )
    )
    model.random_offset = 7
    x, y = rng.standard_normal((N, 2, 2)), targets(loss, rng)
    weights = rng.random(N) if weighted else None
    hessian = fs.curvature.Hessian(model, loss, x, y, weights=weights)
    dense = hessian.to_dense()
    expected = matrix_by_differences(model, loss, x, y, weights)
    np.testing.assert_allclose(dense, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    np.testing.assert_allclose(dense, dense.T, rtol=0, atol=1e-12 * np.abs(dense).max())
    value, dy = loss(model.forward(x), y, *(() if weights is None else (weights,)))
    model.backward(dy)
    assert hessian.value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(
        hessian.gradient(), np.concatenate([p.grad.ravel() for p in model.parameters()]), atol=1e-14
    )


@pytest.mark.parametrize("track", [True, False])
def test_the_hessian_in_evaluation(track):
    rng = np.random.default_rng(2)
    layers = [nn.BatchNorm(3, track_running_stats=track), nn.Dense(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Dense(4, 2)]
    model = randomized(nn.Sequential(*layers, dtype=np.float64))
    x, y = rng.standard_normal((N, 3)), rng.standard_normal((N, 2))
    model.forward(x)  # running statistics that are not those at the start
    loss = nn.MeanSquaredError()
    twin = nn.Sequential(
        *[type(layer)(**layer.config()) for layer in layers if not isinstance(layer, nn.Dropout)], dtype=np.float64
    )
    for own, other in zip(twin.parameters(), model.parameters(), strict=True):
        own.array[...] = other.array
    found = fs.curvature.Hessian(model, loss, x, y, training=False)
    assert found.value == pytest.approx(loss(model.predict(x), y)[0], rel=1e-12)
    if not track:  # then a training pass takes the moments of the batch as evaluation does
        expected = matrix_by_differences(twin, loss, x, y)
        np.testing.assert_allclose(found.to_dense(), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_batch_norm_over_inner_axes():
    rng = np.random.default_rng(3)
    model = randomized(nn.Sequential(nn.BatchNorm(2), nn.Tanh(), nn.Flatten(), nn.Dense(6, 2), dtype=np.float64))
    x, y = rng.standard_normal((N, 2, 3)), rng.standard_normal((N, 2))
    expected = matrix_by_differences(model, nn.MeanSquaredError(), x, y)
    found = fs.curvature.Hessian(model, nn.MeanSquaredError(), x, y).to_dense()
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def brute_gauss_newton(model, loss, x, y):
    """J' H J with J from products and H from differences of the loss's gradient."""
    at = Linearization(model, x)
    jacobian = np.stack([at.jacobian_product(e).ravel() for e in np.eye(model.n_parameters)], axis=1)
    output, columns = at.output, []
    for i in range(output.size):
        step = np.zeros(output.size)
        step[i] = STEP
        step = step.reshape(output.shape)
        columns.append((loss(output + step, y)[1] - loss(output - step, y)[1]).ravel() / (2 * STEP))
    return jacobian.T @ np.stack(columns, axis=1) @ jacobian


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gauss_newton(loss):
    rng = np.random.default_rng(4)
    model = randomized(
        nn.Sequential(nn.Dense(3, 4), nn.BatchNorm(4), nn.GELU(), nn.Dropout(0.2), nn.Dense(4, 3), dtype=np.float64)
    )
    x, y = rng.standard_normal((N, 3)), targets(loss, rng)
    found = fs.curvature.GaussNewton(model, loss, x, y).to_dense()
    expected = brute_gauss_newton(model, loss, x, y)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    assert np.linalg.eigvalsh(found)[0] > -1e-12 * np.abs(found).max()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gauss_newton_is_the_hessian_of_a_linear_model(loss):
    rng = np.random.default_rng(5)
    model = nn.Sequential(nn.Dense(4, 3), dtype=np.float64)
    x, y = rng.standard_normal((N, 4)), targets(loss, rng)
    hessian, gauss_newton = (
        kind(model, loss, x, y).to_dense() for kind in (fs.curvature.Hessian, fs.curvature.GaussNewton)
    )
    np.testing.assert_allclose(hessian, gauss_newton, rtol=0, atol=1e-14)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_the_diagonal_of_one_layer_is_exact(activation, loss):
    rng = np.random.default_rng(6)
    layers = [nn.Flatten(), nn.Dense(4, 3), *([activation()] if activation else [])]
    model = randomized(nn.Sequential(*layers, dtype=np.float64))
    x, y, weights = rng.standard_normal((N, 2, 2)), targets(loss, rng), rng.random(N)
    matrix = fs.curvature.GaussNewton(model, loss, x, y, weights=weights)
    np.testing.assert_allclose(matrix.diagonal(), np.diag(matrix.to_dense()), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_the_diagonal_through_batch_norm_and_dropout(shape, training):
    """Each node's step back is ``sum_j (dy_j / dx_i)**2 h_j``, with the Jacobian from products."""
    rng = np.random.default_rng(7)
    layers = [nn.Flatten(), nn.Dense(math.prod(shape[1:]), 4), nn.Dropout(0.4)]
    model = randomized(nn.Sequential(nn.BatchNorm(3), nn.Tanh(), *layers, dtype=np.float64))
    x = rng.standard_normal(shape)
    at = Linearization(model, x, training=training)
    for node, still in zip(at.nodes, at.split(np.zeros(at.n_parameters)), strict=True):
        y = node.forward(x)
        h = rng.random(y.shape)
        moved = [node.tangent(e.reshape(x.shape), still) for e in np.eye(x.size)]
        found, _ = node.diagonal(h)
        expected = [(ry * ry * h).sum() for ry in moved]
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-10, atol=1e-13, err_msg=type(node).__name__)
        x = y


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_sampled_gradients_have_the_hessian_for_covariance(loss):
    """Over 200,000 draws each entry is within six standard errors, which the fourth moments give."""
    rng = np.random.default_rng(8)
    output = rng.standard_normal((1, 3))
    draws = np.concatenate([loss.sample_gradients(np.repeat(output, 200_000, axis=0), rng)])
    products = draws[:, :, None] * draws[:, None, :]
    expected = np.stack([loss.hessian_product(output, e[None]).ravel() for e in np.eye(3)])
    error = products.std(axis=0) / len(draws) ** 0.5
    assert (np.abs(products.mean(axis=0) - expected) <= 6 * error + 1e-15).all()
    assert (np.abs(draws.mean(axis=0)) <= 6 * draws.std(axis=0) / len(draws) ** 0.5).all()


def test_gradients_of_samples_below_batch_norm_are_those_of_all_losses():
    """As `KFAC` says: its moments join the samples, so that none has a gradient of its own below it."""
    rng, loss = np.random.default_rng(10), nn.SoftmaxCrossEntropy()
    above = randomized(nn.Sequential(nn.BatchNorm(4), nn.Tanh(), nn.Dense(4, 3), dtype=np.float64))
    model = nn.Sequential(nn.Dense(5, 4), nn.BatchNorm(4), nn.Tanh(), nn.Dense(4, 3), dtype=np.float64)
    for p, q in zip(model.parameters()[2:], above.parameters(), strict=True):
        p.array[...] = q.array
    matrix = fs.curvature.GaussNewton(model, loss, rng.standard_normal((N, 5)), targets(loss, rng))
    below, _, top = (g for _, _, g in matrix.samples(np.random.default_rng(11)))
    drawn = loss.sample_gradients(matrix.linearization.output, np.random.default_rng(11))
    np.testing.assert_array_equal(top, drawn)  # each sample's own

    def by_input(dy):
        above.forward(matrix.linearization.nodes[1].x)
        return above.backward(dy)

    np.testing.assert_allclose(below, by_input(drawn), rtol=1e-10, atol=1e-13)
    own = [by_input(np.where(np.arange(N)[:, None] == i, drawn, 0))[i] for i in range(N)]
    assert np.abs(below - own).max() > 0.01 * np.abs(own).max()


def quadratic(singular_values, seed=9, samples=200):
    """A least-squares problem without bias whose Hessian has the eigenvalues ``2 s**2``."""
    rng = np.random.default_rng(seed)
    d = len(singular_values)
    left, _ = np.linalg.qr(rng.standard_normal((samples, d)))
    right, _ = np.linalg.qr(rng.standard_normal((d, d)))
    x = (left * np.asarray(singular_values)) @ right.T * samples**0.5
    return nn.Sequential(nn.Dense(d, 1, bias=False), dtype=np.float64), x, rng.standard_normal((samples, 1))


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
@pytest.mark.parametrize("size", [1, 2, 3, 40, 150])
def test_extremes_of_quadratics(size, condition):
    condition = 1.0 if size == 1 else condition
    model, x, y = quadratic(np.logspace(0, -np.log10(condition) / 2, size))
    found = fs.curvature.extremes(model, nn.MeanSquaredError(), x, y)
    assert found.largest == pytest.approx(2, rel=1e-6)
    assert found.smallest == pytest.approx(2 / condition, rel=1e-6)
    assert found.condition == pytest.approx(condition, rel=2e-6)
    assert found.stable_step == pytest.approx(1, rel=1e-6)
    assert found.definite and "positive definite" in str(found)
    assert abs(found.largest - 2) <= found.largest_error + 1e-12
    assert abs(found.smallest - 2 / condition) <= found.smallest_error + 1e-12


def test_gradient_descent_is_stable_up_to_the_stable_step():
    model, x, y = quadratic([1.0, 0.5, 0.1])
    loss = nn.MeanSquaredError()
    step = fs.curvature.extremes(model, loss, x, y).stable_step

    def after(lr):
        for p in model.parameters():
            p.array[...] = 1
        optimizer = fs.optim.SGD(model.parameters(), lr=lr)
        for _ in range(2000):
            value, gradient = loss(model.forward(x), y)
            model.backward(gradient)
            optimizer.step()
        return value

    assert after(0.99 * step) < 2 < 1e6 < after(1.01 * step)


def test_extremes_of_a_network_are_those_of_its_full_hessian():
    rng = np.random.default_rng(10)
    model = nn.Sequential(nn.Dense(6, 8), nn.Tanh(), nn.Dense(8, 5), nn.Tanh(), nn.Dense(5, 3), dtype=np.float32)
    x, y = rng.standard_normal((64, 6)).astype(np.float32), rng.integers(0, 3, 64)
    loss = nn.SoftmaxCrossEntropy()
    for matrix, kind in (("hessian", fs.curvature.Hessian), ("gauss_newton", fs.curvature.GaussNewton)):
        values = np.linalg.eigvalsh(kind(model, loss, x, y).to_dense())
        found = fs.curvature.extremes(model, loss, x, y, matrix=matrix)
        assert found.largest == pytest.approx(values[-1], rel=1e-6)
        assert found.smallest == pytest.approx(values[0], rel=1e-6, abs=1e-12)
        assert found.stable_step == pytest.approx(2 / values[-1], rel=1e-6)
    hessian = fs.curvature.extremes(model, loss, x, y)
    assert not hessian.definite and math.isnan(hessian.condition) and "indefinite" in str(hessian)
    gauss_newton = fs.curvature.extremes(model, loss, x, y, matrix="gauss_newton")
    assert gauss_newton.condition == math.inf and "told from 0" in str(gauss_newton)  # 3 classes: one is redundant


def test_extremes_of_some_parameters():
    rng = np.random.default_rng(11)
    model = nn.Sequential(nn.Dense(4, 3), nn.Tanh(), nn.Dense(3, 2), dtype=np.float64)
    x, y = rng.standard_normal((50, 4)), rng.standard_normal((50, 2))
    found = fs.curvature.extremes(model, nn.MeanSquaredError(), x, y, parameters=["2.weight", "2.bias"])
    full = fs.curvature.Hessian(model, nn.MeanSquaredError(), x, y).to_dense()
    values = np.linalg.eigvalsh(full[15:, 15:])
    assert (found.largest, found.smallest) == (pytest.approx(values[-1]), pytest.approx(values[0]))


def test_the_bounds_hold_when_the_products_run_out():
    model, x, y = quadratic(np.logspace(0, -3, 120))
    for products in (1, 2, 5, 20, 40):
        found = fs.curvature.extremes(model, nn.MeanSquaredError(), x, y, max_products=products)
        assert found.products == products
        eigenvalues = 2 * np.logspace(0, -6, 120)
        assert np.abs(eigenvalues - found.largest).min() <= found.largest_error
        assert np.abs(eigenvalues - found.smallest).min() <= found.smallest_error


def test_neither_model_nor_pending_pass_changes():
    rng = np.random.default_rng(12)
    model = nn.Sequential(nn.Dense(3, 4), nn.BatchNorm(4), nn.Dropout(0.5), nn.Dense(4, 1), dtype=np.float64)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((8, 1))
    loss = nn.MeanSquaredError()
    _, dy = loss(model.forward(x), y)
    before, offset = model.state_dict(), model.random_offset
    fs.curvature.extremes(model, loss, x, y)
    fs.curvature.GaussNewton(model, loss, x, y).diagonal()
    assert model.random_offset == offset
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    model.backward(dy)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("make_layer", [nn.BatchNorm, lambda features: nn.Dense(features, features)])
def test_any_memory_order_will_do(make_layer, loss):
    rng = np.random.default_rng(0)
    model = randomized(nn.Sequential(make_layer(3), dtype=np.float64))
    x, y = rng.standard_normal((N, 3)), targets(loss, rng)

    def found(x, y):
        matrix = fs.curvature.Hessian(model, loss, x, y)
        return matrix.value, matrix.to_dense().tobytes(), fs.curvature.extremes(model, loss, x, y, max_products=9)

    assert found(np.asfortranarray(x), np.asfortranarray(y)) == found(x, y)


def _arguments():
    model = nn.Sequential(nn.Dense(2, 1), dtype=np.float64)
    return [model, nn.MeanSquaredError(), np.ones((4, 2)), np.ones((4, 1))]


@pytest.mark.parametrize(
    ("position", "value", "error", "text"),
    [
        (0, "model", TypeError, "'model' must be a fusedstep.nn.Sequential but got str"),
        (0, nn.Sequential(nn.ReLU(), dtype=np.float64), ValueError, "has no parameters"),
        (1, abs, TypeError, "'loss' must be a loss of fusedstep.nn"),
        (2, np.ones((4, 2), np.float32), TypeError, "float64"),
        (2, np.ones((4, 3)), ValueError, r"takes x of shape \(N, 2\)"),
        (3, np.ones(4), ValueError, "must have the shape of 'output'"),
        (3, np.full((4, 1), np.nan), ValueError, "curvature is not finite"),
    ],
)
def test_refusals(position, value, error, text):
    arguments = _arguments()
    arguments[position] = value
    if text.startswith("curvature"):  # a NaN in y alone leaves the curvature of a quadratic as it is
        arguments[2] = np.full((4, 2), np.nan)
    with pytest.raises(error, match=text):
        fs.curvature.extremes(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"matrix": "fisher"}, ValueError, "'matrix' must be one of 'hessian', 'gauss_newton'"),
        ({"tol": -1.0}, ValueError, "'tol'"),
        ({"max_products": 0}, ValueError, "'max_products'"),
        ({"parameters": "0.weight"}, TypeError, "list of names"),
        ({"parameters": ["1.weight"]}, ValueError, "'1.weight', but the model's are 0.weight, 0.bias"),
        ({"parameters": []}, ValueError, "empty"),
        ({"weights": np.zeros(4)}, ValueError, "all zero"),
        ({"weights": np.ones(3)}, ValueError, "4 samples"),
    ],
)
def test_refused_options(options, error, text):
    with pytest.raises(error, match=text):
        fs.curvature.extremes(*_arguments(), **options)


def test_a_vector_that_does_not_fit():
    hessian = fs.curvature.Hessian(*_arguments())
    with pytest.raises(ValueError, match=r"shape \(3,\) but got \(2,\)"):
        hessian @ np.ones(2)


def test_a_loss_without_curvature():
    class Custom(nn.Loss):
        def __call__(self, output, target, weights=None):
            return 0.0, np.zeros_like(output)

    arguments = _arguments()
    arguments[1] = Custom()
    with pytest.raises(NotImplementedError, match="Custom has no hessian_product"):
        fs.curvature.extremes(*arguments)
