"""Layers and Sequential at work: fusing, buffers, backward passes and random numbers."""

import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fusedstep import nn, ops
from fusedstep._random import generator
from small_nn import FLOATS, assert_same, classifier, fail_in_forward, grads, normal

# One of each kind, with an input it takes.
EACH = {
    "dense": (lambda: [nn.Dense(6, 2)], (5, 6)),
    "batch norm": (lambda: [nn.BatchNorm(6)], (5, 6)),
    "batch norm, three axes": (lambda: [nn.BatchNorm(6)], (5, 6, 2)),
    "dropout": (lambda: [nn.Dropout(0.5)], (5, 6)),
    "relu": (lambda: [nn.ReLU()], (5, 6)),
    "leaky relu": (lambda: [nn.LeakyReLU()], (5, 6)),
    "tanh": (lambda: [nn.Tanh()], (5, 6)),
    "sigmoid": (lambda: [nn.Sigmoid()], (5, 6)),
    "gelu": (lambda: [nn.GELU()], (5, 6)),
    "flatten": (lambda: [nn.Flatten()], (5, 6, 2)),
    "dropout, flatten": (lambda: [nn.Dropout(0.5), nn.Flatten()], (5, 6, 2)),
    "relu, dropout": (lambda: [nn.ReLU(), nn.Dropout(0.5)], (5, 6)),
    "dropout, dense": (lambda: [nn.Dropout(0.5), nn.Dense(6, 4)], (5, 6)),
    "dense, batch norm": (lambda: [nn.Dense(6, 4), nn.BatchNorm(4, track_running_stats=False)], (5, 6)),
}


# -- fused kernels against the same layers one by one


@pytest.mark.parametrize(
    ("layers", "training", "evaluation"),
    [
        ([nn.Dense(2, 2), nn.Tanh()], "Dense", "Dense"),
        ([nn.Dense(2, 2), nn.ReLU(), nn.ReLU()], "Dense Activation", "Dense Activation"),
        ([nn.Dense(2, 2), nn.ReLU(), nn.Dropout(0.1)], "Dense Dropout", "Dense"),
        ([nn.Dense(2, 2), nn.GELU(), nn.Dropout(0.1)], "Dense Dropout", "Dense"),
        ([nn.BatchNorm(2), nn.ReLU(), nn.Dropout(0.1)], "BatchNorm", "BatchNorm"),
        ([nn.BatchNorm(2), nn.Dropout(0.1), nn.ReLU()], "BatchNorm Activation", "BatchNorm"),
        ([nn.BatchNorm(2), nn.Tanh(), nn.Dropout(0.1)], "BatchNorm Activation Dropout", "BatchNorm Activation"),
        ([nn.ReLU(), nn.Dropout(0.1)], "Dropout", "Activation"),
        ([nn.Dropout(0.1), nn.Flatten(), nn.Dense(2, 2)], "Dropout Flatten Dense", "Flatten Dense"),
        ([nn.Dropout(0.1)], "Dropout", ""),
    ],
)
def test_neighbours_are_fused(layers, training, evaluation):
    model = nn.Sequential(*layers)
    for stages, names in [(model._training_stages, training), (model._evaluation_stages, evaluation)]:
        assert [type(stage).__name__ for stage in stages] == [f"{name}Stage" for name in names.split()]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(9, 4), (5, 4, 3)])
