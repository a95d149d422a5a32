"""What ``fusedstep.torch.optim`` refuses, by name and before anything is written, and what is on the border of it."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from small_torch import (  # noqa: E402
    PRESET,
    assert_equal_to,
    assert_same_structure,
    classes,
    methods,
    parameters,
    relative_difference,
    same_bits,
    set_gradients,
    state_keys,
    state_tensors,
    stateful,
    train,
    values,
)


@stateful
@pytest.mark.parametrize("kind", ["same memory", "partly", "interleaved", "holes first", "holes last"])
def test_parameters_that_overlap(method, arguments, kind):
    """torch updates one after the other, and so do we; or we refuse before anything is written."""
    outcomes = []
    for cls in classes(method):
        memory = torch.arange(1.0, 13.0, dtype=torch.float64)
        parts = {
            "same memory": [memory[:8], memory[:8]],
            "partly": [memory[:8], memory[4:]],
            "interleaved": [memory[::2], memory[1::2]],
            "holes first": [memory.view(2, 6)[:, ::2], memory],
            "holes last": [memory, memory.view(2, 6)[:, ::2]],
        }
        params = [torch.nn.Parameter(part) for part in parts[kind]]
        optimizer = cls(params, lr=0.1, **arguments)
        before = memory.clone()
        for t in range(3):
            for i, p in enumerate(params):
                p.grad = torch.full_like(p, 1.0 + i + t)
            try:
                optimizer.step()
            except (ValueError, RuntimeError):
                assert cls is classes(method)[0] and torch.equal(memory, before)
                return
        outcomes.append(memory)
    assert relative_difference(*outcomes) <= 1e-12


@stateful
def test_an_expanded_parameter_is_refused(method, arguments):
    for cls in classes(method):
        memory = torch.ones(1)
        optimizer = cls([torch.nn.Parameter(memory.expand(4))], lr=0.1, **arguments)
        optimizer.param_groups[0]["params"][0].grad = torch.ones(4)
        with pytest.raises((ValueError, RuntimeError)):
            optimizer.step()
        assert memory.item() == 1


@stateful
@pytest.mark.parametrize("transposed", [False, True])
def test_a_parameter_with_holes(method, arguments, transposed):
    """As torch updates it, its neighbours untouched, whatever the layout of its states."""
    ends = []
    for cls in classes(method):
        memory = torch.arange(1.0, 25.0, dtype=torch.float64).view(4, 6)
        part = memory[:, ::2].t() if transposed else memory[:, ::2]
        params = [torch.nn.Parameter(part), torch.nn.Parameter(torch.ones(3, dtype=torch.float64))]
        optimizer = cls(params, lr=0.1, **arguments)
        untouched = memory[:, 1::2].clone()
        for t in range(6):
            for p in params:
                p.grad = torch.arange(1.0, 1.0 + p.numel(), dtype=torch.float64).view_as(p) - t
            if t == 2:
                state = optimizer.state[params[0]]
                for key in state.keys() - {"step"}:
                    state[key] = state[key].t().contiguous().t()
            optimizer.step()
        assert torch.equal(memory[:, 1::2], untouched)
        ends += [optimizer, params]
    assert_equal_to(torch.float64, *ends)


@stateful
def test_gradients_of_a_negative_view(method, arguments):
    """Whose memory holds the opposite of its values."""
    ends = []
    for cls in classes(method):
        params = parameters(torch.float64, shapes=[(3,), (5,)])
        optimizer = cls(params, lr=0.1, **arguments)
        for _ in range(3):
            params[0].grad, params[1].grad = torch.ones_like(params[0]), torch._neg_view(torch.ones_like(params[1]))
            optimizer.step()
        ends += [optimizer, params]
    assert_equal_to(torch.float64, *ends)


@stateful
@pytest.mark.parametrize("whose", ["its own", "another's"])
def test_gradients_in_the_memory_of_a_parameter(method, arguments, whose):
    """As torch's; or refused, and nothing is written."""
    ends = []
    for cls in classes(method):
        params = parameters(torch.float64, shapes=[(5,), (5,)])
        optimizer = cls(params, lr=0.1, **arguments)
        before = values(params)
        params[0].grad, params[1].grad = (params[i].detach() for i in ((0, 1) if whose == "its own" else (1, 0)))
        try:
            optimizer.step()
        except (ValueError, RuntimeError):
            assert cls is classes(method)[0] and same_bits(before, values(params))
            return
        ends.append(values(params))
    assert relative_difference(*ends) <= 1e-12


