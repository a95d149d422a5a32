"""torch's tensors of odd kinds and under odd modes: refused by name with a reason, or right; never wrong in silence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from fusedstep import backend, ops
from valid_calls import STEPS, Call, calls

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(backend.native() is None, reason="the reference takes NumPy arrays alone")

FORWARD = ["batch_norm", "batch_norm, evaluation", "bias_activation", "dropout"]
BACKWARD = ["batch_norm_backward", "bias_activation_backward", "dropout_backward", "dropout_backward, relu"]
LOSSES = ["softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"]
FIRST = {"batch_norm_backward": "x", "softmax_cross_entropy": "logits", "sigmoid_cross_entropy": "logits"}


def on_torch(key: str, new_outputs: bool = False) -> Call:
    call = calls()[key]
    call = call.without_outputs() if new_outputs else call
    call.arrays = {name: torch.from_numpy(a) for name, a in call.arrays.items()}
    return call


def quietly(make):
    """torch warns that some of its layouts are prototypes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def nested(layout):
    return lambda x: quietly(lambda: torch.nested.nested_tensor(list(x), layout=layout))


def masked(x):
    return quietly(lambda: torch.masked.masked_tensor(x, x > 0))


LAYOUTS = {
    "sparse_coo": (torch.Tensor.to_sparse, "has the layout sparse_coo; accepted is a dense tensor"),
    "sparse_csr": (lambda x: quietly(x.to_sparse_csr), "has the layout sparse_csr"),
    "mkldnn": (torch.Tensor.to_mkldnn, "has the layout mkldnn"),
    "nested": (nested(torch.strided), "is a nested tensor; pass the tensors that"),
    "jagged": (nested(torch.jagged), "is a nested tensor"),
    "masked": (masked, "is masked"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("key", ["batch_norm", "batch_norm_backward", "bias_activation_backward", *LOSSES])
def test_layouts(key, kind):
    """Of the first tensor, whose shape is asked for before the kernels see it."""
    make, words = LAYOUTS[kind]
    call = on_torch(key, new_outputs=True)
    name = FIRST.get(key) or next(iter(call.arrays))
    call.arrays[name] = make(call.arrays[name])
    with pytest.raises(TypeError, match=f"'{name}' {words}"):
        call.run(ops)


@pytest.mark.parametrize("kind", ["mkldnn", "masked"])
@pytest.mark.parametrize("key", ["dropout", "dropout_backward", "bias_activation"])
def test_layouts_of_which_no_output_can_be_made(key, kind):
    make, words = LAYOUTS[kind]
    call = on_torch(key, new_outputs=True)
    name = next(iter(call.arrays))
    call.arrays[name] = make(call.arrays[name])
    with pytest.raises(TypeError, match=f"'{name}' {words}"):
        quietly(lambda: call.run(ops))


def test_why_unreadable():
    """The words for what has no memory to hand out, whichever argument it is."""
    x, told = torch.ones(2, 3), []
    torch.vmap(lambda row: (told.append(backend.why_unreadable(row)), row)[1])(x)
    assert told == ["is wrapped by torch.func (vmap, grad, jvp, ...), which the kernels stand outside of"]
    assert backend.why_unreadable(x.to("meta")) == "is on the meta device, where there are no values"
    for make, words in LAYOUTS.values():
        assert backend.why_unreadable(make(x)).startswith(words)
    assert backend.why_unreadable(x) is backend.why_unreadable(np.ones(3)) is backend.why_unreadable("text") is None


@pytest.mark.parametrize("key", STEPS)
def test_types_and_bits(key):
    for make, error, words in [
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), TypeError, "has dtype torch.qint8"),
        (lambda t: torch.complex(t, t).conj(), TypeError, "has dtype complex64"),
        (lambda t: torch.complex(t, t).conj().imag, ValueError, r"has torch's negative bit set; pass \w+.resolve_neg"),
    ]:
        for name in calls()[key].arrays:
            call = on_torch(key)
            call.arrays[name] = quietly(lambda make=make, tensor=call.arrays[name]: make(tensor))
            before = {n: t._version for n, t in call.arrays.items()}
            with pytest.raises(error, match=f"'{name}' {words}"):
                call.run(ops)
            assert {n: t._version for n, t in call.arrays.items()} == before


