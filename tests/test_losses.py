"""Losses: closed forms, weights, and what they refuse."""

import numpy as np
import pytest

from fusedstep import nn

rng = np.random.default_rng(0)
WEIGHTS = np.array([2.0, 0.0, 1.0, 3.0])
REPEATED = np.repeat(np.arange(4), WEIGHTS.astype(int))


def softmax_terms(z, labels):
    shifted = z - z.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(z)), labels]


CASES = {
    "softmax": (nn.SoftmaxCrossEntropy(), rng.normal(size=(4, 5)), np.array([0, 4, 2, 2]), softmax_terms),
    "sigmoid": (
        nn.SigmoidCrossEntropy(),
        rng.normal(size=(4, 3)),
        rng.random((4, 3)),
        lambda z, t: -(t * np.log(1 / (1 + np.exp(-z))) + (1 - t) * np.log(1 - 1 / (1 + np.exp(-z)))).mean(axis=1),
    ),
    "squares": (
        nn.MeanSquaredError(),
        rng.normal(size=(4, 3)),
        rng.normal(size=(4, 3)),
        lambda z, t: ((z - t) ** 2).mean(axis=1),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def cast(target, dtype):
    return target if target.dtype.kind == "i" else target.astype(dtype)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_value_is_the_mean_of_the_terms(case, dtype, rtol):
    loss, output, target, terms = case
    value, gradient = loss(output.astype(dtype), cast(target, dtype))
    assert type(value) is float
    assert gradient.dtype == dtype
    assert gradient.shape == output.shape
    assert value == pytest.approx(terms(output, target).mean(), rel=rtol)


def test_weights(case):
    loss, output, target, terms = case
    value, gradient = loss(output, target, WEIGHTS)
    assert value == pytest.approx((WEIGHTS * terms(output, target)).sum() / WEIGHTS.sum(), rel=1e-13)
    assert not gradient[1].any()


def test_whole_weights_are_repeated_samples(case):
    loss, output, target, _ = case
    value, gradient = loss(output, target, WEIGHTS)
    repeated_value, repeated = loss(output[REPEATED], target[REPEATED])
    assert value == pytest.approx(repeated_value, rel=1e-13)
    summed = np.zeros_like(gradient)
    np.add.at(summed, REPEATED, repeated)
    np.testing.assert_allclose(gradient, summed, rtol=1e-12, atol=1e-16)


def test_arguments_stay_as_they_are(case):
    loss, output, target, _ = case
    before = output.copy(), target.copy(), WEIGHTS.copy()
    _, first = loss(output, target, WEIGHTS)
    kept = first.copy()
    loss(-output, target)
    assert all(map(np.array_equal, (output, target, WEIGHTS), before))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_labels_of_any_integer_type(dtype):
    loss, output, target, _ = CASES["softmax"]
    assert loss(output, target.astype(dtype))[0] == loss(output, target)[0]


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_huge_logits_stay_finite(name):
    loss, output, target, _ = CASES[name]
    value, gradient = loss(1e4 * np.sign(output), target)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_names():
    assert [case[0].name for case in CASES.values()] == [
        "softmax_cross_entropy",
        "sigmoid_cross_entropy",
        "mean_squared_error",
    ]
    assert repr(nn.MeanSquaredError()) == "MeanSquaredError()"


X = np.zeros((4, 3))
COLUMN = np.zeros((4, 1))


@pytest.mark.parametrize(
    ("loss", "output", "target", "weights", "error", "message"),
    [
        (nn.SoftmaxCrossEntropy, X, np.array([0, 1, 2, 3]), None, ValueError, r"\[0, 3\) but labels\[3\] is 3"),
        (nn.SoftmaxCrossEntropy, X, np.array([0, -1, 2, 0]), None, ValueError, r"labels\[1\] is -1"),
        (nn.SoftmaxCrossEntropy, X, np.eye(4, 3), None, ValueError, r"pass target\.argmax\(axis=1\)"),
        (nn.SoftmaxCrossEntropy, X, np.zeros((4, 1), int), None, ValueError, r"pass target\.ravel\(\)"),
        (nn.SoftmaxCrossEntropy, X, np.zeros(3, int), None, ValueError, r"\(3,\)"),
        (nn.SoftmaxCrossEntropy, X, np.zeros(4), None, ValueError, "float64; accepted are integers"),
        (nn.SoftmaxCrossEntropy, X[:, 0].copy(), np.zeros(4, int), None, ValueError, r"\(samples, classes\)"),
        (nn.SoftmaxCrossEntropy, X[:0], np.zeros(0, int), None, ValueError, "empty"),
        (nn.SoftmaxCrossEntropy, X.astype(int), np.zeros(4, int), None, TypeError, "int64"),
        (nn.SoftmaxCrossEntropy, X, np.zeros(4, int), np.ones(3), ValueError, r"'weights' has shape \(3,\)"),
        (nn.SoftmaxCrossEntropy, X, np.zeros(4, int), np.zeros(4), ValueError, "all zero"),
        (nn.SoftmaxCrossEntropy, X, np.zeros(4, int), -np.ones(4), ValueError, "not negative"),
        (nn.SigmoidCrossEntropy, COLUMN, np.zeros(4), None, ValueError, r"pass target\.reshape\(-1, 1\)"),
        (nn.SigmoidCrossEntropy, X, X + 2, None, ValueError, r"\[0, 1\]"),
        (nn.SigmoidCrossEntropy, X, np.full((4, 3), np.nan), None, ValueError, r"\[0, 1\]"),
        (nn.SigmoidCrossEntropy, X, X.astype(np.float32), None, TypeError, "float32"),
        (nn.MeanSquaredError, COLUMN, np.zeros(4), None, ValueError, r"pass target\.reshape\(-1, 1\)"),
        (nn.MeanSquaredError, X, np.zeros((3, 3)), None, ValueError, r"\(4, 3\), but got \(3, 3\)$"),
        (nn.MeanSquaredError, X, X.astype(int), None, TypeError, "int64"),
        (nn.MeanSquaredError, X[:0], X[:0], None, ValueError, "empty"),
    ],
)
def test_wrong_input(loss, output, target, weights, error, message):
    with pytest.raises(error, match=message):
        loss()(output, target, weights)
