"""A valid call of every op, for tests to spoil, and a check of how it is refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest

from bits import UNCOUNTED, counted
from fusedstep import ops, reference

MATRIX, CHANNELS = (6, 4), 4
STATES = {  # of each step
    "sgd_step": ("momentum_buffers",),
    "adagrad_step": ("state_sums",),
    "rmsprop_step": ("square_avgs", "momentum_buffers", "grad_avgs"),
    "adam_step": ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"),
    "adadelta_step": ("square_avgs", "acc_deltas"),
    "adamax_step": ("exp_avgs", "exp_infs"),
    "lion_step": ("exp_avgs",),
    "nadam_step": ("exp_avgs", "exp_avg_sqs"),
    "radam_step": ("exp_avgs", "exp_avg_sqs"),
    "lars_step": ("momentum_buffers",),
    "lamb_step": ("exp_avgs", "exp_avg_sqs"),
}
STEPS = list(STATES)
COUNTED = [op for op in STEPS if op not in UNCOUNTED]
STEP_OPTIONS = {
    "sgd_step": {"momentum": 0.9},
    "rmsprop_step": {"momentum": 0.9, "centered": True},
    "adam_step": {"amsgrad": True},
}
KEPT = [
    *(name for names in STATES.values() for name in names),
    *("ema_params", "weight", "bias", "running_mean", "running_var", "dweight", "dbias"),
]


@dataclass
class Call:
    """A valid call of an op; tests spoil one of its arrays."""

    op: str
    arrays: dict[str, np.ndarray]
    outputs: tuple[str, ...]
    options: dict = field(default_factory=dict)
    strided: tuple[str, ...] = ()  # arrays that may have any strides
    in_place: tuple[tuple[str, str], ...] = ()  # pairs that may be the same memory
    saved: reference.BatchNormSaved | None = None

    @property
    def takes_half(self) -> bool:
        return self.op in (*STEPS, "global_norm", "batch_norm", "batch_norm_backward", "dropout", "dropout_backward")

    def in_half(self, dtype, kept=None) -> Call:
        """The same call on arrays of a half type, what is kept beside them of `kept`: the same type or float32."""
        arrays = {name: a.astype((kept if name in KEPT else None) or dtype) for name, a in self.arrays.items()}
        return dataclasses.replace(self, arrays=arrays)

    def without_outputs(self) -> Call:
        made = {"out", "dx", "dweight", "dbias"} & self.arrays.keys()
        kept = {name: a for name, a in self.arrays.items() if name not in made}
        outputs = tuple(name for name in self.outputs if name not in made)
        return dataclasses.replace(self, arrays=kept, outputs=outputs, in_place=())

    def all_arrays(self) -> dict[str, object]:
        extra = {} if self.saved is None else {"saved.mean": self.saved.mean, "saved.var": self.saved.var}
        return {**self.arrays, **extra}

    def run(self, module):
        extra = {} if self.saved is None else {"saved": self.saved}
        return getattr(module, self.op)(**self.arrays, **extra, **self.options)


def steps(op, **options) -> Call:
    names = ("params", "grads", *STATES[op], "ema_params")
    options = {"lr": 0.1, "weight_decay": 0.1, "ema_decay": 0.9, **options}
    return Call(op, {n: make(n) for n in names}, tuple(n for n in names if n != "grads"), options)


def make(name: str, shape=MATRIX) -> np.ndarray:
    """Positive values of their own for each name."""
    return np.random.default_rng(sum(map(ord, name))).uniform(0.1, 0.9, shape).astype(np.float32)


def named(*names, shape=MATRIX) -> dict[str, np.ndarray]:
    return {name: make(name, shape) for name in names}


def calls() -> dict[str, Call]:
    norm = {**named("x", "out"), **named("weight", "bias", "running_mean", "running_var", shape=CHANNELS)}
    gradients = {**named("dy", "x", "dx"), **named("dweight", "dbias", shape=CHANNELS)}
    _, saved = reference.batch_norm(gradients["x"])
    activation = {**named("x", "out"), "bias": make("bias", CHANNELS)}
    back = {**named("dy", "saved", "dx"), "dbias": make("dbias", CHANNELS)}
    mask, in_out, dy_out, dy_dx = {"p": 0.5, "seed": 1}, (("x", "out"),), (("dy", "out"),), (("dy", "dx"),)
    stats = ("running_mean", "running_var")
    labels = {"labels": np.array([0, 1, 2, 3, 0, 1])}
    full = {
        **{op: steps(op, **counted(op, 1), **STEP_OPTIONS.get(op, {})) for op in STEPS},
        "batch_norm": Call("batch_norm", norm, ("out", *stats)),
        "batch_norm, evaluation": Call("batch_norm", norm, ("out",), {"training": False}, (), in_out),
        "batch_norm_backward": Call("batch_norm_backward", gradients, ("dx", "dweight", "dbias"), {}, (), dy_dx, saved),
        "dropout": Call("dropout", named("x", "out"), ("out",), mask, ("x", "out"), in_out),
        "dropout_backward": Call("dropout_backward", named("dy", "out"), ("out",), mask, ("dy", "out"), dy_out),
        "dropout_backward, relu": Call("dropout_backward", named("dy", "y", "out"), ("out",), mask, (), dy_out),
        "bias_activation": Call("bias_activation", activation, ("out",), {"activation": "tanh"}, (), in_out),
        "bias_activation_backward": Call(
            "bias_activation_backward", back, ("dx", "dbias"), {"activation": "tanh"}, (), dy_dx
        ),
        "softmax_cross_entropy": Call(
            "softmax_cross_entropy", named("logits", "out"), ("out",), labels, (), (("logits", "out"),)
        ),
        "sigmoid_cross_entropy": Call(
            "sigmoid_cross_entropy", named("logits", "target", "out"), ("out",), {}, (), (("logits", "out"),)
        ),
        "mean_squared_error": Call(
            "mean_squared_error", named("output", "target", "out"), ("out",), {}, (), (("output", "out"),)
        ),
        "global_norm": Call("global_norm", named("grads"), ()),
    }
    return full | {f"{k}, new outputs": c.without_outputs() for k, c in full.items() if "step" not in k}


def cases(choose=lambda call: call.arrays) -> list:
    """(call, name of an array in it), for all calls."""
    return [pytest.param(key, name, id=f"{key}-{name}") for key, call in calls().items() for name in choose(call)]


def refusal(call: Call, module) -> tuple[type, str]:
    """How `module` refuses the call; no array may have changed."""
    given = [a for v in call.all_arrays().values() for a in (v if isinstance(v, list) else [v])]
    watched = [a.base if isinstance(a.base, np.ndarray) else a for a in given if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in watched]
    with pytest.raises((TypeError, ValueError)) as caught:
        call.run(module)
    assert [a.tobytes() for a in watched] == before, "written before it was refused"
    return caught.type, str(caught.value)


def check_refused(call: Call, error: type, *words: str) -> None:
    """Both refuse with `error`, the same message, and each of `words` in it."""
    expected = refusal(call, reference)
    assert refusal(call, ops) == expected
    assert expected[0] is error, expected
    for word in words:
        assert word in expected[1]
