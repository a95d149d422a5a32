"""Gradients against central differences in float64: each layer and loss, alone and stacked."""

import numpy as np
import pytest

from fusedstep import nn

STEP = 1e-6
TOLERANCE = 2e-7  # the differences have an error of about STEP**2 + 1e-16 / STEP


def central_differences(f, x):
    """The gradient of the scalar ``f()`` by the array x, which f reads."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        value = x[index]
        x[index] = value + STEP
        above = f()
        x[index] = value - STEP
        gradient[index] = (above - f()) / (2 * STEP)
        x[index] = value
    return gradient


def assert_close(actual, expected, what):
    scale = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * scale, err_msg=what)


def values(shape, seed=0):
    """Normal values at least 0.01 from 0, where a ReLU has a corner that the difference must not cross."""
    x = np.random.default_rng(seed).normal(size=shape)
    return x + np.copysign(0.01, x)


def check_model(layers, x, *, offset=3):
    """Gradients by the input and by all parameters of ``sum(coefficients * output)``."""
    model = nn.Sequential(*layers, seed=5, dtype=np.float64)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():  # from values at which no gradient is zero by accident
        parameter.array += 0.1 * rng.normal(size=parameter.array.shape)
    model.random_offset = offset
    coefficients = rng.normal(size=model.forward(x).shape)

    def f():
        model.random_offset = offset
        return float((coefficients * model.forward(x)).sum())

    f()
    dx = model.backward(coefficients)
    gradients = {parameter.name: parameter.grad.copy() for parameter in model.parameters()}
    assert_close(dx, central_differences(f, x), "x")
    for parameter in model.parameters():
        assert_close(gradients[parameter.name], central_differences(f, parameter.array), parameter.name)


LAYERS = {
    "dense": lambda: nn.Dense(6, 4),
    "dense without bias": lambda: nn.Dense(6, 4, bias=False),
    "batch norm": lambda: nn.BatchNorm(6),
    "batch norm, cumulative": lambda: nn.BatchNorm(6, momentum=None),
    "batch norm, no affine": lambda: nn.BatchNorm(6, affine=False),
    "batch norm, no running statistics": lambda: nn.BatchNorm(6, track_running_stats=False),
    "batch norm, cumulative, no running statistics": lambda: nn.BatchNorm(6, momentum=None, track_running_stats=False),
    "dropout": lambda: nn.Dropout(0.3),
    "drop nothing": lambda: nn.Dropout(0.0),
    "drop all": lambda: nn.Dropout(1.0),
    "relu": nn.ReLU,
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_alone(name):
    check_model([LAYERS[name]()], values((5, 6)))


@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("dense")])
def test_layer_alone_three_axes(name):
    check_model([LAYERS[name]()], values((2, 6, 3)))


def test_flatten():
    check_model([nn.Flatten()], values((2, 3, 2)))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_with_activation(activation, bias):
    check_model([nn.Dense(3, 4, bias=bias), activation(), nn.Dense(4, 2)], values((5, 3)))


@pytest.mark.parametrize("shape", [(7, 4), (3, 4, 3)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dropout", [True, False])
def test_batch_norm_fused(shape, affine, relu, dropout):
    layers = [nn.BatchNorm(4, affine=affine)]
    layers += [nn.ReLU()] * relu
    layers += [nn.Dropout(0.4)] * dropout
    check_model(layers, values(shape))


STACKS = {
    "classifier": lambda: [
        *(nn.Dense(4, 6), nn.BatchNorm(6), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Dense(6, 5), nn.BatchNorm(5), nn.ReLU(), nn.Dropout(0.2)),
        nn.Dense(5, 3),
    ],
    "dense, relu, dropout": lambda: [nn.Dense(4, 6), nn.ReLU(), nn.Dropout(0.3), nn.Dense(6, 3)],
    "dense, tanh, dropout": lambda: [nn.Dense(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Dense(6, 3)],
    "dense, gelu, dropout": lambda: [nn.Dense(4, 6), nn.GELU(), nn.Dropout(0.3), nn.Dense(6, 3)],
    "dense, dropout, relu": lambda: [nn.Dense(4, 6), nn.Dropout(0.3), nn.ReLU()],
    "dense, dense": lambda: [nn.Dense(4, 5, bias=False), nn.Dense(5, 3)],
    "activations in a row": lambda: [nn.Tanh(), nn.LeakyReLU(0.3), nn.GELU(), nn.Sigmoid(), nn.GELU(), nn.Tanh()],
    "norm, activations": lambda: [nn.BatchNorm(4), nn.GELU(), nn.Tanh(), nn.Dense(4, 2), nn.Sigmoid()],
    "norm, dropout, tanh": lambda: [nn.BatchNorm(4), nn.Dropout(0.3), nn.Tanh(), nn.BatchNorm(4)],
    "dropout first": lambda: [nn.Dropout(0.2), nn.Dense(4, 3), nn.BatchNorm(3)],
    "relu, dropout, dropout": lambda: [nn.ReLU(), nn.Dropout(0.2), nn.Dropout(0.3), nn.LeakyReLU()],
    "relu, dropout, sigmoid": lambda: [nn.ReLU(), nn.Dropout(0.3), nn.Sigmoid()],
    "flatten first": lambda: [nn.Flatten(), nn.ReLU(), nn.Dropout(0.2), nn.Dense(4, 3)],
}


@pytest.mark.parametrize("name", STACKS)
def test_stack(name):
    check_model(STACKS[name](), values((6, 4)))


def test_stack_three_axes():
    layers = [nn.BatchNorm(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Tanh(), nn.Dense(6, 2), nn.GELU()]
    check_model(layers, values((4, 3, 2)))


rng = np.random.default_rng(2)
LOSSES = {
    "softmax": (nn.SoftmaxCrossEntropy(), (5, 4), np.array([0, 3, 2, 1, 3])),
    "sigmoid": (nn.SigmoidCrossEntropy(), (5, 2), rng.random((5, 2))),
    "sigmoid, three axes": (nn.SigmoidCrossEntropy(), (5, 2, 2), rng.random((5, 2, 2))),
    "squares": (nn.MeanSquaredError(), (5, 3), rng.normal(size=(5, 3))),
    "squares, one axis": (nn.MeanSquaredError(), (5,), rng.normal(size=5)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 0.0, 1.0, 3.0])], ids=["plain", "weighted"])
def test_loss_alone(name, weights):
    loss, shape, target = LOSSES[name]
    output = values(shape)
    _, gradient = loss(output, target, weights)
    assert_close(gradient, central_differences(lambda: loss(output, target, weights)[0], output), name)


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "squares"])
@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 0.0, 1.0, 3.0])], ids=["plain", "weighted"])
def test_loss_behind_a_model(name, weights):
    loss, shape, target = LOSSES[name]
    model = nn.Sequential(nn.Dense(3, 6), nn.BatchNorm(6), nn.ReLU(), nn.Dense(6, shape[1]), dtype=np.float64)
    x = values((5, 3))

    def f():
        return loss(model.forward(x), target, weights)[0]

    model.backward(loss(model.forward(x), target, weights)[1])
    gradients = {parameter.name: parameter.grad.copy() for parameter in model.parameters()}
    for parameter in model.parameters():
        assert_close(gradients[parameter.name], central_differences(f, parameter.array), parameter.name)
