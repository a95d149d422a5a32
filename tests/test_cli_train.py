import numpy as np
import pytest

from fusedstep import cli, nn
from fusedstep._transformers import load_transformer
from small_cli import QUICK, content, rows_of, train, write

datasets = pytest.importorskip("sklearn.datasets")
pytest.importorskip("skops")


def wine():
    """Wine, and a column of categories that knows little of the class."""
    data = datasets.load_wine()
    rng = np.random.default_rng(0)
    soils = np.array(["sand", "clay", "chalk"])
    soil = np.where(rng.random(178) < 0.5, soils[data.target], rng.choice(soils, 178))
    names = [name.replace("/", "_") for name in data.feature_names]
    columns = dict(zip(names, data.data.T.tolist(), strict=True))
    return columns | {"soil": soil.tolist(), "cultivar": [f"no {label}" for label in data.target]}


@pytest.fixture
def wine_csv(tmp_path):
    return write(tmp_path / "wine.csv", wine())


def test_cross_validation_of_a_classifier(tmp_path, capsys, wine_csv):
    folder = tmp_path / "run"
    code, out, err = train(capsys, wine_csv, "--target", "cultivar", "--no-progress", "--epochs", 25, "--out", folder)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "classification: the target 'cultivar' is categorical"
    assert lines[1] == "178 samples, 13 numbers, 1 categories"
    assert [line.split()[0] for line in lines[5:10]] == ["1", "2", "3", "4", "5"]
    config, metrics, history = (content(folder, name) for name in ("config", "metrics", "history"))
    assert metrics["mean"]["test_accuracy"] > 0.95
    assert config["classes"] == ["no 0", "no 1", "no 2"] and config["categories"] == {"soil": ["chalk", "clay", "sand"]}
    assert config["options"]["epochs"] == 25 and len(config["numbers"]) == 13
    assert len(history["histories"]) == 5 and (folder / "curves.png").exists()
    assert sorted(np.concatenate(history["test_indices"])) == list(range(178))

    rows = rows_of(folder)
    assert [row["row"] for row in rows] == [str(i) for i in range(1, 179)]
    assert [row["target"] for row in rows] == wine()["cultivar"]
    right = np.mean([row["target"] == row["prediction"] for row in rows])
    assert right == pytest.approx(metrics["mean"]["test_accuracy"], abs=0.01)
    chances = np.array([[float(row[f"probability_no {k}"]) for k in range(3)] for row in rows])
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)

    # What was saved is what was tested: by hand, for the first fold.
    test = history["test_indices"][0]
    X = np.column_stack([*(wine()[name] for name in config["numbers"])])
    codes = [config["categories"]["soil"].index(soil) for soil in wine()["soil"]]
    inputs = load_transformer(folder / "preprocess-fold-1.skops").transform(np.column_stack([X, codes])[test])
    outputs = nn.load(folder / "model-fold-1.safetensors").predict(np.float32(inputs))
    assert [f"no {k}" for k in outputs.argmax(axis=1)] == [rows[i]["prediction"] for i in test]


def test_preprocessing_is_fitted_on_the_training_part(tmp_path, capsys, wine_csv):
    assert train(capsys, wine_csv, "--target", "cultivar", *QUICK, "--out", tmp_path / "run")[0] == 0
    first, second = (load_transformer(tmp_path / "run" / f"preprocess-fold-{k}.skops") for k in (1, 2))
    test = content(tmp_path / "run", "history")["test_indices"]
    alcohol = np.array(wine()["alcohol"])
    # with 3 folds, the third trains in the first round, and the first in the second
    np.testing.assert_allclose(first.named_transformers_["numbers"].mean_[0], alcohol[test[2]].mean())
    np.testing.assert_allclose(second.named_transformers_["numbers"].mean_[0], alcohol[test[0]].mean())


def diabetes(missing=0):
    data = datasets.load_diabetes()
    columns = dict(zip(data.feature_names, data.data.T.tolist(), strict=True))
    for row in range(missing):
        columns["bmi"][7 * row] = ["", "NA", "null"][row % 3]
    return columns | {"progression": data.target.tolist()}


