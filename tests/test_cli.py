import json
import math
import os
import re
import subprocess
import sys
from inspect import signature

import pytest

import fusedstep
from fusedstep import cli, model_selection, nn
from fusedstep._commands import run_folder
from fusedstep._commands.network import OPTIMIZERS
from small_cli import run

QUICK = ["train", "digits", "--epochs", "2", "--hidden", "16", "--folds", "3", "--no-progress"]


def test_version(capsys):
    assert run(capsys, "--version")[:2] == (0, f"fusedstep {fusedstep.__version__}\n")


def test_help(capsys):
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0 and "--dropout" in out and "default: 0.2" in out


def test_info(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0 and re.search(rf"^version +{re.escape(fusedstep.__version__)}$", out, re.MULTILINE)
    code, out, _ = run(capsys, "info", "--json")
    assert code == 0 and json.loads(out)["version"] == fusedstep.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["bake"], "bake"),
        (["train"], "DATA"),
        (["train", "mnist"], "mnist"),
        (["train", "digits", "--epochs", "0"], "--epochs: must be an integer >= 1 but got '0'"),
        (["train", "digits", "--epochs", "many"], "--epochs: must be an integer >= 1 but got 'many'"),
        (["train", "digits", "--batch-size", "1"], "--batch-size: must be an integer >= 2"),
        (["train", "digits", "--lr", "nan"], "--lr: must be a number in (0, inf)"),
        (["train", "digits", "--lr", "-1"], "--lr: must be a number in (0, inf)"),
        (["train", "digits", "--dropout", "1"], "--dropout: must be a number in [0, 1)"),
        (["train", "digits", "--hidden", "64,"], "--hidden: must be widths such as 128,64 but got '64,'"),
        (["train", "digits", "--hidden", "0"], "--hidden: must be widths"),
        (["train", "digits", "--patience", "0"], "--patience: must be"),
        (["train", "digits", "--folds", "2"], "--folds: must be an integer >= 3"),
        (["train", "digits", "--seed", "-1"], "--seed: must be an integer >= 0"),
        (["train", "digits", "--n-jobs", "0"], "--n-jobs: must be"),
        (["train", "digits", "--threads", "0"], "--threads: must be"),
        (["train", "digits", "--fast"], "--fast"),
        (["train", "digits", "--target", "y"], "--target: digits takes none; it is for tables"),
        (["train", "digits", "--delimiter", ";"], "--delimiter: digits takes none"),
        (["train", "digits", "--split", "60/40"], "--split: must be three shares such as 60/20/20 but got '60/40'"),
        (["train", "digits", "--split", "60/40/0"], "--split: must be three shares"),
        (["train", "digits", "--split", "6/2/2", "--cv", "5"], "not allowed with argument"),
        (["train", "digits", "--optimizer", "adem"], "--optimizer: invalid choice: 'adem'"),
        (["train", "digits", "--metrics", "accuracy,"], "--metrics: must be different names"),
        (["train", "digits", "--metrics", "beauty"], "beauty"),
        (["train", "digits", "--weight-decay", "-1"], "--weight-decay: must be a number in [0, inf)"),
        (["train", "digits", "--max-norm", "0"], "--max-norm: must be a number in (0, inf)"),
        (["train", "digits", "--batch-size", "2000"], "--batch-size: a training part has about 1078 samples"),
        (["train", "digits", "--batch-size", "half"], "--batch-size: must be an integer >= 1 but got 'half'"),
        (["train", "digits", "--resume", "nowhere"], "nowhere: not the folder of a run: there is no config.json in it"),
        (["predict"], "FOLDER"),
        (["predict", "nowhere", "new.csv"], "nowhere: not the folder of a run"),
        (["train", "digits", "--folds", "2000"], "--folds: there are only 1797 samples but got 2000"),
        (["train", "digits", "--epochs", "9" * 20], "--epochs: must be an integer <= 2147483647"),
        (["train", "digits", "--batch-size", "9" * 20], "--batch-size: must be an integer <= 2147483647"),
        (["train", "digits", "--hidden", "9" * 22], "--hidden: must be widths"),
        (["train", "digits", "--hidden", "9" * 11], "--hidden: must be widths"),
    ],
)
def test_wrong_options_give_one_line_and_exit_code_2(arguments, message, capsys):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == ""
    assert err.startswith("fusedstep") and err.count("\n") == 1 and message in err


@pytest.fixture
def digits():
    return pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)


