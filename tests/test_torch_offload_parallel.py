"""OffloadedOptimizer under ``torch.compile``, and in two processes that exchange gradients by gloo."""

from __future__ import annotations

import pytest

import fusedstep as fs
from small_torch import both_ends, loss_of, one_of_two_processes, same_bits, small_model, values

torch = pytest.importorskip("torch")

STEPS = 6


def fit(model, optimizer, first=0, stride=1) -> list:
    for t in range(first, first + stride * STEPS, stride):
        optimizer.zero_grad()
        loss_of(model, t, torch.float32).backward()
        optimizer.step()
    return values(model.parameters())


def work(rank: int, folder: str) -> None:
    """One of the two processes: what it ends with, offloaded and not."""
    from torch.nn.parallel import DistributedDataParallel

    with one_of_two_processes(rank, folder) as ends:
        for offloaded in (True, False):
            model = DistributedDataParallel(small_model(torch.float32))
            cls = fs.torch.OffloadedOptimizer if offloaded else fs.torch.optim.AdamW
            optimizer = cls(model.parameters(), lr=0.05, max_norm=1.0)
            ends.append(fit(model, optimizer, rank, 2))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes(tmp_path):
    first, second = both_ends(work, tmp_path)
    assert same_bits(first[0], first[1]) and same_bits(first[0], second[0])
    alone = small_model(torch.float32)
    assert not same_bits(first[0], fit(alone, fs.torch.OffloadedOptimizer(alone.parameters(), lr=0.05)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("early", [False, True])
def test_a_compiled_model_and_step(early):
    torch._dynamo.reset()
    ends = []
    for compiled in (False, True):
        model = small_model(torch.float32)
        optimizer = fs.torch.OffloadedOptimizer(model.parameters(), lr=0.05, overlap_backward=early)
        if compiled:
            optimizer.step = torch.compile(optimizer.step, backend="eager")
        ends.append(fit(torch.compile(model, backend="eager") if compiled else model, optimizer))
    assert same_bits(*ends)
    torch._dynamo.reset()
