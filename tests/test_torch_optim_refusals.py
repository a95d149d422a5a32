"""What ``fusedstep.torch.optim`` refuses, by name and before anything is written, and what is on the border of it."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from small_torch import (  # noqa: E402
    METHODS,
    STATEFUL,
    assert_equal_to,
    classes,
    parameters,
    relative_difference,
    same_bits,
    set_gradients,
    state_keys,
    state_tensors,
    train,
    values,
)

methods = pytest.mark.parametrize("method", METHODS)
stateful = pytest.mark.parametrize(("method", "arguments"), STATEFUL)


@stateful
@pytest.mark.parametrize("kind", ["same memory", "partly", "expanded"])
def test_parameters_that_overlap(method, arguments, kind):
    """torch updates one after the other, in silence; ours does the same or refuses before anything is written."""
    outcomes = []
    for cls in classes(method):
        memory = torch.arange(1.0, 13.0, dtype=torch.float64)
        if kind == "expanded":
            params = [torch.nn.Parameter(memory[:1].expand(4))]
        else:
            params = [torch.nn.Parameter(memory[:8]), torch.nn.Parameter(memory[:8] if kind[0] == "s" else memory[4:])]
        optimizer = cls(params, lr=0.1, **arguments)
        before = memory.clone()
        for p in params:
            p.grad = torch.ones_like(p)
        try:
            optimizer.step()
            outcomes.append(memory)
        except (ValueError, RuntimeError):
            outcomes.append(None)
            assert torch.equal(memory, before)
    if outcomes[0] is not None:
        assert outcomes[1] is not None and relative_difference(*outcomes) <= 1e-12


@stateful
def test_a_parameter_with_holes(method, arguments):
    """As torch updates it, its neighbours untouched; or refused by name, and nothing is written."""
    ends = []
    for cls in classes(method):
        memory = torch.arange(1.0, 13.0, dtype=torch.float64).view(2, 6)
        params = [torch.nn.Parameter(memory[:, ::2]), torch.nn.Parameter(torch.ones(3, dtype=torch.float64))]
        optimizer = cls(params, lr=0.1, **arguments)
        untouched = [memory[:, 1::2].clone(), memory.clone(), params[1].detach().clone()]
        for t in range(3):
            for p in params:
                p.grad = torch.full_like(p, t + 1.0)
            try:
                optimizer.step()
            except ValueError as refusal:
                assert "contiguous" in str(refusal) or "dense" in str(refusal)
                assert torch.equal(memory, untouched[1]) and torch.equal(params[1], untouched[2])
                return
        assert torch.equal(memory[:, 1::2], untouched[0])
        ends += [optimizer, params]
    assert_equal_to(torch.float64, *ends)


@stateful
def test_gradients_of_a_negative_view(method, arguments):
    """Whose memory holds the opposite of its values: read rightly, or refused before anything is written."""
    ends = []
    for cls in classes(method):
        params = parameters(torch.float64, shapes=[(3,), (5,)])
        optimizer = cls(params, lr=0.1, **arguments)
        before = values(params)
        params[0].grad, params[1].grad = torch.ones_like(params[0]), torch._neg_view(torch.ones_like(params[1]))
        try:
            optimizer.step()
        except ValueError as refusal:
            assert "negative bit" in str(refusal) and same_bits(before, values(params))
            return
        ends += [optimizer, params]
    assert_equal_to(torch.float64, *ends)


@stateful
def test_gradients_of_a_wider_type(method, arguments):
    """Which newer versions of torch allow: used as they are, or refused before anything is written."""
    if not hasattr(torch.Tensor, "grad_dtype"):
        pytest.skip("this torch has no grad_dtype")
    params = parameters(torch.bfloat16, shapes=[(3,), (5,)])
    others = [torch.nn.Parameter(p.detach().double()) for p in params]
    optimizer, other = (cls(p, lr=0.1, **arguments) for cls, p in zip(classes(method), (params, others), strict=True))
    before = values(params)
    params[1].grad_dtype = torch.float32
    set_gradients(others, 0, grid=torch.float32)
    params[0].grad, params[1].grad = others[0].grad.bfloat16(), others[1].grad.float()
    try:
        optimizer.step()
    except (TypeError, ValueError, RuntimeError):
        assert same_bits(before, values(params))
    else:
        other.step()
        assert relative_difference(params, others) <= 1e-2


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


@methods
def test_complex_parameters(method):
    """As pairs of reals, as torch sees them; or refused by name, and nothing is written."""
    ends = []
    for cls in classes(method):
        p = torch.nn.Parameter(torch.view_as_complex(parameters(torch.float64, shapes=[(5, 2)])[0].detach().clone()))
        optimizer = cls([p], lr=0.1)
        for _ in range(3):
            p.grad = p.detach().conj().resolve_conj() + 1j
            optimizer.step()
        ends.append(torch.view_as_real(p.detach()))
    assert relative_difference(*ends) <= 1e-12


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
