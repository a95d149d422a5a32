"""The state of a model: starting values, state dicts, copies, devices, running statistics."""

import copy
import pickle
import sys

import numpy as np
import pytest

from fusedstep import nn, ops
from small_nn import FLOATS, assert_same, classifier, fail_in_forward, normal

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


def test_repr():
    assert repr(nn.Sequential(nn.Dense(40, 30), nn.ReLU(), nn.Dropout(0.5))) == (
        "Sequential(\n"
        "  (0): Dense(in_features=40, out_features=30, init='he', bias=True)\n"
        "  (1): ReLU()\n"
        "  (2): Dropout(p=0.5)\n"
        ")  # 1,230 parameters, float32"
    )


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
