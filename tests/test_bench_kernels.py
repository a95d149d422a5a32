"""The table `kernels` of ``fusedstep bench``: its works, their checks, and the settings they are timed in."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import fusedstep
from fusedstep import backend
from fusedstep._bench import batch_norm, kernels, steps, trial
from fusedstep._bench.table import CEILING
from fusedstep._bench.timing import in_turn

pytestmark = pytest.mark.skipif(fusedstep.info()["backend"] == "reference", reason="the compiled kernels are timed")
WORKS = {work.name: work for work in kernels.works()}
USUAL = {work.about["kernel"]: work for work in WORKS.values() if work.about.get("size") == 1000}
# Bytes that a value costs.
BYTES = {
    "sgd": 12,
    "sgd-momentum": 20,
    "sgd-nesterov": 20,
    "adagrad": 20,
    "rmsprop": 20,
    "rmsprop-centered": 36,
    "adam": 28,
    "adamw": 28,
    "amsgrad": 36,
    "adadelta": 28,
    "adamax": 28,
    "nadam": 28,
    "radam": 28,
    "lion": 20,
    "lars": 20 + 12,
    "lamb": 28 + 16,
    "norm": 4,
    "dropout": 8,
    "dropout-backward": 8,
    **{
        f"batch-norm-{layout}{relu}{backward}": 20 if backward else 12
        for layout in ("first", "last")
        for relu in ("", "-relu")
        for backward in ("", "-backward")
    },
}

OURS_ALONE = {"lion", "lars", "lamb"}


def test_the_works():
    assert USUAL.keys() == BYTES.keys() and len(WORKS) == len(kernels.works())
    for kernel in BYTES:
        sizes = {w.about["size"] for w in WORKS.values() if w.about.get("kernel") == kernel}
        assert sizes - {30_000_000} == {10**k for k in range(3, 9)}
    assert {name: work.targets for name, work in WORKS.items() if work.targets} == {
        "adamw-large": {"share": 0.95},
        "sgd-momentum-30000000": {"share": 0.95},
        "rmsprop-30000000": {"share": 0.95},
        "adagrad-30000000": {"share": 0.95},
        "dropout-30000000": {"share": 0.8},
        "dropout-backward-30000000": {"share": 0.8},
        "batch-norm-256x64x56x28": {"JAX": 6.0},
        "batch-norm-4096x1024": {"JAX": 5.0},
    }
    assert "adam-small" in WORKS


@pytest.mark.parametrize("kernel", BYTES)
def test_a_kernel(kernel):
    """Its sides agree, run, and count their bytes; torch is among them."""
    pytest.importorskip("torch")
    sides = USUAL[kernel].make(True)
    sides.check()
    for function in sides.functions().values():
        function()
    assert sides.bytes_moved == 1000 * BYTES[kernel] and CEILING in sides.functions()
    assert len(sides.peers) == (kernel not in OURS_ALONE) and not sides.missing
    allocates = kernel.startswith(("dropout", "batch-norm"))  # torch's; ours write to memory that is there
    assert (list(sides.peers) == ["torch allocates"]) == allocates


@pytest.mark.parametrize("kernel", sorted(BYTES.keys() - OURS_ALONE))
def test_a_kernel_without_torch(kernel, monkeypatch):
    """The reference checks it, and the peer is told to be missing."""
    monkeypatch.setitem(sys.modules, "torch", None)
    sides = USUAL[kernel].make(True)
    sides.check()
    sides.ours()
    (reason,) = sides.missing.values()
    assert not sides.peers and reason == "torch is missing: pip install 'fusedstep[bench]'"


RULES = [rule for _, rule, _ in kernels._RULES.values() if rule.peer]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.peer} {rule.options}")
def test_the_function_of_torch_takes_the_step_of_its_optimizer(rule):
    torch = pytest.importorskip("torch")
    pairs = []
    for _ in range(2):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 5))
        p.grad = torch.linspace(3, -2, 5)
        pairs.append((p, steps.peer_of(trial.CPU, rule, [p], graph=False)[1]))
        pairs[-1][1].step()
    (p, optimizer), (q, other) = pairs
    step = steps.functional_step(optimizer)
    assert torch.equal(p, q), "it is only asked for"
    for _ in range(3):
        step()
        other.step()
    assert torch.equal(p, q)
    for name in rule.states.values():
        assert torch.equal(optimizer.state[p][name], other.state[q][name])


def test_a_kernel_that_computes_something_else_is_found(monkeypatch):
    right = fusedstep.ops.adam_step
    monkeypatch.setattr(fusedstep.ops, "adam_step", lambda *a, **o: right(*a, **o | {"eps": 1e-3}))
    with pytest.raises(AssertionError, match="adam_step: result 0 has other bits"):
        USUAL["adam"].make(True).check()


@pytest.mark.parametrize("work", [USUAL["batch-norm-first"], WORKS["batch-norm-4096x1024"]], ids=lambda work: work.name)
def test_running_statistics_that_differ_are_found(work, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "jax", None)
    right = fusedstep.ops.batch_norm
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="result 1 has other bits"):
        patch.setattr(fusedstep.ops, "batch_norm", lambda *a, **o: right(*a, **o, momentum=0.11))
        work.make(True).check()
    peer = batch_norm._Torch
    monkeypatch.setattr(peer, "begin", lambda self: setattr(self, "running", [self.torch.ones(self.dy.shape[1])] * 2))
    with pytest.raises(AssertionError, match="running mean differs"):
        work.make(True).check()


def test_thousands_of_steps_leave_numbers():
    """Centered RMSprop, whose average of squares would fall below 0 if the gradient stayed."""
    pytest.importorskip("torch")
    sides = USUAL["rmsprop-centered"].make(True)
    seconds = in_turn(sides.functions(), repeats=20, calls=200, before=sides.before)
    assert len(seconds["fusedstep"]) == 20
    assert all(np.isfinite(a).all() for a in trial._memory(1000))


def test_a_setting_is_put_back():
    module = backend.native()
    before = module.get_num_threads(), module.get_isa()
    slowest = module.available_isas()[0]
    with pytest.raises(ZeroDivisionError), trial.using(1, slowest):
        assert (module.get_num_threads(), module.get_isa()) == (1, slowest)
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="nonsense"), trial.using(1, "nonsense"):
        pass
    assert (module.get_num_threads(), module.get_isa()) == before


def test_other_settings():
    """Each kernel, small: the same bits as in the usual setting."""
    works = [work for work in WORKS.values() if "setting" in work.about and work.about["size"] == 10_000]
    module = backend.native()
    others = len(module.available_isas()) - 1 + (module.get_num_threads() > 1)
    assert len(works) == others * len(BYTES)
    for work in works:
        with work.setting():
            sides = work.make(True)
            sides.check()
            sides.ours()
        assert not sides.peers


def test_other_bits_in_a_setting_are_found():
    made = trial.Trial(USUAL["norm"].make(True), lambda: [np.random.default_rng().normal(size=3)])
    module = backend.native()
    with pytest.raises(AssertionError, match="norm in another setting: result 0 has other bits"):
        trial.beside_the_usual("norm", made, (module.get_num_threads(), module.get_isa())).check()