def spoilt(key: str, name: str, tensor) -> Call:
    call = on_torch(key, new_outputs=True)
    call.arrays[name] = tensor(call.arrays[name])
    return call


TRACKED = [
    *((key, name) for key in FORWARD for name in ("x", "weight", "bias") if name in calls()[key].arrays),
    *((key, "dy") for key in BACKWARD),
]


@pytest.mark.parametrize("tensor", [torch.nn.Parameter, lambda t: t.requires_grad_() * 1], ids=["leaf", "inner"])
@pytest.mark.parametrize(("key", "name"), TRACKED)
def test_results_without_a_graph_are_refused_where_one_is_recorded(key, name, tensor):
    call = spoilt(key, name, tensor)
    with pytest.raises(RuntimeError, match=rf"'{name}' requires a gradient, .* no graph: .*, pass {name}.detach\(\)"):
        call.run(ops)
    with torch.no_grad():
        result = call.run(ops)
    call.arrays[name] = call.arrays[name].detach()
    for other in (result, call.run(ops)):
        first = other[0] if isinstance(other, tuple) else other
        assert not first.requires_grad and torch.isfinite(first).all()


def test_within_autograd_functions_they_run():
    class Dropout(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return ops.dropout(x, 0.5, seed=3)

        @staticmethod
        def backward(ctx, dy):
            return ops.dropout_backward(dy, 0.5, seed=3)

    x = torch.ones(8, requires_grad=True)
    Dropout.apply(x).sum().backward()
    assert torch.equal(x.grad, ops.dropout(torch.ones(8), 0.5, seed=3))
    (gradient,) = torch.autograd.grad(
        Dropout.apply(x).sum(), x, create_graph=True
    )  # not that of a gradient: it is ones
    assert torch.equal(gradient, x.grad)
    with pytest.raises(RuntimeError, match="'dy' requires a gradient"):
        torch.autograd.grad((Dropout.apply(x) ** 2).sum(), x, create_graph=True)


@pytest.mark.parametrize("key", [*STEPS, "global_norm", *LOSSES])
def test_what_changes_in_place_or_gives_numbers_takes_parameters(key):
    expected, call = on_torch(key), on_torch(key)
    call.arrays = {name: torch.nn.Parameter(t, t.is_floating_point()) for name, t in call.arrays.items()}
    wanted, result = expected.run(ops), call.run(ops)
    assert (wanted if key == "global_norm" else 0) == (result if key == "global_norm" else 0)
    for name, t in call.arrays.items():
        assert torch.equal(t.detach(), expected.arrays[name])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own use of it
@pytest.mark.parametrize("key", FORWARD)
def test_tangents_are_not_lost(key):
    with torch.autograd.forward_ad.dual_level():
        dual = spoilt(key, "x", lambda t: torch.autograd.forward_ad.make_dual(t, torch.ones_like(t)))
        with pytest.raises(RuntimeError, match="'x' has a tangent of torch's forward-mode differentiation"):
            dual.run(ops)
        on_torch(key).run(ops)


@pytest.mark.parametrize("key", calls())
def test_torch_jit_trace_is_refused(key):
    """It would record the new arrays, but nothing that fills them."""
    call = on_torch(key)
    before = {name: t.clone() for name, t in call.arrays.items()}

    def function(x):
        call.run(ops)
        return x + 1

    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record the kernels of fs\.ops"):
        quietly(lambda: torch.jit.trace(function, (torch.ones(3),)))
    for name, t in call.arrays.items():
        assert torch.equal(t, before[name])


@pytest.mark.parametrize("key", ["adam_step", "dropout"])
def test_make_fx_is_refused(key):
    from torch.fx.experimental.proxy_tensor import make_fx

    with pytest.raises(RuntimeError, match=r"make_fx cannot record the kernels of fs\.ops"):
        make_fx(lambda x: (on_torch(key).run(ops), x + 1)[1])(torch.ones(3))


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(3)
    with pytest.raises(ValueError, match="'grads' has no memory of its own"):
        ops.sgd_step(torch.ones(3), fake, lr=0.1)


def test_modes_that_only_watch_are_let_through():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False), torch.device("cpu"):
        assert ops.dropout(torch.ones(3), 0.0, seed=0).tolist() == [1.0] * 3