def test_train_digits(tmp_path, capsys, digits):
    folder = tmp_path / "run"
    code, out, err = run(capsys, *QUICK, "--out", str(folder))
    assert code == 0 and err == ""
    assert [line.split()[0] for line in out.splitlines() if line[0] != "-"][1:] == [
        *("fold", "1", "2", "3", "mean", "std", "written")
    ]
    assert out.splitlines()[-1] == f"written to {folder}"
    names = {"config.json", "history.json", "metrics.json", "predictions.csv", "curves.png"}
    names |= {f"model-fold-{i}.safetensors" for i in (1, 2, 3)}
    assert {path.name for path in folder.iterdir()} == names

    config, history, metrics = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "history", "metrics")
    )
    assert config["options"]["epochs"] == 2 and config["options"]["hidden"] == [16]
    assert config["environment"]["version"] == fusedstep.__version__
    assert [len(one["rows"]) for one in history["histories"]] == [2, 2, 2]
    X, y = digits
    test = history["test_indices"][0]
    model = nn.load(folder / "model-fold-1.safetensors")
    right = (model.predict((X[test] / 16).astype("float32")).argmax(axis=1) == y[test]).mean()
    assert right == metrics["rows"][0]["test_accuracy"]

    again = run(capsys, *QUICK, "--out", str(folder))
    assert again[0] == 2 and again[1] == "" and "is not empty" in again[2] and again[2].count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(fusedstep.info()["backend"] == "reference", reason="takes a while without the compiled module")
def test_the_defaults_classify_digits(tmp_path, capsys, digits):
    code, _, _ = run(capsys, "train", "digits", "--no-progress", "--out", str(tmp_path))
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert code == 0 and record["mean"]["test_accuracy"] >= 0.97


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_learns_with_its_own_rate(optimizer, tmp_path, capsys, digits):
    options = ("--optimizer", optimizer, "--epochs", "2", "--hidden", "32", "--split", "60/20/20", "--no-progress")
    assert run(capsys, "train", "digits", *options, "--out", str(tmp_path / "run"))[0] == 0
    (history,) = json.loads((tmp_path / "run" / "history.json").read_text())["histories"]
    first, second = (row["train_loss"] for row in history["rows"])
    assert 0 < second < first < math.inf
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["options"]["lr"]
    own = signature(OPTIMIZERS[optimizer]).parameters["lr"].default
    assert kept == {"sgd": 0.1, "momentum": 0.01}.get(optimizer, own)


def test_help_shows_the_rate_of_each_optimizer(capsys):
    text = " ".join(run(capsys, "train", "--help")[1].split())
    parts = text.split("learning rate (default: ")[1].split(")")[0].split("; ")
    rates = {name: rate for rate, names in (part.split(" for ") for part in parts) for name in names.split(", ")}
    assert rates.keys() == OPTIMIZERS.keys()
    assert (rates["adadelta"], rates["sgd"], rates["adam"]) == ("1", "0.1", "0.001")


def test_the_seed_decides_the_table(tmp_path, capsys, digits):
    def table(name, *arguments):
        return run(capsys, *QUICK, "--out", str(tmp_path / name), *arguments)[1].splitlines()[:-1]

    before = fusedstep.get_num_threads()
    try:
        first = table("a", "--threads", "1")
        assert table("b", "--threads", "2") == first
    finally:
        fusedstep.set_num_threads(before)
    assert table("c", "--seed", "1") != first


def test_without_matplotlib(tmp_path, capsys, monkeypatch, digits):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, _ = run(capsys, *QUICK, "--out", str(tmp_path))
    assert code == 0 and not (tmp_path / "curves.png").exists()
    assert "no curves.png: matplotlib is missing: pip install 'fusedstep[plot]'\n" in out


