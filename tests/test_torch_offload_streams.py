"""OffloadedOptimizer on a GPU: who waits for whom, on streams that run as late, as early or as oddly as they may.

The streams are stand-ins that keep their work until something waits for it, so that every order that a GPU might take
can be had without one. Tensors of the CPU take the way of CUDA's.
"""

from __future__ import annotations

import contextlib
import random

import pytest

import fusedstep as fs
from small_offload import BFLOAT16, FLOAT

torch = pytest.importorskip("torch")

from fusedstep.torch.offload import link as link_module  # noqa: E402
from fusedstep.torch.offload import optimizer as optimizer_module  # noqa: E402


class Event:
    def __init__(self, stream):
        self.stream, self.position = stream, len(stream.work)

    def synchronize(self):
        self.stream.run(self.position)


class Stream:
    def __init__(self, gpu):
        self.gpu, self.work, self.done = gpu, [], 0
        gpu.streams.append(self)

    def add(self, work):
        self.work.append(work)
        self.gpu.happen()

    def run(self, until=None):
        until = len(self.work) if until is None else until
        while self.done < until:
            self.done += 1
            self.work[self.done - 1]()

    def record_event(self):
        return Event(self)

    def wait_event(self, event):
        self.add(event.synchronize)

    def wait_stream(self, other):
        self.wait_event(other.record_event())


class Gpu:
    """`schedule`: "late" runs nothing that nobody waits for, "early" all at once, a number some work at random."""

    def __init__(self, schedule):
        self.schedule, self.streams, self.recorded, self.copied = schedule, [], set(), []
        self.random = random.Random(schedule)
        self.compute = self.current = Stream(self)

    def happen(self):
        for stream in self.streams if self.schedule != "late" else ():
            if self.schedule == "early":
                stream.run()
            elif self.random.random() < 0.5:
                stream.run(self.random.randint(stream.done, len(stream.work)))

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def copy(self, target, source):
        torch.autograd.graph.increment_version(target)
        data, source = target.data, source.detach()
        self.copied.append((data, source))
        self.current.add(lambda: data.copy_(source))


@pytest.fixture(params=["late", "early", *range(8)])
def gpu(request, monkeypatch):
    gpu = Gpu(request.param)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(gpu))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: gpu.current)
    monkeypatch.setattr(torch.cuda, "stream", gpu.stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, stream: gpu.recorded.add((t.data_ptr(), stream)))
    monkeypatch.setattr(link_module, "copy", gpu.copy)
    monkeypatch.setattr(optimizer_module, "link_of", link_module.CudaLink)
    return gpu


def run(gpu, dtype, *, early, steps=4, **options):
    """Parameters as the current stream saw them after each step; `gpu` None: by plain copies."""
    generator = torch.Generator().manual_seed(0)
    shapes = [3, 40, 7, (5, 5), 1]
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    optimizer = fs.torch.OffloadedOptimizer(params, lr=0.1, bucket_size=30, overlap_backward=early, **options)
    compute = (lambda work: work()) if gpu is None else gpu.compute.add
    seen = []
    for t in range(steps):
        for p in params:
            value = torch.randn(p.shape, generator=generator).to(dtype)
            p.grad = torch.full_like(p, torch.nan)
            p.grad = p.grad.t() if p.ndim == 2 else p.grad  # laid out otherwise than its parameter
            compute(lambda grad=p.grad.data, p=p.data, value=value: grad.copy_(value + p / 8))  # reads the parameter
            if early:
                p._post_accumulate_grad_hooks[next(iter(p._post_accumulate_grad_hooks))](p)
        if t == 2:
            params[2].grad = None
        optimizer.step()
        compute(lambda: seen.append([p.detach().clone() for p in params]))
        for p in params:
            grad, p.grad = p.grad, None
            if grad is not None:
                compute(lambda grad=grad.data: None)
    if gpu is not None:
        gpu.compute.run()
        used = {stream for _, stream in gpu.recorded}
        inboxes = {slot.inbox.data_ptr() for bucket in optimizer._buckets for slot in bucket.slots}
        # Between layouts torch would go by a buffer that it reads before the copy is over.
        assert all(t.stride() == s.stride() for t, s in gpu.copied if t.data_ptr() in inboxes)
        assert len(used) == 2 and {(p.data_ptr(), s) for p in params for s in used} & gpu.recorded
    return seen, optimizer


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_every_order_of_the_streams_gives_the_same_bits(gpu, monkeypatch, dtype, early, max_norm):
    actual, _ = run(gpu, dtype, early=early, max_norm=max_norm)
    monkeypatch.undo()
    expected, _ = run(None, dtype, early=early, max_norm=max_norm)
    for t, (ours, wanted) in enumerate(zip(actual, expected, strict=True)):
        for i, (a, b) in enumerate(zip(ours, wanted, strict=True)):
            assert torch.equal(a, b), (t, i)


@pytest.mark.parametrize("gpu", ["late"], indirect=True)
def test_updates_run_while_gradients_come(gpu, monkeypatch):
    """The first layer is updated when its own gradients are there, without a wait for the last one's."""
    pending = []
    real = optimizer_module.Bucket.send

    def send(bucket):
        down = bucket.link.down
        pending.append(len(down.work) - down.done)
        real(bucket)

    monkeypatch.setattr(optimizer_module.Bucket, "send", send)
    _, optimizer = run(gpu, BFLOAT16, early=False, steps=1)
    assert len(optimizer._buckets) == len(pending) > 2
    assert pending == sorted(pending, reverse=True) and pending[0] > pending[-1] == 0
    up = optimizer._buckets[0].link.up
    assert up.done == len(up.work)  # the read of the parameters on the current stream waited for it


def test_a_buffer_that_is_being_sent_is_not_written(gpu, monkeypatch):
    """Not even where steps are made on streams that do not wait for each other."""
    real = optimizer_module.Bucket.receive

    def receive(bucket):
        real(bucket)
        assert bucket.sent is None or bucket.sent.stream.done >= bucket.sent.position

    monkeypatch.setattr(optimizer_module.Bucket, "receive", receive)
    p = torch.nn.Parameter(torch.ones(5, dtype=BFLOAT16))
    optimizer = fs.torch.OffloadedOptimizer([p], fs.torch.optim.SGD, lr=0.5)
    for _ in range(3):
        gpu.current = Stream(gpu)
        p.grad = torch.ones_like(p)
        optimizer.step()
    for stream in gpu.streams:
        stream.run()
    assert p.tolist() == [-0.5] * 5
