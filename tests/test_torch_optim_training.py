"""Scripts with ``fusedstep.torch.optim`` in place of torch's: schedules, clipping, averages, mixed precision."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch.optim import lr_scheduler, swa_utils  # noqa: E402

from small_torch import (  # noqa: E402
    assert_equal_to,
    assert_twin,
    batch,
    classes,
    loss_of,
    methods,
    parameters,
    relative_difference,
    same_bits,
    set_gradients,
    small_model,
    state_tensors,
    stateful,
    train,
    values,
)

SCHEDULES = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [lambda t: 0.9**t, lambda t: 1 / (1 + t)]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.8)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.StepLR(o, 4), lr_scheduler.ExponentialLR(o, 0.95)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum="momentum" in o.defaults),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o, 0.1, 12, cycle_momentum="momentum" in o.defaults or "betas" in o.defaults
    ),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.01, anneal_epochs=4),
}


def test_no_schedule_is_left_out():
    known = [lr_scheduler.__dict__, swa_utils.__dict__]
    base = lr_scheduler.LRScheduler
    there = {n for d in known for n, c in d.items() if isinstance(c, type) and issubclass(c, base) and n[0] != "_"}
    assert there - {"LRScheduler"} <= set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
@stateful
def test_schedules(method, arguments, name):
    """Without the warning that the optimizer has not stepped, which would fail the test; momenta are cycled, too."""

    def use(cls, params, arguments):
        groups = [{"params": params[:4], "lr": 0.1}, {"params": params[4:]}]
        optimizer = cls(groups, lr=0.05, **arguments)
        scheduler = SCHEDULES[name](optimizer)
        plateau = [1.0] if name == "ReduceLROnPlateau" else []
        train(optimizer, params, 6, after=lambda: scheduler.step(*plateau))
        saved = scheduler.state_dict()  # and goes on from it
        scheduler = SCHEDULES[name](optimizer)
        scheduler.load_state_dict(saved)
        train(optimizer, params, 5, start=6, after=lambda: scheduler.step(*plateau))
        return optimizer

    assert_twin(method, arguments, use)


def test_a_schedule_warns_where_the_optimizer_has_not_stepped():
    for cls in classes("Adam"):
        scheduler = lr_scheduler.StepLR(cls(parameters()), 3)
        with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\)` before `optimizer.step"):
            scheduler.step()


@stateful
def test_schedules_of_a_tensor_lr(method, arguments):
    def use(cls, params, arguments):
        optimizer = cls(params, lr=torch.tensor(0.1, dtype=torch.float64), **arguments)
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
        train(optimizer, params, after=scheduler.step)
        assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**5
        return optimizer

    assert_twin(method, arguments, use)


@methods
def test_stochastic_weight_averaging(method):
    ends = []
    for cls in classes(method):
        model = small_model()
        optimizer = cls(model.parameters(), lr=0.02)
        averaged = swa_utils.AveragedModel(model)
        scheduler = swa_utils.SWALR(optimizer, 0.01)
        for t in range(10):
            optimizer.zero_grad()
            loss_of(model, t).backward()
            optimizer.step()
            scheduler.step()
            averaged.update_parameters(model)
        swa_utils.update_bn([batch(t) for t in range(3)], averaged)
        ends.append([value.double() for value in averaged.state_dict().values()])
    assert relative_difference(*ends) <= 1e-12


@methods
def test_clip_grad_norm(method):
    ends = []
    for cls in classes(method):
        model = small_model()
        optimizer = cls(model.parameters(), lr=0.02)
        for t in range(10):
            optimizer.zero_grad()
            loss_of(model, t).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        ends += [optimizer, list(model.parameters())]
    assert_equal_to(torch.float64, *ends)


@stateful
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_max_norm(method, arguments, max_norm):
    """By the norm over both groups, as ``clip_grad_norm_`` over all parameters; the gradients stay as they were."""
    cls, theirs = classes(method)
    ends = []
    for which, clip in ((cls, {"max_norm": max_norm}), (theirs, {})):
        params = parameters(torch.float64)
        optimizer = which([{"params": params[:5], "lr": 0.1}, {"params": params[5:]}], lr=0.02, **clip, **arguments)
        for t in range(5):
            set_gradients(params, t)
            if not clip:
                torch.nn.utils.clip_grad_norm_(params, max_norm)
            optimizer.step()
        ends += [optimizer, params]
    assert_equal_to(torch.float64, *ends)


@methods
def test_max_norm_of_mixed_types(method):
    """One norm over float32, float64 and 16 bits, in float64, where torch's is made in each type."""
    cls, theirs = classes(method)
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    params = [p for dtype in dtypes for p in parameters(dtype, shapes=[(6, 5), (33,)])]
    others = [torch.nn.Parameter(p.detach().to(torch.float64, copy=True)) for p in params]
    groups = [{"params": params[:3]}, {"params": params[3:]}]
    optimizer = cls(groups, lr=0.05, max_norm=0.5, state_dtype=torch.float32)
    other = theirs(others, lr=0.05)
    for t in range(4):
        set_gradients(params, t)
        for p, q in zip(params, others, strict=True):
            q.grad = p.grad.to(torch.float64, copy=True)
        torch.nn.utils.clip_grad_norm_(others, 0.5)
        optimizer.step()
        other.step()
    for i, bound in enumerate((1e-6, 1e-12, 2e-2, 2e-3)):
        assert relative_difference(params[2 * i : 2 * i + 2], others[2 * i : 2 * i + 2]) <= bound


