"""fs.torch.nn's dropout: what torch's does, with masks that depend on torch's CPU generator alone."""

from __future__ import annotations

import copy
import pickle

import pytest

import fusedstep as fs
from fusedstep import backend

torch = pytest.importorskip("torch")
if backend.native() is None:
    pytest.skip("the reference takes NumPy arrays alone", allow_module_level=True)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def seeded(p=0.5, seed=0, **arguments):
    """A function whose mask is the same at each call."""
    drop = fs.torch.nn.Dropout(p, **arguments)

    def apply(x):
        torch.manual_seed(seed)
        return drop(x)

    return apply


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.1, 0.5, 1.0, 1e-9])
def test_values(p, dtype):
    x = torch.randn(64, 33).to(dtype).requires_grad_()
    y = seeded(p)(x)
    kept = y != 0
    scale = 1 / (1 - round(p * 65536) / 65536) if p < 1 else 0
    assert y.dtype == dtype and abs(kept.double().mean() - (1 - p)) < 0.05
    assert torch.equal(y.detach(), torch.where(kept, (x * scale).detach(), 0))
    dy = torch.randn(64, 33).to(dtype)
    y.backward(dy)
    assert torch.equal(x.grad, torch.where(kept, dy * scale, 0))


def test_generator():
    drop, x = fs.torch.nn.Dropout(), torch.ones(100)
    torch.manual_seed(3)
    first, second = drop(x), drop(x)
    torch.manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        again = drop(x)
    assert torch.equal(first, again) and torch.equal(first, drop(x))  # fork_rng gave the generator back
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    with torch.device("meta"):  # a default device has no say in it
        third = drop(x)
    torch.set_rng_state(state)
    assert torch.equal(third, drop(x))


def test_mask_does_not_depend_on_the_layout():
    x = torch.randn(4, 3, 5, 2)
    y = seeded()(x)
    for other in (x.contiguous(memory_format=torch.channels_last), torch.stack([x, x], dim=-1)[..., 0]):
        assert torch.equal(seeded()(other), y)
    assert seeded()(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seeded()(x[:1].expand(4, 3, 5, 2)) != 0, y != 0)
    assert seeded()(torch.tensor(1.0)).shape == ()


def test_gradients_of_any_strides():
    x = torch.randn(6, 4, requires_grad=True)
    mask = seeded()(torch.ones(6, 4))
    for dy in (torch.randn(4, 6).t(), torch.randn(6, 8)[:, ::2], torch.ones(()).expand(6, 4), torch.randn(6, 4)):
        (dx,) = torch.autograd.grad(seeded()(x), x, dy)
        assert torch.equal(dx, mask * dy)


def test_derivatives():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(seeded(), x)
    torch.autograd.gradgradcheck(seeded(), x)
    torch.autograd.gradcheck(lambda x: seeded(inplace=True)(x * 1), x)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own
def test_transforms_are_refused():
    drop, x = fs.torch.nn.Dropout(), torch.ones(3, 4)
    for randomness in ("error", "same", "different"):
        with pytest.raises(RuntimeError, match=r"vmap|setup_context"):
            torch.func.vmap(drop, randomness=randomness)(x)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: drop(x).sum())(x)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"\[Dropout\] has no forward-mode"):
        drop(torch.autograd.forward_ad.make_dual(x, x))


def test_a_no_op_draws_nothing():
    state = torch.get_rng_state()
    x = torch.ones(4, requires_grad=True)
    integers = torch.ones(4, dtype=torch.int32)
    assert fs.torch.nn.Dropout(0.0)(x) is x and fs.torch.nn.Dropout().eval()(x) is x
    assert fs.torch.nn.Dropout().eval()(integers) is integers
    assert fs.torch.nn.Dropout()(torch.ones(0, 3)).shape == (0, 3)
    assert fs.torch.nn.Dropout()(torch.ones(3, device="meta")).is_meta
    assert torch.equal(torch.get_rng_state(), state)


