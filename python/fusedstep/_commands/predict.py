"""``fusedstep predict``: what a finished run says of new rows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from .. import nn
from .._arguments import HelpFormatter
from .._extras import require
from .._files import atomic_write
from .._transformers import load_transformer
from ..evaluation import predict as outputs_of
from ..metrics import resolve
from .messages import note, readable_warnings
from .options import add_file_options, check_saved, file_options
from .preprocessing import transform
from .problem import labels_of, matrix, refuse_missing_features
from .reading import read_table
from .results import prediction_columns, probabilities
from .run_folder import METRICS, csv_text, read_config
from .tables import Column, Table, near, parse_number, text_of


def add_predict_command(commands) -> None:
    """Add ``predict`` to a parser's subcommands."""
    parser = commands.add_parser(
        "predict",
        help="predict the target of new rows",
        description="Predict by the models of a run; those of several folds are averaged: their probabilities, or "
        "their numbers.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="of a run of fusedstep train")
    parser.add_argument("data", metavar="DATA", help="a .csv, .npz or .parquet file with the columns of the training")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a CSV file (default: stdout)")
    add_file_options(parser)
    parser.set_defaults(command=predict)


def predict(given: argparse.Namespace) -> int:
    """Write the predictions. Errors go to `fusedstep.cli.main`."""
    with readable_warnings():
        require("sklearn", extra="sklearn")
        config = read_config(given.folder)
        if not (given.folder / METRICS).exists():
            raise ValueError(f"{given.folder}: the run is not finished: fusedstep train --resume {given.folder}")
        run = _Run(given.folder, config)
        saved = config["options"]
        check_saved(given.folder, saved)
        if given.out is not None and given.out.is_dir():
            raise ValueError(f"argument --out: {given.out} is a folder, not a file to write to")
        table = read_table(
            given.data,
            text={*config["categories"], *_target_of_texts(config)},
            **file_options(given, saved),
        )
        outputs = run.outputs(_features(table, config))
        wrong = ~np.isfinite(outputs).all(axis=1)
        if wrong.any():
            raise ValueError(
                f"{table.at(int(wrong.argmax()))}: the prediction is not finite: "
                "a number is too far from those of the training"
            )
        header, rows = prediction_columns(config["classes"], outputs)
        text = csv_text(["row", *header], ([i, *cells] for i, cells in enumerate(rows, start=1)))
        if given.out is None:
            sys.stdout.write(text)
        else:
            atomic_write(given.out, text.encode())
        if config["target"] in table.columns:
            _score(table.columns[config["target"]], config, outputs)
    return 0


class _Run:
    """The models of a run and their preprocessing."""

    def __init__(self, folder: Path, config: dict):
        self.classes = config["classes"]
        self.divide_by = config["divide_by"]
        self.paths = [folder / name for name in config["models"]]
        self.models = [nn.load(path) for path in self.paths]
        self.preprocessors = [load_transformer(folder / name) for name in config["preprocessors"]]
        self.scalers = [load_transformer(folder / name) for name in config["target_preprocessors"]]

    def outputs(self, X: np.ndarray) -> np.ndarray:
        """The mean over the models of probabilities, or of numbers in the target's unit."""
        total = 0.0
        for k, (path, model) in enumerate(zip(self.paths, self.models, strict=True)):
            try:
                inputs = transform(self.preprocessors[k], X) if self.preprocessors else np.float32(X / self.divide_by)
                outputs = np.float64(outputs_of(model, inputs))
                if outputs.shape[1] != (len(self.classes) or 1):
                    raise ValueError(f"{outputs.shape[1]} outputs for {len(self.classes) or 1}")
                if self.scalers:
                    outputs = self.scalers[k].inverse_transform(outputs)
            except (ValueError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(f"{path}: does not fit the preprocessing beside it: {error}") from error
            total = total + probabilities(outputs, self.classes)
        return total / len(self.models)


def _target_of_texts(config: dict) -> list[str]:
    """The target, where its classes are not what `labels_of` makes of numbers: 01, say."""
    numbers = [parse_number(label) for label in config["classes"]]
    same = all(
        number is not None and text_of(number) == label
        for number, label in zip(numbers, config["classes"], strict=True)
    )
    return [] if same else [config["target"]]


def _features(table: Table, config: dict) -> np.ndarray:
    """The columns that the models take, with the codes of the training's categories; -1 is an unknown one."""
    names = [*config["numbers"], *config["categories"]]
    for name in names:
        if name not in table.columns:
            raise ValueError(f"{table.source}: has no column {name!r}, which is a feature; {near(name, table.columns)}")
        column = table.columns[name]
        if column.unusable:
            raise ValueError(f"{table.source}: column {name!r} {column.unusable}")
    for name in config["numbers"]:
        _check_numbers(table, table.columns[name])
    if config["options"].get("missing") != "impute":
        refuse_missing_features(table, names, "a run of fusedstep train --missing impute fills them in")
    X = matrix(table, config["numbers"], config["categories"])
    for j, (name, categories) in enumerate(config["categories"].items(), start=len(config["numbers"])):
        X[:, j] = _recoded(table.columns[name], categories)
    others = [name for name in table.columns if name not in names and name != config["target"]]
    if others:
        note(f"{table.source}: columns that are not used: {', '.join(others[:20])}{' ...' if len(others) > 20 else ''}")
    return X


def _check_numbers(table: Table, column: Column) -> None:
    if column.numbers is None:
        row, text = column.stray or (0, column.categories[0])
        raise ValueError(f"{table.at(row)}: column {column.name!r} must be a number but is {text[:40]!r}")


def _recoded(column: Column, categories: list[str]) -> np.ndarray:
    code = {name: i for i, name in enumerate(categories)}
    codes = np.array([*(code.get(name, -1) for name in column.categories), np.nan])[column.codes]
    unknown = codes == -1
    if unknown.any():
        example = column.categories[column.codes[unknown.argmax()]]
        note(
            f"column {column.name!r}: {unknown.sum()} values are categories that the training had not, such as "
            f"{example[:40]!r}; they count as none of the known ones"
        )
    return codes


def _score(target: Column, config: dict, outputs: np.ndarray) -> None:
    """Where the new rows have the target: how good the predictions are, on stderr."""
    name = config["target"]
    if target.unusable or target.missing.any():
        return note(f"the target {name!r} is not there in all rows: no score")
    if config["classes"]:
        index = {label: i for i, label in enumerate(config["classes"])}
        labels, codes = labels_of(target)
        unknown = next((label for label in labels if label not in index), None)
        if unknown is not None:
            return note(f"the target {name!r} has the class {unknown!r}, which the training had not: no score")
        truth = np.array([index[label] for label in labels])[codes]
        outputs = np.log(np.maximum(outputs, np.finfo(np.float64).tiny))  # metrics take logits
    elif target.numbers is None:
        return note(f"the target {name!r} is not a number in all rows: no score")
    else:
        truth = target.numbers[:, None]
    scores = {metric: function(truth, outputs) for metric, function in resolve(config["metrics"]).items()}
    return note(f"{', '.join(f'{metric} {score:.4f}' for metric, score in scores.items())} of {len(truth)} rows")
