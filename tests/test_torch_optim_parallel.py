"""``fusedstep.torch.optim`` under ``torch.compile``, and in two processes that exchange gradients by gloo."""

from __future__ import annotations

import itertools
import shutil

import pytest

torch = pytest.importorskip("torch")

from small_torch import (  # noqa: E402
    METHODS,
    both_ends,
    classes,
    loss_of,
    one_of_two_processes,
    relative_difference,
    same_bits,
    small_model,
    values,
)

BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
STEPS = 8


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def fit(model, optimizer) -> None:
    for t in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        optimizer.step()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["SGD", "AdamW"])
def test_a_compiled_model(dynamo, method, backend):
    """Compiled before or after the optimizer is made, it ends where the uncompiled one does."""
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("no compiler")
    cls, _ = classes(method)
    plain = small_model()
    fit(plain, cls(plain.parameters(), lr=0.05))
    assert loss_of(plain, 0) < loss_of(small_model(), 0)
    for first in ("optimizer", "model"):
        model = small_model()
        compiled = torch.compile(model, backend=backend) if first == "model" else None
        optimizer = cls((compiled or model).parameters(), lr=0.05)
        compiled = compiled or torch.compile(model, backend=backend)
        fit(compiled, optimizer)
        assert relative_difference(list(model.parameters()), list(plain.parameters())) <= 1e-12


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("method", METHODS)
def test_a_step_inside_a_compiled_function(dynamo, method):
    """The graph breaks at the step, and the results are those without a compiler, schedule and closure included."""
    cls, _ = classes(method)
    ends = []
    for compile_ in (lambda f: f, torch.compile(backend="eager")):
        model = small_model()
        optimizer = cls(model.parameters(), lr=0.05, max_norm=1.0)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

        @compile_
        def step(t, model=model, optimizer=optimizer):
            loss = loss_of(model, t)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss * 2

        losses = []
        for t in range(STEPS):
            losses.append(step(t).item())
            scheduler.step()
        ends.append((losses, values(model.parameters())))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-12)
    assert relative_difference(ends[0][1], ends[1][1]) <= 1e-12


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_compiled_step(dynamo):
    cls, _ = classes("Adam")
    ends = []
    for compiled in (False, True):
        model = small_model()
        optimizer = cls(model.parameters(), lr=0.05)
        if compiled:
            optimizer.step = torch.compile(optimizer.step, backend="eager")
        fit(model, optimizer)
        ends.append(values(model.parameters()))
    assert same_bits(*ends)


def work(rank: int, folder: str) -> None:
    """One of the two processes: trains with every optimizer, ours and torch's, and writes what it ends with."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    with one_of_two_processes(rank, folder) as ends:
        results = {}
        for method, (which, cls) in itertools.product(METHODS, enumerate(("ours", "torch"))):
            for kind in ("plain", "zero"):
                model = DistributedDataParallel(small_model())
                if kind == "plain":
                    optimizer = classes(method)[which](model.parameters(), lr=0.05)
                else:
                    optimizer = ZeroRedundancyOptimizer(model.parameters(), classes(method)[which], lr=0.05)
                for t in range(STEPS):
                    optimizer.zero_grad()
                    loss_of(model, 2 * t + rank).backward()
                    optimizer.step()
                results[method, kind, cls] = values(model.parameters())
        ends.append(results)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes(tmp_path):
    """Distributed data parallel, and with the states shared out: the same bits on both, and what torch's would give."""
    (first,), (second,) = both_ends(work, tmp_path)
    alone = {}
    for method in METHODS:
        model = small_model()
        fit(model, classes(method)[0](model.parameters(), lr=0.05))
        alone[method] = values(model.parameters())
    for (method, kind, cls), weights in first.items():
        assert same_bits(weights, second[method, kind, cls]), (method, kind, cls)
        assert relative_difference(weights, first[method, "plain", "torch"]) <= 1e-12, (method, kind, cls)
        assert relative_difference(weights, alone[method]) > 1e-3  # of other batches
