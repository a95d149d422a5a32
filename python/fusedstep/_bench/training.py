"""The table of training: an epoch of the user's own work, and one small step, beside torch, JAX and scikit-learn.

Before the times all sides take the same 20 steps from the same weights, without dropout, whose masks differ (the table
of the kernels compares it), and are compared in their losses, in their weights, by the mean over a layer in shares of
the way that Adam may have gone, lr a step, and in the running variances. float32 sums in another order are off by some
1e-6 of their size, and so are all three in torch and JAX: up to 3e-6. Betas of (0.9, 0.99) are off by 1.3e-3 in the
weights, eps=1e-6 by the same, batch norm's eps=1e-3 by 7e-3, and its momentum=0.11 by 2e-2 in the variances.

scikit-learn adds Adam's eps before it corrects the average of squares, which is off by 1e-5. That is enough to let
values near 0 be cut by ReLU on one side alone, and from there on the sides go apart: its bounds are wide.
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
CHECKED_STEPS, CHECKED_BATCH = 20, 32
BOUND = 5e-5  # of what a side may be off, relatively
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


def _data(samples: int, network: Network, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
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


def _check(network: Network) -> None:
    """AssertionError unless all libraries train this network alike, but for dropout.

    Two sides that compute the same may cut a value within rounding of 0 otherwise: they get another chance, with other
    samples.
    """
    network = Network(network.widths, None if network.p is None else 0.0)
    if _differences(network, seed=0) and (found := _differences(network, seed=1)):
        raise AssertionError("; ".join(found))


def _differences(network: Network, seed: int) -> list[str]:
    ours = Ours(network)
    peers, _ = _peers(network, ours.weights(), CHECKED_BATCH)
    x, y = _data(CHECKED_STEPS * CHECKED_BATCH, network, seed)
    batches = list(zip(np.split(x, CHECKED_STEPS), np.split(y, CHECKED_STEPS), strict=True))
    for peer in peers.values():
        if isinstance(peer, ScikitLearn):
            peer.begin(*batches[0])
    losses = np.array([ours.step(*batch) for batch in batches])
    found = []
    for name, peer in peers.items():
        off = {"losses": _largest(losses / [peer.step(*batch) for batch in batches] - 1)}
        for index, (mine, other) in enumerate(zip(ours.weights(), peer.weights(), strict=True)):
            # Batch norm takes a bias before it away: its gradient is 0, but for rounding.
            kinds = ("weight",) if network.p is not None and index + 2 < len(network.widths) else ("weight", "bias")
            for kind, a, b in zip(kinds, mine, other, strict=False):
                off[f"Dense {index}'s {kind}"] = float(np.abs(a - b).mean()) / (LR * CHECKED_STEPS)
        for index, (mine, other) in enumerate(zip(ours.variances(), peer.variances(), strict=True)):
            off[f"batch norm {index}'s running variance"] = _largest(mine / other - 1)
        wide = 400 if isinstance(peer, ScikitLearn) else 1
        found += [f"{what}: off by {by:.3g} from {name}'s" for what, by in off.items() if not by <= wide * BOUND]
    return found


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def _epoch(network: Network, batch_size: int, small: bool) -> Sides:
    x, y = _data(4 * batch_size if small else SAMPLES, network)
    ours = Ours(network)
    peers, missing = _peers(network, ours.weights(), batch_size)
    epochs = {name: peer.epochs(x, y, batch_size) for name, peer in peers.items()}
    first: dict[str, float] = {}

    def check():
        _check(network)
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
    return Sides(turns(ours.step, batches), sides, lambda: _check(network), missing=missing)
