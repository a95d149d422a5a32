"""What a step reads besides tensors is noticed when it changes, also where it is what it was some steps before."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import fusedstep as fs  # noqa: E402
from small_torch import classes  # noqa: E402

LR = 0.1


def assert_same_path(change, method="Adam", steps=12, **arguments):
    """Ours and torch's agree when `change(optimizer, p, i)` is called before each step."""
    found = []
    for cls in classes(method):
        generator = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.randn(37, generator=generator, dtype=torch.float64))
        optimizer = cls([p], lr=LR, **arguments)
        for i in range(steps):
            p.grad = torch.randn(37, generator=generator, dtype=torch.float64)
            change(optimizer, p, i)
            optimizer.step()
        found.append(p.detach())
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_a_subclass_that_computes_the_norm():
    class Scheduled(fs.torch.optim.SGD):
        max_norm = property(lambda self: self.limit, lambda self, value: setattr(self, "limit", value))

    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Scheduled([p], lr=1.0, max_norm=1.0)
    for limit in (1.0, 1.0, 2.0, 2.0):
        optimizer.limit = limit
        p.grad = torch.full((1,), 10.0, dtype=torch.float64)
        optimizer.step()
    assert p.item() == pytest.approx(-6, abs=1e-5)


def test_a_group_that_computes_the_rate():
    class Falling(dict):
        def __getitem__(self, key):
            return LR / (1 + rates["count"]) if key == "lr" else super().__getitem__(key)

    def change(optimizer, p, i):
        rates["count"] = i
        if i == 0:
            optimizer.param_groups[0] = Falling(optimizer.param_groups[0])

    rates = {"count": 0}
    assert_same_path(change)
