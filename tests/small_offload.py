"""Offloaded optimizers beside plain ones, and a model, for the tests of ``fusedstep.torch.OffloadedOptimizer``."""

from __future__ import annotations

import pytest

import fusedstep as fs
from small_torch import STATEFUL, classes, parameters, set_gradients

torch = pytest.importorskip("torch")

BFLOAT16, HALF, FLOAT, DOUBLE = torch.bfloat16, torch.float16, torch.float32, torch.float64
METHODS = [
    *STATEFUL,
    ("SGD", {"lr": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adagrad", {"initial_accumulator_value": 0.5, "lr_decay": 0.1}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adam", {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    ("AdamW", {"ema_decay": 0.9, "betas": (0.8, 0.9)}),
    ("AdamW", {"max_norm": 0.5, "foreach": True}),
]


class Pair:
    """Offloaded parameters, and beside them wide ones that our optimizer steps with the same gradients."""

    def __init__(self, method="AdamW", dtype=BFLOAT16, *, master=FLOAT, groups=lambda p: p, offload=(), **options):
        ours = classes(method)[0]
        self.params = parameters(dtype)
        self.wide = [torch.nn.Parameter(p.detach().to(master, copy=True)) for p in self.params]
        self.options = {"lr": 0.05, **options}
        self.offload = {"bucket_size": 64, "master_dtype": master, **dict(offload)}
        self.optimizer = fs.torch.OffloadedOptimizer(groups(self.params), ours, **self.offload, **self.options)
        self.expected = ours(groups(self.wide), **self.options)

    def copy_gradients(self):
        for p, q in zip(self.params, self.wide, strict=True):
            q.grad = None if p.grad is None else p.grad.to(q.dtype)

    def run(self, steps=range(1, 5), each=lambda t: None):
        for t in steps:
            set_gradients(self.params, t)
            self.copy_gradients()
            each(t)
            self.optimizer.step()
            self.expected.step()
        self.check()
        return self

    def check(self):
        for i, (p, q) in enumerate(zip(self.params, self.wide, strict=True)):
            state, expected = self.optimizer.state[p], self.expected.state[q]
            assert torch.equal(state["master"], q.detach()), f"master {i}"
            assert torch.equal(p.detach(), q.detach().to(p.dtype)), f"parameter {i}"
            assert state.keys() - {"master"} == expected.keys(), i
            for name, value in expected.items():
                assert state[name].dtype == value.dtype and torch.equal(state[name], value), (i, name)


def model(dtype=BFLOAT16):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)]
    return torch.nn.Sequential(*layers).to(dtype)


def backward(net, seed=0, scale=1.0):
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)).to(next(net.parameters()).dtype)
    (net(x).float().square().mean() * scale).backward()
