import csv
import io
import json
import shutil

import numpy as np
import pytest

from fusedstep import cli
from fusedstep._commands.results import prediction_columns, probabilities
from small_cli import run, write

pytest.importorskip("sklearn")
pytest.importorskip("skops")
rng = np.random.default_rng(3)
N = 150
COLUMNS = {
    "size": rng.normal(size=N).round(3).tolist(),
    "colour": rng.choice(["red", "green", "blue"], N).tolist(),
    "weight": rng.normal(100, 5, size=N).round(2).tolist(),
}
CLASS = [
    f"{'big' if size > 0 else 'small'}, {colour}" for size, colour in zip(*list(COLUMNS.values())[:2], strict=True)
]
NUMBER = [2 * size + weight for size, weight in zip(COLUMNS["size"], COLUMNS["weight"], strict=True)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with runs that none of the tests changes."""
    folder = tmp_path_factory.mktemp("runs")
    options = (
        "--no-progress",
        "--hidden",
        "16",
        "--epochs",
        "40",
        "--batch-size",
        "16",
        "--lr",
        "0.02",
        "--dropout",
        "0",
    )
    for name, target, more in (
        ("classes", CLASS, ("--cv", "3")),
        ("numbers", NUMBER, ("--cv", "3")),
        ("one", CLASS, ("--split", "60/20/20", "--missing", "impute")),
    ):
        data = write(folder / f"{name}.csv", COLUMNS | {"y": target})
        assert cli.main(["train", str(data), "--target", "y", *options, *more, "--out", str(folder / name)]) == 0
    return folder


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_probabilities_of_all_folds_are_averaged(runs, tmp_path, capsys):
    data = write(tmp_path / "new.csv", {name: values[:9] for name, values in COLUMNS.items()})
    code, out, err = run(capsys, "predict", runs / "classes", data)
    assert (code, err) == (0, "")
    names = sorted(set(CLASS))
    predicted = rows(out)
    assert list(predicted[0]) == ["row", "prediction", *(f"probability_{name}" for name in names)]
    assert [row["row"] for row in predicted] == list("123456789")
    mean = np.array([[float(row[f"probability_{name}"]) for name in names] for row in predicted])
    np.testing.assert_allclose(mean.sum(axis=1), 1, atol=1e-5)
    assert [row["prediction"] for row in predicted] == [names[i] for i in mean.argmax(axis=1)]
    assert np.mean([row["prediction"] == label for row, label in zip(predicted, CLASS, strict=False)]) > 0.7

    each = []
    for k in (1, 2, 3):  # a run of one fold alone
        folder = tmp_path / str(k)
        shutil.copytree(runs / "classes", folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"models": [f"model-fold-{k}.safetensors"], "preprocessors": [f"preprocess-fold-{k}.skops"]}
        (folder / "config.json").write_text(json.dumps(config))
        answer = rows(run(capsys, "predict", folder, data)[1])
        each.append([[float(row[f"probability_{name}"]) for name in names] for row in answer])
    np.testing.assert_allclose(np.mean(each, axis=0), mean, atol=2e-6)
    assert np.ptp(each, axis=0).max() > 0.01


def test_numbers_are_in_the_unit_of_the_target(runs, tmp_path, capsys):
    data = write(tmp_path / "new.csv", COLUMNS)
    code, out, err = run(capsys, "predict", runs / "numbers", data)
    predicted = np.array([float(row["prediction"]) for row in rows(out)])
    assert (code, err) == (0, "") and np.corrcoef(predicted, NUMBER)[0, 1] > 0.9
    assert abs(np.mean(predicted) - np.mean(NUMBER)) < 2


def test_columns_are_matched_by_name(runs, tmp_path, capsys):
    straight = write(tmp_path / "new.csv", COLUMNS)
    expected = run(capsys, "predict", runs / "classes", straight)[1]
    turned = dict(reversed([("extra", range(N)), *COLUMNS.items()]))
    code, out, err = run(capsys, "predict", runs / "classes", write(tmp_path / "turned.csv", turned))
    assert (code, out) == (0, expected)
    assert err == f"fusedstep: {tmp_path / 'turned.csv'}: columns that are not used: extra\n"


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_other_formats_give_the_same_predictions(suffix, runs, tmp_path, capsys):
    expected = run(capsys, "predict", runs / "classes", write(tmp_path / "new.csv", COLUMNS))[1]
    path = tmp_path / f"new{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: np.array(values) for name, values in COLUMNS.items()})
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(COLUMNS), path)
    assert run(capsys, "predict", runs / "classes", path) == (0, expected, "")


def test_the_target_gives_a_score(runs, tmp_path, capsys):
    data = write(tmp_path / "new.csv", COLUMNS | {"y": CLASS})
    code, out, err = run(capsys, "predict", runs / "classes", data)
    right = np.mean([row["prediction"] == label for row, label in zip(rows(out), CLASS, strict=True)])
    assert code == 0 and err == f"fusedstep: accuracy {right:.4f} of {N} rows\n"
    _, _, err = run(capsys, "predict", runs / "numbers", write(tmp_path / "new.csv", COLUMNS | {"y": NUMBER}))
    assert err.startswith("fusedstep: rmse ") and ", r2 0.9" in err

    for name, values, why in (
        ("classes", ["mauve", *CLASS[1:]], "has the class 'mauve', which the training had not"),
        ("classes", ["", *CLASS[1:]], "is not there in all rows"),
        ("numbers", ["many", *NUMBER[1:]], "is not a number in all rows"),
    ):
        code, _, err = run(capsys, "predict", runs / name, write(tmp_path / "new.csv", COLUMNS | {"y": values}))
        assert code == 0 and err == f"fusedstep: the target 'y' {why}: no score\n"


def test_out(runs, tmp_path, capsys):
    data = write(tmp_path / "new.csv", COLUMNS)
    expected = run(capsys, "predict", runs / "one", data)[1]
    assert run(capsys, "predict", runs / "one", data, "--out", tmp_path / "out.csv") == (0, "", "")
    assert (tmp_path / "out.csv").read_text() == expected
    code, out, err = run(capsys, "predict", runs / "one", data, "--out", tmp_path / "no" / "out.csv")
    assert (code, out) == (2, "") and "does not exist" in err and err.count("\n") == 1


def test_out_is_a_folder(runs, tmp_path, capsys):
    code, out, err = run(capsys, "predict", runs / "one", write(tmp_path / "new.csv", COLUMNS), "--out", tmp_path)
    assert (code, out, err) == (2, "", f"fusedstep: argument --out: {tmp_path} is a folder, not a file to write to\n")


@pytest.mark.parametrize("name", ["one", "numbers"])
def test_what_the_models_cannot_take_is_refused(name, runs, tmp_path, capsys):
    new = {key: values[:3] for key, values in COLUMNS.items()} | {"weight": [100, 1e140, 99]}
    code, out, err = run(capsys, "predict", runs / name, write(tmp_path / "new.csv", new))
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "new.csv, line 3: the prediction is not finite: a number is too far from those of the training" in err


@pytest.mark.parametrize("labels", [("01", "02"), ("True", "False"), (str(2**60), str(2**60 + 1))])
def test_classes_that_look_like_numbers_are_known_again(labels, tmp_path, capsys):
    options = ("--categorical", "y", "--no-progress", "--hidden", "4", "--epochs", "2", "--cv", "3")
    data = write(tmp_path / "data.csv", {"x": range(30), "y": [labels[i % 2] for i in range(30)]})
    assert run(capsys, "train", data, "--target", "y", *options, "--out", tmp_path / "run")[0] == 0
    code, out, err = run(capsys, "predict", tmp_path / "run", data)
    right = np.mean([row["prediction"] == labels[i % 2] for i, row in enumerate(rows(out))])
    assert code == 0 and err == f"fusedstep: accuracy {right:.4f} of 30 rows\n"
    if labels[0] == "True":  # CSV has their texts, NPZ themselves
        np.savez(tmp_path / "data.npz", x=np.arange(30), y=np.arange(30) % 2 == 0)
        assert run(capsys, "predict", tmp_path / "run", tmp_path / "data.npz") == (code, out, err)


def test_the_encoding_of_new_rows(runs, tmp_path, capsys):
    code, out, err = run(capsys, "predict", runs / "one", write(tmp_path / "new.csv", COLUMNS), "--encoding", "klingon")
    assert (code, out) == (2, "") and "--encoding: must be an encoding such as latin-1 but got 'klingon'" in err


def test_unknown_categories_are_none_of_the_known_ones(runs, tmp_path, capsys):
    columns = {name: values[:3] for name, values in COLUMNS.items()} | {"colour": ["mauve", "pink", "red"]}
    code, out, err = run(capsys, "predict", runs / "classes", write(tmp_path / "new.csv", columns))
    assert code == 0 and len(rows(out)) == 3
    assert err.startswith(
        "fusedstep: column 'colour': 2 values are categories that the training had not, such as 'mauve'"
    )


def test_missing_values(runs, tmp_path, capsys):
    data = write(tmp_path / "new.csv", {"size": ["NA", 1], "colour": ["", "red"], "weight": [1, ""]})
    code, out, err = run(capsys, "predict", runs / "one", data)
    assert (code, err) == (0, "") and len(rows(out)) == 2
    code, out, err = run(capsys, "predict", runs / "classes", data)
    assert (code, out) == (2, "") and "new.csv, line 2: column 'size' has no value; values are missing of" in err
    assert err.endswith("a run of fusedstep train --missing impute fills them in\n")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"size": [1], "colour": ["red"]}, "new.csv: has no column 'weight', which is a feature; the columns are"),
        ({"size": [1], "colour": ["red"], "Weihgt": [1]}, "has no column 'weight', which is a feature; did you mean"),
        (
            {"size": [1, "1o"], "colour": ["red"] * 2, "weight": [1, 2]},
            "new.csv, line 3: column 'size' must be a number but is '1o'",
        ),
        ({"size": ["inf"], "colour": ["red"], "weight": [1]}, "new.csv, line 2: column 'size' is infinite"),
        ({"size": [], "colour": [], "weight": []}, "new.csv: has a header but no rows"),
    ],
)
def test_tables_that_do_not_fit(columns, message, runs, tmp_path, capsys):
    code, out, err = run(capsys, "predict", runs / "classes", write(tmp_path / "new.csv", columns))
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_digits(tmp_path, capsys):
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    folder = tmp_path / "run"
    options = ("--epochs", "3", "--lr", "0.004", "--hidden", "32", "--folds", "3", "--no-progress", "--out", folder)
    assert run(capsys, "train", "digits", *options)[0] == 0
    np.savez(tmp_path / "new.npz", pixel=X[:50], y=y[:50])
    code, out, err = run(capsys, "predict", folder, tmp_path / "new.npz")
    right = np.mean([row["prediction"] == str(label) for row, label in zip(rows(out), y, strict=False)])
    assert code == 0 and right > 0.85 and err == f"fusedstep: accuracy {right:.4f} of 50 rows\n"


def damaged(runs, tmp_path, name, content):
    folder = tmp_path / "run"
    shutil.copytree(runs / "numbers", folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "not the folder of a run: there is no config.json in it"),
        ("config.json", b"{", "config.json: not JSON"),
        ("config.json", b"\xff\xfe", "config.json: not JSON"),
        ("config.json", b"[1]", "config.json: not the configuration of a run"),
        ("config.json", b'{"format": "fusedstep run/1"}', "config.json: damaged: 'data' is missing"),
        ("metrics.json", None, "the run is not finished"),
        ("model-fold-2.safetensors", None, "model-fold-2.safetensors: No such file"),
        ("model-fold-2.safetensors", b"garbage", "model-fold-2.safetensors: not a complete safetensors file"),
        ("preprocess-fold-1.skops", None, "preprocess-fold-1.skops: No such file"),
        ("preprocess-fold-1.skops", b"garbage", "preprocess-fold-1.skops: not a transformer that skops wrote"),
        ("target-fold-3.skops", b"PK", "target-fold-3.skops: not a transformer that skops wrote"),
    ],
)
def test_damaged_folders_are_refused_by_file(name, content, message, runs, tmp_path, capsys):
    data = write(tmp_path / "new.csv", COLUMNS)
    code, out, err = run(capsys, "predict", damaged(runs, tmp_path, name, content), data)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_files_of_different_runs(runs, tmp_path, capsys):
    data = write(tmp_path / "new.csv", COLUMNS)
    other = tmp_path / "other"
    options = ("--no-progress", "--hidden", "4", "--epochs", "1", "--cv", "3", "--out", other)
    columns = {"size": COLUMNS["size"], "y": NUMBER}
    assert run(capsys, "train", write(tmp_path / "other.csv", columns), "--target", "y", *options)[0] == 0
    for name in ("model-fold-1.safetensors", "preprocess-fold-1.skops"):
        folder = tmp_path / name
        shutil.copytree(runs / "numbers", folder)
        shutil.copy(other / name, folder)
        code, out, err = run(capsys, "predict", folder, data)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert "model-fold-1.safetensors: does not fit the preprocessing beside it" in err


def test_a_pickle_is_not_read(runs, tmp_path, capsys):
    import pickle

    folder = damaged(runs, tmp_path, "preprocess-fold-1.skops", pickle.dumps(print))
    code, _, err = run(capsys, "predict", folder, write(tmp_path / "new.csv", COLUMNS))
    assert code == 2 and "preprocess-fold-1.skops: not a transformer" in err


def test_a_configuration_of_odd_values(runs, tmp_path, capsys):
    data = write(tmp_path / "new.csv", COLUMNS)
    good = json.loads((runs / "numbers" / "config.json").read_text())
    odd = {"models": [], "numbers": [1], "categories": ["colour"], "options": None, "classes": "ab", "metrics": 3}
    for key, value in odd.items():
        folder = damaged(runs, tmp_path, "config.json", json.dumps(good | {key: value}).encode())
        code, out, err = run(capsys, "predict", folder, data)
        assert (
            (code, out) == (2, "")
            and f"config.json: damaged: {key!r} is {json.dumps(value)}" in err
            and err.count("\n") == 1
        ), key
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("hidden", "8"), ("hidden", [0]), ("hidden", None), ("lr", "0.1"), ("cv", "5"), ("optimizer", "nope")],
        *[("batch_size", "many"), ("target", 3), ("stratify", "abc"), ("delimiter", "abc"), ("encoding", "nope")],
        *[("schedule", 3), ("seed", None), ("dropout", 2), ("report", 1), ("split", [1, 2]), ("epochs", True)],
        *[("cv", None), ("lr", None)],
    ],
)
def test_options_that_cannot_be(name, value, runs, tmp_path, capsys):
    config = json.loads((runs / "numbers" / "config.json").read_text())
    config["options"][name] = value
    folder = damaged(runs, tmp_path, "config.json", json.dumps(config).encode())
    message = f"fusedstep: {folder / 'config.json'}: damaged: the option {name!r} is {json.dumps(value)}\n"
    assert run(capsys, "predict", folder, write(tmp_path / "new.csv", COLUMNS)) == (2, "", message)
    assert run(capsys, "train", "--resume", folder) == (2, "", message)


def test_options_of_any_kind_are_taken_up(runs, tmp_path, capsys):
    names = 'a,b "c",-d'
    columns = COLUMNS | {names: COLUMNS["size"], "y": CLASS}
    data = write(tmp_path / "data.csv", columns)
    drop = '"' + names.replace('"', '""') + '",weight'
    options = ("--drop", drop, "--split", "3/2/2", "--hidden", "8,4", "--batch-size", "full", "--lr", "1")
    folder = tmp_path / "run"
    more = ("--stratify", "colour", "--max-norm", "2", "--no-batch-norm", "--report", "--epochs", "1", "--out", folder)
    assert run(capsys, "train", data, "--target", "y", *options, *more)[0] == 0
    assert run(capsys, "predict", folder, data)[0] == 0
    assert run(capsys, "train", "--resume", folder) == (0, f"the run in {folder} is finished\n", "")


def test_probabilities_keep_the_order_of_float32_logits():
    logits = np.float32([[0, -1.546875], [0, np.nextafter(np.float32(-1.546875), np.float32(0))]])
    _, cells = prediction_columns(["a", "b"], probabilities(logits, ["a", "b"]))
    (_, _, first), (_, _, second) = cells
    assert float(first) < float(second)
