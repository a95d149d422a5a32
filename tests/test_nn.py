"""Layers and Sequential: fusing, state, buffers, and what they refuse."""

import copy
import gc
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from fusedstep import nn, ops
from fusedstep._random import generator

FLOATS = [np.float32, np.float64]


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def classifier(dtype=np.float32, seed=0):
    return nn.Sequential(
        *(nn.Dense(4, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.4)),
        *(nn.Dense(8, 6), nn.ReLU(), nn.Dropout(0.2), nn.Dense(6, 3)),
        seed=seed,
        dtype=dtype,
    )


def grads(model):
    return {parameter.name: parameter.grad.copy() for parameter in model.parameters()}


def assert_same(actual, expected):
    """The same bits, for arrays or dicts of arrays."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
    else:
        np.testing.assert_array_equal(actual, expected)


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


def fail_in_forward(model):
    with pytest.raises(ValueError, match="more than one value a channel"):
        model.forward(normal(1, 4))


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


@pytest.mark.parametrize("value", [-1, 2**64, 1.0, "1", None])
def test_random_offset_and_seed_out_of_range(value):
    model = classifier()
    with pytest.raises((TypeError, ValueError), match=r"\[Sequential\] 'random_offset' must be"):
        model.random_offset = value
    with pytest.raises((TypeError, ValueError), match=r"\[Sequential\] 'seed' must be"):
        nn.Sequential(nn.ReLU(), seed=value)


# -- starting values and state


@pytest.mark.parametrize(
    ("init", "deviation"),
    [("he", (2 / 200) ** 0.5), ("glorot", (2 / 300) ** 0.5), ("lecun", (1 / 200) ** 0.5), ("zeros", 0.0)],
)
def test_starting_weights(init, deviation):
    state = nn.Sequential(nn.Dense(200, 100, init)).state_dict()
    assert state["0.weight"].std() == pytest.approx(deviation, rel=0.02)
    assert abs(state["0.weight"].mean()) <= 4 * deviation / 20_000**0.5
    assert not state["0.bias"].any()


def test_starting_weights_follow_seed_and_place():
    state = nn.Sequential(nn.Dense(3, 3), nn.Dense(3, 3), seed=1).state_dict()
    assert_same(nn.Sequential(nn.Dense(3, 3), nn.Dense(3, 3), seed=1).state_dict(), state)
    assert not np.array_equal(state["0.weight"], state["1.weight"])
    assert not np.array_equal(nn.Sequential(nn.Dense(3, 3), seed=2).state_dict()["0.weight"], state["0.weight"])


def test_float32_starts_at_the_rounded_values_of_float64():
    wide = classifier(np.float64).state_dict()
    for name, array in classifier(np.float32).state_dict().items():
        assert_same(array, wide[name].astype(array.dtype))


def test_parameters_are_named_views_of_one_arena():
    model = classifier()
    parameters = model.parameters()
    assert [p.name for p in parameters] == [f"{i}.{name}" for i in (0, 1, 4, 7) for name in ("weight", "bias")]
    assert model.n_parameters == sum(p.array.size for p in parameters) == 4 * 8 + 8 + 16 + 8 * 6 + 6 + 6 * 3 + 3
    (arena,) = {p.segment[0] for p in parameters}
    for p in parameters:
        assert p.array.ctypes.data % 64 == p.grad.ctypes.data % 64 == 0
        assert np.shares_memory(p.array, arena.array)
        assert np.shares_memory(p.grad, arena.grad)
    used = sum(np.count_nonzero(p.array) for p in parameters)
    assert np.count_nonzero(arena.array) == used


def test_parameters_cannot_be_replaced_by_accident():
    parameter = classifier().parameters()[0]
    parameter.array -= 0.5
    with pytest.raises(
        AttributeError, match=r"'array' of '0.weight' cannot be replaced; write into it: \.array\[\.\.\.\]"
    ):
        parameter.array = parameter.array - 0.5
    with pytest.raises(AttributeError, match="'grad'"):
        parameter.grad = np.zeros_like(parameter.grad)


def test_model_without_parameters():
    model = nn.Sequential(nn.Tanh())
    assert model.parameters() == []
    assert model.n_parameters == 0
    assert model.state_dict() == {}


def test_state_dict_holds_copies():
    model = classifier()
    state = model.state_dict()
    model.forward(normal(5, 4))
    model.parameters()[0].array[...] = 0
    assert state["0.weight"].any()
    assert not state["1.running_mean"].any()
    model.load_state_dict(state)
    assert_same(model.state_dict(), state)
    state["0.weight"][...] = 7
    assert not (model.parameters()[0].array == 7).any()


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "7.bias"), r"the state has no '7.bias'"),
        (lambda s: without(s, "1.running_var"), r"the state has no '1.running_var'"),
        (lambda s: s | {"8.weight": np.zeros(3)}, r"the state has '8.weight', which this model has not"),
        (
            lambda s: s | {"7.bias": np.zeros(4, np.float32)},
            r"'7.bias' must have shape \(3,\) but the state has \(4,\)",
        ),
        (lambda s: s | {"7.bias": np.zeros(3)}, r"'7.bias' must be float32 but the state has float64"),
        (lambda s: s | {"1.num_batches_tracked": np.zeros((), np.int32)}, r"must be int64 but the state has int32"),
    ],
)
def test_load_state_dict_refuses_and_changes_nothing(change, message):
    model, other = classifier(), classifier(seed=1)
    before = model.state_dict()
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(change(other.state_dict()))
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_whole_and_independent(duplicate):
    model = classifier(np.float64)
    x = normal(5, 4, dtype=np.float64)
    model.forward(x)
    twin = duplicate(model)
    assert repr(twin) == repr(model)
    assert twin.random_offset == model.random_offset == 2
    assert_same(twin.state_dict(), model.state_dict())
    twin.parameters()[0].segment[0].array[...] = 0  # the arena is what an optimizer steps
    assert not twin.parameters()[-1].array.any()
    assert model.parameters()[0].array.any()
    with pytest.raises(RuntimeError):
        twin.backward(normal(5, 3, dtype=np.float64))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "CPU", None])
def test_a_model_starts_on_the_cpu(device):
    model = classifier()
    parameters = model.parameters()
    assert model.device == "cpu" and model.to("cpu") is model
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    with pytest.raises(ValueError, match=f"must be 'cpu', 'cuda' or 'cuda:<index>' but got {device!r}"):
        model.to(device)


def test_a_gpu_needs_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    model = classifier()
    with pytest.raises(ImportError, match=r"pip install 'fusedstep\[cuda\]'"):
        model.to("cuda")
    assert model.device == "cpu" and model.predict(normal(5, 4)).shape == (5, 3)


# -- running statistics


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics(dtype, unbiased, momentum):
    model = nn.Sequential(nn.BatchNorm(3, momentum=momentum, unbiased_running_var=unbiased), dtype=dtype)
    batches = [normal(6, 3, 2, dtype=dtype, seed=seed) for seed in range(4)]
    mean, var = 0.0, 1.0
    for t, x in enumerate(batches, start=1):
        model.forward(x)
        fraction = 1 / t if momentum is None else momentum
        mean = (1 - fraction) * mean + fraction * x.mean(axis=(0, 2), dtype=np.float64)
        var = (1 - fraction) * var + fraction * x.var(axis=(0, 2), dtype=np.float64, ddof=unbiased)
    buffers = model.buffers()
    tolerance = 1e-6 if dtype is np.float32 else 1e-14
    np.testing.assert_allclose(buffers["0.running_mean"], mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(buffers["0.running_var"], var, rtol=tolerance)
    assert buffers["0.num_batches_tracked"] == 4
    assert buffers["0.running_mean"].dtype == dtype


def test_without_running_statistics_evaluation_uses_the_batch():
    model = nn.Sequential(nn.BatchNorm(3, track_running_stats=False, affine=False))
    x = normal(6, 3)
    assert model.buffers() == {}
    assert_same(model.predict(x), ops.batch_norm(x)[0])
    with pytest.raises(ValueError, match="one value a channel"):
        model.predict(x[:1])


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.BatchNorm(4)], (1, 4)),
        ([nn.BatchNorm(4)], (0, 4)),
        ([nn.BatchNorm(4), nn.Dropout(0.5), nn.Flatten(), nn.BatchNorm(8)], (1, 4, 2)),
    ],
)
def test_a_batch_too_small_for_batch_norm_changes_nothing(layers, shape):
    model = nn.Sequential(*layers)
    before = model.state_dict()
    with pytest.raises(ValueError, match=r"BatchNorm\(.*more than one value a channel.*last='merge'"):
        model.forward(normal(*shape))
    assert_same(model.state_dict(), before)
    assert model.random_offset == 0
    assert model.predict(normal(*shape)).shape[0] == shape[0]


def test_training_goes_on_after_a_batch_that_was_too_small():
    model, twin = classifier(), classifier()
    x = normal(5, 4)
    model.forward(x)
    fail_in_forward(model)
    twin.forward(x)
    assert_same(model.forward(x), twin.forward(x))


def test_running_statistics_match_torch():
    torch = pytest.importorskip("torch")
    model, twin = nn.Sequential(nn.BatchNorm(3), dtype=np.float64), torch.nn.BatchNorm1d(3, dtype=torch.float64)
    for seed in range(3):
        x = normal(6, 3, dtype=np.float64, seed=seed)
        expected = twin(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(model.forward(x), expected, rtol=1e-12, atol=1e-14)
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(array, twin.state_dict()[name[2:]].numpy(), rtol=1e-12, atol=1e-14)


# -- wrong layers and wrong input


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


def test_layers_are_immutable():
    with pytest.raises(FrozenInstanceError):
        nn.Dropout(0.5).p = 0.1


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.dtype(np.float32).newbyteorder()])
def test_wrong_model_dtype(dtype):
    with pytest.raises(TypeError, match=r"\[Sequential\] 'dtype' must be float32 or float64"):
        nn.Sequential(nn.ReLU(), dtype=dtype)


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


def test_empty_batch():
    model = nn.Sequential(nn.Dense(4, 3), nn.Tanh(), nn.Dropout(0.5), nn.Dense(3, 2))
    x = np.zeros((0, 4), np.float32)
    assert model.predict(x).shape == (0, 2)
    assert model.forward(x).shape == (0, 2)
    assert model.backward(np.zeros((0, 2), np.float32)).shape == (0, 4)
    assert not any(gradient.any() for gradient in grads(model).values())


# -- whole


def test_repr():
    assert repr(nn.Sequential(nn.Dense(40, 30), nn.ReLU(), nn.Dropout(0.5))) == (
        "Sequential(\n"
        "  (0): Dense(in_features=40, out_features=30, init='he', bias=True)\n"
        "  (1): ReLU()\n"
        "  (2): Dropout(p=0.5)\n"
        ")  # 1,230 parameters, float32"
    )


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


def test_a_layer_is_free_again_when_its_model_is_gone():
    layer = nn.Dense(3, 2)
    model = nn.Sequential(layer)
    del model
    gc.collect()
    assert nn.Sequential(layer).layers == (layer,)


def test_training_shapes_are_checked_without_a_pass():
    model = nn.Sequential(nn.Dense(3, 2), nn.BatchNorm(2))
    model.check_training_shape((2, 3))
    with pytest.raises(ValueError, match=r"layer 1, BatchNorm.*last='merge'"):
        model.check_training_shape((1, 3))
    with pytest.raises(ValueError, match="layer 0, Dense"):
        model.check_training_shape((2, 4))


def test_weights_and_data_order_share_no_random_numbers():
    order = generator(5, "data order", 0)
    weights = generator(5, "weights", 0)
    assert order.integers(2**63) != weights.integers(2**63)
