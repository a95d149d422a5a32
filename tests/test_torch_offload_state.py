"""OffloadedOptimizer: its state dicts and copies, and what it refuses."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest

import fusedstep as fs
from small_offload import BFLOAT16, DOUBLE, FLOAT, METHODS, Pair, backward, model
from small_torch import classes

torch = pytest.importorskip("torch")


def saved(optimizer, weights_only=True):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_state_dict(method, options):
    """Saved after two steps and loaded into another, of other bucket sizes, it goes on to the same bits."""
    first = Pair(method, **options).run(range(1, 3))
    second = Pair(method, offload={"bucket_size": 7}, **options)
    second.run([4])
    second.optimizer.load_state_dict(saved(first.optimizer))
    second.expected.load_state_dict(copy.deepcopy(first.expected.state_dict()))
    for q, w in zip(second.wide, first.wide, strict=True):
        q.data.copy_(w)
    second.check()
    second.run(range(3, 6))


@pytest.mark.parametrize("order", ["model first", "optimizer first"])
def test_a_checkpoint_of_model_and_optimizer(order):
    """In either order the masters keep what the parameters' rounding has lost."""
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters(), lr=0.05)
    for t in range(3):
        backward(net, t)
        optimizer.step()
    states, weights = saved(optimizer), copy.deepcopy(net.state_dict())
    other = model()
    torch.nn.init.zeros_(other[0].weight)
    loaded = fs.torch.OffloadedOptimizer(other.parameters(), lr=0.05)
    if order == "model first":
        other.load_state_dict(weights)
    loaded.load_state_dict(states)
    if order == "optimizer first":
        other.load_state_dict(weights)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    for o, n in ((optimizer, net), (loaded, other)):
        o.zero_grad()
        backward(n, 9)
        o.step()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(optimizer.state[p]["master"], loaded.state[q]["master"])


@pytest.mark.parametrize("kind", [0, 1], ids=["ours", "torch's"])
def test_state_dicts_without_masters(kind):
    """Those of the plain optimizers: masters are the parameters, states become wide."""
    net, other = model(), model()
    plain = classes("AdamW")[kind](net.parameters(), lr=0.05)
    backward(net)
    plain.step()
    loaded = fs.torch.OffloadedOptimizer(other.parameters(), lr=0.9)
    other.load_state_dict(net.state_dict())
    loaded.load_state_dict(plain.state_dict())
    assert loaded.param_groups[0]["lr"] == 0.05
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        state = loaded.state[q]
        assert torch.equal(state["master"], q.float()) and state["step"] == 1
        assert state["exp_avg"].dtype == FLOAT and torch.equal(state["exp_avg"], plain.state[p]["exp_avg"].float())
    backward(other)
    loaded.step()
    assert loaded.state[q]["step"] == 2


@pytest.mark.parametrize("kind", [0, 1], ids=["ours", "torch's"])
def test_plain_optimizers_load_its_states(kind):
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters(), lr=0.05)
    backward(net)
    optimizer.step()
    plain = classes("AdamW")[kind](net.parameters())
    plain.load_state_dict(optimizer.state_dict())
    plain.step()
    assert plain.state[net[0].weight]["step"] == 2 and plain.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize(
    "options", [{"foreach": True}, {"fused": True}, {"capturable": True}, {"lr": torch.tensor(0.1)}]
)
def test_options_that_choose_among_torchs_implementations(options):
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters(), **options)
    backward(net)
    optimizer.step()
    assert optimizer.state[net[0].weight]["step"] == 1


def test_copies_and_pickles():
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters(), fs.torch.optim.Adagrad, lr=0.05, bucket_size=30)
    backward(net)
    optimizer.step()
    copies = [copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))]
    for n, o in [(net, optimizer), *copies]:
        o.zero_grad()
        backward(n, 5)
        o.step()
        for p, q in zip(net.parameters(), n.parameters(), strict=True):
            assert torch.equal(p, q) and torch.equal(optimizer.state[p]["master"], o.state[q]["master"])
        assert n[0].weight is net[0].weight or n[0].weight.data_ptr() != net[0].weight.data_ptr()


def test_what_others_write_to_parameters_is_taken_over():
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters(), fs.torch.optim.SGD, lr=0.5)
    backward(net)
    optimizer.step()
    weight, bias, last = net[0].weight, net[0].bias, net[4].weight
    kept = optimizer.state[weight]["master"].clone()
    with torch.no_grad():
        weight[0] = 3.0
        bias.data = torch.full_like(bias, 2.0)
    last.data = last.data.clone()  # the same values: its master keeps its precision
    exact = optimizer.state[last]["master"].clone()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(optimizer.state[weight]["master"][1:], kept[1:])
    assert (optimizer.state[weight]["master"][0] == 3).all() and (weight[0] == 3).all()
    assert (optimizer.state[bias]["master"] == 2).all() and (bias == 2).all()
    assert torch.equal(optimizer.state[last]["master"], exact)


def test_hooks_keep_no_optimizer_alive():
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters(), overlap_backward=True)
    bucket = weakref.ref(optimizer._buckets[0])
    del optimizer
    gc.collect()
    assert bucket() is None
    backward(net)


# -- wrong input

