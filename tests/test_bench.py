"""``fusedstep bench``: rows, times in turn, works of the GPU and their checks; a GPU's times need a GPU."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

import fusedstep
from fusedstep._bench import command, layers, loops, peers, plot, steps, timing
from fusedstep._bench.device import Device
from fusedstep._bench.table import CEILING, Sides, Work, header, lines, row
from fusedstep._bench.timing import in_turn, shuffled, summary

compiled = pytest.mark.skipif(fusedstep.info()["backend"] == "reference", reason="torch tensors need the module")
GPU_WORKS = {work.name: work for module in (steps, layers) for work in module.works(Device("cuda"))}
ON_THE_GPU_ALONE = {"adamw-graph"}


def nothing():
    """A side that takes no time."""


def made(*, peers=("slow", "fast"), moved=None):
    sides = Sides(nothing, dict.fromkeys(peers, nothing), nothing, moved, moved and ("copy", nothing))
    seconds = {"fusedstep": [2e-3] * 4, "slow": [5e-3] * 4, "fast": [1e-3, 3e-3, 3e-3, 7e-3], "ceiling": [1.9e-3] * 4}
    return sides, seconds


def test_a_row_takes_the_fastest_peer_and_judges_the_targets():
    sides, seconds = made(moved=4_000_000)
    work = Work("name", "title", lambda small: sides, "host", {"share": 0.95, "ratio": 1.6})
    result = row(work, sides, seconds, judged=True)
    assert result["peer"] == "fast" and result["ratio"] == pytest.approx(1.5)
    assert result["GB/s"] == pytest.approx(2.0) and result["share"] == pytest.approx(0.95)
    assert {name: target["met"] for name, target in result["targets"].items()} == {"share": True, "ratio": False}
    assert "targets" not in row(work, sides, seconds, judged=False)
    assert result["turns"] == 4 and result["peers"]["slow"]["ratio"] == pytest.approx(2.5) and json.dumps(result)
    ours, slow, fast = lines(result)
    for part in ("title", "2.00 [2.00, 2.00] ms", "2 of 2.11", "0.95"):
        assert part in ours
    assert ours.endswith("share >= 0.95: met, ratio >= 1.6: MISSED")
    assert slow.split() == ["slow", "5.00", "[5.00,", "5.00]", "ms", "2.50x"]
    assert fast.split() == ["fast", "3.00", "[2.50,", "4.00]", "ms", "1.50x"]
    assert len(header()) > header().index("ratio") == ours.index("0.95") - 1


def test_a_target_beside_one_peer():
    """Judged where that peer is there; a missing one is a line, as remarks are."""
    sides, seconds = made()
    sides = replace(sides, missing={"JAX": "jax is missing"}, remarks=lambda: ["it is cold"])
    work = Work("name", "title", lambda small: sides, "host", {"slow": 2.0, "fast": 2.0, "JAX": 2.0}, {"size": 3})
    result = row(work, sides, seconds, judged=True)
    assert [target["met"] for target in result["targets"].values()] == [True, False, None] and result["size"] == 3
    text = lines(result)
    assert text[0].endswith("slow >= 2: met, fast >= 2: MISSED, JAX >= 2: not judged, the peer is missing")
    named = replace(work, targets={"share": 0.9})
    assert lines(row(named, sides, seconds, judged=True))[0].endswith(
        "share >= 0.9: not judged, the ceiling is missing"
    )
    assert text[-2].split() == ["JAX", "jax", "is", "missing"] and text[-1] == "    it is cold"


def test_a_row_without_peer_and_bytes():
    sides, seconds = made(peers=())
    result = row(Work("name", "title", lambda small: sides, "host"), sides, seconds, judged=True)
    assert not {"peer", "ratio", "GB/s", "share"} & result.keys()
    (only,) = lines(result)
    assert only.split() == ["title", "fusedstep", "2.00", "[2.00,", "2.00]", "ms", "4"]


def test_a_ceiling_that_is_none_is_told():
    sides, seconds = made(peers=(), moved=4_000_000)
    for ceiling, remarks in ((2.0, []), (2.2, ["fusedstep is 1.10 times as fast as the copy: no ceiling here"])):
        times = seconds | {CEILING: [ceiling * 1e-3]}
        result = row(Work("name", "title", lambda small: sides, "host"), sides, times, judged=True)
        assert result.get("remarks", []) == remarks


def test_functions_run_in_turn_in_every_order():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = in_turn(functions, repeats=30, warm_up=1, before=lambda: calls.append("-"))
    assert list(seconds) == list("abc") and {len(times) for times in seconds.values()} == {30}
    assert calls[:3] == list("abc") and calls[3::2] == ["-"] * 90
    turns = ["".join(calls[i : i + 6 : 2]) for i in range(4, len(calls), 6)]
    assert {"".join(order) for order in itertools.permutations("abc")} == set(turns)
    assert summary([3.0]) == {"median": 3.0, "lower": 3.0, "upper": 3.0}


def test_turns_end_with_the_budget(monkeypatch):
    """A second passes with each look at the clock."""
    now = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(now)))
    assert len(in_turn({"a": nothing}, repeats=100, budget=1.0)["a"]) == timing.LEAST_TURNS
    assert len(in_turn({"a": nothing}, repeats=2, budget=1.0)["a"]) == 2
    calls = []
    in_turn({"a": lambda: calls.append(1)}, repeats=1, warm_up=1, calls=200, budget=50.0)
    assert len(calls) == 1 + 10, "a turn of one call took a second"


def test_events_stand_around_the_call_alone():
    """A torch that writes down what it is asked for; a millisecond passes with each entry."""
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")
            self.at = len(log)

        def elapsed_time(self, end):
            return end.at - self.at

    device = Device("cuda")
    device.__dict__["torch"] = SimpleNamespace(
        cuda=SimpleNamespace(Event=Event, synchronize=lambda: log.append("wait"))
    )
    functions = {"a": lambda: log.append("a"), "b": lambda: log.extend("bb")}
    seconds = device.in_turn(functions, 2, before=lambda: log.append("before"), warm_up=1)
    turns = {"a": ["before", "event", "a", "event"], "b": ["before", "event", "b", "b", "event"]}
    expected = [entry for turn in range(2) for name, _ in shuffled(functions, turn) for entry in turns[name]]
    assert log == ["a", "b", "b", "wait", *expected, "wait"]
    assert seconds == {"a": [2e-3] * 2, "b": [3e-3] * 2}


def test_the_works_of_the_gpu():
    targets = {name: work.targets for name, work in GPU_WORKS.items() if work.targets}
    assert targets == {
        "adamw": {"share": 0.92, "ratio": 1.0},
        "sgd-momentum": {"share": 0.92, "ratio": 1.0},
        "rmsprop": {"share": 0.92, "ratio": 2.0},
        "adagrad": {"share": 0.92, "ratio": 1.0},
        "adamw-1000-tensors": {"ratio": 1.5},
        "adamw-clipping": {"share": 0.92, "ratio": 1.2},
        **{
            f"batch-norm-{shape}-{layout}": {"ratio": 1.3}
            for shape in ("256x64x56x56", "256x256x14x14")
            for layout in ("nchw", "nhwc")
        },
        "dropout": {"share": 0.92, "ratio": 1.1},
    }
    assert {work.clock for work in GPU_WORKS.values()} <= command.CLOCKS.keys()


@compiled
@pytest.mark.parametrize("name", sorted(GPU_WORKS.keys() - ON_THE_GPU_ALONE))
def test_the_works_of_the_gpu_with_tensors_of_the_cpu(name):
    """Both sides agree, run, and count their bytes."""
    pytest.importorskip("torch")
    works = {work.name: work for module in (steps, layers) for work in module.works(Device("cpu"))}
    sides = works[name].make(True)
    sides.check()
    for function in sides.functions().values():
        function()
    if name in BYTES:
        assert sides.bytes_moved == BYTES[name]
    assert (sides.bytes_moved is None) == ("launch" in name)


# Values, times the bytes that one of them moves.
BYTES = {
    "adamw": 100_000 * 28,
    "sgd-momentum": 100_000 * 20,
    "rmsprop": 100_000 * 20,
    "adagrad": 100_000 * 20,
    "adamw-clipping": 100_000 * 32,
    "adamw-bfloat16": 100_000 * 14,
    "adamw-bfloat16-float32-states": 100_000 * (3 * 2 + 4 * 4),
    "adamw-float64": 100_000 * 56,
    "batch-norm-256x64x56x56-nchw": 8 * 64 * 56 * 56 * 32,
    "batch-norm-256x256x14x14-nhwc-bfloat16": 8 * 256 * 14 * 14 * 16,
    "dropout": 100_000 * 16,
}


@compiled
@pytest.mark.parametrize(
    ("module", "name", "op"),
    [(steps, "adamw", "adam_step"), (layers, "dropout", "dropout_backward")],
)
def test_a_side_that_computes_something_else_is_found(module, name, op, monkeypatch):
    pytest.importorskip("torch")
    right = getattr(fusedstep.ops, op)

    def wrong(*arrays, **options):
        right(*arrays, **options | ({"eps": 1e-3} if op == "adam_step" else {"offset": 9}))

    monkeypatch.setattr(fusedstep.ops, op, wrong)
    works = {work.name: work for work in module.works(Device("cpu"))}
    with pytest.raises(AssertionError):
        works[name].make(True).check()


@compiled
def test_as_many_threads_on_all_sides(monkeypatch):
    """Of ours, of torch and of the loops."""
    torch = pytest.importorskip("torch")
    before = fusedstep.get_num_threads(), torch.get_num_threads()
    try:
        fusedstep.set_num_threads(1)
        peers.same_threads()
        assert torch.get_num_threads() == 1
        if shutil.which(os.environ.get("CXX", "c++")):
            library = loops._compile.__wrapped__(os.environ.get("CXX", "c++"))
            assert library.set_threads(before[0]) == 1
    finally:
        fusedstep.set_num_threads(before[0])
        torch.set_num_threads(before[1])


def test_jax_stays_on_the_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    peers.bring("json", "JSON")
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_missing_packages_have_the_names_of_pip(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for module in ("sklearn", "sklearn.neural_network"):
        _, missing = peers.bring(module, "scikit-learn")
        assert missing == {"scikit-learn": "scikit-learn is missing: pip install 'fusedstep[bench]'"}


def test_a_call_begins_with_a_cold_cache_and_a_busy_device():
    log = []
    fake = SimpleNamespace(
        float32="float32",
        ones=lambda n, dtype, device: (n, dtype, device),
        sum=lambda array: log.append(array),
        cuda=SimpleNamespace(
            get_device_properties=lambda: SimpleNamespace(L2_cache_size=1000),
            _sleep=lambda cycles: log.append(cycles),
        ),
    )
    device = Device("cuda")
    device.__dict__["torch"] = fake
    device.queue_ahead(2e-3)()
    assert log == [(1000, "float32", "cuda"), 4_000_000]


def test_the_plot(tmp_path):
    """A line for each side of a kernel; rows without size or bytes have no place in it."""
    pytest.importorskip("matplotlib")
    sides, seconds = made(moved=4_000_000)
    rows = [
        row(
            Work("k", "k", lambda small: sides, "host", {}, {"kernel": "k", "size": size} | more),
            sides,
            seconds,
            judged=0,
        )
        for size, more in ((1000, {}), (10_000, {}), (10_000, {"setting": "avx2"}))
    ]
    series = plot._series(rows)
    assert {name: len(points) for name, points in series.items()} == {
        "fusedstep": 2, CEILING: 2, "slow": 2, "fast": 2, "fusedstep, avx2": 1
    }  # fmt: skip
    assert series["slow"] == [(1000, pytest.approx(0.8)), (10_000, pytest.approx(0.8))]
    path = tmp_path / "p.png"
    plot.throughput([*rows, {"work": "other"}], path, {"processor": "P", "num_threads": 2})
    assert path.read_bytes().startswith(b"\x89PNG")
    plot.throughput([], path, {})
