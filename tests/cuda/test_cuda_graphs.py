"""Whole steps captured in CUDA graphs, and what may not be frozen in one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fusedstep as fs
from bits import assert_same_bits

pytestmark = pytest.mark.cuda

REPLAYS = 10
SIZES = (5, 1025, 70_000)


def scalar(torch, value, dtype):
    return torch.full((), value, dtype=dtype, device="cuda")


class Step:
    """AdamW with clipping and skipping; counter, learning rate and all it needs on the device."""

    def __init__(self, torch):
        generator = torch.Generator("cuda").manual_seed(0)

        def normal(n):
            return torch.randn(n, device="cuda", generator=generator)

        self.params, self.grads = ([normal(n) for n in SIZES] for _ in range(2))
        self.states = [[torch.zeros_like(p) for p in self.params] for _ in range(2)]
        self.step, self.skipped = (scalar(torch, 0, torch.int64) for _ in range(2))
        self.skip, self.nonfinite = (scalar(torch, 0, torch.int32) for _ in range(2))
        self.multiplier, self.norm = (scalar(torch, 0, torch.float64) for _ in range(2))
        self.lr = scalar(torch, 0.01, torch.float32)

    def set_gradients(self, torch, turn: int) -> None:
        generator = torch.Generator("cuda").manual_seed(turn + 1)
        for g in self.grads:
            g.normal_(generator=generator)
        if turn == 4:
            self.grads[1][7] = np.nan
        self.lr.fill_(0.01 / (turn + 1))

    def run(self) -> None:
        fs.ops.global_norm(self.grads, out=self.norm, nonfinite=self.nonfinite)
        fs.ops.prepare_step(
            self.step,
            self.multiplier,
            self.skip,
            norm=self.norm,
            nonfinite=self.nonfinite,
            max_norm=1.0,
            skipped=self.skipped,
        )
        fs.ops.adam_step(
            self.params,
            self.grads,
            *self.states,
            lr=self.lr,
            step=self.step,
            weight_decay=0.1,
            decoupled_weight_decay=True,
            grad_multiplier=self.multiplier,
            skip=self.skip,
        )

    def values(self) -> list[np.ndarray]:
        return [a.cpu().numpy() for a in (*self.params, *self.states[0], *self.states[1], self.step, self.skipped)]


def capture(torch, function):
    """A graph of what `function` launches; a call before it has loaded the kernels."""
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an empty graph where the function raises
        with torch.cuda.graph(graph):
            function()
    return graph


def test_replays_equal_eager_steps(torch):
    Step(torch).run()
    eager, replayed = Step(torch), Step(torch)
    graph = capture(torch, replayed.run)
    for turn in range(REPLAYS):
        for each, run in ((eager, eager.run), (replayed, graph.replay)):
            each.set_gradients(torch, turn)
            run()
    for actual, expected in zip(replayed.values(), eager.values(), strict=True):
        assert actual.dtype.kind == "f" or actual == expected
        if actual.dtype.kind == "f":
            assert_same_bits("adam_step", actual, expected)
    assert (replayed.step.item(), replayed.skipped.item()) == (REPLAYS - 1, 1)


def test_a_long_list_in_a_graph(torch):
    """A table of 1,200 arrays must outlive the capture."""
    params, grads, m, v = ([torch.rand(i % 97 + 1, device="cuda") for i in range(1200)] for _ in range(4))
    copies = [[a.clone() for a in column] for column in (params, m, v)]
    step = scalar(torch, 0, torch.int64)
    multiplier = scalar(torch, 1, torch.float64)

    def run():
        fs.ops.prepare_step(step, multiplier)
        fs.ops.adam_step(params, grads, m, v, lr=0.1, step=step, grad_multiplier=multiplier)

    fs.ops.adam_step(*([a.clone() for a in column] for column in (params, grads, m, v)), lr=0.1, step=1)
    graph = capture(torch, run)
    for t in range(1, 4):
        graph.replay()
        fs.ops.adam_step(copies[0], grads, copies[1], copies[2], lr=0.1, step=t)
    for column, expected in zip((params, m, v), copies, strict=True):
        assert all(torch.equal(a, e) for a, e in zip(column, expected, strict=True))


def test_a_step_given_as_a_number_is_refused(torch):
    arrays = [torch.ones(5, device="cuda") for _ in range(4)]
    with pytest.raises(RuntimeError, match="step"):
        capture(torch, lambda: fs.ops.adam_step(*arrays, lr=0.1, step=1))
    assert all(torch.equal(a, torch.ones_like(a)) for a in arrays)


def test_a_step_that_does_not_matter_is_taken(torch):
    """Without bias correction the result is the same for every step."""
    arrays = [torch.ones(5, device="cuda") for _ in range(4)]
    copies = [a.clone() for a in arrays]
    fs.ops.adam_step(*copies, lr=0.1, step=1, bias_correction=False)
    capture(torch, lambda: fs.ops.adam_step(*arrays, lr=0.1, step=1, bias_correction=False)).replay()
    assert all(torch.equal(a, e) for a, e in zip(arrays, copies, strict=True))


def test_a_mask_is_never_frozen(torch):
    x, y = torch.ones(1000, device="cuda"), torch.zeros(1000, device="cuda")
    fs.ops.dropout(x, 0.5, seed=1, out=y)
    weight = torch.ones(10, device="cuda")
    rows = torch.rand(100, 10, device="cuda")
    for captured in (
        lambda: fs.ops.dropout(x, 0.5, seed=1, offset=2, out=y),
        lambda: fs.ops.dropout_backward(x, 0.5, seed=1, offset=2, out=y),
        lambda: fs.ops.batch_norm(rows, weight, dropout=(0.5, 1, 2)),
    ):
        with pytest.raises(RuntimeError, match="offset"):
            capture(torch, captured)


def test_masks_of_a_device_offset_are_fresh(torch):
    x, y, dx = (torch.ones(1000, device="cuda") for _ in range(3))
    offset = scalar(torch, 7, torch.int64)
    fs.ops.dropout(x, 0.5, seed=1, offset=offset, out=y)
    fs.ops.dropout_backward(x, 0.5, seed=1, offset=offset, out=dx)

    def run():
        fs.ops.dropout(x, 0.5, seed=1, offset=offset, out=y)
        fs.ops.dropout_backward(x, 0.5, seed=1, offset=offset, out=dx)
        offset.add_(1)

    graph = capture(torch, run)
    masks = set()
    for turn in range(REPLAYS):
        graph.replay()
        expected = fs.ops.dropout(np.ones(1000, np.float32), 0.5, seed=1, offset=7 + turn)
        assert_same_bits("dropout", y.cpu().numpy(), expected)
        assert_same_bits("dropout_backward", dx.cpu().numpy(), expected)
        masks.add(expected.tobytes())
    assert len(masks) == REPLAYS


def test_batch_norm_in_a_graph(torch):
    x, dy = torch.randn(64, 32, 9, 9, device="cuda"), torch.randn(64, 32, 9, 9, device="cuda")
    mean, var = torch.zeros(32, device="cuda"), torch.ones(32, device="cuda")
    results = {}

    def run():
        y, saved = fs.ops.batch_norm(x, None, None, mean, var, relu=True)
        results["now"] = [y, *fs.ops.batch_norm_backward(dy, x, saved), mean, var]

    run()
    graph = capture(torch, run)
    captured = results["now"]
    mean.zero_()
    var.fill_(1)
    run()
    expected = [a.clone() for a in results["now"]]
    mean.zero_()
    var.fill_(1)
    graph.replay()
    assert all(torch.equal(a, e) for a, e in zip(captured, expected, strict=True))
