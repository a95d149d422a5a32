"""What layers and Sequential refuse, and that nothing has changed then."""

import gc
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from fusedstep import nn
from small_nn import assert_same, classifier, normal


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Dense(0, 3), ValueError, r"\[Dense\] 'in_features' must be in \[1, .* but got 0"),
        (lambda: nn.Dense(3, -1), ValueError, r"\[Dense\] 'out_features'"),
        (lambda: nn.Dense(3, 2.0), TypeError, r"\[Dense\] 'out_features' must be an integer but got 2\.0"),
        (
            lambda: nn.Dense(3, 2, init="xavier"),
            ValueError,
            r"one of 'he', 'glorot', 'lecun', 'zeros' but got 'xavier'",
        ),
        (lambda: nn.Dense(3, 2, bias=None), TypeError, r"\[Dense\] 'bias' must be True or False but got None"),
        (lambda: nn.BatchNorm(0), ValueError, r"\[BatchNorm\] 'features'"),
        (lambda: nn.BatchNorm(3, eps=-1e-5), ValueError, r"\[BatchNorm\] 'eps'"),
        (lambda: nn.BatchNorm(3, eps=np.inf), ValueError, r"\[BatchNorm\] 'eps'"),
        (lambda: nn.BatchNorm(3, momentum=1.5), ValueError, r"'momentum' must be in \[0, 1\] but got 1\.5"),
        (lambda: nn.BatchNorm(3, momentum=np.nan), ValueError, r"'momentum' must be in \[0, 1\] but got nan"),
        (lambda: nn.BatchNorm(3, affine=1), TypeError, r"\[BatchNorm\] 'affine' must be True or False but got 1"),
        (lambda: nn.Dropout(-0.1), ValueError, r"\[Dropout\] 'p' must be in \[0, 1\] but got -0\.1"),
        (lambda: nn.Dropout(np.nan), ValueError, r"\[Dropout\] 'p'"),
        (lambda: nn.Dropout("half"), TypeError, r"\[Dropout\] 'p' must be a number but got 'half'"),
        (lambda: nn.LeakyReLU(-1), ValueError, r"\[LeakyReLU\] 'negative_slope'"),
    ],
)
def test_wrong_layer_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([], ValueError, "at least one layer"),
        ([nn.Dense(3, 3), np.tanh], TypeError, "layer 1 must be a layer of fusedstep.nn but got <ufunc 'tanh'>"),
        ([nn.ReLU], TypeError, "layer 0 must be a layer"),
        ([[nn.ReLU()]], TypeError, "layer 0 must be a layer"),
        (
            [nn.Dense(4, 8), nn.Dense(9, 2)],
            ValueError,
            r"layer 1, Dense\(.*takes 9 features but layer 0, Dense\(.*gives 8",
        ),
        (
            [nn.Dense(4, 8), nn.ReLU(), nn.BatchNorm(4)],
            ValueError,
            r"layer 2, BatchNorm\(.* takes 4 .* layer 0, .* gives 8",
        ),
        ([nn.BatchNorm(4), nn.Dropout(0.1), nn.Dense(5, 2)], ValueError, r"takes 5 features but layer 0, BatchNorm"),
        ([nn.Dense(4, 8), nn.Flatten(), nn.Dense(4, 2)], ValueError, r"takes 4 features but layer 0, Dense"),
        ([nn.Dense(4, 8), nn.BatchNorm(8), nn.Flatten(), nn.Dense(4, 2)], ValueError, r"but layer 1, BatchNorm"),
    ],
)
def test_wrong_stack(layers, error, message):
    with pytest.raises(error, match=message):
        nn.Sequential(*layers)


def test_flatten_hides_the_number_of_features():
    nn.Sequential(nn.BatchNorm(4), nn.Flatten(), nn.Dense(12, 2))


def test_a_layer_belongs_to_one_model():
    layer = nn.Dense(3, 3)
    with pytest.raises(ValueError, match=r"layer 2, Dense\(.*, is the same object as layer 0; make a new one"):
        nn.Sequential(layer, nn.ReLU(), layer)
    with pytest.raises(TypeError):
        nn.Sequential(layer, dtype=np.float16)
    model = nn.Sequential(layer)  # what failed before has not taken it
    with pytest.raises(ValueError, match="already part of another model; make a new one"):
        nn.Sequential(*model.layers)