@pytest.mark.parametrize("offset", [0, 1e7])
def test_a_regression_in_the_unit_of_its_target(tmp_path, capsys, offset):
    columns = diabetes(missing=20)
    columns["progression"] = [value + offset for value in columns["progression"]]
    path = write(tmp_path / "diabetes.csv", columns)
    folder = tmp_path / "run"
    options = ("--missing", "impute", "--no-progress", "--epochs", 20, "--out", folder)
    code, out, err = train(capsys, path, "--target", "progression", *options)
    assert (code, err) == (0, "") and out.startswith(
        "regression: the target 'progression' has 214 different integers\n"
    )
    mean = content(folder, "metrics")["mean"]
    assert mean["test_r2"] > 0.35 and 40 < mean["test_rmse"] < 65
    rows = rows_of(folder)
    error = [float(row["prediction"]) - float(row["target"]) for row in rows]
    assert np.sqrt(np.mean(np.square(error))) == pytest.approx(mean["test_rmse"], rel=0.02)
    assert [float(row["target"]) for row in rows] == columns["progression"]
    imputer = load_transformer(folder / "preprocess-fold-1.skops").named_transformers_["numbers"][0]
    assert imputer.strategy == "median"


def test_one_model_by_shares(tmp_path, capsys, wine_csv):
    folder = tmp_path / "run"
    options = ("--no-progress", "--epochs", 30, "--split", "60/20/20", "--metrics", "accuracy,f1_macro,roc_auc")
    code, out, err = train(capsys, wine_csv, "--target", "cultivar", *options, "--out", folder)
    assert (code, err) == (0, "") and "mean" not in out
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "metrics.json", "history.json", "predictions.csv", "curves.png"),
        *("model.safetensors", "preprocess.skops"),
    }
    (row,) = content(folder, "metrics")["rows"]
    rows = rows_of(folder)
    assert 34 <= len(rows) <= 37 and row["test_accuracy"] > 0.85 and row["test_roc_auc"] > 0.9
    assert np.mean([row["target"] == row["prediction"] for row in rows]) == pytest.approx(row["test_accuracy"])


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_other_formats_give_the_same_table(suffix, tmp_path, capsys, wine_csv):
    path = wine_csv.with_suffix(suffix)
    if suffix == ".npz":
        np.savez(path, **{name: np.array(values) for name, values in wine().items()})
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(wine()), path)
    tables = [
        train(capsys, source, "--target", "cultivar", *QUICK, "--out", tmp_path / source.suffix)[1].splitlines()[:-1]
        for source in (wine_csv, path)
    ]
    assert tables[0] == tables[1] and len(tables[0]) > 5


def test_matrices_in_npz(tmp_path, capsys):
    X, y = datasets.load_iris(return_X_y=True)
    np.savez(tmp_path / "iris.npz", X=X, y=y)
    code, out, _ = train(capsys, tmp_path / "iris.npz", "--target", "y", *QUICK, "--out", tmp_path / "run")
    assert code == 0 and out.startswith("classification: the target 'y' has 3 different values, all integers\n")
    assert content(tmp_path / "run", "config")["numbers"] == ["X_0", "X_1", "X_2", "X_3"]


def test_the_options_reach_the_model_and_the_training(tmp_path, capsys, wine_csv):
    options = [
        *("--activation", "gelu", "--no-batch-norm", "--dropout", "0", "--hidden", "8,4", "--optimizer", "momentum"),
        *(
            "--lr",
            "0.01",
            "--schedule",
            "constant",
            "--weight-decay",
            "0.001",
            "--max-norm",
            "1",
            "--batch-size",
            "full",
        ),
        *("--class-weight", "balanced", "--no-progress", "--epochs", "3", "--split", "3/1/1", "--seed", "5"),
    ]
    code, _, err = train(capsys, wine_csv, "--target", "cultivar", *options, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    layers = [type(layer).__name__ for layer in nn.load(tmp_path / "run" / "model.safetensors").layers]
    assert layers == ["Dense", "GELU", "Dense", "GELU", "Dense"]
    (history,) = content(tmp_path / "run", "history")["histories"]
    assert [row["lr"] for row in history["rows"]] == [0.01] * 3


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        ("adam", "warmup_cosine"),
        ("adamw", "one_cycle"),
        ("sgd", "step_decay"),
        ("momentum", "exponential"),
        ("rmsprop", "inverse_time"),
        ("adagrad", "inverse_sqrt"),
        ("radam", "constant"),
        ("lamb", "cosine"),
    ],
)
def test_optimizers_and_schedules_take_any_length(optimizer, schedule, tmp_path, capsys):
    path = write(tmp_path / "data.csv", {"x": range(12), "y": [0, 1] * 6})
    options = ("--optimizer", optimizer, "--schedule", schedule, "--batch-size", "full", "--split", "2/1/1")
    for epochs in (1, 2):
        out = tmp_path / str(epochs)
        code, _, err = train(capsys, path, "--target", "y", *options, "--no-progress", "--epochs", epochs, "--out", out)
        assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("values", "options", "task", "why"),
    [
        ([0, 1] * 15, (), "classification", "has 2 different values, all integers"),
        ([0.5, 1] * 15, (), "regression", "has 2 different numbers"),
        (range(30), (), "regression", "has 30 different integers"),
        (["a", "b"] * 15, (), "classification", "is categorical"),
        (["1", "2", "x"] * 10, ("--task", "classification"), "classification", "as --task says"),
        (["1", "2", "x"] * 10, ("--categorical", "target"), "classification", "is categorical"),
        ([1, 2, 3] * 10, ("--task", "regression"), "regression", "as --task says"),
    ],
)
def test_the_task_follows_from_the_target(values, options, task, why, tmp_path, capsys):
    path = write(tmp_path / "data.csv", {"x": range(30), "target": values})
    code, out, _ = train(capsys, path, "--target", "target", *options, *QUICK, "--out", tmp_path / "run")
    assert code == 0 and out.splitlines()[0].startswith(f"{task}: ") and out.splitlines()[0].endswith(why)


