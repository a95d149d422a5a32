"""What standardizing, whitening and batch norm do to the condition of a problem; ZCA."""

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fusedstep as fs
from fusedstep import nn


def condition(x, y, loss=None):
    """That of a linear model on x, with squared errors by default."""
    model = nn.Sequential(nn.Dense(x.shape[1], y.shape[1], init="zeros"), dtype=np.float64)
    return fs.curvature.extremes(model, loss or nn.MeanSquaredError(), x, y, max_products=500).condition


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_standardizing_and_whitening_lower_the_condition(load):
    x, labels = load(return_X_y=True)
    y = (labels == 0).astype(np.float64).reshape(-1, 1)
    standardized = StandardScaler().fit_transform(x)
    raw, scaled = condition(x, y), condition(standardized, y)
    assert raw > 1e3 * scaled > 1e4
    for whiten in (PCA(whiten=True), fs.sklearn.ZCA()):
        # Sums of squares over n, and the bias: variances with n - 1 are all that keeps it from 1.
        assert condition(whiten.fit_transform(standardized), y) == pytest.approx(len(x) / (len(x) - 1), rel=1e-6)


def test_whitening_helps_a_logistic_loss_too():
    """There the Hessian at 0 is that of squared errors by a quarter."""
    x, labels = load_wine(return_X_y=True)
    y = (labels == 0).astype(np.float64).reshape(-1, 1)
    loss = nn.SigmoidCrossEntropy()
    standardized = StandardScaler().fit_transform(x)
    white = condition(fs.sklearn.ZCA().fit_transform(standardized), y, loss)
    assert condition(standardized, y, loss) > 10 * white
    assert white == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(("activation", "factor"), [(nn.ReLU, 3), (nn.Sigmoid, 10)])
def test_batch_norm_does_the_same_for_a_hidden_layer(activation, factor):
    """The curvature by the second layer's parameters, when batch norm standardizes what this layer gets."""
    digits = load_digits(return_X_y=True)[0]

    def hidden(x, *layers):
        y = np.random.default_rng(0).standard_normal((len(x), 1))
        model = nn.Sequential(nn.Dense(64, 16), *layers, nn.Dense(16, 1), dtype=np.float64)
        last = [p.name for p in model.parameters()][-2:]
        return fs.curvature.extremes(model, nn.MeanSquaredError(), x, y, parameters=last).condition

    standardized = StandardScaler().fit_transform(digits)
    assert hidden(standardized, activation()) > factor * hidden(standardized, activation(), nn.BatchNorm(16))
    # Before the activation it takes off what unscaled inputs do.
    assert hidden(digits, nn.ReLU()) > 100 * hidden(digits, nn.BatchNorm(16), nn.ReLU())


def test_gradient_descent_needs_fewer_steps_on_whitened_inputs():
    x, labels = load_wine(return_X_y=True)
    y = (labels == 0).astype(np.float64).reshape(-1, 1)
    standardized = StandardScaler().fit_transform(x)
    loss = nn.MeanSquaredError()

    def steps(x):
        least = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[1][0] / len(x)
        model = nn.Sequential(nn.Dense(x.shape[1], 1, init="zeros"), dtype=np.float64)
        stable = fs.curvature.extremes(model, loss, x, y).stable_step
        optimizer = fs.optim.SGD(model.parameters(), lr=0.5 * stable)
        for step in range(10_000):
            value, gradient = loss(model.forward(x), y)
            if value - least < 1e-6:
                return step
            model.backward(gradient)
            optimizer.step()
        return step

    assert steps(fs.sklearn.ZCA().fit_transform(standardized)) < 5 < 50 < steps(standardized)


@parametrize_with_checks([fs.sklearn.ZCA(), fs.sklearn.ZCA(eps=1e-3)])
def test_zca_is_a_transformer(estimator, check):
    check(estimator)


def test_zca_whitens_and_stays_close():
    x = StandardScaler().fit_transform(load_wine(return_X_y=True)[0])
    zca = fs.sklearn.ZCA().fit(x)
    white = zca.transform(x)
    np.testing.assert_allclose(np.cov(white.T), np.eye(13), atol=1e-10)
    np.testing.assert_allclose(zca.whitening_, zca.whitening_.T, atol=1e-12)
    np.testing.assert_allclose(zca.inverse_transform(white), x, atol=1e-10)
    # No other whitening is nearer to the standardized data; that of PCA is another.
    assert np.linalg.norm(white - x) < np.linalg.norm(PCA(whiten=True).fit_transform(x) - x)


def test_directions_without_variance_become_zero():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    x = np.column_stack([x, x[:, 0] + x[:, 1], np.ones(50)])
    white = fs.sklearn.ZCA().fit_transform(x)
    values = np.linalg.eigvalsh(np.cov(white.T))
    np.testing.assert_allclose(values, [0, 0, 1, 1, 1], atol=1e-10)


def test_out_of_core_by_slices():
    x = StandardScaler().fit_transform(load_breast_cancer(return_X_y=True)[0])
    zca, pca = fs.sklearn.ZCA(), IncrementalPCA(whiten=True)
    for start in range(0, len(x), 100):
        zca.partial_fit(x[start : start + 100])
        pca.partial_fit(x[start : start + 100])
    np.testing.assert_allclose(zca.transform(x), fs.sklearn.ZCA().fit_transform(x), atol=1e-6)
    np.testing.assert_allclose(np.cov(pca.transform(x).T), np.eye(30), atol=1e-6)


def test_an_offset_in_float32_and_few_components():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 20)).astype(np.float32) + np.float32(1e3)
    white = fs.sklearn.ZCA().fit_transform(x)
    np.testing.assert_allclose(np.cov(white.T), np.eye(20), atol=0.01)
    many = rng.standard_normal((600, 300))
    first, second = (fs.sklearn.ZCA(10).fit(many).whitening_ for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_in_cross_validation():
    x, y = load_wine(return_X_y=True)
    result = fs.model_selection.cross_validate(
        lambda seed: nn.Sequential(nn.Dense(13, 3), seed=seed),
        lambda model: fs.optim.SGD(model.parameters(), lr=0.5),
        nn.SoftmaxCrossEntropy(),
        x.astype(np.float32),
        y,
        preprocess=fs.sklearn.ZCA(eps=1e-3),
        metrics=["accuracy"],
        epochs=20,
        progress=False,
        random_state=0,
    )
    assert result.mean["test_accuracy"] > 0.9


def test_refusals():
    with pytest.raises(ValueError, match="'eps'"):
        fs.sklearn.ZCA(eps=-1).fit(np.eye(3))
    with pytest.raises(ValueError, match="at least 3 samples but has 2"):
        fs.sklearn.ZCA().partial_fit(np.ones((2, 3)))
    with pytest.raises(ValueError, match="'n_components' must be an integer"):
        fs.sklearn.ZCA(0.9).partial_fit(np.ones((5, 3)))
