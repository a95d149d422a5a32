"""Optimizer steps on the GPU beside torch.optim, on the same tensors: parameters, gradients and torch's own states.

Both sides first take three steps from the same state and must agree to 16 units in the last place of an array's
largest value: torch contracts products and sums to one rounding (FMA) and divides in another order, which moves each
sum by a few units of its largest addend; a formula that differs moves it by thousands.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np

from .. import ops
from .device import Device
from .table import Sides, Work

ULPS = 16
CHECKED_STEPS = 3


@dataclass(frozen=True)
class Rule:
    """One method on both sides.

    peer: the class of torch.optim, where there is one. states: {argument of the op: torch's name of it}. options: both
    sides'; own: ours besides. counted: whether the op takes `step`.
    """

    peer: str | None
    op: str
    states: dict[str, str]
    options: dict
    own: dict
    counted: bool


ADAMW = Rule(
    "AdamW",
    "adam_step",
    {"exp_avgs": "exp_avg", "exp_avg_sqs": "exp_avg_sq"},
    {"lr": 1e-3, "weight_decay": 0.01},
    {"decoupled_weight_decay": True},
    True,
)
MOMENTUM = Rule("SGD", "sgd_step", {"momentum_buffers": "momentum_buffer"}, {"lr": 0.01, "momentum": 0.9}, {}, False)
RMSPROP = Rule("RMSprop", "rmsprop_step", {"square_avgs": "square_avg"}, {"lr": 1e-3}, {}, False)
ADAGRAD = Rule("Adagrad", "adagrad_step", {"state_sums": "sum"}, {"lr": 1e-2}, {}, True)
ADADELTA = Rule(
    "Adadelta", "adadelta_step", {"square_avgs": "square_avg", "acc_deltas": "acc_delta"}, {"lr": 1.0}, {}, False
)
ADAMAX = Rule("Adamax", "adamax_step", {"exp_avgs": "exp_avg", "exp_infs": "exp_inf"}, {"lr": 2e-3}, {}, True)
NADAM = Rule("NAdam", "nadam_step", ADAMW.states, {"lr": 2e-3}, {}, True)
RADAM = Rule("RAdam", "radam_step", ADAMW.states, {"lr": 1e-3}, {}, True)
LION = Rule(None, "lion_step", {"exp_avgs": "exp_avg"}, {"lr": 1e-4}, {}, False)
LARS = Rule(None, "lars_step", MOMENTUM.states, {"lr": 1.0, "weight_decay": 1e-4}, {}, False)
LAMB = Rule(None, "lamb_step", ADAMW.states, {"lr": 1e-3, "weight_decay": 0.01}, {}, True)


def works(device: Device) -> list[Work]:
    """All of them."""
    large, hundreds = [100_000_000], [100] * 1000
    many = np.random.default_rng(0).integers(1000, 100_000, 1000, endpoint=True).tolist()

    def work(name, title, clock, targets, sizes, small_sizes, rule=ADAMW, **options):
        def make(small: bool) -> Sides:
            return _sides(device, rule, small_sizes if small else sizes, **options)

        return Work(name, title, make, clock, targets)

    def one(name, title, targets, **options):
        return work(name, title, "device", targets, large, [100_000], **options)

    def thousand(name, title, clock, targets, **options):
        return work(name, title, clock, targets, many, many[:20], **options)

    def launch(name, title, sizes):
        return work(name, title, "host", {}, sizes, sizes[:20], launch=True)

    halves = {"dtype": "bfloat16"}
    return [
        one("adamw", "AdamW, 100,000,000 float32", {"share": 0.92, "ratio": 1.0}),
        one("sgd-momentum", "SGD momentum, 100,000,000 float32", {"share": 0.92, "ratio": 1.0}, rule=MOMENTUM),
        one("rmsprop", "RMSprop, 100,000,000 float32", {"share": 0.92, "ratio": 2.0}, rule=RMSPROP),
        one("adagrad", "AdaGrad, 100,000,000 float32", {"share": 0.92, "ratio": 1.0}, rule=ADAGRAD),
        thousand("adamw-1000-tensors", "AdamW, 1,000 tensors of 1,000 to 100,000", "call", {"ratio": 1.5}),
        thousand("adamw-1000-tensors-queued", "the same, launches queued ahead", "device, 20 ms ahead", {}),
        one("adamw-clipping", "AdamW with global-norm clipping, 100,000,000", {"share": 0.92, "ratio": 1.2}, clip=1.0),
        one("adamw-bfloat16", "AdamW, 100,000,000 bfloat16", {}, **halves),
        one("adamw-bfloat16-float32-states", "AdamW, 100,000,000 bfloat16, states float32", {}, **halves, wide=True),
        one("adamw-float64", "AdamW, 100,000,000 float64", {}, dtype="float64"),
        thousand("adamw-graph", "AdamW, 1,000 tensors, in a CUDA graph", "device", {}, graph=True),
        launch("adamw-launch-1", "AdamW, 1 tensor of 100, host's time", [100]),
        launch("adamw-launch-1000", "AdamW, 1,000 tensors of 100, host's time", hundreds),
    ]


def _sides(
    device: Device,
    rule: Rule,
    sizes: list[int],
    *,
    dtype: str = "float32",
    wide: bool = False,
    clip: float | None = None,
    graph: bool = False,
    launch: bool = False,
) -> Sides:
    """The two sides of a rule on arrays of these sizes.

    wide: our states are float32; torch's, which it does not offer so, serve the check alone. graph: replays of a CUDA
    graph. launch: the arrays are small, so no bytes are counted.
    """
    torch = device.torch
    params = [torch.nn.Parameter(device.normal(n, dtype=dtype)) for n in sizes]
    for p in params:
        p.grad = device.normal(p.numel() + 1, dtype=dtype)[1:].clone()  # other values than the parameter's
    peer_name, peer = peer_of(device, rule, params, graph)
    peer.step()  # makes the states
    values = [[p.detach() for p in params], [p.grad for p in params]]
    their_states = [[peer.state[p][key] for p in params] for key in rule.states.values()]
    states = [[a.float() for a in column] for column in their_states] if wide else their_states
    ours = _step(device, rule, [*values, *states], clip=clip, on_device=graph)
    their_step = functional_step(peer)

    def theirs():
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(params, clip, foreach=True)
        their_step()

    def check():
        """Ours steps a copy of everything. torch clips gradients in place: they are put back."""
        copies = [[a.clone() for a in column] for column in (*values, *states)]
        taken = int(peer.state[params[0]].get("step", 1))
        mine = _step(device, rule, copies, clip=clip, on_device=graph, taken=taken)
        for _ in range(CHECKED_STEPS):
            mine()
            theirs()
            for p, grad in zip(params, copies[1], strict=True):
                p.grad.copy_(grad)
        names = ("params", "grads", *rule.states)
        for name, actual, expected in zip(names, copies, (*values, *their_states), strict=True):
            for a, e in zip(actual, expected, strict=True):
                device.assert_close_in_ulps(f"{rule.op} {name}", a, e, ULPS)

    peers = {} if wide else {peer_name: _replay(device, theirs) if graph else theirs}
    if graph:
        ours = _replay(device, ours)
    if launch:
        return Sides(ours, peers, check)
    streams = 4 if clip is not None else 3  # of values; the states are read and written
    moved = sum(sizes) * (streams * values[0][0].element_size() + 2 * len(states) * states[0][0].element_size())
    return Sides(ours, peers, check, moved, device.copy(moved))


def _step(device: Device, rule: Rule, arrays, *, clip, on_device: bool, taken: int = 100) -> Callable[[], object]:
    """Our step, `taken` steps later; with the counter on the device where the host's would not do."""
    torch = device.torch
    op = getattr(ops, rule.op)
    columns = [column[0] if len(column) == 1 else column for column in arrays]
    named = dict(zip(("params", "grads", *rule.states), columns, strict=True))
    options = rule.options | rule.own
    if clip is None and not on_device:
        count = taken

        def step():
            nonlocal count
            count += 1
            op(**named, **options, **({"step": count} if rule.counted else {}))

        return step

    counter = torch.full((), taken, dtype=torch.int64, device=device.name)
    multiplier = torch.ones((), dtype=torch.float64, device=device.name)
    norm = None if clip is None else torch.zeros((), dtype=torch.float64, device=device.name)
    if rule.counted:
        options = options | {"step": counter}

    def step_on_the_device():
        if norm is not None:
            ops.global_norm(columns[1], out=norm)
        ops.prepare_step(counter, multiplier, norm=norm, max_norm=clip)
        op(**named, **options, grad_multiplier=multiplier)

    return step_on_the_device


def peer_of(device: Device, rule: Rule, params: list, graph: bool):
    """(what it is called, torch's optimizer): fused where torch has that on this device, foreach elsewhere."""
    kind = getattr(device.torch.optim, rule.peer)
    if "fused" in inspect.signature(kind).parameters:
        options = rule.options | ({"capturable": True} if graph else {})
        trial = device.torch.nn.Parameter(device.normal(3))
        trial.grad = device.normal(3)
        try:
            kind([trial], **rule.options, fused=True).step()
        except (RuntimeError, NotImplementedError):  # Adagrad's is for the CPU alone in some versions
            pass
        else:
            return "torch fused", kind(params, **options, fused=True)
    return "torch foreach", kind(params, **rule.options, foreach=True)


def functional_step(optimizer) -> Callable[[], object]:
    """The call of torch's function that a step of its optimizer, which has its states by now, ends in.

    It is what our op is beside it: both then go without the Python that walks an optimizer's groups and states.
    """
    module = sys.modules[type(optimizer).step.__module__]
    name = module.__name__.rpartition(".")[2]  # torch.optim.adam.adam, and so on
    with mock.patch.object(module, name) as function:
        optimizer.step()
    (params, *lists), options = function.call_args
    return functools.partial(getattr(module, name), [p.detach() for p in params], *lists, **options)


def _replay(device: Device, step: Callable[[], object]) -> Callable[[], object]:
    """The step, captured in a CUDA graph."""
    cuda = device.torch.cuda
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        step()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        step()
    return graph.replay