def test_columns(tmp_path, capsys):
    rng = np.random.default_rng(0)
    columns = {
        "id": [f"name {i}" for i in range(60)],
        "x": rng.normal(size=60).tolist(),
        "zip": rng.integers(3, size=60).tolist(),
        "age": [*rng.integers(20, 80, 20).tolist(), *"abc", *([33] * 37)],
        "sex": ["f", "m"] * 30,
        "patient": np.repeat(range(20), 3).tolist(),
        "y": ["a", "b", "b"] * 20,
    }
    path = write(tmp_path / "data.csv", columns)
    options = ("--drop", "id", "--categorical", "zip,age", "--stratify", "sex,y", "--group", "patient", "--report")
    code, out, err = train(capsys, path, "--target", "y", *options, *QUICK, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    config = content(tmp_path / "run", "config")
    assert config["numbers"] == ["x"] and list(config["categories"]) == ["zip", "age", "sex"]
    assert config["categories"]["zip"] == ["0", "1", "2"]
    assert "fold 1" in out and "sex" in out
    patients = np.array(columns["patient"])
    folds = [set(patients[test]) for test in content(tmp_path / "run", "history")["test_indices"]]
    assert sum(map(len, folds)) == 20, "no patient is in two folds"


def test_integers_beyond_2_to_the_53_as_names_of_classes(tmp_path, capsys):
    labels = [2**60, 2**60 + 1, 2**60 + 2] * 10
    path = write(tmp_path / "data.csv", {"x": range(30), "y": labels})
    code, out, err = train(capsys, path, "--target", "y", "--categorical", "y", *QUICK, "--out", tmp_path / "run")
    assert (code, err) == (0, "") and out.startswith("classification: the target 'y' is categorical\n")
    assert [int(row["target"]) for row in rows_of(tmp_path / "run")] == labels


def test_decimal_commas_and_other_missing_values(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    columns = {"x": [f"{value:.6f}".replace(".", ",") for value in x], "c": ["p", "?", "q"] * 20, "y": x > 0}
    columns["x"][5] = " -9 "
    path = tmp_path / "data.csv"
    path.write_text("\n".join(";".join(map(str, row)) for row in [columns, *zip(*columns.values(), strict=True)]))
    options = ("--delimiter", ";", "--decimal", ",", "--na", "?,-9", "--missing", "impute")
    code, _, err = train(capsys, path, "--target", "y", *options, *QUICK, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    config = content(tmp_path / "run", "config")
    assert config["numbers"] == ["x"] and config["categories"] == {"c": ["p", "q"]}
    (path.parent / "new.csv").write_text("x;c\n1,5;?\n-2,5;p\n")
    code = cli.main(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv")])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "") and len(out.splitlines()) == 3


def test_names_with_commas(tmp_path, capsys):
    columns = {"size, cm": range(30), "a,b": [1, 2] * 15, "x": range(30), "y": ["p", "q"] * 15}
    path = write(tmp_path / "data.csv", columns)
    options = ("--drop", '"size, cm"', "--stratify", '"a,b",y', "--categorical", '"a,b"')
    assert train(capsys, path, "--target", "y", *options, *QUICK, "--out", tmp_path / "run")[0] == 0
    config = content(tmp_path / "run", "config")
    assert config["numbers"] == ["x"] and config["categories"] == {"a,b": ["1", "2"]}
    assert config["options"]["stratify"] == ["a,b", "y"]


def test_warnings_are_lines_on_stderr(tmp_path, capsys):
    path = write(tmp_path / "data.csv", {"x": range(21), "y": ["a", "b"] * 10 + ["rare"]})
    code, _, err = train(capsys, path, "--target", "y", *QUICK, "--out", tmp_path / "run")
    assert code == 0 and err.startswith("fusedstep: warning: ") and "rare" in err and ".py" not in err
    assert err.count("\n") == len(set(err.splitlines()))
