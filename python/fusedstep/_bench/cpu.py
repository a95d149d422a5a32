"""The works of ``--device cpu``: Adam on a small model beside torch's, AdamW on many values beside its traffic."""

from __future__ import annotations

import numpy as np

from .. import nn, optim
from .._arena import aligned_zeros
from .._extras import require
from .loops import compiled_loops
from .table import Sides, Work


def works() -> list[Work]:
    """All of them."""
    return [
        Work("adam-small", "Adam.step, 6 arrays, 26,122 float32", _small_model, "host, 200 calls"),
        Work("adamw-large", "AdamW.step, 30,000,000 float32", _large_step, "host"),
    ]


def _small_model(small: bool) -> Sides:
    """Dense 64-128-128-10; as small as it is."""
    torch = require("torch", extra="torch")
    model = nn.Sequential(nn.Dense(64, 128), nn.Dense(128, 128), nn.Dense(128, 10))
    rng = np.random.default_rng(0)
    theirs = []
    for p in model.parameters():
        p.grad[...] = rng.normal(size=p.grad.shape)
        theirs.append(torch.nn.Parameter(torch.from_numpy(p.array.copy())))
        theirs[-1].grad = torch.from_numpy(p.grad.copy())
    optimizer, peer = optim.Adam(model.parameters()), torch.optim.Adam(theirs, fused=True)

    def check():
        for _ in range(10):
            optimizer.step()
            peer.step()
        for p, t in zip(model.parameters(), theirs, strict=True):
            np.testing.assert_allclose(p.array, t.detach().numpy(), rtol=1e-4, atol=1e-6)

    return Sides(optimizer.step, {"torch fused": peer.step}, check)


def _large_step(small: bool) -> Sides:
    """Beside a loop that reads and writes the same arrays and does next to nothing with them."""
    n = 100_000 if small else 30_000_000
    loops = compiled_loops()
    arrays = [aligned_zeros(n, np.float32) for _ in range(2)]
    arrays[1][:] = np.random.default_rng(0).normal(size=n)
    optimizer = optim.AdamW([nn.Parameter(*arrays, "p")], lr=1e-3)
    state = optimizer.state_arrays("p").values()
    pointers = [a.ctypes.data for a in (*arrays, *state)]

    def loop():
        loops.update3(*pointers, n)

    return Sides(optimizer.step, {}, lambda: None, bytes_moved=7 * 4 * n, ceiling=("loop of the same traffic", loop))
