"""OffloadedOptimizer: the masters' trajectory is that of the optimizer on wide parameters, bit for bit."""

from __future__ import annotations

import pytest

import fusedstep as fs
from small_offload import BFLOAT16, DOUBLE, FLOAT, HALF, METHODS, Pair, backward, model
from small_torch import SHAPES

torch = pytest.importorskip("torch")
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402


@pytest.mark.parametrize("dtype", [BFLOAT16, HALF, FLOAT])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_trajectories(method, options, dtype):
    pair = Pair(method, dtype, **options).run()
    if "ema_decay" in options:
        for ours, theirs in zip(pair.optimizer.averages(), pair.expected.averages(), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", [1, 10**9])
@pytest.mark.parametrize("early", [False, True])
def test_bucket_sizes(size, early):
    pair = Pair(max_norm=1.0, offload={"bucket_size": size, "overlap_backward": early}).run()
    assert len(pair.optimizer._buckets) == (len(SHAPES) - 1 if size == 1 else 1)  # empty ones join the one before


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT, DOUBLE])
def test_masters_in_float64(dtype):
    Pair(dtype=dtype, master=DOUBLE).run()


def two_groups(params):
    return [{"params": params[:4], "lr": 0.5}, {"params": params[4:], "weight_decay": 0.5, "betas": (0.5, 0.6)}]


def test_groups_and_schedules():
    pair = Pair(groups=two_groups, max_norm=2.0)
    schedulers = [
        torch.optim.lr_scheduler.OneCycleLR(o, max_lr=[0.3, 0.2], total_steps=8)
        for o in (pair.optimizer, pair.expected)
    ]
    for t in range(1, 7):
        pair.run([t])
        for scheduler in schedulers:
            scheduler.step()
    assert pair.optimizer.param_groups[0]["lr"] == pair.expected.param_groups[0]["lr"] != 0.5
    pair.optimizer.param_groups[0]["lr"] = pair.expected.param_groups[0]["lr"] = torch.tensor(0.25)
    pair.run([7])


def test_add_param_group():
    pair = Pair(groups=lambda params: params[:5])
    with pytest.raises(ValueError, match="'params' holds a parameter twice, or two that share memory"):
        pair.optimizer.add_param_group({"params": torch.nn.Parameter(pair.params[0].data)})
    assert len(pair.optimizer.param_groups) == 1
    for o, params in ((pair.optimizer, pair.params), (pair.expected, pair.wide)):
        o.add_param_group({"params": params[5:], "lr": 0.1})
    pair.run()


def test_named_parameters():
    model = torch.nn.Linear(3, 2, dtype=BFLOAT16)
    try:
        torch.optim.SGD(model.named_parameters())
    except TypeError:
        pytest.skip("this torch takes no names")
    optimizer = fs.torch.OffloadedOptimizer(model.named_parameters(), bucket_size=1)
    model(torch.ones(1, 3, dtype=BFLOAT16)).sum().backward()
    optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()


# -- gradients


def trained(change=lambda net, optimizer, t: None, *, accumulate=1, early=False, **options):
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(
        net.parameters(), lr=0.05, overlap_backward=early, bucket_size=50, **options
    )
    for t in range(3):
        optimizer.zero_grad()
        for k in range(accumulate):
            backward(net, 10 * t + k)
        change(net, optimizer, t)
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()], [optimizer.state[p]["master"] for p in net.parameters()]


def clip(net, optimizer, t):
    torch.nn.utils.clip_grad_norm_(net.parameters(), 0.01)


def replace(net, optimizer, t):
    for p in net.parameters():
        p.grad = p.grad * 2


def replace_by_equal(net, optimizer, t):
    for p in net.parameters():
        p.grad = p.grad.clone().zero_()


def leave_out(net, optimizer, t):
    net[2].weight.grad = None


def write_in_place(net, optimizer, t):
    with torch.no_grad():
        net[0].weight.grad.mul_(3)


def another_backward(net, optimizer, t):
    backward(net, 99)


