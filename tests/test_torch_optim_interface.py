"""What torch's optimizers do besides the update: groups, closures, hooks, odd parameters, profiles."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from small_torch import (  # noqa: E402
    PRESET,
    assert_same_structure,
    assert_twin,
    classes,
    methods,
    parameters,
    relative_difference,
    same_bits,
    set_gradients,
    stateful,
    train,
    values,
)


@stateful
def test_groups_of_their_own(method, arguments):
    def use(cls, params, arguments):
        groups = [{"params": params[:4], "lr": 0.2}, {"params": params[4:], "weight_decay": 0.3, "maximize": True}]
        optimizer = cls(groups, lr=0.05, **arguments)
        train(optimizer, params)
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["weight_decay"] = 0.01, 0.0
        train(optimizer, params, start=5)
        return optimizer

    assert_twin(method, arguments, use)


@pytest.mark.parametrize(("method", "arguments"), PRESET)
def test_add_param_group(method, arguments):
    def use(cls, params, arguments):
        optimizer = cls(params[:4], **arguments)
        train(optimizer, params, 2)
        added = {"initial_accumulator_value": 2.0} if method == "Adagrad" else {}  # which torch does not look at
        optimizer.add_param_group({"params": (p for p in params[4:9]), "lr": 0.5, **added})
        train(optimizer, params, 2, start=2)
        optimizer.add_param_group({"params": params[9]})
        train(optimizer, params, 2, start=4)
        return optimizer

    assert_twin(method, arguments, use)


@methods
def test_bad_groups(method):
    cls, _ = classes(method)
    params = parameters()
    optimizer = cls(params[:4])
    for bad, kind, words in (
        ({"params": params[:1]}, ValueError, "more than one parameter group"),
        ({"params": {params[5]}}, TypeError, "ordered collections"),
        ({"params": [1.0]}, TypeError, "can only optimize Tensors"),
        ({"params": [params[5] * 2]}, ValueError, "non-leaf"),
        ([params[5]], TypeError, "must be a dict"),
    ):
        with pytest.raises(kind, match=words):
            optimizer.add_param_group(bad)
    with pytest.raises(ValueError, match="empty parameter list"):
        cls([])
    train(optimizer, params)


@stateful
def test_tensor_lr(method, arguments):
    """In float64; in float32 torch computes the step size in float32, but we with the value that the tensor has."""

    def use(cls, params, arguments):
        optimizer = cls(params, lr=torch.tensor(0.05, dtype=torch.float64), **arguments)
        train(optimizer, params, 3)
        optimizer.param_groups[0]["lr"].mul_(0.5)
        train(optimizer, params, 3, start=3)
        optimizer.param_groups[0]["lr"] = torch.tensor([0.2], dtype=torch.float64)
        train(optimizer, params, 3, start=6)
        return optimizer

    assert_twin(method, arguments, use)
    ends = []
    for lr in (torch.tensor(0.05), torch.tensor(0.05).item()):
        ends.append(parameters())
        train(classes(method)[0](ends[-1], lr=lr, **arguments), ends[-1])
    assert same_bits(*ends)


@pytest.mark.parametrize("method", ["Adam", "AdamW"])
def test_tensor_betas(method):
    def use(cls, params, arguments):
        optimizer = cls(params, betas=(torch.tensor(0.8).double(), torch.tensor([[0.95]]).double()))
        train(optimizer, params, 3)
        return optimizer

    assert_twin(method, {}, use)


@methods
def test_defaults_and_repr(method):
    cls, theirs = classes(method)
    mine, other = cls(parameters()), theirs(parameters())
    assert mine.defaults == other.defaults and repr(mine) == repr(other)
    assert isinstance(mine, torch.optim.Optimizer) and mine.defaults is not other.defaults
    again = cls(parameters(), max_norm=1.0, ema_decay=0.9, state_dtype=torch.float32)
    assert again.defaults == other.defaults and repr(again) == repr(other)  # not options of groups


@stateful
def test_zero_grad(method, arguments):
    for cls in classes(method):
        params = parameters()
        optimizer = cls(params, **arguments)
        set_gradients(params, 4)
        gradient = params[0].grad
        optimizer.zero_grad(set_to_none=False)
        assert params[0].grad is gradient and not gradient.any() and params[7].grad is None
        optimizer.step()
        optimizer.zero_grad()
        assert all(p.grad is None for p in params)


@stateful
@pytest.mark.parametrize("zero", [False, True])
def test_steps_without_gradients(method, arguments, zero):
    """Without any gradient nothing changes, the states included; with zeros what torch changes."""

    def use(cls, params, arguments):
        optimizer = cls(params, weight_decay=0.1, **arguments)
        for p in params:
            p.grad = torch.zeros_like(p) if zero else None
        before = values(params)
        optimizer.step()
        optimizer.step()
        assert zero or same_bits(before, values(params))
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_gradients_are_never_written(method, arguments):
    cls, _ = classes(method)
    for more in ({}, {"max_norm": 0.1, "maximize": True, "weight_decay": 0.5}):
        params = parameters()
        optimizer = cls(params, **arguments, **more)
        for t in range(4):
            set_gradients(params, t)
            kept = [(p.grad, p.grad.clone(), p.grad._version) for p in params if p.grad is not None]
            optimizer.step()
            assert all(torch.equal(g, copied) and g._version == version for g, copied, version in kept)
            assert all(p.grad is not None for p in params[:7] if t != 3)


@stateful
def test_closures(method, arguments):
    def use(cls, params, arguments):
        optimizer = cls(params, **arguments)

        def closure():
            assert torch.is_grad_enabled()
            optimizer.zero_grad()
            loss = sum((p**2).sum() for p in params[:7])
            loss.backward()
            return loss

        with torch.no_grad():
            losses = [optimizer.step(closure) for _ in range(3)] + [optimizer.step(closure=closure)]
            assert not torch.is_grad_enabled()
        assert losses == sorted(losses, reverse=True) and losses[0].requires_grad
        assert optimizer.step() is None and optimizer.step(lambda: 7.0) == 7.0
        with pytest.raises(ZeroDivisionError):
            optimizer.step(lambda: 1 / 0)
        return optimizer

    assert_twin(method, arguments, use)


@methods
def test_step_hooks(method):
    cls, _ = classes(method)
    params = parameters()
    optimizer = cls(params)
    train(optimizer, params, 3)
    calls = []
    handles = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append(("before", o, params[0]._version))),
        optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append(("after", o, params[0]._version))),
        register_optimizer_step_pre_hook(lambda o, a, k: calls.append(("first", o, 0))),
        register_optimizer_step_post_hook(lambda o, a, k: calls.append(("last", o, 0))),
    ]
    train(optimizer, params, 1)
    for handle in handles:
        handle.remove()
    train(optimizer, params, 1)
    assert [call[0] for call in calls] == ["first", "before", "after", "last"]
    assert all(call[1] is optimizer for call in calls) and calls[1][2] < calls[2][2]
    handle = optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 3.0), {}))
    assert optimizer.step() == 3.0  # a hook may give the closure
    handle.remove()
    optimizer.register_step_pre_hook(lambda o, args, kwargs: 1)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step()


@methods
def test_hooks_of_one_kind_at_a_time(method):
    """Registered after steps without any, and removed again."""
    cls, _ = classes(method)
    params = parameters()
    optimizer = cls(params)
    calls = []
    for register in (
        optimizer.register_step_pre_hook,
        optimizer.register_step_post_hook,
        register_optimizer_step_pre_hook,
        register_optimizer_step_post_hook,
    ):
        train(optimizer, params, 3)
        handle = register(lambda o, args, kwargs: calls.append(o))
        train(optimizer, params, 2)
        handle.remove()
    assert len(calls) == 8


@stateful
def test_options_of_ours_may_change(method, arguments):
    """Between steps; each step is that of an optimizer that was made with them, from the same states."""
    cls, _ = classes(method)
    params, others = parameters(torch.float64), parameters(torch.float64)
    optimizer = cls(params, **arguments)
    for max_norm, ema_decay in ((None, None), (0.1, None), (0.2, None), (0.2, 0.9), (0.2, 0.5), (None, 0.5)):
        optimizer.max_norm, optimizer.ema_decay = max_norm, ema_decay
        other = cls(others, max_norm=max_norm, ema_decay=ema_decay, **arguments)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for _ in range(3):
            train(optimizer, params, 1)
            train(other, others, 1)
            assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
        if ema_decay:
            assert all(torch.equal(p, q) for p, q in zip(optimizer.averages(), other.averages(), strict=True))
    optimizer.max_norm = -1.0
    with pytest.raises(ValueError, match="max_norm"):
        optimizer.step()


@methods
def test_parameters_of_several_types(method):
    """In one group and at once."""
    ends = []
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    for cls in classes(method):
        params = [p for dtype in dtypes for p in parameters(dtype, shapes=[(6, 5), (), (4,)])]
        optimizer = cls(params, lr=0.1)
        train(optimizer, params)
        ends.append((optimizer, params))
    (mine, params), (other, others) = ends
    assert_same_structure(mine, other)
    for i, bound in enumerate((1e-6, 1e-12, 2e-2, 2e-3)):
        assert relative_difference(params[3 * i : 3 * i + 3], others[3 * i : 3 * i + 3]) <= bound


@methods
def test_profiler_sees_the_step(method):
    cls, _ = classes(method)
    params = parameters()
    optimizer = cls(params)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(optimizer, params, 2)
        optimizer.zero_grad()
    names = {event.key for event in profile.key_averages()}
    assert {f"Optimizer.step#{method}.step", f"Optimizer.zero_grad#{method}.zero_grad"} <= names


@stateful
def test_nothing_keeps_a_dead_optimizer_alive(method, arguments):
    """Nor its parameters and states: no cycle and no table outside holds them."""
    cls, _ = classes(method)
    params = parameters()
    optimizer = cls(params, **arguments)
    train(optimizer, params)
    watched = [weakref.ref(x) for x in (optimizer, params[0])]
    del optimizer, params
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


@methods
def test_subclasses(method):
    cls, _ = classes(method)

    class Mine(cls):
        def step(self, closure=None):
            self.calls = getattr(self, "calls", 0) + 1
            return super().step(closure)

    params, others = parameters(torch.float64), parameters(torch.float64)
    mine, plain = Mine(params, lr=0.1), cls(others, lr=0.1)
    train(mine, params)
    train(plain, others)
    assert mine.calls == 5 and same_bits(values(params), values(others))


@pytest.mark.parametrize("make", [torch.from_numpy, np.asarray], ids=["tensor", "array"])
@methods
def test_a_number_in_the_place_of_which_comes_a_tensor_of_its_value(method, make):
    """As torch's schedulers then fill it in place."""
    ours, theirs = (run_with_a_late_tensor(cls, make) for cls in classes(method))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def run_with_a_late_tensor(cls, make):
    p = torch.nn.Parameter(torch.arange(1.0, 6.0, dtype=torch.float64))
    optimizer = cls([p], lr=0.125)
    for i in range(8):
        if i == 3:
            optimizer.param_groups[0]["lr"] = make(np.array(0.125))
        if i == 6:
            optimizer.param_groups[0]["lr"][...] = 1.0
        p.grad = p.detach() * (i + 1)
        optimizer.step()
    return p.detach()


@methods
def test_differentiable_is_noticed_at_any_time(method):
    cls, _ = classes(method)
    params = parameters()
    optimizer = cls(params)
    train(optimizer, params, 3)
    optimizer.param_groups[0]["differentiable"] = True
    before = [p.clone() for p in params]
    with pytest.raises(RuntimeError, match="'differentiable' must be False"):
        optimizer.step()
    assert same_bits(values(params), values(before))


@pytest.mark.parametrize("name", ["max_norm", "ema_decay", "state_dtype"])
@methods
def test_options_of_all_groups_are_refused_in_one(method, name):
    cls, _ = classes(method)
    optimizer = cls(parameters())
    for make in (cls, lambda groups: optimizer.add_param_group(groups[0])):
        with pytest.raises(ValueError, match=rf"\[{method}\] '{name}' is one for all groups"):
            make([{"params": parameters(), name: 1.0}])
    assert len(optimizer.param_groups) == 1
