"""How near ``fusedstep.torch.optim`` stays to torch in float64, 32 and 16 bits, over a hundred steps."""

from __future__ import annotations

import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from small_torch import (  # noqa: E402
    METHODS,
    STATEFUL,
    assert_same_structure,
    assert_twin,
    classes,
    error,
    parameters,
    relative_difference,
    same_bits,
    set_gradients,
    state_keys,
    state_tensors,
    train,
    values,
)

STEPS = 100
SWITCHES = {
    "SGD": {"momentum": (0.0, 0.9), "dampening": (0.0, 0.3), "nesterov": (False, True)},
    "Adagrad": {"lr_decay": (0.0, 0.05), "initial_accumulator_value": (0.0, 0.5)},
    "RMSprop": {"momentum": (0.0, 0.9), "centered": (False, True)},
    "Adam": {"amsgrad": (False, True), "decoupled_weight_decay": (False, True)},
    "AdamW": {"amsgrad": (False, True)},
}
SHARED = {"weight_decay": (0.0, 0.1), "maximize": (False, True)}
MORE = [
    *(("SGD", a) for a in [{"lr": 0.0, "momentum": 0.9}, {"momentum": 1.0, "dampening": 1.0}, {"lr": 1e-8}]),
    *(("Adagrad", a) for a in [{"eps": 1.0}, {"lr": 10.0, "lr_decay": 1.0}, {"initial_accumulator_value": 100.0}]),
    *(("RMSprop", a) for a in [{"alpha": 0.0, "eps": 0.1}, {"alpha": 0.5, "eps": 1.0}, {"lr": 1.0, "alpha": 0.999}]),
    *(("Adam", a) for a in [{"betas": (0.0, 0.999)}, {"betas": (0.9, 0.0)}, {"betas": (0.5, 0.6), "eps": 1.0}]),
    *(("AdamW", a) for a in [{"lr": 0.1, "weight_decay": 5.0}, {"betas": (0.99, 0.9999)}, {"eps": 1e-30}]),
]


def combinations(method: str) -> list:
    table = {**SWITCHES[method], **SHARED}
    all_of_them = [dict(zip(table, values, strict=True)) for values in itertools.product(*table.values())]
    return [a for a in all_of_them if not a.get("nesterov") or (a["momentum"] and not a["dampening"])]


def name(arguments: dict) -> str:
    return "-".join(f"{key}={value}" for key, value in arguments.items() if value) or "plain"


ALL = [pytest.param(m, a, id=f"{m}-{name(a)}") for m in METHODS for a in combinations(m)]
EDGES = [pytest.param(m, a, id=f"{m}-{name(a)}") for m, a in MORE]


