"""``fusedstep bench`` as a command: its options, its processes, what fails and what is missing."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import pytest

import fusedstep
from fusedstep import cli
from fusedstep._bench import command, networks, steps
from fusedstep._bench.device import Device
from fusedstep._bench.table import Sides, Work, header
from fusedstep._bench.timing import in_turn

compiled = pytest.mark.skipif(fusedstep.info()["backend"] == "reference", reason="torch tensors need the module")


def nothing():
    """A side that takes no time."""


def run(capsys, *arguments):
    code = cli.main(["bench", *arguments])
    return code, *capsys.readouterr()


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
    arguments = ["--work", "sgd-1000", "--json", "a b.json", "--plot", "p.png", "--rest", "0.5", "--quick"]
    code, _, err = run(capsys, "kernels", *arguments)
    assert (code, err) == (7, "fusedstep bench: the process beside torch ended with 7\n")
    assert asked[0][:2] == [sys.executable, "-c"] and asked[0][2].index("torch") < asked[0][2].index("fusedstep")
    again = cli._parser().parse_args(asked[0][3:])
    assert (again.device, again.tables, again.work, again.quick) == ("cpu", ["kernels"], ["sgd-1000"], True)
    assert (str(again.json), str(again.plot), again.rest) == ("a b.json", "p.png", 0.5)


@compiled
@pytest.mark.parametrize("training", [[], ["step-small"]])
def test_works_of_the_child_and_works_measured_alone(training, capsys, monkeypatch, tmp_path):
    """Each process has its own patterns; the file holds the rows of both."""
    pytest.importorskip("torch")
    path = tmp_path / "both.json"
    asked = []

    def child(arguments):
        asked.append(cli._parser().parse_args(arguments[3:]))
        path.write_text('{"machine": {"torch": "2"}, "rows": [{"work": "adamw-1000"}], "failures": {"x": "y"}}')
        return SimpleNamespace(returncode=command.CHILD_FAILED)

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(command.subprocess, "run", child)
    monkeypatch.setitem(command.CLOCKS, "host, 1 s", command.CLOCKS["host"])
    chosen = ["adamw-1000", *training, "layers-1", "layers-2"]
    code, out, err = run(capsys, "--quick", "--repeats", "1", "--json", str(path), "--work", *chosen)
    assert (code, err) == (1, ""), "the child told of one that failed"
    assert asked[0].tables == ["kernels"] + ["training"] * bool(training) and asked[0].work == chosen[:-2]
    stored = json.loads(path.read_text())
    assert [row["work"] for row in stored["rows"]] == ["adamw-1000", "layers-1", "layers-2"]
    assert stored["failures"] == {"x": "y"} and stored["machine"]["torch"] == "2" and "a step of 2 hidden" in out


@compiled
@pytest.mark.parametrize(("ended", "code"), [(1, 1), (-9, 1), (2, 2), (130, 130)])
def test_a_child_that_breaks_off_ends_the_run(ended, code, capsys, monkeypatch, tmp_path):
    """A traceback ends in 1, too. The file of an earlier run stays what it is."""
    pytest.importorskip("torch")
    path = tmp_path / "old.json"
    path.write_text("{}")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(command.subprocess, "run", lambda arguments: SimpleNamespace(returncode=ended))
    result = run(capsys, "--quick", "--json", str(path), "--work", "adamw-1000", "layers-1")
    assert result == (code, "", f"fusedstep bench: the process beside torch ended with {ended}\n")
    assert path.read_text() == "{}"


def test_the_code_of_the_child(monkeypatch):
    pytest.importorskip("torch")
    for code, wanted in ((0, 0), (1, command.CHILD_FAILED), (2, 2)):
        monkeypatch.setattr(cli, "main", lambda arguments, code=code: code)
        with pytest.raises(SystemExit) as end:
            exec(command._CHILD, {})
        assert end.value.code == wanted


@compiled
def test_a_work_that_fails_leaves_the_others(capsys, monkeypatch, tmp_path):
    pytest.importorskip("torch")

    def fail(small):
        raise AssertionError("params differ by 3")

    def too_large(small):
        raise MemoryError("no 3 TB")

    def misses(small):
        return Sides(nothing, {"peer": nothing}, nothing)

    works = [Work("bad", "bad", fail, "host"), Work("large", "large", too_large, "host")]
    works += [Work("good", "good", misses, "host", {"ratio": 1e9})]
    monkeypatch.setattr(command, "_works", lambda device, table: works)
    path = tmp_path / "result.json"
    code, out, _ = run(capsys, "kernels", "--repeats", "3", "--json", str(path))
    assert code == 1 and "bad: FAILED: params differ by 3" in out and out.splitlines()[-2].endswith("MISSED")
    stored = json.loads(path.read_text())
    assert stored["failures"] == {"bad": "params differ by 3", "large": "MemoryError: no 3 TB"}
    assert [r["work"] for r in stored["rows"]] == ["good"]
    assert run(capsys, "kernels", "--repeats", "3", "--work", "go*")[0] == 0, "a missed target is no failure"


@compiled
def test_an_interrupt_ends_the_run(capsys, monkeypatch):
    """`fit` returns what it has so far, which is no epoch."""
    monkeypatch.setattr(networks, "fit", lambda *given, **options: SimpleNamespace(interrupted=True, rows=[]))
    code, out, err = run(capsys, "cost", "--quick", "--work", "samples-1000", "batch-8")
    assert code == 130 and err.strip().endswith("interrupted") and "batch 8" not in out


@compiled
def test_rest_ahead_of_each_time(capsys, monkeypatch):
    rests = []
    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=rests.append))
    assert run(capsys, "cost", "--quick", "--repeats", "2", "--work", "layers-1", "--rest", "0.2")[0] == 0
    assert rests == [0.2] * 2


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
    assert code == 0
    for name in ("kernels: adam-small", "adamw-*", "training: epoch-32", "cost: parameters-*", "adamw-clipping"):
        assert name in " ".join(out.split())


@compiled
def test_without_a_compiler(capsys, monkeypatch):
    """The ceiling is a line; the rest is measured, in other settings, too."""
    pytest.importorskip("torch")
    monkeypatch.setenv("CXX", "no-such-compiler")
    # On one processor there is no second setting.
    for name in ("adamw-large", "adamw-10000-1-thread" if fusedstep.get_num_threads() > 1 else "adamw-10000*"):
        code, out, _ = run(capsys, "--quick", "--repeats", "1", "--work", name)
        assert code == 0 and "FAILED" not in out
        assert "loop of the same traffic needs a C++ compiler, but there is no no-such-compiler: set CXX" in out


@compiled
@pytest.mark.skipif(shutil.which("false") is None, reason="without a compiler that fails")
def test_a_compiler_that_fails(capsys, monkeypatch, tmp_path):
    """With what it said last; words behind its name are its arguments."""
    pytest.importorskip("torch")
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho first >&2\necho no $1 >&2\nexit 1\n")
    compiler.chmod(0o755)
    for name, reason in ((f"{compiler} -fopenmp", "no -fopenmp"), ("false", "no reason given")):
        monkeypatch.setenv("CXX", name)
        code, out, _ = run(capsys, "kernels", "--quick", "--repeats", "1", "--work", "adamw-large")
        assert code == 0 and "FAILED" not in out
        assert f"loop of the same traffic is not to be had from {name}: {reason}" in out


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_folder_that_is_not_there(option, capsys, tmp_path):
    path = tmp_path / "none" / "result.png"
    code, out, err = run(capsys, option, str(path))
    assert (code, out, err) == (2, "", f"fusedstep bench: the folder of '{path}' does not exist\n")
    code, out, err = run(capsys, option, str(tmp_path))
    assert (code, out, err) == (2, "", f"fusedstep bench: '{tmp_path}' is a folder\n")


def test_a_folder_that_nobody_writes_to(capsys, monkeypatch, tmp_path):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(command.tempfile, "TemporaryFile", refuse)
    path = tmp_path / "a.json"
    code, out, err = run(capsys, "--json", str(path))
    assert (code, out, err) == (2, "", f"fusedstep bench: cannot write '{path}': Permission denied\n")


def test_a_picture_that_cannot_be_drawn(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = run(capsys, "kernels", "--plot", str(tmp_path / "a.xyz"))
    assert code == 2 and out == "" and "argument --plot: '" in err and "a.xyz' has none of the endings ." in err
    for tables in (["training"], ["cost"], ["kernels", "--work", "adam-small"]):
        code, out, err = run(capsys, *tables, "--plot", str(tmp_path / "a.png"))
        assert code == 2 and out == "" and "none of these works is one: see the table kernels" in err


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


@compiled
def test_without_torch(capsys, monkeypatch):
    """In this process; the peer that is missing is a line of the table."""
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, _ = run(capsys, "kernels", "--quick", "--repeats", "2", "--work", "sgd-1000")
    assert code == 0 and out.splitlines()[-1].split()[:4] == ["torch", "torch", "is", "missing:"]
    assert f"backend {fusedstep.info()['backend']}, " in out.splitlines()[0]
