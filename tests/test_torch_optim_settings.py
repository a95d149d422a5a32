"""What a step reads besides tensors is noticed when it changes, also where it is what it was some steps before."""

from __future__ import annotations

import gc
import weakref

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


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": 1, "maximize": "no"}),
        ("Adagrad", {"maximize": "no"}),
        ("RMSprop", {"centered": 1, "maximize": None}),
        ("Adam", {"amsgrad": "no", "maximize": 1}),
        ("AdamW", {"amsgrad": [], "maximize": 1}),
    ],
)
def test_flags_are_what_they_are_true_or_false_for_as_in_torch(method, flags):
    assert_same_path(lambda *_: None, method, **flags)


def test_a_tensor_for_a_rate_and_then_the_old_number():
    def change(optimizer, p, i):
        if i == 5:
            optimizer.param_groups[0]["lr"] = torch.tensor(0.5, dtype=torch.float64)
        if i == 8:
            optimizer.param_groups[0]["lr"] = LR

    assert_same_path(change)


def test_a_tensor_that_equals_the_number_before_it():
    def change(optimizer, p, i):
        if i == 5:
            optimizer.param_groups[0]["lr"] = torch.tensor(LR, dtype=torch.float64)
        if i == 8:
            optimizer.param_groups[0]["lr"].fill_(0.5)

    assert_same_path(change)


def test_scaled_steps_of_another_rate_between():
    def change(optimizer, p, i):
        optimizer.param_groups[0]["lr"] = 0.5 if 4 <= i < 7 else LR
        if isinstance(optimizer, fs.torch.optim.Adam):
            optimizer.grad_scale = torch.tensor(2.0) if 4 <= i < 7 else None
            p.grad *= 2 if 4 <= i < 7 else 1

    assert_same_path(change)


def test_averages_begin_and_pause():
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = fs.torch.optim.SGD([p], lr=1.0)

    def steps(n, decay):
        optimizer.ema_decay = decay
        for _ in range(n):
            p.grad = torch.ones(3)
            optimizer.step()

    steps(3, None)
    steps(2, 0.5)  # from -3, by -4 and -5
    average = torch.full((3,), -4.25)
    assert torch.equal(optimizer.averages()[0], average)
    steps(3, None)
    assert torch.equal(optimizer.state[p]["ema"], average)
    steps(1, 0.5)
    assert torch.equal(optimizer.averages()[0], (average - 9) / 2)


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


def test_an_optimizer_that_its_parameter_knows_is_collected():
    p = torch.nn.Parameter(torch.zeros(3))
    p.optimizer = optimizer = fs.torch.optim.Adam([p])
    for _ in range(3):
        p.grad = torch.ones(3)
        optimizer.step()
    alive = weakref.ref(optimizer)
    del p, optimizer
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("count", [float("nan"), -1.0, 0.5])
def test_a_counter_that_is_no_count(count):
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = fs.torch.optim.Adam([p])
    p.grad = torch.ones(3)
    for _ in range(3):
        optimizer.step()
    before = p.detach().clone()
    optimizer.state[p]["step"].fill_(count)
    with pytest.raises(ValueError, match=r"\[Adam\] 'step' of a parameter's state must be a count"):
        optimizer.step()
    assert torch.equal(p, before)
