import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fusedstep import nn
from fusedstep._commands import train
from small_cli import run

pytest.importorskip("sklearn")
pytest.importorskip("skops")
rng = np.random.default_rng(0)
X = rng.normal(size=(90, 3))
Y = X @ [1.0, 2.0, 3.0] + rng.normal(size=90)
OPTIONS = ("--target", "y", "--no-progress", "--cv", "3", "--epochs", "12", "--hidden", "8", "--batch-size", "16")


def save(path, y=Y):
    np.savez(path, X=X, y=y)
    return path


@pytest.fixture
def data(tmp_path):
    return save(tmp_path / "data.npz")


def interrupt_in_fold(number, monkeypatch):
    """Ctrl-C, before the model of that fold is made."""
    made = []

    def make_network(*arguments, **options):
        made.append(arguments)
        if len(made) == number:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    original = train.make_network
    monkeypatch.setattr(train, "make_network", make_network)
    return lambda: monkeypatch.setattr(train, "make_network", original)


def results(folder):
    """All that a run computed; times and the place of the data differ from run to run."""
    history = json.loads((folder / "history.json").read_text())
    for one in history["histories"]:
        for row in one["rows"]:
            del row["seconds"]
    models = {
        path.name: {name: array.tobytes() for name, array in nn.load(path).state_dict().items()}
        for path in sorted(folder.glob("*.safetensors"))
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    return history, models, metrics, (folder / "predictions.csv").read_text()


@pytest.fixture
def interrupted(tmp_path, data, capsys, monkeypatch):
    folder = tmp_path / "run"
    undo = interrupt_in_fold(2, monkeypatch)
    code, _, err = run(capsys, "train", data, *OPTIONS, "--out", folder)
    undo()
    assert code == 130
    assert err == f"fusedstep: interrupted; go on with: fusedstep train --resume {folder}\n"
    return folder


def test_an_interrupted_run_goes_on_to_the_same_results(tmp_path, data, capsys, interrupted):
    assert not (interrupted / "metrics.json").exists() and (interrupted / "folds").is_dir()
    code, out, err = run(capsys, "train", "--resume", interrupted)
    assert (code, err) == (0, "") and out.endswith(f"written to {interrupted}\n")
    assert not (interrupted / "folds").exists()
    whole = tmp_path / "whole"
    assert run(capsys, "train", data, *OPTIONS, "--out", whole)[0] == 0
    assert results(interrupted) == results(whole)
    assert run(capsys, "predict", interrupted, data) == run(capsys, "predict", whole, data)


def test_a_finished_run_stays_as_it_is(tmp_path, data, capsys):
    folder = tmp_path / "run"
    assert run(capsys, "train", data, *OPTIONS, "--out", folder)[0] == 0
    before = results(folder)
    assert run(capsys, "train", "--resume", folder) == (0, f"the run in {folder} is finished\n", "")
    assert results(folder) == before
    code, out, err = run(capsys, "train", data, *OPTIONS, "--out", folder)
    assert (code, out.count("\n")) == (2, 2) and "is not empty: choose another folder with --out\n" in err


def test_what_a_kill_at_the_end_left_is_removed(tmp_path, data, capsys, interrupted):
    leftover = ".predictions.csv.0123456789abcdef.tmp"
    (interrupted / leftover).write_text("half")
    assert run(capsys, "train", "--resume", interrupted)[0] == 0
    files = sorted(path.name for path in interrupted.iterdir())
    assert leftover not in files and "folds" not in files
    (interrupted / "folds").mkdir()  # as a kill leaves it that comes just after metrics.json
    (interrupted / "folds" / "fold-1-result.safetensors").write_bytes(b"")
    assert run(capsys, "train", "--resume", interrupted)[0] == 0
    assert sorted(path.name for path in interrupted.iterdir()) == files


def refused(capsys, *arguments):
    code, _, err = run(capsys, "train", *arguments)
    assert code == 2 and err.startswith("fusedstep: ") and err.count("\n") == 1
    return err


def test_what_a_resumed_run_refuses(tmp_path, data, capsys, interrupted):
    kept = sorted(path.name for path in interrupted.rglob("*"))
    resume = ("--resume", interrupted)
    assert "argument --out: not allowed with argument --resume" in refused(capsys, *resume, "--out", tmp_path / "x")
    message = refused(capsys, *resume, "--epochs", "13")
    assert "argument --epochs: the run in" in message and "was started with 12, which goes on, but got 13" in message
    assert "was started with 8, which goes on, but got 8,8" in refused(capsys, *resume, "--hidden", "8,8")
    assert "was started with none, which goes on, but got X_0" in refused(capsys, *resume, "--stratify", "X_0")
    other = save(tmp_path / "other.npz", y=Y + 1e-9)
    assert "other.npz: not the data that the run in" in refused(capsys, other, *resume)
    assert "digits: not the data" in refused(capsys, "digits", *resume)
    assert "is not empty: choose another folder with --out, or go on with --resume" in refused(
        capsys, data, *OPTIONS, "--out", interrupted
    )
    data.unlink()
    assert "data.npz: No such file or directory" in refused(capsys, *resume)
    assert sorted(path.name for path in interrupted.rglob("*")) == kept, "nothing is lost by a wrong call"

    save(tmp_path / "moved.npz")
    same = ("--epochs", "12", "--n-jobs", "1", "--no-progress")
    assert run(capsys, "train", tmp_path / "moved.npz", *resume, *same)[0] == 0


def test_damaged_runs(tmp_path, data, capsys, interrupted):
    results = list((interrupted / "folds").glob("fold-1-result*"))
    assert results
    results[0].write_bytes(b"garbage")
    assert results[0].name in refused(capsys, "--resume", interrupted)
    (interrupted / "config.json").write_text("{}")
    assert "config.json: not the configuration of a run" in refused(capsys, "--resume", interrupted)
    assert "no config.json" in refused(capsys, "--resume", tmp_path / "nowhere")
    assert "no config.json" in refused(capsys, "--resume", data)


def test_a_failure_in_the_first_fold_leaves_no_folder(tmp_path, data, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise ValueError("too large")

    monkeypatch.setattr(train, "make_network", fail)
    assert refused(capsys, data, *OPTIONS, "--out", tmp_path / "run") == "fusedstep: too large\n"
    assert not (tmp_path / "run").exists()


def test_digits_can_be_resumed(tmp_path, capsys, monkeypatch):
    options = ("--epochs", "2", "--hidden", "8", "--folds", "3", "--no-progress", "--out", tmp_path / "run")
    undo = interrupt_in_fold(3, monkeypatch)
    assert run(capsys, "train", "digits", *options)[0] == 130
    undo()
    code, out, _ = run(capsys, "train", "--resume", tmp_path / "run")
    assert code == 0 and "mean" in out


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("how", "ends"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.parametrize("part", [("--cv", "3"), ("--split", "60/20/20")])
def test_a_process_that_is_stopped_amid_a_fold(how, ends, part, tmp_path, data, capsys):
    options = ("--target", "y", "--no-progress", "--epochs", "80", "--patience", "80", "--hidden", "8", *part)
    options = [*options, "--batch-size", "16"]
    folder = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Job control off, a shell's child ignores SIGINT: Python's own handler is set by hand.
    code = "import signal, sys; signal.signal(2, signal.default_int_handler); from fusedstep.cli import main; "
    code += "from fusedstep.cross_validation import folder; folder.MIN_SECONDS = 0; "
    process = subprocess.Popen(
        [sys.executable, "-c", code + "sys.exit(main())", "train", str(data), *options, "--out", str(folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    number = 2 if part[0] == "--cv" else 1
    checkpoint = folder / "folds" / f"fold-{number}-checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == ends, err
    assert not (folder / "metrics.json").exists()
    if how == signal.SIGINT:
        assert err == f"fusedstep: interrupted; go on with: fusedstep train --resume {folder}\n"
    assert run(capsys, "train", "--resume", folder)[0] == 0
    whole = tmp_path / "whole"
    assert run(capsys, "train", data, *options, "--out", whole)[0] == 0
    assert results(folder) == results(whole)
