"""``fusedstep bench``: the table, the bytes, the checks and the command; a GPU's times need a GPU."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

import fusedstep
from fusedstep import cli
from fusedstep._bench import command, layers, plot, steps, timing
from fusedstep._bench.device import Device
from fusedstep._bench.table import CEILING, Sides, Work, header, lines, row
from fusedstep._bench.timing import in_turn, shuffled, summary

compiled = pytest.mark.skipif(fusedstep.info()["backend"] == "reference", reason="torch tensors need the module")
GPU_WORKS = {work.name: work for module in (steps, layers) for work in module.works(Device("cuda"))}
ON_THE_GPU_ALONE = {"adamw-graph"}


def run(capsys, *arguments):
    code = cli.main(["bench", *arguments])
    return code, *capsys.readouterr()


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
    assert text[-2].split() == ["JAX", "jax", "is", "missing"] and text[-1] == "    it is cold"


def test_a_row_without_peer_and_bytes():
    sides, seconds = made(peers=())
    result = row(Work("name", "title", lambda small: sides, "host"), sides, seconds, judged=True)
    assert not {"peer", "ratio", "GB/s", "share"} & result.keys()
    (only,) = lines(result)
    assert only.split() == ["title", "fusedstep", "2.00", "[2.00,", "2.00]", "ms"]


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
def test_the_table_of_the_cpu(capsys, tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "cpu.json"
    arguments = ["--quick", "--work", "adam-small", "--repeats", "2", "--json", str(path)]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[-4:-2] == ["kernels", header()] and "torch fused" in out.splitlines()[-1]
    stored = json.loads(path.read_text())
    (only,) = stored["rows"]
    assert only["work"] == "adam-small" and only["ratio"] > 0 and "targets" not in only
    assert {"processor", "isa", "num_threads", "numpy", "torch", "version"} <= stored["machine"].keys()
    assert "failures" not in stored and stored["command"].startswith("fusedstep ")


@compiled
def test_torch_is_imported_first(capsys, monkeypatch):
    """In a process of its own where it is not there yet."""
    pytest.importorskip("torch")
    asked = []

    def child(arguments):
        asked.append(arguments)
        return SimpleNamespace(returncode=7)

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(command.subprocess, "run", child)
    assert run(capsys, "kernels", "--work", "adam-small", "--json", "a b.json", "--plot", "p.png", "--quick")[0] == 7
    assert asked[0][:2] == [sys.executable, "-c"] and asked[0][2].index("torch") < asked[0][2].index("fusedstep")
    again = cli._parser().parse_args(asked[0][3:])
    assert (again.device, again.tables, again.work, again.quick) == ("cpu", ["kernels"], ["adam-small"], True)
    assert (str(again.json), str(again.plot)) == ("a b.json", "p.png")


@compiled
def test_a_work_that_fails_leaves_the_others(capsys, monkeypatch, tmp_path):
    pytest.importorskip("torch")

    def fail(small):
        raise AssertionError("params differ by 3")

    def misses(small):
        return Sides(nothing, {"peer": nothing}, nothing)

    works = [Work("bad", "bad", fail, "host"), Work("good", "good", misses, "host", {"ratio": 1e9})]
    monkeypatch.setattr(command, "_works", lambda device, table: works)
    path = tmp_path / "result.json"
    code, out, _ = run(capsys, "kernels", "--repeats", "3", "--json", str(path))
    assert code == 1 and "bad: FAILED: params differ by 3" in out and out.splitlines()[-2].endswith("MISSED")
    stored = json.loads(path.read_text())
    assert stored["failures"] == {"bad": "params differ by 3"} and [r["work"] for r in stored["rows"]] == ["good"]
    assert run(capsys, "kernels", "--repeats", "3", "--work", "go*")[0] == 0, "a missed target is no failure"


def test_no_device(capsys, monkeypatch):
    without = fusedstep.info() | {"cuda": False, "cuda_reason": "no driver"}
    monkeypatch.setattr(command.backend, "info", lambda: without)
    assert run(capsys, "--device", "cuda") == (2, "", "fusedstep bench: no CUDA device: no driver\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "--device"),
        (["--repeats", "0"], "--repeats: must be an integer >= 1 but got '0'"),
        (["kernels", "--work", "nothing"], "--work: cpu has no 'nothing'; it has adam-small, sgd-*, "),
        (["kernel"], "TABLE: cpu has no 'kernel'; it has the tables kernels"),
        (["kernels", "--device", "cuda"], "TABLE: cuda has no 'kernels'; it has no tables, only works"),
        (["--device", "cuda", "--work", "adam-small"], "--work: cuda has no 'adam-small'; it has adamw, "),
        (["--fast"], "--fast"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err


def test_help_lists_the_works(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "kernels" in out and "adamw-clipping" in out


@compiled
def test_without_a_compiler(capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("CXX", "no-such-compiler")
    """The ceiling is a line; the rest is measured, in other settings, too."""
    for name in ("adamw-large", "adamw-10000-1-thread"):
        code, out, _ = run(capsys, "--quick", "--repeats", "1", "--work", name)
        assert code == 0 and "FAILED" not in out
        assert "loop of the same traffic needs a C++ compiler, but there is no no-such-compiler: set CXX" in out


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_folder_that_is_not_there(option, capsys, tmp_path):
    path = tmp_path / "none" / "result.png"
    code, out, err = run(capsys, option, str(path))
    assert (code, out, err) == (2, "", f"fusedstep bench: the folder of '{path}' does not exist\n")


@compiled
def test_the_table_of_a_device(capsys, monkeypatch, tmp_path):
    """The command as on a GPU, with the CPU's tensors and clock in its place."""
    pytest.importorskip("torch")
    about = fusedstep.info() | {"cuda": True, "cuda_reason": None}
    monkeypatch.setattr(command.backend, "info", lambda: about)
    monkeypatch.setattr(command, "_works", lambda device, table: steps.works(Device("cpu")))
    monkeypatch.setattr(Device, "about", lambda self: {"gpu": "a GPU", "driver": "1.2"})
    monkeypatch.setattr(Device, "queue_ahead", lambda self, seconds: nothing)
    monkeypatch.setattr(Device, "in_turn", lambda self, functions, repeats, before=None: in_turn(functions, repeats))
    path = tmp_path / "gpu.json"
    arguments = ["--device", "cuda", "--quick", "--repeats", "2", "--json", str(path)]
    code, out, err = run(capsys, *arguments, "--work", "adamw", "rmsprop", "adamw-bfloat16-float32-states")
    assert (code, err) == (0, "") and out.startswith("gpu a GPU, driver 1.2, ")
    rows = {row["work"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["adamw"]["peer"] == "torch fused" and rows["rmsprop"]["peer"] == "torch foreach"
    assert "peer" not in rows["adamw-bfloat16-float32-states"]
    assert all(row["ceiling"]["name"] == "copy" and row["share"] > 0 for row in rows.values())


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


@compiled
def test_without_torch(capsys, monkeypatch):
    """In this process; the peer that is missing is a line of the table."""
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, _ = run(capsys, "kernels", "--quick", "--repeats", "2", "--work", "sgd-1000")
    assert code == 0 and out.splitlines()[-1].split()[:5] == ["torch", "SGD", "torch", "is", "missing:"]