def test_a_layer_is_free_again_when_its_model_is_gone():
    layer = nn.Dense(3, 2)
    model = nn.Sequential(layer)
    del model
    gc.collect()
    assert nn.Sequential(layer).layers == (layer,)


def test_layers_are_immutable():
    with pytest.raises(FrozenInstanceError):
        nn.Dropout(0.5).p = 0.1


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.dtype(np.float32).newbyteorder()])
def test_wrong_model_dtype(dtype):
    with pytest.raises(TypeError, match=r"\[Sequential\] 'dtype' must be float32 or float64"):
        nn.Sequential(nn.ReLU(), dtype=dtype)


@pytest.mark.parametrize("value", [-1, 2**64, 1.0, "1", None])
def test_random_offset_and_seed_out_of_range(value):
    model = classifier()
    with pytest.raises((TypeError, ValueError), match=r"\[Sequential\] 'random_offset' must be"):
        model.random_offset = value
    with pytest.raises((TypeError, ValueError), match=r"\[Sequential\] 'seed' must be"):
        nn.Sequential(nn.ReLU(), seed=value)


@pytest.mark.parametrize("method", ["forward", "predict"])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            normal(5, 4, dtype=np.float64),
            TypeError,
            r"'x' must be float32, the model's dtype, but got float64: pass x\.astype\(np\.float32\), "
            r"or make the model with Sequential\(\.\.\., dtype=np\.float64\)",
        ),
        (np.zeros((5, 4), int), TypeError, r"but got int64: pass x\.astype\(np\.float32\)$"),
        ([[1.0] * 4] * 5, TypeError, r"must be a NumPy array but got list: pass np\.asarray\(x, np\.float32\)"),
        (np.float32(1), TypeError, "must be a NumPy array but got float32"),
        (np.zeros((), np.float32), ValueError, r"must have a batch axis"),
        (normal(5, 3), ValueError, r"layer 0, Dense\(.*takes x of shape \(N, 4\) but got \(5, 3\)$"),
        (normal(4), ValueError, r"takes x of shape \(N, 4\) but got \(4,\)$"),
        (normal(5, 2, 2), ValueError, r"but got \(5, 2, 2\); put a Flatten\(\) before it"),
    ],
)
def test_wrong_input(method, x, error, message):
    model = classifier()
    before = model.state_dict()
    with pytest.raises(error, match=message):
        getattr(model, method)(x)
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        (
            [nn.BatchNorm(3)],
            (5,),
            r"layer 0, BatchNorm\(.*takes x of shape \(N, 3\) or \(N, 3, \.\.\.\) but got \(5,\)",
        ),
        ([nn.BatchNorm(3)], (5, 4, 3), r"but got \(5, 4, 3\)"),
        ([nn.Flatten()], (5,), r"layer 0, Flatten\(\), takes x of shape \(N, \.\.\.\) but got \(5,\)"),
        ([nn.BatchNorm(3), nn.Flatten(), nn.Dense(6, 2)], (5, 3, 3), r"layer 2, Dense\(.*\(N, 6\) but got \(5, 9\)"),
    ],
)
def test_wrong_shape_names_the_layer_and_changes_nothing(layers, shape, message):
    model = nn.Sequential(*layers)
    before = model.state_dict()
    for method in (model.forward, model.predict):
        with pytest.raises(ValueError, match=message):
            method(normal(*shape))
    assert_same(model.state_dict(), before)


def test_training_shapes_are_checked_without_a_pass():
    model = nn.Sequential(nn.Dense(3, 2), nn.BatchNorm(2))
    model.check_training_shape((2, 3))
    with pytest.raises(ValueError, match=r"layer 1, BatchNorm.*last='merge'"):
        model.check_training_shape((1, 3))
    with pytest.raises(ValueError, match="layer 0, Dense"):
        model.check_training_shape((2, 4))