def test_without_scikit_learn(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    folder = tmp_path / "run"
    code, out, err = run(capsys, *QUICK, "--out", str(folder))
    assert (code, out, err) == (2, "", "fusedstep: sklearn is missing: pip install 'fusedstep[sklearn]'\n")
    assert not folder.exists()


def test_the_run_folder_is_a_file(tmp_path, capsys, digits):
    path = tmp_path / "file"
    path.write_text("kept")
    code, out, err = run(capsys, *QUICK, "--out", str(path))
    assert code == 2 and out == "" and err.count("\n") == 1 and str(path) in err
    assert path.read_text() == "kept"


def test_default_folder(tmp_path, capsys, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, *QUICK)
    (folder,) = (tmp_path / "runs").iterdir()
    assert code == 0 and re.fullmatch(r"digits-\d{8}-\d{6}", folder.name)
    assert out.endswith(f"written to {os.path.join('runs', folder.name)}\n")


def test_ctrl_c(tmp_path, capsys, monkeypatch, digits):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(model_selection, "cross_validate", interrupt)
    folder = tmp_path / "run"
    code, _, err = run(capsys, *QUICK, "--out", str(folder))
    assert code == 130 and err == "fusedstep: interrupted\n"
    assert not folder.exists()
    run(capsys, *QUICK, "--out", str(tmp_path))
    assert tmp_path.exists(), "a folder of the user's own stays"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("9 TiB"), "not enough memory: 9 TiB"),
        (RuntimeError("FUSEDSTEP_ISA: no avx9"), "FUSEDSTEP_ISA: no avx9"),
        (ValueError("too many"), "too many"),
    ],
)
def test_failures_give_one_line_and_leave_no_folder(error, message, tmp_path, capsys, monkeypatch, digits):
    folder = tmp_path / "run"

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(model_selection, "cross_validate", fail)
    assert run(capsys, *QUICK, "--out", str(folder)) == (2, "", f"fusedstep: {message}\n")
    assert not folder.exists()


def test_a_folder_that_cannot_be_removed_does_not_hide_the_error(tmp_path, capsys, monkeypatch, digits):
    def fail(*arguments, **options):
        (tmp_path / "run" / "of another program").touch()
        raise ValueError("the cause")

    monkeypatch.setattr(model_selection, "cross_validate", fail)
    assert run(capsys, *QUICK, "--out", str(tmp_path / "run"))[::2] == (2, "fusedstep: the cause\n")


def test_the_folder_is_tried_before_the_training(tmp_path, capsys, monkeypatch, digits):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(model_selection, "cross_validate", None)
    assert run(capsys, *QUICK, "--out", str(tmp_path)) == (
        *(2, ""),
        f"fusedstep: cannot write to {tmp_path}: Permission denied\n",
    )


def process(*arguments, stdout=subprocess.PIPE, command=("-m", "fusedstep"), **variables):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | variables
    return subprocess.run(
        [sys.executable, *command, *arguments], env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def test_as_a_process():
    result = process("train", "digits", "--epochs", "x")
    assert result.returncode == 2 and result.stderr.count("\n") == 1


def test_without_the_compiled_module_a_line_says_so(tmp_path, digits):
    run, name = str(tmp_path / "run"), "FUSEDSTEP_BACKEND"
    code = "import sys; sys.modules['fusedstep._cpu'] = None; from fusedstep.cli import main; sys.exit(main())"
    result = process(*QUICK, "--epochs", "1", "--out", run, command=("-c", code), **{name: ""})
    assert result.returncode == 0 and result.stdout.endswith(f"written to {run}\n")
    assert result.stderr.startswith("fusedstep: warning: fusedstep runs on its slow NumPy reference: ")
    assert result.stderr.count("\n") == 1 and f"{name}=reference" in result.stderr
    result = process(*QUICK, "--epochs", "1", "--out", f"{run}-2", command=("-c", code), **{name: "reference"})
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("setting", [{"FUSEDSTEP_BACKEND": "foo"}, {"FUSEDSTEP_BACKEND": "", "FUSEDSTEP_ISA": "foo"}])
def test_info_fails_where_no_kernel_will_run(setting):
    result = process("info", **setting)
    assert result.returncode == cli.NO_BACKEND and re.search(r"^problem .*foo", result.stdout, re.MULTILINE)
    result = process("info", "--json", **setting)
    assert result.returncode == cli.NO_BACKEND and "foo" in json.loads(result.stdout)["problem"]


@pytest.mark.parametrize("variable", ["FUSEDSTEP_ISA", "FUSEDSTEP_NUM_THREADS"])
@pytest.mark.skipif(fusedstep.info()["backend"] == "reference", reason="the compiled module alone reads them")
def test_a_wrong_environment(variable, tmp_path, digits):
    result = process(*QUICK, "--out", str(tmp_path / "run"), **{variable: "0"})
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and variable in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
def test_a_reader_that_has_gone():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        result = process("info", stdout=stdout)
    assert (result.returncode, result.stderr) == (cli.BROKEN_PIPE, "")


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    class Stopped(run_folder.datetime):
        @classmethod
        def now(cls):
            return cls(2024, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "datetime", Stopped)
    names = [run_folder.RunFolder.new(None, "digits").path.name for _ in range(3)]
    assert names == ["digits-20240102-030405", "digits-20240102-030405-2", "digits-20240102-030405-3"]