def test_all_dropped():
    x = torch.full((5,), float("nan"), requires_grad=True)
    y = fs.torch.nn.Dropout(1.0)(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(5)) and torch.equal(x.grad, torch.zeros(5))


@pytest.mark.parametrize("shape", [(7,), (4, 3, 5, 2)])
def test_inplace(shape):
    leaf = torch.randn(shape, requires_grad=True)
    expected = seeded()(leaf)
    (gradient,) = torch.autograd.grad(expected.square().sum(), leaf)
    x = leaf * 1
    version = x._version
    y = seeded(inplace=True)(x)
    assert y is x and x._version > version and torch.equal(y, expected)
    assert torch.equal(torch.autograd.grad(y.square().sum(), leaf)[0], gradient)
    plain = leaf.detach().clone()
    assert seeded(inplace=True)(plain) is plain and torch.equal(plain, expected)


def test_inplace_of_a_view():
    leaf = torch.randn(4, 6, requires_grad=True)
    mask = seeded()(torch.ones(4, 3))
    x = leaf * 1
    part = x[:, ::2]
    assert seeded(inplace=True)(part) is part
    assert torch.equal(x[:, ::2], leaf[:, ::2] * mask) and torch.equal(x[:, 1::2], leaf[:, 1::2])
    x.sum().backward()
    assert torch.equal(leaf.grad[:, ::2], mask) and bool((leaf.grad[:, 1::2] == 1).all())


def test_inplace_refusals_change_nothing():
    drop = fs.torch.nn.Dropout(inplace=True)
    leaf = torch.ones(4, requires_grad=True)
    wrong = [
        (leaf, "a leaf Variable that requires grad"),
        (leaf[:2], "a view of a leaf Variable that requires grad"),
        ((leaf * 1).unbind()[0], "output of a function that returns multiple views"),
        (torch.ones(1).expand(4), "more than one element of the written-to tensor"),
    ]
    for x, message in wrong:
        with pytest.raises(RuntimeError, match=message):
            drop(x)
        assert bool((x == 1).all()) and bool((leaf == 1).all())
    with torch.no_grad():
        assert drop(leaf) is leaf
    squared = leaf.exp()
    drop(squared)  # exp saved its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant):
    from torch.utils.checkpoint import checkpoint

    drop = fs.torch.nn.Dropout()
    x = torch.randn(100, requires_grad=True)
    y = checkpoint(lambda x: drop(x.exp()), x, use_reentrant=reentrant)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_inference_mode():
    with torch.inference_mode():
        x = torch.ones(50)
        assert torch.equal(seeded()(x), seeded(inplace=True)(x.clone()))


def test_a_large_result_is_a_tensor_of_its_own():
    x = torch.ones(2**23 + 5, requires_grad=True)
    y = seeded(0.25)(x)
    assert not y._is_view() and y.data_ptr() % 64 == 0
    y.mul_(2).sum().backward()
    assert torch.equal(x.grad, y) and abs(y.mean() - 2) < 0.01
    assert torch.equal(pickle.loads(pickle.dumps(y.detach())), y)


def test_bad_input():
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            fs.torch.nn.Dropout(p)
    drop = fs.torch.nn.Dropout()
    for x in (torch.ones(3).int(), torch.ones(3).cfloat(), torch.ones(3).to_sparse()):
        with pytest.raises((TypeError, BufferError), match=r"'x'|strided"):
            drop(x)
    drop.p = 2.0
    with pytest.raises(ValueError, match=r"\[Dropout\] 'p' must be in \[0, 1\]"):
        drop(torch.ones(3))


def test_is_torchs_module():
    drop = fs.torch.nn.Dropout(0.25, True)
    assert isinstance(drop, torch.nn.Dropout) and repr(drop) == repr(torch.nn.Dropout(0.25, True))
    for twin in (copy.deepcopy(drop), pickle.loads(pickle.dumps(drop))):
        assert type(twin) is fs.torch.nn.Dropout and (twin.p, twin.inplace) == (0.25, True)