def schedule(kind: str, t: int) -> float:
    if kind == "warm-up and cosine":
        return min(1.0, (t + 1) / 10) * (1 + math.cos(math.pi * t / STEPS)) / 2
    return 0.5 ** (t // 20) if kind == "steps" else 1.0


def run(cls, arguments, dtype, *, grid=None, kind="constant", steps=STEPS, size=1.0):
    params = parameters(dtype, grid=grid)
    optimizer = cls(params, **{"lr": 0.01, **arguments})
    lr = optimizer.param_groups[0]["lr"]
    for t in range(steps):
        set_gradients(params, t, grid=grid)
        for p in params:
            if p.grad is not None:
                p.grad *= size
        optimizer.param_groups[0]["lr"] = lr * schedule(kind, t)
        optimizer.step()
    return optimizer, params


def assert_like_torch(method, arguments, **options):
    """Weights and states in float64: max |a - b| <= 1e-12 max |b| for each tensor."""
    (mine, params), (other, others) = (run(cls, arguments, torch.float64, **options) for cls in classes(method))
    assert_same_structure(mine, other)
    assert relative_difference(params, others) <= 1e-12
    for key in state_keys(other):
        assert relative_difference(state_tensors(mine, key), state_tensors(other, key)) <= 1e-12, key


def assert_as_accurate(method, arguments, dtype, *, factor=2.0, **options):
    """The norm of the error against torch in float64: at most twice that of torch in the same type.

    Of a state 4 units in the last place are granted, too: in torch's lerp the two coefficients add up to exactly 1,
    in ``b*m + (1-b)*g`` each is rounded.
    """
    mine, params = run(classes(method)[0], arguments, dtype, **options)
    other, others = run(classes(method)[1], arguments, dtype, **options)
    truth, exact = run(classes(method)[1], arguments, torch.float64, grid=dtype, **options)
    assert error(params, exact) <= factor * error(others, exact)
    for key in state_keys(other) - {"step"}:
        true_state = state_tensors(truth, key)
        ours, theirs = error(state_tensors(mine, key), true_state), error(state_tensors(other, key), true_state)
        granted = 4 * torch.finfo(dtype).eps * error(true_state, [torch.zeros_like(t) for t in true_state])
        assert ours <= max(factor * theirs, granted), key


@pytest.mark.parametrize(("method", "arguments"), ALL + EDGES)
def test_float64(method, arguments):
    assert_like_torch(method, arguments)


@pytest.mark.parametrize("kind", ["steps", "warm-up and cosine"])
@pytest.mark.parametrize("method", METHODS)
def test_float64_with_a_schedule(method, kind):
    arguments = {key: values[-1] for key, values in {**SWITCHES[method], **SHARED}.items() if key != "dampening"}
    assert_like_torch(method, {"lr": 0.05, **arguments}, kind=kind)


@pytest.mark.parametrize("size", [1e-10, 1e10])
@pytest.mark.parametrize(("method", "arguments"), STATEFUL)
def test_float64_of_small_and_large_gradients(method, arguments, size):
    assert_like_torch(method, arguments, size=size)


@pytest.mark.parametrize(("method", "arguments"), [*ALL[::3], *EDGES])
def test_float32(method, arguments):
    if arguments.get("lr") == 0.0 or arguments.get("dampening") == 1.0:
        pytest.skip("torch makes no error to compare with")
    assert_as_accurate(method, arguments, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_16_bits(method, dtype):
    """States in the type of the parameters: computed in float32 and rounded once, so not worse than torch's."""
    arguments = {"eps": 1e-2} if method != "SGD" else {"momentum": 0.9}
    assert_as_accurate(method, arguments, dtype, factor=1.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("method", "arguments"), STATEFUL)
def test_wide_states_are_nearer(method, arguments, dtype):
    """Of the states by far; of the weights as far as their own 16 bits let them."""
    arguments = {"eps": 1e-2, **arguments} if method != "SGD" else arguments
    cls, theirs = classes(method)
    narrow, narrow_params = run(cls, arguments, dtype)
    wide, wide_params = run(cls, {**arguments, "state_dtype": torch.float32}, dtype)
    truth, exact = run(theirs, arguments, torch.float64, grid=dtype)
    assert error(wide_params, exact) < 1.05 * error(narrow_params, exact)
    for key in state_keys(truth) - {"step"}:
        assert {t.dtype for t in state_tensors(narrow, key)} == {dtype}
        assert {t.dtype for t in state_tensors(wide, key)} == {torch.float32}
        true_state = state_tensors(truth, key)
        assert error(state_tensors(wide, key), true_state) < 0.01 * error(state_tensors(narrow, key), true_state), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_wide_sums_begin_at_the_value_that_was_asked_for(dtype):
    """Not at its 16-bit rounding, as torch's do."""
    params = parameters(dtype)
    optimizer = classes("Adagrad")[0](params, initial_accumulator_value=0.1, state_dtype=torch.float32)
    for expected in (0.1, 1.1):
        sums = state_tensors(optimizer, "sum")
        assert len(sums) == len(params) and all(torch.equal(t, torch.full(t.shape, expected)) for t in sums)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()


@pytest.mark.parametrize(("method", "arguments"), STATEFUL)
def test_convergence_on_a_convex_problem(method, arguments):
    """Gradients that depend on the weights: a logistic regression in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 10, generator=generator, dtype=torch.float64)
    y = (x[:, 0] - x[:, 1] > 0).double()
    ends = []
    for cls in classes(method):
        weight = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
        optimizer = cls([weight], lr=0.05, **arguments)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight, y) + 0.01 * weight @ weight
            loss.backward()
            optimizer.step()
        ends.append((weight, loss.item()))
    assert relative_difference(ends[0][0], ends[1][0]) <= 1e-12
    assert ends[0][1] < 0.6 * math.log(2)


@pytest.mark.parametrize("step", [10_000, 16_000_000])
@pytest.mark.parametrize("method", METHODS[1:])
def test_far_into_a_training(method, step):
    def use(cls, params, arguments):
        optimizer = cls(params, lr=0.01, **arguments)
        train(optimizer, params, 2)
        for state in optimizer.state.values():
            state["step"].fill_(step)
        train(optimizer, params, 5, start=2)
        return optimizer

    assert_twin(method, {"lr_decay": 1e-3} if method == "Adagrad" else {}, use)


@pytest.mark.parametrize(("method", "arguments"), STATEFUL)
def test_flushing_of_denormals_changes_nothing(method, arguments):
    ends = []
    for flush in (False, True):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor cannot flush")
        try:
            optimizer, params = run(classes(method)[0], arguments, torch.float32, steps=10, size=1e-20)
        finally:
            torch.set_flush_denormal(False)
        ends.append([*values(params), *(t for key in state_keys(optimizer) for t in state_tensors(optimizer, key))])
    assert same_bits(*ends)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("method", "arguments"), STATEFUL)
def test_infinities_and_nan_go_where_torch_puts_them(method, arguments, dtype):
    ends = []
    for cls in classes(method):
        weight = torch.nn.Parameter(torch.ones(6, dtype=dtype))
        optimizer = cls([weight], lr=0.1, **arguments)
        for bad in (math.nan, math.inf, -math.inf):
            weight.grad = torch.tensor([1.0, bad, 1.0, -1.0, bad, 2.0], dtype=dtype)
            weight.grad[4] = -weight.grad[4]
            optimizer.step()
        ends.append(weight.detach())
    assert torch.equal(ends[0].isfinite(), ends[1].isfinite()) and torch.equal(ends[0].isnan(), ends[1].isnan())
