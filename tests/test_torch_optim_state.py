"""State dicts between torch's optimizers and ours, in the midst of training; copies; states changed by hand."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

from small_torch import (  # noqa: E402
    PRESET,
    STATEFUL,
    assert_equal_to,
    assert_same_structure,
    assert_twin,
    classes,
    error,
    methods,
    parameters,
    same_bits,
    state_keys,
    state_tensors,
    stateful,
    train,
    values,
)

VARIANTS = [
    *STATEFUL,
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"amsgrad": True, "maximize": True}),
    ("AdamW", {"fused": True}),
    ("Adam", {"foreach": True}),
]


def through_a_file(saved):
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def two_groups(cls, params, arguments):
    return cls([{"params": params[:4], "lr": 0.1}, {"params": params[4:]}], lr=0.02, **arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("method", "arguments"), VARIANTS)
def test_torch_then_ours_then_torch(method, arguments, dtype):
    """Ten steps each, from file to file, end where thirty steps of torch end; with ours first as well."""
    cls, theirs = classes(method)
    others = parameters(dtype)
    through = two_groups(theirs, others, arguments)
    train(through, others, 30)
    for order in ((theirs, cls, theirs), (cls, theirs, cls)):
        params, saved = parameters(dtype), None
        for part, which in enumerate(order):
            optimizer = two_groups(which, params, arguments)
            if saved is not None:
                optimizer.load_state_dict(saved)
            train(optimizer, params, 10, start=10 * part)
            saved = through_a_file(optimizer.state_dict())
        assert_equal_to(dtype, optimizer, params, through, others)


@stateful
def test_16_bits_load_narrow_or_wide(method, arguments):
    """torch casts what it loads to the parameter's type; ``state_dtype`` keeps the 32 bits."""
    cls, theirs = classes(method)
    params = parameters(torch.bfloat16)
    wide = cls(params, state_dtype=torch.float32, **arguments)
    train(wide, params)
    saved = through_a_file(wide.state_dict())
    kinds = {}
    for name, optimizer in (
        ("narrow", cls(parameters(torch.bfloat16), **arguments)),
        ("torch", theirs(parameters(torch.bfloat16), **arguments)),
        ("wide", cls(parameters(torch.bfloat16), state_dtype=torch.float32, **arguments)),
    ):
        optimizer.load_state_dict(copy.deepcopy(saved))  # torch's, too, keeps tensors that fit
        kinds[name] = optimizer
        train(optimizer, optimizer.param_groups[0]["params"], start=5)
    for key in state_keys(wide) - {"step"}:
        types = {name: {t.dtype for t in state_tensors(o, key)} for name, o in kinds.items()}
        assert types == {"narrow": {torch.bfloat16}, "torch": {torch.bfloat16}, "wide": {torch.float32}}
    again = cls(parameters(torch.bfloat16), state_dtype=torch.float32, **arguments)
    again.load_state_dict(saved)
    for key in state_keys(wide):
        assert same_bits(state_tensors(again, key), state_tensors(wide, key)), key
    narrow = theirs(parameters(torch.bfloat16), **arguments)  # of torch's, loaded wide: the same values
    train(narrow, narrow.param_groups[0]["params"])
    again.load_state_dict(narrow.state_dict())
    for key in state_keys(narrow) - {"step"}:
        assert {t.dtype for t in state_tensors(again, key)} == {torch.float32}
        assert error(state_tensors(again, key), state_tensors(narrow, key)) == 0


@stateful
def test_a_wide_run_goes_on_from_its_file_to_the_same_bits(method, arguments):
    cls, _ = classes(method)
    ends = []
    for stop in (True, False):
        params = parameters(torch.bfloat16)
        options = {"lr": 0.1, "state_dtype": torch.float32, "ema_decay": 0.9, "max_norm": 3.0, **arguments}
        optimizer = cls(params, **options)
        train(optimizer, params, 6)
        if stop:
            saved = through_a_file(optimizer.state_dict())
            optimizer = cls(params, **options)
            optimizer.load_state_dict(saved)
        train(optimizer, params, 6, start=6)
        ends.append((values(params), optimizer.averages()))
    assert same_bits(ends[0][0], ends[1][0]) and same_bits(ends[0][1], ends[1][1])


@stateful
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_torch_s_default_type(method, arguments, default):
    """The counter is a float64 where that is the default type, as torch's is, and is read and advanced as such."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        for dtype in (torch.float32, torch.float64):
            assert_twin(method, arguments, stepped, dtype=dtype)
    finally:
        torch.set_default_dtype(before)


def stepped(cls, params, arguments):
    optimizer = cls(params, lr=0.1, **arguments)
    train(optimizer, params, 3)
    saved = through_a_file(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    train(optimizer, params, 3, start=3)
    return optimizer


@stateful
def test_states_replaced_by_hand(method, arguments):
    def use(cls, params, arguments):
        optimizer = cls(params, lr=0.1, **arguments)
        train(optimizer, params, 3)
        for t in range(3):
            for state in optimizer.state.values():
                for key, value in state.items():
                    if value is not None:
                        state[key] = value * 0.5 if key != "step" else value + 2
            train(optimizer, params, 1, start=3 + t)
        for state in optimizer.state.values():  # in place as well
            for key, value in state.items():
                if value is not None and key != "step":
                    value.mul_(2)
        train(optimizer, params, 2, start=6)
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_dicts_replaced_by_hand(method, arguments):
    """Of a parameter's state, of all states, of a group: the old ones must not be written any more."""
    kept = []

    def use(cls, params, arguments):
        optimizer = cls(params, lr=0.1, **arguments)
        train(optimizer, params, 3, every=True)
        for t in range(3, 9):
            if t in (3, 5):
                for p, state in list(optimizer.state.items()):
                    kept.extend((old, old.clone()) for old in state.values())
                    optimizer.state[p] = {key: old.clone() for key, old in state.items()}
            if t == 5:
                optimizer.state = type(optimizer.state)(dict, optimizer.state)
            if t == 7:
                optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.01}
            train(optimizer, params, 1, start=t, every=True)
        assert all(torch.equal(old, copied) for old, copied in kept)
        return optimizer

    assert_twin(method, arguments, use)