def test_max_norm_may_change_between_steps():
    cls, theirs = classes("SGD")
    params, others = parameters(torch.float64), parameters(torch.float64)
    optimizer, other = cls(params, lr=0.1, max_norm=1.0), theirs(others, lr=0.1)
    for t, max_norm in enumerate((1.0, 0.1, None, 5.0)):
        optimizer.max_norm = max_norm
        set_gradients(params, t)
        set_gradients(others, t)
        torch.nn.utils.clip_grad_norm_(others, max_norm or math.inf)
        optimizer.step()
        other.step()
    assert_equal_to(torch.float64, optimizer, params, other, others)


@stateful
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_averages(method, arguments, dtype):
    """From the weights before the first step that a parameter takes, then ``e = d e + (1 - d) p`` after each."""
    cls, theirs = classes(method)
    params, decay = parameters(dtype), 0.75
    wide = dtype if dtype == torch.float64 else torch.float32
    optimizer = cls(params, lr=0.05, ema_decay=decay, state_dtype=torch.float32, **arguments)
    plain, alone = theirs(parameters(torch.float64), **arguments), {}
    for t in range(6):
        set_gradients(params, t)
        moved = [p for p in params if p.grad is not None]
        for p in moved:
            alone.setdefault(p, p.detach().to(wide, copy=True))
        optimizer.step()
        for p in moved:
            alone[p] = decay * alone[p] + (1 - decay) * p.detach().to(wide)
    averages = optimizer.averages()
    assert len(averages) == len(params) and [a.shape for a in averages] == [p.shape for p in params]
    expected = [alone.get(p, p) for p in params]
    assert relative_difference(averages, expected) <= (1e-12 if wide == torch.float64 else 1e-6)
    assert {a.dtype for a, p in zip(averages, params, strict=True) if p in alone} == {wide}
    saved = optimizer.state_dict()
    assert all("ema" in state for state in saved["state"].values() if len(state) > ("sum" in state) * 2)
    plain.load_state_dict(saved)  # torch keeps what it does not know


