"""The benchmark's tables of training and of costs: peers train alike, a wrong side is found, curves are explained."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import pytest

import fusedstep
from fusedstep._bench import cost, networks, peers, training
from fusedstep._bench.networks import Network, Ours
from fusedstep._bench.table import lines, row

compiled = pytest.mark.skipif(fusedstep.info()["backend"] == "reference", reason="measures the compiled kernels")
WORKS = {work.name: work for work in training.works()}
POINTS = {work.name: work for work in cost.works()}
TARGETS = {
    "epoch-32": {"JAX": 2.0, "torch": 5.0},
    "epoch-128": {"JAX": 1.7, "torch": 3.0},
    "epoch-512": {"JAX": 1.3, "torch": 2.0},
    "epoch-plain-32": {"scikit-learn": 4.0},
    "epoch-plain-128": {"scikit-learn": 2.5},
    "epoch-plain-512": {"scikit-learn": 1.5},
    "step-small": {"JAX": 2.0},
}


@pytest.fixture(autouse=True)
def without_jax(monkeypatch):
    """It starts threads, beside which other tests of this process may not fork: see jax_peers.py."""
    for name in ("jax", "optax"):
        monkeypatch.setitem(sys.modules, name, None)


def test_the_works_of_training():
    assert {name: work.targets for name, work in WORKS.items()} == TARGETS


@compiled
@pytest.mark.parametrize(
    ("name", "module", "kind", "wrong"),
    [
        ("epoch-32", networks.optim, "Adam", {"betas": (0.9, 0.99)}),
        ("epoch-32", networks.optim, "Adam", {"eps": 1e-6}),
        ("epoch-32", networks.nn, "BatchNorm", {"eps": 1e-3}),
        ("epoch-32", networks.nn, "BatchNorm", {"momentum": 0.11}),
        ("epoch-plain-32", networks.optim, "Adam", {"betas": (0.9, 0.99)}),
        ("epoch-plain-32", networks.optim, "Adam", {"eps": 1e-6}),
        ("step-small", networks.optim, "Adam", {"betas": (0.9, 0.99)}),
        ("step-small", networks.optim, "Adam", {"eps": 1e-6}),
    ],
)
def test_a_side_that_trains_otherwise_is_found(name, module, kind, wrong, monkeypatch):
    pytest.importorskip("torch")
    right = getattr(module, kind)
    monkeypatch.setattr(module, kind, lambda *given, **options: right(*given, **options | wrong))
    with pytest.raises(AssertionError, match="from torch's"):
        WORKS[name].make(True).check()


@compiled
def test_one_cut_of_rounding_is_no_difference(monkeypatch):
    """Other samples get a chance."""
    seeds = []
    monkeypatch.setattr(training, "_differences", lambda network, seed: seeds.append(seed) or ["off"] * (seed == 0))
    training._check(Network((5, 4, 3), None))
    assert seeds == [0, 1]


def test_a_missing_peer_is_a_line(monkeypatch):
    def missing(module, extra):
        raise ImportError(f"{module} is missing: pip install 'fusedstep[{extra}]'")

    monkeypatch.setattr(peers, "require", missing)
    work = WORKS["epoch-plain-32"]
    sides = work.make(True)
    sides.check()
    assert not sides.peers and sides.missing.keys() == {"torch", "JAX", "scikit-learn"}
    result = row(work, sides, {"fusedstep": [0.5]}, judged=True)
    assert result["targets"] == {"scikit-learn": {"at least": 4.0, "met": None}}
    text = "\n".join(lines(result))
    assert "torch is missing: pip install 'fusedstep[bench]'" in text and "not judged" in text


def test_weights_are_those_of_the_dense_layers():
    ours = Ours(Network((5, 4, 3, 2), 0.3))
    assert [(w.shape, b.shape) for w, b in ours.weights()] == [((5, 4), (4,)), ((4, 3), (3,)), ((3, 2), (2,))]


@pytest.mark.parametrize("name", [next(n for n in POINTS if n.startswith(s)) for s in ("param", "lay", "sam", "batch")])
def test_the_points_run(name):
    sides = POINTS[name].make(True)
    sides.check()
    sides.ours()


@compiled
def test_the_points_of_threads_run():
    for name in ("threads-adamw-1", "threads-epoch-1"):
        with POINTS[name].setting():
            assert fusedstep.get_num_threads() == 1
            sides = POINTS[name].make(True)
            sides.check()
            sides.ours()


def test_a_first_loss_that_is_none_is_found():
    cost._check(lambda: np.log(10))
    for value in (0.1, 80.0, np.nan):
        with pytest.raises(AssertionError, match="the first loss is"):
            cost._check(lambda value=value: value)


@pytest.mark.parametrize(
    ("fixed", "slope"),
    [(1e-4, 2e-6), (0.0, 3e-6)],
)
def test_the_line_through_points_of_a_line(fixed, slope):
    x = np.array([1.0, 10, 100, 1000])
    np.testing.assert_allclose(cost.line_through(x, fixed + slope * x), (fixed, slope), rtol=1e-6, atol=1e-10)


def test_a_line_that_would_begin_below_zero_begins_there():
    fixed, slope = cost.line_through(np.array([1.0, 2, 4]), np.array([1.0, 3, 9]))
    assert fixed == 0 and 1 < slope < 2.5


def rows(series, points):
    return [{"series": series, "x": x, "fusedstep": {"median": t}} for x, t in points]


def test_a_straight_curve_has_no_reason():
    (caches, text) = cost.text(rows("layers", [(1, 30e-6), (2, 50e-6), (4, 90e-6)]))
    assert caches.startswith("caches:")
    assert text.startswith("layers: 10 us and 20 us a layer; points are off this line by 0% at most")


def test_why_curves_bend(monkeypatch):
    monkeypatch.setattr(cost, "caches", lambda: {"L2": 2_000_000, "L3": 50_000_000})
    steep = [(10_000, 1e-4), (100_000, 1e-3), (1_000_000, 3e-2)]
    text = "\n".join(cost.text(rows("parameters", steep)))
    assert "caches: L2 2 MB, L3 50 MB" in text
    assert "from 1.6 MB to 16 MB and no longer fit L2, 2 MB" in text
    text = "\n".join(cost.text(rows("samples", [(100, 1e-4), (200, 2e-4), (400, 4e-4), (500, 9e-4)])))
    assert "the caches do not explain it" in text
    flat = [(8, 2e-4), (32, 8e-4), (128, 12e-4), (512, 16e-4)]
    assert "BLAS comes closer to the processor's speed" in "\n".join(cost.text(rows("batch", flat)))


def test_the_gain_of_threads():
    text = cost.text(rows("threads-adamw", [(1, 3e-3), (2, 2e-3)]) + rows("threads-epoch", [(1, 0.2), (2, 0.1)]))
    assert "2 threads are 1.50 times as fast as one" in text[1] and "2.00" in text[2]


def test_one_point_has_no_curve():
    assert len(cost.text(rows("threads-adamw", [(1, 1.0)]))) == 1


def test_caches_of_a_machine_that_tells_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "Path", lambda path: tmp_path)
    assert cost.caches() == {}


def test_threads_are_put_back():
    before = fusedstep.get_num_threads()
    with contextlib.suppress(KeyError), cost._threads(1):
        raise KeyError
    assert fusedstep.get_num_threads() == before
