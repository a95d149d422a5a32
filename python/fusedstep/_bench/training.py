"""The table of training: an epoch of the user's own work, and one small step, beside torch, JAX and scikit-learn.

Before the times all sides take the same steps from the same weights, without dropout, whose masks differ (the table of
the kernels compares it). Losses must agree to 1e-4: float32 sums of up to 784 products, in another order in each
library, are off by some 1e-6 of their size, and Adam's steps carry that on. A weight's step is about lr in the
direction of its gradient's sign, so only where a gradient is within rounding of 0 may a weight go another way, by 2 lr
a step at most. In the mean over a layer the weights must agree to 1% of lr a step; a wrong formula is off by some 10%
and more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from .networks import LR, Jax, Network, Ours, ScikitLearn, Torch
from .peers import bring
from .table import Sides, Work

WIDTHS = (784, 256, 128, 10)
SAMPLES = 20_000
P = 0.3
CHECKED_STEPS = 4
_FULL = {32: {"JAX": 2.0, "torch": 5.0}, 128: {"JAX": 1.7, "torch": 3.0}, 512: {"JAX": 1.3, "torch": 2.0}}
_PLAIN = {32: {"scikit-learn": 4.0}, 128: {"scikit-learn": 2.5}, 512: {"scikit-learn": 1.5}}


def works() -> list[Work]:
    """All of the table."""
    title = f"an epoch, {'-'.join(map(str, WIDTHS))}, {SAMPLES:,} samples"
    full = [
        Work(
            f"epoch-{size}",
            f"{title}, batch {size}",
            partial(_epoch, Network(WIDTHS, P), size),
            "host, 4 s",
            targets,
            {"batch": size},
        )
        for size, targets in _FULL.items()
    ]
    plain = [
        Work(
            f"epoch-plain-{size}",
            f"the same without batch norm and dropout, batch {size}",
            partial(_epoch, Network(WIDTHS, None), size),
            "host, 4 s",
            targets,
            {"batch": size},
        )
        for size, targets in _PLAIN.items()
    ]
    step = Work("step-small", "a step, 64-128-64-10, batch 32", _step, "host, 1 s, 200 calls", {"JAX": 2.0})
    return [*full, *plain, step]


def _data(samples: int, network: Network) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((samples, network.widths[0]), np.float32), rng.integers(0, network.widths[-1], samples)


def _peers(network: Network, weights, batch_size: int) -> tuple[dict[str, object], dict[str, str]]:
    """(the network in the libraries that are there, why the others are missing)."""
    peers, missing = {}, {}
    torch, why = bring("torch", "torch")
    missing |= why
    if torch is not None:
        peers["torch"] = Torch(torch, network, weights)
    (jax, why), (optax, also) = bring("jax", "JAX"), bring("optax", "JAX")
    missing |= also | why
    if jax is not None and optax is not None:
        peers["JAX"] = Jax(jax, optax, network, weights)
    if network.p is None:
        neural_network, why = bring("sklearn.neural_network", "scikit-learn")
        missing |= why
        if neural_network is not None:
            peers["scikit-learn"] = ScikitLearn(neural_network, network, weights, batch_size)
    return peers, missing


def _check(network: Network, batch_size: int) -> None:
    """AssertionError unless all libraries train this network alike, but for dropout."""
    network = Network(network.widths, None if network.p is None else 0.0)
    ours = Ours(network)
    peers, _ = _peers(network, ours.weights(), batch_size)
    x, y = _data(CHECKED_STEPS * batch_size, network)
    batches = [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, len(x), batch_size)]
    for peer in peers.values():
        if isinstance(peer, ScikitLearn):
            peer.begin(*batches[0])
    losses = [ours.step(*batch) for batch in batches]
    for name, peer in peers.items():
        theirs = [peer.step(*batch) for batch in batches]
        if not np.allclose(losses, theirs, rtol=1e-4, atol=0):
            raise AssertionError(f"the losses {losses} are not {name}'s, {theirs}")
        for index, (mine, other) in enumerate(zip(ours.weights(), peer.weights(), strict=True)):
            # Batch norm takes a bias before it away: its gradient is 0, but for rounding.
            kinds = ("weight",) if network.p is not None and index + 2 < len(network.widths) else ("weight", "bias")
            for kind, a, b in zip(kinds, mine, other, strict=False):
                off = float(np.abs(a - b).mean()) / (LR * CHECKED_STEPS)
                if not off <= 0.01:
                    raise AssertionError(f"Dense {index}'s {kind} is off from {name}'s by {off:.3g} of Adam's steps")


def _epoch(network: Network, batch_size: int, small: bool) -> Sides:
    x, y = _data(4 * batch_size if small else SAMPLES, network)
    ours = Ours(network)
    peers, missing = _peers(network, ours.weights(), batch_size)
    epochs = {name: peer.epochs(x, y, batch_size) for name, peer in peers.items()}
    first: dict[str, float] = {}

    def check():
        _check(network, batch_size)
        for name, epoch in epochs.items():
            first[name] = _seconds(epoch)

    def remarks() -> list[str]:
        seconds = [first[name] for name in ("JAX",) if name in first]
        return [f"JAX's first epoch, which compiles, took {s:.2f} s; it is not counted" for s in seconds]

    # The threads of the side before spin on: those of OpenBLAS, on which two of the sides multiply, for 0.1 s.
    rest = partial(time.sleep, 0.15)
    return Sides(ours.epochs(x, y, batch_size), epochs, check, before=rest, missing=missing, remarks=remarks)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _step(small: bool) -> Sides:
    """Forward, loss, backward and Adam, on batches that come in turn, so that none is learnt by heart."""
    network, size = Network((64, 128, 64, 10), None), 32
    x, y = _data(size * (4 if small else 600), network)
    ours = Ours(network)
    peers, missing = _peers(network, ours.weights(), size)
    peers.pop("scikit-learn", None)  # it checks all of its input at each call
    missing.pop("scikit-learn", None)
    batches = [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]

    def turns(step: Callable, data: list) -> Callable[[], object]:
        count = 0

        def one():
            nonlocal count
            count += 1
            return step(*data[count % len(data)])

        return one

    sides = {}
    if "torch" in peers:
        from_numpy = peers["torch"].torch.from_numpy
        sides["torch"] = turns(peers["torch"].tensor_step, [(from_numpy(a), from_numpy(b)) for a, b in batches])
    if "JAX" in peers:
        step = turns(peers["JAX"].queued_step, batches)
        sides["JAX"] = lambda: step().block_until_ready()
    return Sides(turns(ours.step, batches), sides, lambda: _check(network, size), missing=missing)