@stateful
def test_gradients_of_a_wider_type(method, arguments):
    """Which newer versions of torch allow, but not torch's optimizers with states."""
    if not hasattr(torch.Tensor, "grad_dtype"):
        pytest.skip("this torch has no grad_dtype")
    params = parameters(torch.bfloat16, shapes=[(3,), (5,)])
    optimizer, before = classes(method)[0](params, lr=0.1, **arguments), values(params)
    params[0].grad = torch.ones_like(params[0])
    params[1].grad_dtype = torch.float32
    params[1].grad = torch.ones(5)
    with pytest.raises((TypeError, RuntimeError), match="dtype"):
        optimizer.step()
    assert same_bits(before, values(params))


@methods
def test_sparse_gradients_are_refused(method):
    cls, theirs = classes(method)
    params = parameters(shapes=[(4, 3), (4, 3)])
    optimizer, before, words = cls(params, lr=0.1), values(params), "sparse gradients"
    params[0].grad = torch.ones(4, 3)
    params[1].grad = torch.ones(4, 3).to_sparse()
    if method not in ("SGD", "Adagrad"):  # which take them
        with pytest.raises(RuntimeError, match=words) as refusal:
            theirs(params[1:], lr=0.1).step()
        words = str(refusal.value)
    with pytest.raises(RuntimeError, match=words):
        optimizer.step()
    assert same_bits(before, values(params))


@methods
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, torch.tensor(math.nan), "0.1", None])
def test_a_bad_rate_in_a_later_group_is_refused_before_anything_is_written(method, bad):
    cls, _ = classes(method)
    params = parameters()
    optimizer = cls([{"params": params[:3]}, {"params": params[3:]}], lr=0.1)
    train(optimizer, params, 2)
    before = values(params)
    states = {key: values(state_tensors(optimizer, key)) for key in state_keys(optimizer)}
    optimizer.param_groups[1]["lr"] = bad
    with pytest.raises((ValueError, TypeError), match=rf"\[{method}\] 'lr' must be"):
        train(optimizer, params, 1, start=2)
    assert same_bits(before, values(params))
    assert all(same_bits(kept, state_tensors(optimizer, key)) for key, kept in states.items())
    optimizer.param_groups[1]["lr"] = 0.1
    train(optimizer, params, 1, start=2)


@methods
def test_a_gradient_that_does_not_fit_is_refused_before_anything_is_written(method):
    """torch's setter refuses them, but not that ``p.data`` takes another shape or type afterwards."""
    cls, _ = classes(method)
    for spoil in (lambda p: p.new_ones(5), lambda p: p.detach().double()):
        params = parameters(shapes=[(3,), (4,)])
        optimizer = cls(params, lr=0.1)
        train(optimizer, params, 2)
        set_gradients(params, 2)
        params[1].data = spoil(params[1])
        before = params[0].detach().clone()
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            optimizer.step()
        assert torch.equal(before, params[0])


@methods
@pytest.mark.parametrize("wrong", [torch.float16, torch.int32, "float32", 32])
def test_state_dtype_of_another_kind_is_refused(method, wrong):
    with pytest.raises((TypeError, ValueError), match="'state_dtype' must be"):
        classes(method)[0](parameters(torch.bfloat16), state_dtype=wrong)


@pytest.mark.parametrize(
    ("method", "later", "key"),
    [
        ("SGD", {"momentum": 0.9}, "momentum_buffer"),
        ("RMSprop", {"centered": True}, "grad_avg"),
        ("RMSprop", {"momentum": 0.9}, "momentum_buffer"),
        ("Adam", {"amsgrad": True}, "max_exp_avg_sq"),
    ],
)
def test_options_switched_on_later(method, later, key):
    """The state that is missing then begins as at a first step, as that of torch's SGD; torch's others have no key."""
    ends = []
    for cls in classes(method):
        params = parameters(torch.float64)
        optimizer = cls(params, lr=0.1)
        train(optimizer, params, 2, every=True)
        optimizer.param_groups[0].update(later)
        if method != "SGD" and cls is classes(method)[1]:
            for p, state in optimizer.state.items():
                state[key] = torch.zeros_like(p)
        train(optimizer, params, 3, start=2, every=True)
        ends += [optimizer, params]
    assert_equal_to(torch.float64, *ends)


