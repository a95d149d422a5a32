"""Arrays of more than 2**31 values: indices need 64 bits there."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs

pytestmark = [pytest.mark.cuda, pytest.mark.slow]

N = 2**31 + 2048  # a channel's quarter is exact in float32


@pytest.fixture(autouse=True)
def memory(torch):
    """Skips where 24 GiB are not free; gives back what the tests took."""
    free, _ = torch.cuda.mem_get_info()
    if free < 24 * 2**30:
        pytest.skip(f"only {free / 2**30:.0f} GiB of the device's memory are free")
    yield
    torch.cuda.empty_cache()


def test_a_step(torch):
    """The same as of two halves."""
    p, g = torch.full((N,), 0.5, dtype=torch.float16, device="cuda"), torch.empty(N, dtype=torch.float16, device="cuda")
    g.normal_()
    parts = p.clone()
    fs.ops.sgd_step(p, g, lr=0.1)
    half = N // 2
    fs.ops.sgd_step([parts[:half], parts[half:]], [g[:half], g[half:]], lr=0.1)
    assert torch.equal(p, parts) and (p[-64:] != 0.5).any() and (p[2**31 - 32 : 2**31 + 32] != 0.5).any()


def test_the_norm(torch):
    x = torch.ones(N, dtype=torch.float16, device="cuda")
    out = torch.zeros((), dtype=torch.float64, device="cuda")
    fs.ops.global_norm(x, out=out)
    assert out.item() == np.sqrt(N)


def test_dropout(torch):
    """The mask, packed, is the CPU's; the values follow it."""
    packed = torch.zeros(N // 8, dtype=torch.uint8, device="cuda")
    fs.ops.dropout_mask(N, 0.5, seed=3, offset=4, packed=True, out=packed)
    assert np.array_equal(packed.cpu().numpy(), fs.ops.dropout_mask(N, 0.5, seed=3, offset=4, packed=True))
    x = torch.ones(N, dtype=torch.float16, device="cuda")
    fs.ops.dropout(x, 0.5, seed=3, offset=4, out=x)
    for start in (0, 2**31 - 64, N - 64):
        bits = np.unpackbits(packed[start // 8 : start // 8 + 8].cpu().numpy(), bitorder="little")
        assert (x[start : start + 64].cpu().numpy() == 2 * bits).all()
    assert x.count_nonzero().item() == sum(int(v).bit_count() * c for v, c in enumerate(_counts(torch, packed)))


def _counts(torch, array) -> list[int]:
    """How often each byte occurs."""
    return torch.bincount(array, minlength=256).tolist()


@pytest.mark.parametrize("axis", [1, -1])
def test_batch_norm(torch, axis):
    """-1 and 1 by turns: mean 0, variance 1."""
    shape = (8, 4, N // 32) if axis == 1 else (8, N // 32, 4)
    x = torch.ones(shape, dtype=torch.float16, device="cuda")
    (x[:, :, ::2] if axis == 1 else x[:, ::2]).neg_()
    y, saved = fs.ops.batch_norm(x, eps=0.0, channel_axis=axis)
    assert saved.mean.tolist() == [0] * 4 and saved.var.tolist() == [1] * 4
    assert torch.equal(y, x)
    dx, _, dbias = fs.ops.batch_norm_backward(torch.ones_like(x), x, saved)
    assert dx.count_nonzero().item() == 0
    assert dbias.tolist() == [N // 4] * 4
