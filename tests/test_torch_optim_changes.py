"""Whatever is done to tensors, groups and states between steps: ``fusedstep.torch.optim`` steps as torch's does."""

from __future__ import annotations

import copy

import hypothesis
import hypothesis.strategies as st
import pytest

torch = pytest.importorskip("torch")

from small_torch import (  # noqa: E402
    PRESET,
    assert_same_structure,
    classes,
    parameters,
    relative_difference,
    set_gradients,
    state_keys,
    state_tensors,
    values,
)

SHAPES = [(4, 4), (5,), (2, 3, 2), ()]


def group_of(optimizer, i):
    return optimizer.param_groups[i % len(optimizer.param_groups)]


def flipped(tensor):
    """The same values, with the axes in the other order in memory."""
    order = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(order).contiguous().permute(order)


def holey(tensor):
    return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]


def change_gradient(make):
    def change(optimizer, params, i):
        if params[i].grad is not None:
            params[i].grad = make(params[i].grad)

    return change


def change_data(make):
    def change(optimizer, params, i):
        params[i].data = make(params[i].detach())

    return change


def change_states(make):
    def change(optimizer, params, i):
        for key, state in optimizer.state.get(params[i], {}).items():
            optimizer.state[params[i]][key] = make(state)

    return change


def copy_all(optimizer, params, i):
    gradients = [p.grad for p in params]
    other = copy.deepcopy(optimizer)
    found = [p for group in other.param_groups for p in group["params"]]
    places = [p for group in optimizer.param_groups for p in group["params"]]
    for p, new in zip(places, found, strict=True):
        k = next(k for k, q in enumerate(params) if q is p)
        params[k], new.grad = new, gradients[k]
    return other


def add_group(optimizer, params, i):
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    new = [p for p in params if id(p) not in known]
    if new:
        optimizer.add_param_group({"params": new[:1], "lr": 0.02})


def change_betas(optimizer, params, i):
    """As a list, as JSON gives them, whose values change in place the next time."""
    group = group_of(optimizer, i)
    if isinstance(group.get("betas"), list):
        group["betas"][0] = 0.5 + 0.1 * i
    elif "betas" in group:
        group["betas"] = list(group["betas"])


CHANGES = {
    "move": change_data(torch.clone),
    "flip": change_data(flipped),
    "transpose in place": change_data(lambda x: x.t() if x.shape == (4, 4) else x),
    "put holes in": change_data(holey),
    "new gradient": change_gradient(torch.clone),
    "flip gradient": change_gradient(flipped),
    "gradient with holes": change_gradient(holey),
    "transposed gradient": change_gradient(lambda g: g.t() if g.shape == (4, 4) else g),
    "expanded gradient": change_gradient(lambda g: g.new_ones(()).expand_as(g)),
    "no gradient": change_gradient(lambda g: None),
    "scaled gradient": change_gradient(lambda g: g.mul_(-3) if g.is_contiguous() else -3 * g),
    "new states": change_states(torch.clone),
    "scaled states": change_states(lambda x: x.mul_(0.5) if x.ndim or x.dtype == torch.float64 else x),
    "flip states": change_states(flipped),
    "drop state": lambda o, params, i: o.state.pop(params[i], None),
    "lr": lambda o, params, i: group_of(o, i).update(lr=0.03 * (1 + i)),
    "weight decay": lambda o, params, i: group_of(o, i).update(weight_decay=0.1 * i),
    "maximize": lambda o, params, i: group_of(o, i).update(maximize=not group_of(o, i)["maximize"]),
    "betas": change_betas,
    "new list of groups": lambda o, params, i: setattr(o, "param_groups", list(o.param_groups)),
    "new table of states": lambda o, params, i: setattr(o, "state", o.state.copy()),
    "new group": lambda o, params, i: o.param_groups.__setitem__(0, dict(o.param_groups[0])),
    "order": lambda o, params, i: group_of(o, i)["params"].reverse(),
    "load": lambda o, params, i: o.load_state_dict(copy.deepcopy(o.state_dict())),
    "copy": copy_all,
    "add": add_group,
}
PLANS = st.lists(
    st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, len(SHAPES) - 1)), max_size=3),
    min_size=2,
    max_size=8,
)


@hypothesis.settings(max_examples=150, deadline=None, database=None, derandomize=True)
@hypothesis.given(case=st.sampled_from(PRESET), plan=PLANS, renew=st.booleans(), clip=st.sampled_from([None, 0.5]))
def test_any_changes_between_steps(case, plan, renew, clip):
    """In float64, to 1e-12 of the largest weight, after every step; gradients made anew, or the same for a while."""
    method, arguments = case
    runs = []
    for which, cls in enumerate(classes(method)):
        params = parameters(torch.float64, shapes=SHAPES)
        optimizer = cls(params[:3], lr=0.05, **({"max_norm": clip} if which == 0 else {}), **arguments)
        runs.append([optimizer, params])
    for t, changes in enumerate(plan):
        for which, run in enumerate(runs):
            if renew or t % 3 == 0:
                set_gradients(run[1], t)
            for name, i in changes:
                made = CHANGES[name](*run, i)
                run[0] = made if isinstance(made, torch.optim.Optimizer) else run[0]
            kept = [p.grad for p in run[1]]
            if clip and which == 1:
                listed = [p for group in run[0].param_groups for p in group["params"]]
                for p in listed:
                    p.grad = None if p.grad is None else p.grad.clone()
                torch.nn.utils.clip_grad_norm_([p for p in listed if p.grad is not None] or listed, clip)
            run[0].step()
            if clip and which == 1:
                for p, g in zip(run[1], kept, strict=True):
                    p.grad = g
        (mine, params), (other, others) = runs
        assert_same_structure(mine, other)
        flat = [torch.cat([value.flatten() for value in values(ps)]) for ps in (params, others)]
        assert relative_difference(*flat) <= 1e-12
    for key in state_keys(other) - {"step"}:
        assert relative_difference(state_tensors(mine, key), state_tensors(other, key)) <= 1e-9, key