@pytest.mark.parametrize(("method", "arguments"), PRESET)
def test_states_cleared(method, arguments):
    """All states, or one parameter's; Adagrad begins anew in both cases, as torch's does."""

    def use(cls, params, arguments):
        optimizer = cls(params, lr=0.1, **arguments)
        train(optimizer, params, 3)
        optimizer.state.clear()
        train(optimizer, params, 2, start=3)
        optimizer.state[params[0]].clear()
        del optimizer.state[params[4]]
        train(optimizer, params, 2, start=5)
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_state_dict_hooks(method, arguments):
    cls, _ = classes(method)
    params = parameters()
    optimizer, seen = cls(params, **arguments), []
    train(optimizer, params)
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("before"))
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 1})
    saved = optimizer.state_dict()
    assert saved.pop("more") == 1 and seen == ["before"]
    other = cls(parameters(), **arguments)
    other.register_load_state_dict_pre_hook(lambda o, d: {**d, "param_groups": [{**d["param_groups"][0], "lr": 0.75}]})
    other.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    other.load_state_dict(saved)
    assert seen == ["before", 0.75]


@stateful
def test_state_dicts_do_not_depend_on_the_object(method, arguments):
    cls, _ = classes(method)
    dicts = []
    for _ in range(2):
        params = parameters()
        optimizer = cls(params, weight_decay=0.1, **arguments)
        train(optimizer, params)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        dicts.append(file.getvalue())
    assert dicts[0] == dicts[1]


@stateful
def test_older_state_dicts(method, arguments):
    """Of versions of torch that knew fewer options, and whose counters were numbers."""

    def use(cls, params, arguments):
        optimizer = cls(params, **arguments)
        train(optimizer, params)
        saved = copy.deepcopy(optimizer.state_dict())
        for group in saved["param_groups"]:
            for key in ("maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
                group.pop(key, None)
        for state in saved["state"].values():
            if "step" in state:
                state["step"] = state["step"].item()
        optimizer.load_state_dict(saved)
        train(optimizer, params, start=5)
        return optimizer

    assert_twin(method, arguments, use)


@methods
def test_state_dicts_that_do_not_fit(method):
    cls, _ = classes(method)
    optimizer = cls(parameters())
    saved = optimizer.state_dict()
    for spoil, words in (
        (lambda d: d["param_groups"].append(d["param_groups"][0]), "different number of parameter groups"),
        (lambda d: d["param_groups"][0]["params"].pop(), "doesn't match the size"),
    ):
        bad = copy.deepcopy(saved)
        spoil(bad)
        with pytest.raises(ValueError, match=words):
            optimizer.load_state_dict(bad)


@stateful
@pytest.mark.parametrize("copier", ["deepcopy", "pickle", "torch.save"])
def test_copies(method, arguments, copier):
    """A copy goes on with its own parameters as the original does."""
    cls, _ = classes(method)
    params = parameters(torch.float64)
    optimizer = cls(params, lr=0.1, max_norm=2.0, ema_decay=0.9, state_dtype=torch.float32, **arguments)
    train(optimizer, params)
    if copier == "deepcopy":
        other = copy.deepcopy(optimizer)
    elif copier == "pickle":
        other = pickle.loads(pickle.dumps(optimizer))
    else:
        file = io.BytesIO()
        torch.save(optimizer, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    others = other.param_groups[0]["params"]
    assert type(other) is cls and all(a is not b for a, b in zip(params, others, strict=True))
    public = [{name for name in vars(o) if not name.startswith("_")} for o in (optimizer, other)]
    assert public[0] == public[1] if copier == "deepcopy" else True
    assert (other.max_norm, other.ema_decay, other.state_dtype) == (2.0, 0.9, torch.float32)
    before = values(params)
    train(other, others, start=5)
    assert same_bits(before, values(params))  # the copy has its own memory
    train(optimizer, params, start=5)
    assert same_bits(values(params), values(others))
    assert same_bits(optimizer.averages(), other.averages())
    assert_same_structure(optimizer, other)


@methods
def test_named_parameters(method):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)).double()
    cls, theirs = classes(method)
    optimizer = cls(model.named_parameters())
    names = ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert optimizer.param_groups[0]["param_names"] == names
    train(optimizer, list(model.parameters()))
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names
    for source, target in ((optimizer, theirs(model.named_parameters())), (optimizer, cls(model.parameters()))):
        target.load_state_dict(source.state_dict())
        assert target.param_groups[0]["param_names"] == names
        assert_same_structure(source, target)