def test_batch_norm_relu_dropout_give_the_bits_of_single_kernels(dtype, shape):
    model = nn.Sequential(nn.Dropout(0.1), nn.BatchNorm(4), nn.ReLU(), nn.Dropout(0.4), seed=7, dtype=dtype)
    model.random_offset = 11
    x, dy = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    weight, bias = (parameter.array for parameter in model.parameters())
    weight[...], bias[...] = normal(4, seed=2), normal(4, seed=3)
    mean, var = np.zeros(4, dtype), np.ones(4, dtype)

    a = ops.dropout(x, 0.1, seed=7, offset=11)
    b, saved = ops.batch_norm(a, weight, bias, mean, var)
    c = ops.bias_activation(b, activation="relu") if len(shape) == 2 else np.where(b <= 0, 0, b)
    d = ops.dropout(c, 0.4, seed=7, offset=12)
    dc = ops.dropout_backward(dy, 0.4, seed=7, offset=12)
    db = np.where(c <= 0, 0, dc).astype(dtype)
    da, dweight, dbias = ops.batch_norm_backward(db, a, saved)
    dx = ops.dropout_backward(da, 0.1, seed=7, offset=11)

    assert_same(model.forward(x), d)
    assert_same(model.backward(dy), dx)
    assert_same(grads(model), {"1.weight": dweight, "1.bias": dbias})
    assert_same(model.buffers(), {"1.running_mean": mean, "1.running_var": var, "1.num_batches_tracked": np.array(1)})


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layer", "activation"),
    [
        (lambda: nn.ReLU(), "relu"),
        (lambda: nn.LeakyReLU(0.2), "leaky_relu"),
        (lambda: nn.Tanh(), "tanh"),
        (lambda: nn.Sigmoid(), "sigmoid"),
        (lambda: nn.GELU(), "gelu"),
    ],
)
def test_dense_activation_dropout_give_the_bits_of_single_kernels(dtype, bias, layer, activation):
    model = nn.Sequential(nn.Dense(4, 6, bias=bias), layer(), nn.Dropout(0.4), nn.Dense(6, 2), seed=3, dtype=dtype)
    x, dy = normal(5, 4, dtype=dtype), normal(5, 2, dtype=dtype, seed=1)
    arrays = {parameter.name: parameter.array for parameter in model.parameters()}
    if bias:
        arrays["0.bias"][...] = normal(6, seed=2)

    z = ops.bias_activation(x @ arrays["0.weight"], arrays.get("0.bias"))
    y = ops.bias_activation(z, activation=activation, negative_slope=0.2)
    h = ops.dropout(y, 0.4, seed=3, offset=0)
    output = ops.bias_activation(h @ arrays["3.weight"], arrays["3.bias"])
    dh = dy @ arrays["3.weight"].T
    dy_hidden = ops.dropout_backward(dh, 0.4, seed=3, offset=0)
    saved = z if activation == "gelu" else y
    dz, dbias = ops.bias_activation_backward(dy_hidden, saved, activation=activation, negative_slope=0.2)
    expected = {"0.weight": x.T @ dz} | ({"0.bias": dbias} if bias else {})
    expected |= {"3.weight": h.T @ dy, "3.bias": ops.bias_activation_backward(dy, None)[1]}

    assert_same(model.forward(x), output)
    assert_same(model.backward(dy), dz @ arrays["0.weight"].T)
    assert_same(grads(model), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_evaluation_uses_running_statistics_and_drops_nothing(dtype):
    model = classifier(dtype)
    for seed in range(3):
        model.forward(normal(9, 4, dtype=dtype, seed=seed))
    x = normal(5, 4, dtype=dtype, seed=9)
    state = model.state_dict()
    z = ops.bias_activation(x @ state["0.weight"], state["0.bias"])
    stats = state["1.running_mean"], state["1.running_var"]
    h, _ = ops.batch_norm(z, state["1.weight"], state["1.bias"], *stats, training=False, relu=True)
    h = ops.bias_activation(h @ state["4.weight"], state["4.bias"], activation="relu")
    assert_same(model.predict(x), ops.bias_activation(h @ state["7.weight"], state["7.bias"]))
    assert_same(model.forward(x, training=False), model.predict(x))
    assert_same(model.state_dict(), state)
    assert model.predict(x).dtype == dtype


def test_flatten_keeps_the_order():
    x = normal(2, 3, 4)
    model = nn.Sequential(nn.Flatten())
    assert_same(model.forward(x), x.reshape(2, 12))
    assert_same(model.backward(x.reshape(2, 12)), x)
    assert model.predict(x[:0]).shape == (0, 12)


# -- what belongs to the caller


@pytest.mark.parametrize("name", EACH)
def test_results_are_new_and_arguments_untouched(name):
    make, shape = EACH[name]
    model = nn.Sequential(*make())
    x = normal(*shape)
    output = model.forward(x)
    dy = normal(*output.shape, seed=1)
    arguments = x.copy(), dy.copy()
    results = [output, model.backward(dy), model.predict(x), model.forward(x, training=False)]
    copies = [result.copy() for result in results]
    for result in results:
        assert not np.shares_memory(result, x)
        assert not np.shares_memory(result, dy)
    assert_same(x, arguments[0])
    assert_same(dy, arguments[1])

    other = normal(*shape, seed=2)
    model.forward(other)
    model.backward(model.forward(other))
    model.predict(other)
    for result, kept in zip(results, copies, strict=True):
        assert_same(result, kept)
        result[...] = 0  # writable, and no memory of the model's
    model.random_offset = 0
    assert_same(model.forward(x), copies[0])
    assert_same(model.backward(dy), copies[1])


@pytest.mark.parametrize("name", EACH)
def test_any_memory_order_and_read_only_input(name):
    make, shape = EACH[name]
    x = normal(*shape)
    model = nn.Sequential(*make())
    expected = [model.predict(x), model.forward(x)]
    expected.append(model.backward(expected[1]))
    for layout in (np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        layout.flags.writeable = False
        model = nn.Sequential(*make())
        assert_same(model.predict(layout), expected[0])
        assert_same(model.forward(layout), expected[1])
        assert_same(model.backward(np.asfortranarray(expected[1])), expected[2])


def test_batches_of_any_size_in_any_order():
    model = classifier()
    for size in (5, 9, 3, 9, 2):
        x, dy = normal(size, 4, seed=size), normal(size, 3, seed=size + 1)
        fresh = pickle.loads(pickle.dumps(model))
        assert_same(model.forward(x), fresh.forward(x))
        assert_same(model.backward(dy), fresh.backward(dy))
        assert_same(grads(model), grads(fresh))


def test_training_buffers_are_used_again():
    model = classifier()
    buffers = []
    for size in (9, 5):
        model.forward(normal(size, 4))
        buffers.append(model._training_stages[0].z)
    assert np.shares_memory(*buffers)


def test_predict_from_several_threads():
    model = classifier()
    model.forward(normal(9, 4))
    batches = [normal(1 + seed % 7, 4, seed=seed) for seed in range(40)]
    expected = [model.predict(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for actual, wanted in zip(pool.map(model.predict, batches), expected, strict=True):
            assert_same(actual, wanted)


def test_empty_batch():
    model = nn.Sequential(nn.Dense(4, 3), nn.Tanh(), nn.Dropout(0.5), nn.Dense(3, 2))
    x = np.zeros((0, 4), np.float32)
    assert model.predict(x).shape == (0, 2)
    assert model.forward(x).shape == (0, 2)
    assert model.backward(np.zeros((0, 2), np.float32)).shape == (0, 4)
    assert not any(gradient.any() for gradient in grads(model).values())


# -- backward


def test_input_is_released_after_backward():
    model = classifier()
    x = normal(5, 4)
    released = weakref.ref(x)
    output = model.forward(x)
    del x
    model.backward(output)
    assert released() is None


def test_predict_leaves_a_pending_backward_alone():
    model, twin = classifier(), classifier()
    x, dy = normal(5, 4), normal(5, 3, seed=1)
    model.forward(x)
    twin.forward(x)
    model.predict(normal(7, 4, seed=2))
    model.forward(normal(5, 4, seed=3), training=False)
    assert_same(model.backward(dy), twin.backward(dy))
    assert_same(grads(model), grads(twin))


def test_backward_belongs_to_the_last_forward_and_overwrites():
    model, twin = classifier(), classifier()
    x, dy = normal(5, 4), normal(5, 3, seed=1)
    model.forward(normal(5, 4, seed=2))
    model.backward(dy)
    model.forward(normal(6, 4, seed=3))
    model.forward(x)
    twin.random_offset = model.random_offset - 2
    twin.forward(x)
    assert_same(model.backward(dy), twin.backward(dy))
    assert_same(grads(model), grads(twin))


@pytest.mark.parametrize("name", EACH)
def test_input_gradient_is_optional(name):
    make, shape = EACH[name]
    model, twin = nn.Sequential(*make()), nn.Sequential(*make())
    output = model.forward(normal(*shape))
    twin.forward(normal(*shape))
    assert model.backward(output, input_gradient=False) is None
    assert twin.backward(output).shape == shape
    assert_same(grads(model), grads(twin))


@pytest.mark.parametrize(
    "before",
    [
        lambda model: None,
        lambda model: model.predict(normal(5, 4)),
        lambda model: model.forward(normal(5, 4), training=False),
        lambda model: model.backward(model.forward(normal(5, 4))),
        lambda model: (model.forward(normal(5, 4)), fail_in_forward(model)),
        lambda model: (model.forward(normal(5, 4)), model.load_state_dict(model.state_dict())),
    ],
    ids=["nothing", "predict", "evaluation", "backward", "failed forward", "load_state_dict"],
)
def test_backward_needs_a_training_pass(before):
    model = classifier()
    before(model)
    with pytest.raises(RuntimeError, match=r"call forward\(x, training=True\) first"):
        model.backward(normal(5, 3))


@pytest.mark.parametrize(
    ("dy", "error", "message"),
    [
        (normal(5, 2), ValueError, r"'dy' must have the output's shape \(5, 3\) but got \(5, 2\)"),
        (normal(4, 3), ValueError, r"\(5, 3\) but got \(4, 3\)"),
        (normal(5, 3, dtype=np.float64), TypeError, r"pass dy\.astype\(np\.float32\)"),
        ([[0.0] * 3] * 5, TypeError, r"'dy' must be a NumPy array but got list"),
    ],
)
def test_wrong_output_gradient(dy, error, message):
    model = classifier()
    x = normal(5, 4)
    model.forward(x)
    with pytest.raises(error, match=message):
        model.backward(dy)
    assert not any(gradient.any() for gradient in grads(model).values())
    model.backward(normal(5, 3))  # the pass is still there for the right one


# -- random numbers


def test_random_offset_moves_by_the_number_of_dropouts():
    model = classifier()
    assert model.random_offset == 0
    model.forward(normal(5, 4))
    assert model.random_offset == 2
    model.predict(normal(5, 4))
    assert model.random_offset == 2


def test_random_offset_repeats_a_pass():
    model = classifier()
    x = normal(5, 4)
    model.random_offset = 40
    first, second = model.forward(x), model.forward(x)
    model.random_offset = 40
    assert_same(model.forward(x), first)
    assert not np.array_equal(first, second)


def test_dropouts_of_a_model_have_masks_of_their_own():
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5), seed=1)
    output = model.forward(np.ones((10, 10), np.float32))
    keep = ops.dropout_mask((10, 10), 0.5, seed=1, offset=0) & ops.dropout_mask((10, 10), 0.5, seed=1, offset=1)
    assert_same(output, np.where(keep, np.float32(4), np.float32(0)))


def test_weights_and_data_order_share_no_random_numbers():
    order = generator(5, "data order", 0)
    weights = generator(5, "weights", 0)
    assert order.integers(2**63) != weights.integers(2**63)


# -- whole


@pytest.mark.parametrize("dtype", FLOATS)
def test_learns_exclusive_or(dtype):
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype)
    labels = np.array([0, 1, 1, 0])
    model = nn.Sequential(nn.Dense(2, 16), nn.BatchNorm(16), nn.ReLU(), nn.Dense(16, 2), dtype=dtype)
    loss = nn.SoftmaxCrossEntropy()
    for _ in range(100):
        value, gradient = loss(model.forward(x), labels)
        model.backward(gradient, input_gradient=False)
        for parameter in model.parameters():
            parameter.array -= dtype(0.5) * parameter.grad
    assert value < 0.05
    assert (model.predict(x).argmax(axis=1) == labels).all()
