import sys

import pytest

from fusedstep import cli
from small_cli import QUICK, train, write

pytest.importorskip("sklearn")
pytest.importorskip("skops")


def refused(capsys, *arguments):
    code, out, err = train(capsys, *arguments)
    assert code == 2 and err.startswith("fusedstep") and err.count("\n") == 1 and out.count("\n") in (0, 2)
    return err


X3 = {"x": [1, 2, 3] * 4, "y": ["a", "b"] * 6}
NUMBERS = {"x": range(40), "y": [i * 0.5 for i in range(40)]}


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (X3, ("--target", "z"), "argument --target: there is no column 'z'; the columns are 'x', 'y'"),
        ({"x": X3["x"], "target": X3["y"]}, ("--target", "Tagret"), "'Tagret'; did you mean 'target'?"),
        (X3, ("--target", "y", "--stratify", "w"), "argument --stratify: there is no column 'w'"),
        (X3, ("--target", "y", "--group", "w"), "argument --group: there is no column 'w'"),
        (X3, ("--target", "y", "--drop", "w"), "argument --drop: there is no column 'w'"),
        (X3, ("--target", "y", "--categorical", "w"), "argument --categorical: there is no column 'w'"),
        (X3, (), "argument --target: name the column to predict"),
        (X3, ("--target", "y", "--drop", "x"), "has no column left to learn from"),
        (X3, ("--target", "y", "--group", "y"), "argument --group: 'y' is the target"),
        (X3, ("--target", "y", "--group", "x", "--stratify", "x"), "argument --stratify: 'x' is the group"),
        ({"x": [1, 2], "y": ["a", "a"]}, ("--target", "y"), "the target 'y' has one class only, 'a'"),
        ({"x": [1, 2], "y": [5, 5]}, ("--target", "y"), "the target 'y' has one class only, '5'"),
        ({"x": [1, 2], "y": [0.5, 0.5]}, ("--target", "y"), "the target 'y' is 0.5 in all rows"),
        ({"x": [1, 2], "y": ["a", ""]}, ("--target", "y"), "line 3: the target 'y' has no value"),
        ({"x": [1, 2], "y": [1, "NaN"]}, ("--target", "y"), "line 3: the target 'y' has no value"),
        ({"x": [1, 2], "y": [1, "inf"]}, ("--target", "y"), "line 3: column 'y' is infinite"),
        ({"x": [1, "-inf"], "y": [1, 2]}, ("--target", "y"), "line 3: column 'x' is infinite"),
        (
            {"x": [1, 1e200], "y": [1, 2]},
            ("--target", "y"),
            "line 3: column 'x' is 1e+200, too large to be standardized",
        ),
        ({"x": [1, 2], "y": [0.5, -1e151]}, ("--target", "y"), "line 3: column 'y' is -1e+151, too large"),
        (
            {"x": [1, 2] * 6, "y": [2**53, 2**53 + 1] * 6},
            ("--target", "y"),
            "line 2: the target 'y' is 9007199254740992",
        ),
        (
            {"x": X3["x"], "a, b": [5, 2**60, 2**60 + 1] * 4},
            ("--target", "a, b", "--task", "classification"),
            """line 3: the target 'a, b' is 1152921504606846976: numbers from 2**53 on are not all told apart; """
            """--categorical '"a, b"' takes them as names""",
        ),
        ({"x": [1, "NA"], "y": [1, 2]}, ("--target", "y"), "line 3: column 'x' has no value: --missing impute"),
        (
            {"x": [1, "NA", "NA"], "z": [1, 2, ""], "y": [1, 2, 1]},
            ("--target", "y"),
            "line 3: column 'x' has no value, nor in 1 other rows; values are missing of 'z', too: --missing impute",
        ),
        ({"x": ["", ""], "z": [1, 2], "y": [1, 2]}, ("--target", "y", "--missing", "impute"), "has no values"),
        ({"x": ["p", ""], "y": [1, 2]}, ("--target", "y", "--group", "x"), "the group 'x' has no value"),
        (
            {"x": ["1", ""], "z": [1, 2], "y": [1, 2]},
            ("--target", "y", "--stratify", "x", "--missing", "impute"),
            "--stratify 'x' has no value",
        ),
        (
            {"id": [f"n{i}" for i in range(50)], "y": [1, 2] * 25},
            ("--target", "y"),
            "column 'id' has 50 categories in 50 rows: more than --max-categories 200, or than half of the rows",
        ),
        (
            {"age": [*range(49), "abc"], "y": [1, 2] * 25},
            ("--target", "y"),
            "line 51: column 'age' has numbers, but here 'abc': mend it, or say --na abc if it stands for",
        ),
        (
            {"age": ["1,5", "2"] * 25, "y": [1, 2] * 25},
            ("--target", "y"),
            "line 2: column 'age' has numbers, but here '1,5': --decimal , reads decimal commas, or --categorical age",
        ),
        (
            {"x": range(50), "y": [*map(float, range(49)), "?"]},
            ("--target", "y"),
            "line 51: column 'y' has numbers, but here '?'",
        ),
        (
            {"id": [f"n{i}" for i in range(50)], "visit": [f"v{i}" for i in range(50)], "y": [1, 2] * 25},
            ("--target", "y"),
            "has 50 categories in 50 rows, and 'visit' has 50: more than --max-categories 200",
        ),
        (
            {"c": [f"n{i % 5}" for i in range(50)], "y": [1, 2] * 25},
            ("--target", "y", "--max-categories", "4"),
            "leave it out with --drop c",
        ),
        (
            {"x": range(50), "y": [f"n{i}" for i in range(50)]},
            ("--target", "y"),
            "the target 'y' has 50 classes in 50 rows",
        ),
        (X3, ("--target", "y", "--task", "regression"), "line 2: a regression needs numbers but the target 'y' is 'a'"),
        (X3, ("--target", "y", "--cv", "13"), "argument --cv/--folds: there are only 12 samples but got 13"),
        (
            {"x": [1, 2, 3, 4], "y": [1, 2, 1, 2]},
            ("--target", "y", "--cv", "3"),
            "4 samples in 3 folds leave 1 to train on, and batch normalization needs 2; see --no-batch-norm",
        ),
        (X3, ("--target", "y", "--group", "x"), "has no column left"),
        (X3, ("--target", "y", "--batch-size", "100"), "argument --batch-size: a training part has about 7 samples"),
        (X3, ("--target", "y", "--batch-size", "1"), "argument --batch-size: must be an integer >= 2 with batch norm"),
        (X3, ("--target", "y", "--metrics", "rmse"), "--metrics: rmse is for a regression, this is a classification"),
        (
            X3,
            ("--target", "y", "--metrics", "mae"),
            "--metrics: must be of accuracy, f1_macro, roc_auc, rmse, r2 but got",
        ),
        (NUMBERS, ("--target", "y", "--metrics", "accuracy"), "--metrics: accuracy is for a classification"),
        (NUMBERS, ("--target", "y", "--class-weight", "balanced"), "--class-weight: a regression has no classes"),
        ({"": range(12), **X3}, ("--target", "y"), "to_csv(..., index=False) leaves it out"),
        (X3, (), "argument --target: name the column to predict; the columns are 'x', 'y'"),
        (X3, ("--target", "y", "--encoding", "klingon"), "--encoding: must be an encoding such as latin-1"),
        (X3, ("--target", "y", "--encoding", "base64"), "--encoding: must be an encoding such as latin-1"),
        (X3, ("--target", "y", "--split", "1e308/1e308/1e308"), "--split: must be three shares"),
        (X3, ("--target", "y", "--drop", '"x'), "--drop: must be different names"),
    ],
)
def test_tables_that_cannot_be_learnt_from(columns, options, message, tmp_path, capsys):
    path = write(tmp_path / "data.csv", columns)
    assert message in refused(capsys, path, *options, "--no-progress", "--epochs", "1", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("columns", [{"x": range(40), "y": ["a", "b"] * 20}, NUMBERS], ids=["classes", "numbers"])
def test_a_training_that_diverges_is_refused(columns, tmp_path, capsys):
    path = write(tmp_path / "data.csv", columns)
    options = ("--optimizer", "sgd", "--lr", "1e30", "--no-batch-norm", *QUICK, "--out", tmp_path / "run")
    err = refused(capsys, path, "--target", "y", *options)
    assert err.startswith("fusedstep: fold 1: the training diverged, no validation loss is finite: try an --lr")
    assert not (tmp_path / "run").exists()


def test_files_that_cannot_be_read(tmp_path, capsys):
    out = ("--target", "y", "--out", tmp_path / "run")
    assert "data.csv: No such file or directory" in refused(capsys, tmp_path / "data.csv", *out)
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv: Is a directory" in refused(capsys, tmp_path / "folder.csv", *out)
    for name, message in (
        ("data.csv", "line 1: not a text in utf-8"),
        ("data.npz", "not an NPZ file"),
        ("data.parquet", "not a Parquet file"),
    ):
        (tmp_path / name).write_bytes(bytes(range(128, 256)) * 8)
        assert message in refused(capsys, tmp_path / name, *out)
    assert not (tmp_path / "run").exists()


def test_too_few_groups(tmp_path, capsys):
    path = write(tmp_path / "data.csv", {"x": range(12), "g": [1, 2] * 6, "y": ["a", "a", "b"] * 4})
    assert "2" in refused(capsys, path, "--target", "y", "--group", "g", *QUICK, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named_before_the_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "skops", None)
    path = write(tmp_path / "data.csv", X3)
    message = refused(capsys, path, "--target", "y", "--out", tmp_path / "run")
    assert message == "fusedstep: skops is missing: pip install 'fusedstep[sklearn]'\n"


def test_no_cuda_device(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli.backend, "info", lambda: {"version": "0", "cuda": [], "cuda_reason": "no driver"})
    path = write(tmp_path / "data.csv", X3)
    message = refused(capsys, path, "--target", "y", "--device", "cuda", "--out", tmp_path / "run")
    assert message == "fusedstep: argument --device: no CUDA device: no driver\n"
