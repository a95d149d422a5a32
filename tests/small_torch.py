"""Parameters, gradients and comparisons for the tests of ``fusedstep.torch.optim``."""

from __future__ import annotations

import contextlib

import pytest

import fusedstep as fs
from fusedstep import backend

torch = pytest.importorskip("torch")
if backend.native() is None:
    pytest.skip("FUSEDSTEP_BACKEND=reference", allow_module_level=True)

METHODS = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW")
STATEFUL = [("SGD", {"momentum": 0.9}), *((method, {}) for method in METHODS[1:])]
methods = pytest.mark.parametrize("method", METHODS)
stateful = pytest.mark.parametrize(("method", "arguments"), STATEFUL)
PRESET = [*STATEFUL, ("Adagrad", {"initial_accumulator_value": 0.5})]

SHAPES = [(7, 5), (33,), (), (1,), (0,), (2, 3, 4, 5), (6, 3), (4,), (130,), (3, 0)]
CHANNELS_LAST, TRANSPOSED, NEVER, LATER = 5, 6, 7, 8  # places in SHAPES


def classes(method: str):
    """Ours and torch's."""
    return getattr(fs.torch.optim, method), getattr(torch.optim, method)


def _normal(shape, *key: int):
    generator = torch.Generator().manual_seed(sum(1009**i * k for i, k in enumerate(key)))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _as_laid_out(value, like):
    return torch.empty_like(like).copy_(value)


def parameters(dtype=torch.float32, *, grid=None, shapes=SHAPES, seed: int = 0) -> list:
    """Parameters of all shapes, rounded to the type ``grid``."""
    params = []
    for i, shape in enumerate(shapes):
        value = _normal(shape, seed, i).to(grid or dtype).to(dtype)
        if shapes is SHAPES and i == CHANNELS_LAST:
            value = value.to(memory_format=torch.channels_last)
        if shapes is SHAPES and i == TRANSPOSED:
            value = value.t().contiguous().t()
        params.append(torch.nn.Parameter(value))
    return params


def set_gradients(params, t: int, *, grid=None, every: bool = False) -> None:
    """The gradients of step ``t``: between 1/4 and about 3 in size, so that no square underflows in 16 bits.

    Of the parameters of all shapes one never has a gradient, one from step 2 on, one not at step 3, unless ``every``.
    """
    gaps = len(params) == len(SHAPES) and not every
    for i, p in enumerate(params):
        p.grad = None
        if gaps and (i == NEVER or (i == LATER and t < 2) or (i == 1 and t == 3)):
            continue
        value = _normal(p.shape, 1, i, t)
        value = (value + value.sign() / 4).to(grid or p.dtype)
        p.grad = _as_laid_out(value, p)


def train(optimizer, params, steps: int = 5, *, start: int = 0, after=None, **gradients) -> None:
    for t in range(start, start + steps):
        set_gradients(params, t, **gradients)
        optimizer.step()
        if after is not None:
            after()


def state_tensors(optimizer, key: str) -> list:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [optimizer.state[p][key] for p in params if key in optimizer.state.get(p, {})]


def state_keys(optimizer) -> set:
    return {key for state in optimizer.state.values() for key in state}


def assert_same_structure(mine, other) -> None:
    """Two optimizers' state dicts agree but for the last bits of the values.

    The strides of a state are torch's or those of its parameter (torch's stay as they were when either moves).
    """
    ours, theirs = mine.state_dict(), other.state_dict()
    params = [p for group in mine.param_groups for p in group["params"]]
    params = dict(zip((i for group in ours["param_groups"] for i in group["params"]), params, strict=True))
    assert list(ours) == list(theirs)
    assert ours["param_groups"] == theirs["param_groups"]
    assert [list(group) for group in ours["param_groups"]] == [list(group) for group in theirs["param_groups"]]
    assert list(ours["state"]) == list(theirs["state"]), (ours["state"].keys(), theirs["state"].keys())
    for i, state in theirs["state"].items():
        assert ours["state"][i].keys() == state.keys()
        for key, expected in state.items():
            given = ours["state"][i][key]
            if not isinstance(expected, torch.Tensor):
                assert given is expected is None, (i, key)
                continue
            assert type(given) is torch.Tensor and not given.requires_grad, (i, key)
            for attribute in ("dtype", "shape", "device"):
                assert getattr(given, attribute) == getattr(expected, attribute), (i, key, attribute)
            like = torch.empty_like(params[i], memory_format=torch.preserve_format) if i in params else expected
            strides = expected.stride(), like.stride()
            assert given.stride() in strides or given.numel() < 2, (i, key, given.stride(), strides)
            if key == "step":
                assert torch.equal(given, expected), i


def relative_difference(given, expected) -> float:
    """max |a - b| / max |b|, of tensors or lists of them (then the largest)."""
    if not isinstance(given, torch.Tensor):
        return max(relative_difference(a, b) for a, b in zip(given, expected, strict=True))
    given, expected = given.detach().double(), expected.detach().double()
    assert given.shape == expected.shape and bool(given.isfinite().all())
    if given.numel() == 0 or torch.equal(given, expected):
        return 0.0
    return float((given - expected).abs().max() / expected.abs().max())


def error(tensors, truth) -> float:
    """The norm of the difference of two lists of tensors."""
    parts = [(a.detach().double() - b.detach().double()).flatten() for a, b in zip(tensors, truth, strict=True)]
    norm = float(torch.cat(parts).norm())
    assert norm == norm, "NaN"
    return norm


def assert_equal_to(dtype, ours, our_params, theirs, their_params) -> None:
    """Weights and states, to the last places of float64 (of 32 and 16 bits the errors are to be compared)."""
    assert_same_structure(ours, theirs)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    difference = relative_difference(our_params, their_params)
    assert difference <= bound, difference
    for key in state_keys(theirs):
        given, expected = state_tensors(ours, key), state_tensors(theirs, key)
        if all(value is not None for value in expected):
            difference = relative_difference(given, expected)
            assert difference <= bound, (key, difference)


def assert_twin(method: str, arguments: dict, use, *, dtype=torch.float64, steps: int = 5) -> None:
    """``use(cls, params, arguments)`` makes and steps an optimizer; ours and torch's end with the same."""
    ends = []
    for cls in classes(method):
        params = parameters(dtype)
        ends += [use(cls, params, arguments), params]
    assert_equal_to(dtype, *ends)


def values(params) -> list:
    return [p.detach().clone() for p in params]


def same_bits(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def small_model(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    linear, norm = torch.nn.Linear, torch.nn.BatchNorm1d
    # No bias before the norm: its gradient is rounding alone, which Adam would blow up.
    model = torch.nn.Sequential(linear(6, 8, bias=False), norm(8), torch.nn.Tanh(), linear(8, 3)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def batch(t: int, dtype=torch.float64):
    x = torch.randn((32, 6), generator=torch.Generator().manual_seed(t), dtype=torch.float64).to(dtype)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def loss_of(model, t: int, dtype=torch.float64):
    x, y = batch(t, dtype)
    return torch.nn.functional.cross_entropy(model(x), y)


@contextlib.contextmanager
def one_of_two_processes(rank: int, folder: str):
    """A gloo group that meets by a file; what is put into the list is written for `both_ends`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ends: list = []
    yield ends
    torch.save(ends, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def both_ends(work, folder) -> tuple[list, list]:
    """What the two processes that run ``work(rank, folder)`` end with."""
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return first, second