@stateful
def test_averages_switched_on_and_off(method, arguments):
    """On: from the weights as they are. Off: the averages stay as they are. On again: they go on."""
    params = parameters(torch.float64)
    optimizer = classes(method)[0](params, lr=0.05, **arguments)
    train(optimizer, params, 2, every=True)
    expected = values(params)
    for t, decay in enumerate((0.5, 0.5, 0.9, None, None, 0.75), 2):
        optimizer.ema_decay = decay
        train(optimizer, params, 1, start=t, every=True)
        if decay is not None:
            expected = [decay * e + (1 - decay) * p.detach() for e, p in zip(expected, params, strict=True)]
        assert relative_difference(state_tensors(optimizer, "ema"), expected) <= 1e-12


@methods
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler(method, unscale):
    """An infinity skips the step and the counter, and halves the scale, as with torch's."""
    ends, history = [], []
    for cls in classes(method):
        params = parameters(torch.float64)
        optimizer = cls(params, lr=0.05)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
        scales = []
        for t in range(12):
            set_gradients(params, t, every=True)
            for p in params:
                p.grad *= scaler.scale(torch.ones(()).double())
            if t in (2, 3, 8):
                params[1].grad[5] = math.inf if t != 3 else math.nan
            before, counters = values(params), [int(s) for s in optimizer_steps(optimizer)]
            if unscale:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(params, 0.5)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            skipped = t in (2, 3, 8)
            assert same_bits(before, values(params)) == skipped
            assert not skipped or counters == [int(s) for s in optimizer_steps(optimizer)]
            assert not hasattr(optimizer, "grad_scale") and not hasattr(optimizer, "found_inf")
        ends += [optimizer, params]
        history.append(scales)
    assert history[0] == history[1] and history[0][:4] == [1024.0, 1024.0, 512.0, 256.0]
    assert_equal_to(torch.float64, *ends)


def optimizer_steps(optimizer) -> list:
    return state_tensors(optimizer, "step")


@methods
def test_grad_scaler_leaves_the_gradients_and_clips_what_it_unscales(method):
    cls, theirs = classes(method)
    params, others = parameters(torch.float64), parameters(torch.float64)
    optimizer, other = cls(params, lr=0.05, max_norm=0.5, ema_decay=0.5), theirs(others, lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    scaler.scale(torch.ones(()))
    for t in range(4):
        set_gradients(params, t)
        set_gradients(others, t)
        torch.nn.utils.clip_grad_norm_(others, 0.5)
        for p in params:
            if p.grad is not None:
                p.grad *= 256.0
        gradients = [p.grad.clone() for p in params if p.grad is not None]
        scaler.step(optimizer)
        scaler.update()
        other.step()
        assert same_bits(gradients, [p.grad for p in params if p.grad is not None])
    assert relative_difference(params, others) <= 1e-12


@methods
def test_grad_scale_and_found_inf_by_hand(method):
    """What GradScaler sets, as those of torch's that are fused read it: a 0-d tensor each, which may stay."""
    cls, theirs = classes(method)
    params, others = parameters(torch.float64), parameters(torch.float64)
    optimizer, other = cls(params, lr=0.05), theirs(others, lr=0.05)
    for t in range(6):
        set_gradients(params, t)
        set_gradients(others, t)
        for p in params:
            if p.grad is not None:
                p.grad *= 8
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(float(t in (0, 3)))
        optimizer.step()
        assert optimizer.grad_scale == 8.0
        if t not in (0, 3):
            other.step()
    assert_equal_to(torch.float64, optimizer, params, other, others)


@methods
def test_a_disabled_scaler(method):
    def use(cls, params, arguments):
        optimizer = cls(params)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        for t in range(3):
            set_gradients(params, t)
            scaler.step(optimizer)
            scaler.update()
        return optimizer

    assert_twin(method, {}, use)


@methods
def test_autocast(method):
    """Weights in float32, products in bfloat16: the gradients' rounding is the same for both, so they stay together."""
    ends = []
    for cls in classes(method):
        model = small_model(torch.float32)
        optimizer = cls(model.parameters(), lr=0.01)
        losses = []
        for t in range(20):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, t, torch.float32)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        ends.append(losses)
    assert ends[0] == pytest.approx(ends[1], rel=0.02)