@pytest.mark.parametrize("key", calls())
def test_inference_tensors(key):
    """Inside inference mode and outside of it, where torch's own refuse to change them."""
    with torch.inference_mode():
        inside, call = on_torch(key), on_torch(key)
        inside.arrays = {name: t.clone() for name, t in inside.arrays.items()}
        call.arrays = {name: t.clone() for name, t in call.arrays.items()}
        inside.run(ops)
    assert all(t.is_inference() for t in call.arrays.values())
    call.run(ops)
    expected = on_torch(key)
    expected.run(ops)
    for name, wanted in expected.arrays.items():
        assert torch.equal(call.arrays[name], wanted) and torch.equal(inside.arrays[name], wanted)


def test_buffers():
    if not hasattr(torch.nn, "Buffer"):
        pytest.skip("torch.nn.Buffer came with 2.5")
    running = [torch.nn.Buffer(torch.zeros(4)), torch.nn.Buffer(torch.ones(4))]
    ops.batch_norm(torch.arange(8.0).reshape(2, 4), None, None, *running)
    assert running[0].tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace the builtin")  # so it breaks its graph
def test_torch_compile_breaks_its_graph_there():
    """Nothing is baked in: seeds, counters, step sizes and values are those of each call."""

    def function(p, grad, m, v, x, step, lr):
        ops.adam_step(p, grad * 2, m, v, lr=lr, step=step)
        y = ops.dropout(x + 1, 0.5, seed=step)
        return ops.batch_norm(y * 2)[0] + p.sum()

    compiled = torch.compile(function, backend="eager")
    states = [[torch.zeros(4) for _ in range(3)] for _ in range(2)]
    for step in range(1, 5):
        x, grad = torch.randn(6, 4), torch.randn(4)
        results = [
            run(p, grad, m, v, x, step, 0.5 / step) for run, (p, m, v) in zip((compiled, function), states, strict=True)
        ]
        assert torch.equal(*results)
        for ours, wanted in zip(*states, strict=True):
            assert torch.equal(ours, wanted)
    tracked = torch.ones(4, requires_grad=True)
    with pytest.raises(RuntimeError, match="'x' requires a gradient"):
        torch.compile(lambda x: ops.dropout(x, 0.5, seed=0), backend="eager")(tracked)


UNREADABLE = {**LAYOUTS, "meta": (lambda x: x.to("meta"), "is on the meta device, where there are no values")}


@pytest.mark.parametrize("kind", UNREADABLE.keys() - {"masked"})
@pytest.mark.parametrize("key", [*STEPS, "global_norm", "dropout", "dropout_backward, relu", "bias_activation"])
def test_what_has_no_plain_memory(key, kind):
    """Each argument of what the kernels see first."""
    make, words = UNREADABLE[kind]
    for name in on_torch(key).arrays:
        call = on_torch(key)
        if call.arrays[name].ndim < 2 and kind != "meta":
            continue
        call.arrays[name] = make(call.arrays[name])
        versions = {n: t._version for n, t in call.arrays.items() if n != name}
        with pytest.raises(TypeError, match=f"'{name}' {words}"):
            call.run(ops)
        assert {n: t._version for n, t in call.arrays.items() if n != name} == versions


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_lists_and_in_half(dtype):
    good, bad = (torch.ones(3, dtype=dtype) for _ in range(2))
    with pytest.raises(TypeError, match=r"'grads\[1\]' has the layout sparse_coo"):
        ops.sgd_step([good, bad], [torch.ones_like(good), torch.ones_like(good).to_sparse()], lr=0.1)


def test_under_torch_func():
    with pytest.raises(TypeError, match=r"'x' is wrapped by torch\.func"):
        torch.vmap(lambda x: ops.dropout(x, 0.5, seed=0))(torch.ones(4, 3))
