"""Tensors that move, change or share memory between steps of ``fusedstep.torch.optim``; threads, forks, refusals."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

import fusedstep as fs

torch = pytest.importorskip("torch")

from small_torch import (  # noqa: E402
    CHANNELS_LAST,
    assert_twin,
    classes,
    methods,
    parameters,
    same_bits,
    set_gradients,
    stateful,
    train,
    values,
)


def train_twin(method, arguments, between, *, steps: int = 6, **options):
    """``between(optimizer, params, t)`` runs before each step, after the gradients are set."""

    def use(cls, params, arguments):
        optimizer = cls(params, lr=0.1, **arguments)
        for t in range(steps):
            set_gradients(params, t)
            between(optimizer, params, t)
            optimizer.step()
        return optimizer

    assert_twin(method, arguments, use, **options)


@stateful
def test_data_is_moved(method, arguments):
    """``p.data = x`` keeps the object: the old memory must not be written any more."""
    kept = []

    def between(optimizer, params, t):
        for p in params:
            kept.append((p.data, p.detach().clone()))
            p.data = p.detach().clone() * (2 if t == 3 else 1)
        assert all(torch.equal(old, copied) for old, copied in kept)

    train_twin(method, arguments, between)


@stateful
def test_data_changes_its_layout(method, arguments):
    """To channels-last and back in the midst of training, the states being as they were."""

    def between(optimizer, params, t):
        p = params[CHANNELS_LAST]
        kind = torch.channels_last if t % 2 else torch.contiguous_format
        p.data = p.detach().clone(memory_format=kind)
        p.grad = p.grad.clone(memory_format=kind if t != 2 else torch.channels_last)

    train_twin(method, arguments, between)


@stateful
def test_storage_is_swapped_or_resized(method, arguments):
    def between(optimizer, params, t):
        if t == 2:
            params[0].data.set_(params[0].detach().clone())
        if t == 3:
            other = params[1].detach().clone()
            params[1].data.resize_(1000).resize_(33).copy_(other)

    train_twin(method, arguments, between)


@stateful
def test_gradients_are_replaced(method, arguments):
    """By others of other strides, of no stride, offset in their memory, made anew in place."""

    def between(optimizer, params, t):
        g = params[0].grad
        params[0].grad = [
            g.t().contiguous().t(),
            torch.stack([g, g * 0], dim=-1)[..., 0],
            g.new_ones(1).expand_as(g),
            torch.cat([g.new_zeros(3), g.flatten()])[3:].view_as(g),
            g.flip(0),
            g,
        ][t]
        c = params[CHANNELS_LAST]
        c.grad = c.grad.contiguous() if t % 2 else c.grad
        if t == 4:
            params[3].grad = None
            params[2].grad.zero_()

    train_twin(method, arguments, between)


@stateful
def test_the_same_memory_in_another_order(method, arguments):
    """Tensors whose address, shape and type stay while their strides change."""

    def use(cls, params, arguments):
        params[:] = parameters(torch.float64, shapes=[(5, 5), (3, 3, 3)])
        optimizer = cls(params, lr=0.1, **arguments)
        set_gradients(params, 0)
        for t in range(8):
            for p in params:
                if t in (2, 5):
                    p.grad = p.grad.transpose(0, 1)
                if t in (3, 5):
                    p.data = p.data.transpose(0, 1)
                if t == 6 and optimizer.state[p]:
                    state = optimizer.state[p]
                    state.update({key: x.transpose(0, 1) for key, x in state.items() if key != "step"})
                p.grad.mul_(-0.9)
            optimizer.step()
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_one_gradient_of_two_parameters(method, arguments):
    def use(cls, params, arguments):
        params[:] = parameters(torch.float64, shapes=[(33,), (33,)])
        optimizer = cls(params, lr=0.1, **arguments)
        for _ in range(3):
            params[0].grad = params[1].grad = torch.linspace(1, 2, 33, dtype=torch.float64)
            optimizer.step()
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_gradients_with_a_graph_of_their_own(method, arguments):
    """As ``backward(create_graph=True)`` leaves them."""

    def use(cls, params, arguments):
        optimizer = cls(params, lr=0.1, **arguments)
        for _ in range(3):
            loss = sum((p**3).sum() for p in params[:6])
            for p, g in zip(params[:6], torch.autograd.grad(loss, params[:6], create_graph=True), strict=True):
                p.grad = g
                assert g.requires_grad
            optimizer.step()
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_a_step_in_inference_mode(method, arguments):
    def use(cls, params, arguments):
        optimizer = cls(params, lr=0.1, **arguments)
        train(optimizer, params, 4)
        set_gradients(params, 4)
        with torch.inference_mode():
            optimizer.step()
        train(optimizer, params, 2, start=5)
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_plain_tensors_and_frozen_ones(method, arguments):
    """Leaves that are no Parameter, and those that no longer require a gradient but have one."""

    def use(cls, params, arguments):
        params[:] = [p.detach().clone().requires_grad_(i % 2 == 0) for i, p in enumerate(params)]
        optimizer = cls(params, lr=0.1, **arguments)
        train(optimizer, params)
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_gradients_kept_between_steps(method, arguments):
    """The same tensors filled anew, as ``set_to_none=False`` does."""

    def use(cls, params, arguments):
        optimizer = cls(params, lr=0.1, **arguments)
        set_gradients(params, 5)
        kept = [p.grad for p in params]
        for t in range(5):
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            for p in params:
                if p.grad is not None:
                    p.grad += t - 1.5
        assert all(p.grad is g for p, g in zip(params, kept, strict=True))
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_views(method, arguments):
    """Parameters that are views of one tensor, and a tensor that views a parameter."""

    def use(cls, params, arguments):
        whole = torch.cat([p.detach().flatten() for p in params])
        offset = 0
        for p in params:
            p.data = whole[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
        optimizer = cls(params, lr=0.1, **arguments)
        before = whole.clone()
        train(optimizer, params)
        flat = torch.cat([p.detach().flatten() for p in params])
        assert torch.equal(flat, whole) and not torch.equal(whole, before)
        return optimizer

    assert_twin(method, arguments, use)


@stateful
def test_lists_of_the_groups_are_changed(method, arguments):
    """Parameters appended to, removed from and exchanged in ``param_groups[0]["params"]`` by hand."""

    def use(cls, params, arguments):
        optimizer = cls(params[:5], lr=0.1, **arguments)
        train(optimizer, params, 2)
        listed = optimizer.param_groups[0]["params"]
        listed.append(params[5])
        train(optimizer, params, 2, start=2)
        optimizer.state.pop(listed.pop(0))
        train(optimizer, params, 1, start=4)
        optimizer.param_groups[0]["params"] = [params[6], *reversed(listed)]
        train(optimizer, params, 2, start=5)
        new = torch.nn.Parameter(params[6].detach().clone())
        optimizer.param_groups[0]["params"][0] = new  # of another identity
        optimizer.state[new] = optimizer.state.pop(params[6])
        params[6] = new
        train(optimizer, params, 2, start=7)
        return optimizer

    assert_twin(method, arguments, use)


@methods
def test_a_stale_backward_is_noticed(method):
    for cls in classes(method):
        weight = torch.nn.Parameter(torch.ones(4))
        optimizer = cls([weight], lr=0.1)
        loss = (weight**2).sum()
        weight.grad = torch.ones(4)
        before = weight._version
        optimizer.step()
        assert weight._version > before
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@stateful
def test_version_counters_of_weights_and_states_alone(method, arguments):
    cls, _ = classes(method)
    params = parameters()
    optimizer = cls(params, ema_decay=0.5, **arguments)
    train(optimizer, params, 4)
    set_gradients(params, 4)
    before = [p._version for p in params]
    states = [(p, k, t._version) for p in params for k, t in optimizer.state.get(p, {}).items()]
    optimizer.step()
    assert all((p._version > old) == (p.grad is not None) for p, old in zip(params, before, strict=True))
    for p, key, old in states:
        assert (optimizer.state[p][key]._version > old) == (p.grad is not None), key


@stateful
def test_same_bits_for_every_number_of_threads(method, arguments):
    ends = []
    before = fs.get_num_threads()
    try:
        for threads in (1, 2, 3):
            fs.set_num_threads(threads)
            params = parameters(shapes=[(700, 1001), (100_003,), (33,), ()])
            optimizer = classes(method)[0](params, lr=0.1, max_norm=1.0, ema_decay=0.9, **arguments)
            train(optimizer, params, 2)
            ends.append([*values(params), *optimizer.averages()])
    finally:
        fs.set_num_threads(before)
    assert same_bits(ends[0], ends[1]) and same_bits(ends[0], ends[2])


def test_steps_of_several_threads():
    """Each thread its own optimizer; the interpreter is free while a step runs."""
    ends = [None] * 4

    def work(i):
        params = parameters(shapes=[(300, 301), (17,)])
        optimizer = classes("AdamW")[0](params, lr=0.1)
        train(optimizer, params, 20)
        ends[i] = values(params)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert all(same_bits(ends[0], end) for end in ends[1:])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_after_a_step_does_not_hang():
    params = parameters(shapes=[(700, 1001)])
    optimizer = classes("Adam")[0](params, lr=0.1)
    train(optimizer, params, 2)
    child = os.fork()
    if child == 0:
        try:
            optimizer.step()
            # By NumPy: torch's own threads, where its OpenMP runtime is another than ours, do not outlive a fork.
            os._exit(0 if np.isfinite(params[0].detach().numpy()).all() else 2)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 30
    done, status = 0, 0
    while not done and time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not done:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done and status == 0
    optimizer.step()