PARAM = torch.nn.Parameter(torch.ones(3))
with torch.inference_mode():
    INFERENCE = torch.nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("params", "options", "error", "words"),
    [
        ([PARAM], {"optimizer_class": torch.optim.AdamW}, TypeError, "'optimizer_class' must be a class of fs.torch"),
        ([PARAM], {"optimizer_class": "AdamW"}, TypeError, "'optimizer_class' must be a class of fs.torch.optim"),
        ([PARAM], {"master_dtype": BFLOAT16}, ValueError, "'master_dtype' must be torch.float32 or torch.float64"),
        ([PARAM], {"bucket_size": 0}, ValueError, r"'bucket_size' must be in \[1, "),
        ([PARAM], {"bucket_size": 1.5}, TypeError, "'bucket_size' must be an integer but got 1.5"),
        ([PARAM], {"max_norm": 0.0}, ValueError, "'max_norm' must be greater than 0 but got 0.0"),
        ([PARAM], {"max_norm": float("nan")}, ValueError, "'max_norm' must be in"),
        ([PARAM], {"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        ([PARAM], {"betas": (1.0, 0.9)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
        ([PARAM], {"ema_decay": 2.0}, ValueError, r"'ema_decay' must be in \[0, 1\]"),
        ([PARAM], {"momentum": 0.9}, TypeError, "unexpected keyword argument 'momentum'"),
        ([PARAM], {"differentiable": True}, RuntimeError, "'differentiable' must be False"),
        ([], {}, ValueError, "optimizer got an empty parameter list"),
        (PARAM, {}, TypeError, "params argument given to the optimizer should be an iterable"),
        ([PARAM * 2], {}, ValueError, "can't optimize a non-leaf Tensor"),
        (
            [torch.nn.Parameter(torch.ones(3, dtype=DOUBLE))],
            {},
            TypeError,
            "float64, which 'master_dtype' torch.float32",
        ),
        ([torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))], {}, TypeError, "accepted are float16, bfloat16"),
        ([torch.nn.Parameter(torch.ones(3, device="meta"))], {}, TypeError, "dense tensor on a CUDA device or the CPU"),
        ([torch.nn.Parameter(torch.ones(1).expand(3))], {}, ValueError, "a parameter is expanded"),
        ([INFERENCE], {}, RuntimeError, "a parameter is an inference tensor"),
        (torch.nn.LazyLinear(3).parameters(), {}, ValueError, "uninitialized parameter"),
        ([PARAM, torch.nn.Parameter(PARAM.data[1:])], {}, ValueError, "or two that share memory"),
    ],
)
def test_wrong_arguments(params, options, error, words):
    with pytest.raises(error, match=words):
        fs.torch.OffloadedOptimizer(params, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_pinned_memory_needs_a_gpu():
    with pytest.raises(RuntimeError, match="'pin_memory' needs a GPU, and torch finds none"):
        fs.torch.OffloadedOptimizer([PARAM], pin_memory=True)
    fs.torch.OffloadedOptimizer([PARAM], pin_memory=False)


def sparse(net):
    net[4].bias.grad = net[4].bias.grad.to_sparse()


def reshaped(net):
    net[4].bias.data = torch.ones(3, dtype=BFLOAT16)


def retyped(net):
    net.float()


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (sparse, RuntimeError, r"does not support sparse gradients; pass grad.to_dense\(\)"),
        (reshaped, RuntimeError, r"had shape \(2,\) .* now has \(3,\) .*: make a new one"),
        (retyped, RuntimeError, "dtype torch.bfloat16 .* torch.float32 .*: make a new one"),
    ],
)
def test_wrong_gradients_are_told_before_anything_is_changed(spoil, error, words):
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters(), bucket_size=1)
    backward(net)
    optimizer.step()
    backward(net)
    spoil(net)
    before = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in net.parameters()]
    with pytest.raises(error, match=words):
        optimizer.step()
    for p, old in zip(net.parameters(), before, strict=True):
        assert all(torch.equal(optimizer.state[p][k], v) for k, v in old.items())


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("lr", float("nan"), ValueError, "'lr' must be"),
        ("eps", "x", TypeError, "'eps' must be"),
        ("betas", (0.9, 1.5), ValueError, "'beta2' must be"),
        ("differentiable", True, RuntimeError, "'differentiable' must be False"),
    ],
)
def test_wrong_groups_are_told_before_anything_is_changed(name, value, error, words):
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(
        [{"params": layer.parameters()} for layer in net if len(list(layer.parameters()))]
    )
    backward(net)
    optimizer.param_groups[-1][name] = value
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(error, match=words):
        optimizer.step()
    assert all(map(torch.equal, before, net.parameters()))
    assert all(optimizer.state[p].keys() == {"master"} for p in net.parameters())


def test_wrong_state_dicts_are_refused_before_anything_is_changed():
    pair = Pair().run()
    good = pair.optimizer.state_dict()
    for spoil, error, words in [
        (lambda d: d["state"][0].update(master=torch.ones(3)), ValueError, r"state 'master' of parameter 0 has shape"),
        (
            lambda d: d["state"][1].update(exp_avg=torch.ones(3)),
            ValueError,
            r"state 'exp_avg' of parameter 1 has shape",
        ),
        (lambda d: d["state"][0].update(master=1.0), TypeError, "'master' of parameter 0 must be a tensor but got 1.0"),
        (lambda d: d["param_groups"].append(d["param_groups"][0]), ValueError, "different number of parameter groups"),
    ]:
        bad = copy.deepcopy(good)
        bad["param_groups"][0]["lr"] = 9.0
        spoil(bad)
        with pytest.raises(error, match=words):
            pair.optimizer.load_state_dict(bad)
        assert pair.optimizer.param_groups[0]["lr"] == 0.05
        pair.check()
    pair.run([5])


def test_averages_need_a_decay():
    with pytest.raises(RuntimeError, match="has no averages: 'ema_decay' was not given"):
        fs.torch.OffloadedOptimizer([PARAM]).averages()