@stateful
def test_a_state_that_does_not_fit_is_refused_before_anything_is_written(method, arguments):
    cls, _ = classes(method)
    params = parameters()
    optimizer = cls(params, **arguments)
    train(optimizer, params, 3)
    key = next(k for k in state_keys(optimizer) if k != "step")
    good = optimizer.state[params[6]][key]
    for bad in (good[:2], good.to("meta"), good.to_sparse(), good.to(torch.complex64)):
        optimizer.state[params[6]][key] = bad
        before = values(params)
        with pytest.raises((TypeError, ValueError, RuntimeError, NotImplementedError)):
            train(optimizer, params, 1, start=4)
        assert same_bits(before, values(params))
    optimizer.state[params[6]][key] = good
    train(optimizer, params, 1, start=4)


@methods
def test_integer_parameters_are_refused(method):
    cls, _ = classes(method)
    p = torch.ones(3, dtype=torch.int64)
    p.grad = torch.ones(3, dtype=torch.int64)
    with pytest.raises((RuntimeError, TypeError), match=r"int64|Long|float"):
        cls([p], lr=1.0).step()
    assert p.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("method", "arguments"), PRESET)
def test_complex_parameters(method, arguments):
    """As pairs of reals, as torch sees them, with holes or without, conjugate views of gradients included."""
    ends = []
    for cls in classes(method):
        memory = torch.view_as_complex(parameters(torch.float64, shapes=[(20, 2)])[0].detach().clone())
        params = [torch.nn.Parameter(part) for part in (memory[:5], memory[5:].view(3, 5)[:, ::2])]
        optimizer = cls(params[:1], lr=0.1, **arguments)
        optimizer.add_param_group({"params": params[1:]})
        for t in range(4):
            for p in params:
                p.grad = p.detach().conj() if t % 2 else p.detach() * 1j + 1
                if cls is classes(method)[1]:
                    p.grad = p.grad.resolve_conj()  # torch's need it
            optimizer.step()
        ends += [optimizer, [torch.view_as_real(memory)]]
    assert_same_structure(ends[0], ends[2])
    assert relative_difference(ends[1], ends[3]) <= 1e-12
    for p, q in zip(*([p for group in o.param_groups for p in group["params"]] for o in ends[::2]), strict=True):
        for key, expected in ends[2].state[q].items():
            given = ends[0].state[p][key]
            if key != "step":
                assert relative_difference(torch.view_as_real(given), torch.view_as_real(expected)) <= 1e-12


@methods
def test_duplicates_in_a_group(method):
    """torch warns, and updates twice; so do we, in the order of the list, or we refuse before anything is written."""
    ends = []
    for cls in classes(method):
        p = parameters(torch.float64)[0]
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = cls([p, p], lr=0.1)
        train(optimizer, [p], 2)
        ends.append((optimizer, [p]))
    assert_equal_to(torch.float64, *ends[0], *ends[1])


@methods
@pytest.mark.parametrize(
    "bad",
    [{"max_norm": -1.0}, {"max_norm": math.nan}, {"ema_decay": 1.5}, {"ema_decay": -0.1}, {"ema_decay": math.nan}],
)
def test_bad_options_of_ours(method, bad):
    (name,) = bad
    with pytest.raises(ValueError, match=rf"\[{method}\] '{name}' must be"):
        classes(method)[0](parameters(), **bad)


def test_averages_without_the_option():
    optimizer = classes("Adam")[0](parameters())
    with pytest.raises(RuntimeError, match="'ema_decay' was not given"):
        optimizer.averages()


@methods
@pytest.mark.parametrize(("name", "bad"), [("max_norm", -1.0), ("ema_decay", 1.5)])
def test_bad_options_set_later_are_refused_before_anything_is_written(method, name, bad):
    params = parameters()
    optimizer = classes(method)[0](params, **{name: 0.5})
    train(optimizer, params, 2, every=True)
    for value in (bad, math.nan, "0.5"):
        before = values(params)
        setattr(optimizer, name, value)
        with pytest.raises((TypeError, ValueError), match=rf"\[{method}\] '{name}' must be"):
            train(optimizer, params, 1, start=2, every=True)
        assert same_bits(before, values(params))
    setattr(optimizer, name, 0.5)
    train(optimizer, params, 1, start=2, every=True)


@methods
def test_without_compiled_kernels(method, monkeypatch):
    params = parameters()
    optimizer, before = classes(method)[0](params), values(params)
    monkeypatch.setattr("fusedstep.torch.optim.step.module_for", lambda arrays: None)
    with pytest.raises(RuntimeError, match=rf"\[{method}\] the fused step needs the compiled kernels"):
        train(optimizer, params, 1)
    assert same_bits(before, values(params))