CHANGES = [lambda *_: None, clip, replace, replace_by_equal, leave_out, write_in_place, another_backward]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("change", CHANGES)
def test_gradients_fetched_in_the_backward_pass(change, accumulate):
    """None that is half accumulated, or was changed afterwards, is used."""
    at_step, early = (trained(change, accumulate=accumulate, early=early) for early in (False, True))
    for one, other in zip(at_step, early, strict=True):
        assert all(map(torch.equal, one, other))


def test_gradients_are_fetched_early_once():
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters(), overlap_backward=True)
    (bucket,) = optimizer._buckets
    fetched, real = [], bucket.link.fetch
    bucket.link.fetch = lambda pairs, after=None: fetched.append(len(pairs)) or real(pairs, after)
    backward(net)
    assert fetched == [1] * 6
    optimizer.step()
    assert fetched == [1] * 6 + [0]
    optimizer.step()  # the same gradients: what was fetched is forgotten
    assert fetched == [1] * 6 + [0, 6]


def test_parameters_without_gradients():
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters())
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step()
    assert all(map(torch.equal, before, net.parameters()))
    assert all(optimizer.state[p].keys() == {"master"} for p in net.parameters())


def test_layouts():
    """Parameters with holes, channels-last, and gradients in another order than their parameters'."""
    big = torch.arange(40.0).reshape(5, 8).to(BFLOAT16)
    params = [torch.nn.Parameter(big[:, ::2]), torch.nn.Parameter(big[:, 1::2])]
    image = torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5).to(BFLOAT16, memory_format=torch.channels_last)
    params.append(torch.nn.Parameter(image))
    wide = [torch.nn.Parameter(p.detach().float().contiguous()) for p in params]
    optimizer, expected = fs.torch.OffloadedOptimizer(params, lr=0.1), fs.torch.optim.AdamW(wide, lr=0.1)
    for _ in range(3):
        for p, q in zip(params, wide, strict=True):
            q.grad = torch.randn(p.shape).to(BFLOAT16).float()
            p.grad = q.grad.to(BFLOAT16).mT.contiguous().mT
        optimizer.step()
        expected.step()
    for p, q in zip(params, wide, strict=True):
        assert torch.equal(p, q.to(BFLOAT16)) and torch.equal(optimizer.state[p]["master"], q)
    assert optimizer.state[params[2]]["master"].is_contiguous(memory_format=torch.channels_last)


# -- what torch does around a step


def test_closure_hooks_and_stale_backward():
    net = model()
    optimizer = fs.torch.OffloadedOptimizer(net.parameters())
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    handle = register_optimizer_step_post_hook(lambda *_: calls.append("any"))

    def closure():
        assert torch.is_grad_enabled()
        calls.append("closure")
        optimizer.zero_grad()
        backward(net)
        return 7.0

    try:
        with torch.no_grad():
            assert optimizer.step(closure) == 7.0
    finally:
        handle.remove()
    assert calls == ["pre", "closure", "post", "any"]  # once each: not for the optimizers of the masters
    loss = net(torch.ones(1, 6, dtype=BFLOAT16)).sum()
    backward(net)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler(unscale, early):
    """An infinite gradient skips the step and its counter; the scale is undone in the step."""
    results = []
    for offloaded in (True, False):
        net = model(FLOAT)
        kwargs = {"lr": 0.05, "max_norm": 0.01}
        if offloaded:
            optimizer = fs.torch.OffloadedOptimizer(net.parameters(), overlap_backward=early, bucket_size=20, **kwargs)
        else:
            optimizer = fs.torch.optim.AdamW(net.parameters(), **kwargs)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for t in range(5):
            optimizer.zero_grad()
            backward(net, t, scale=scaler.scale(torch.tensor(1.0)))
            if t == 2:
                net[2].bias.grad[0] = float("inf")
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.state[net[0].weight]["step"] == 4
        results.append([*(p.detach() for p in net.parameters()), torch.tensor(scaler.get_scale())])
    assert all(map(torch.equal, *results))


def test_in_float16_with_a_scaler():
    net = model(HALF)
    optimizer = fs.torch.OffloadedOptimizer(net.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    losses = []
    x, y = torch.randn(32, 6).half(), torch.randn(32, 2)
    for _ in range(40):
        optimizer.zero_grad()
        loss = (net(x).float() - y).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
