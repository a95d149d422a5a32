"""``fusedstep train``: a table, or scikit-learn's digits."""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .. import backend, callbacks, model_selection, nn
from .._arguments import HelpFormatter
from .._extras import require
from ..cross_validation import CrossValidationResult
from ..metrics import resolve
from .messages import readable_warnings
from .network import make_network, make_optimizer
from .options import DIGITS, add_options, batch_of, file_options, settle, to_save
from .preprocessing import TRUSTED, Preprocessor, as_rows
from .problem import CLASSIFICATION, Problem, pose
from .reading import read_table
from .results import write_results
from .run_folder import RunFolder, read_config
from .tables import Table, table_of

PIXEL_MAX = 16  # a fixed scale, so nothing has to be fitted


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a line on how to go on."""


class Diverged(ValueError):
    """Nothing was learnt, and to go on would not help."""


def add_train_command(commands) -> None:
    """Add ``train`` to a parser's subcommands."""
    parser = commands.add_parser(
        "train",
        help="train and test on a table by rotating cross-validation",
        description="Train and test networks on a table: each fold is the test set once and the validation set once.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.set_defaults(command=train)


def train(given: argparse.Namespace) -> int:
    """Train, print the table, write the folder. Errors go to `fusedstep.cli.main`."""
    with readable_warnings():
        config = None if given.resume is None else read_config(given.resume)
        options = settle(given, config)
        if config is not None and RunFolder(given.resume).finished:
            RunFolder(given.resume).tidy()  # a kill may have come before
            print(f"the run in {given.resume} is finished")
            return 0
        _check_installed(options)
        problem = pose(_digits() if options.data == DIGITS else _read(options), options)
        _check_size(options, problem)
        if options.data != DIGITS:
            print(f"{problem.task}: {problem.why}")
            print(f"{len(problem.y)} samples, {len(problem.numbers)} numbers, {len(problem.categories)} categories")
        if options.threads:
            backend.set_num_threads(options.threads)
        folder = _folder(options, problem, config)
        try:
            result = _cross_validate(options, problem, folder)
            _check_finite(options, result)
            _show(options, problem, result)
            write_results(folder, problem, result, one_model=options.split is not None)
        except KeyboardInterrupt:
            if folder.useful:
                raise Interrupted(f"interrupted; go on with: fusedstep train --resume {folder.path}") from None
            folder.forget()
            raise
        except BaseException as error:
            if not folder.useful or isinstance(error, Diverged):
                folder.forget()
            raise
        print(f"written to {folder.path}")
        return 0


def _check_installed(options: argparse.Namespace) -> None:
    """Better known before the training than after it."""
    require("sklearn", extra="sklearn")
    require("safetensors")
    if options.data != DIGITS:
        require("skops", extra="sklearn")
    if options.device == "cuda" and not backend.info()["cuda"]:
        raise ValueError(f"argument --device: no CUDA device: {backend.info()['cuda_reason']}")


def _read(options: argparse.Namespace) -> Table:
    text = {options.group, *(options.categorical or ())} - {None}
    return read_table(options.data, text=text, **file_options(options, {}))


def _digits() -> Table:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return table_of(DIGITS, {"pixel": X, "y": y})


def _check_size(options: argparse.Namespace, problem: Problem) -> None:
    n = len(problem.y)
    if options.cv is not None and options.cv > n:
        raise ValueError(f"argument --cv/--folds: there are only {n} samples but got {options.cv}")
    if options.batch_norm and options.cv is not None and _train_size(options, n) < 2:
        raise ValueError(
            f"argument --cv/--folds: {n} samples in {options.cv} folds leave 1 to train on, and batch normalization "
            "needs 2; see --no-batch-norm"
        )
    resolve(_metrics(options, problem))
    batch_of(options, _train_size(options, n))


def _train_size(options: argparse.Namespace, n: int) -> int:
    return n * (options.cv - 2) // options.cv if options.split is None else max(int(n * options.split[0]), 1)


def _metrics(options: argparse.Namespace, problem: Problem) -> tuple[str, ...]:
    return options.metrics or (("accuracy",) if problem.task == CLASSIFICATION else ("rmse", "r2"))


def _folder(options: argparse.Namespace, problem: Problem, config: dict | None) -> RunFolder:
    """A new folder with the configuration in it, or that of a run whose data are these."""
    if config is not None:
        if config["fingerprint"] != problem.fingerprint():
            raise ValueError(f"{options.data}: not the data that the run in {options.resume} was started with")
        return RunFolder(options.resume, resumed=True)
    folder = RunFolder.new(options.out, Path(options.data).stem)
    ends = [""] if options.split is not None else [f"-fold-{k + 1}" for k in range(options.cv)]
    fitted = options.data != DIGITS
    scaled = problem.task != CLASSIFICATION
    folder.write_config(
        {
            "data": options.data if options.data == DIGITS else str(Path(options.data).resolve()),
            "fingerprint": problem.fingerprint(),
            "options": to_save(options),
            "task": problem.task,
            "target": problem.target,
            "classes": problem.classes,
            "numbers": problem.numbers,
            "categories": problem.categories,
            "divide_by": None if fitted else PIXEL_MAX,
            "metrics": _metrics(options, problem),
            "models": [f"model{end}.safetensors" for end in ends],
            "preprocessors": [f"preprocess{end}.skops" for end in ends if fitted],
            "target_preprocessors": [f"target{end}.skops" for end in ends if scaled],
            "environment": backend.info() | {name: _version(name) for name in ("numpy", "scikit-learn", "skops")},
        }
    )
    return folder


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    with suppress(PackageNotFoundError):
        return version(package)
    return None


def _cross_validate(options: argparse.Namespace, problem: Problem, folder: RunFolder) -> CrossValidationResult:
    n = len(problem.y)
    batch_size = batch_of(options, _train_size(options, n))
    steps = options.epochs * (1 if batch_size is None else -(-_train_size(options, n) // batch_size))
    if options.data == DIGITS:
        X, preprocess = np.float32(problem.X / PIXEL_MAX), None
    else:
        X = as_rows(problem.X)
        preprocess = Preprocessor(len(problem.numbers), len(problem.categories), options.missing == "impute")
    return model_selection.cross_validate(
        partial(
            make_network,
            hidden=options.hidden,
            outputs=len(problem.classes) or 1,
            activation=options.activation,
            batch_norm=options.batch_norm,
            dropout=options.dropout,
            device=options.device,
        ),
        partial(
            make_optimizer,
            optimizer=options.optimizer,
            lr=options.lr,
            schedule=options.schedule,
            steps=steps,
            weight_decay=options.weight_decay,
            max_norm=options.max_norm,
        ),
        nn.SoftmaxCrossEntropy() if problem.classes else nn.MeanSquaredError(),
        X,
        problem.y,
        cv=model_selection.RotatingKFold(options.cv) if options.split is None else Holdout(options.split),
        stratify=problem.stratify,
        groups=problem.groups,
        preprocess=preprocess,
        preprocess_target=None if problem.classes else _scaler(),
        metrics=_metrics(options, problem),
        n_jobs=min(options.n_jobs, options.cv or 1),
        random_state=options.seed,
        folder=folder.folds,
        trusted=[TRUSTED],
        epochs=options.epochs,
        batch_size=batch_size,
        last="merge",
        class_weight=options.class_weight,
        callbacks=[callbacks.EarlyStopping(options.patience)],
        progress=not options.no_progress,
    )


def _scaler():
    from sklearn.preprocessing import StandardScaler

    return StandardScaler()


def _check_finite(options: argparse.Namespace, result: CrossValidationResult) -> None:
    for row, history in zip(result.rows, result.histories, strict=True):
        if history.best_epoch is None:
            raise Diverged(
                f"fold {row['fold']}: the training diverged, no validation loss is finite: "
                f"try an --lr below {options.lr:g}, or --max-norm 1"
            )


def _show(options: argparse.Namespace, problem: Problem, result: CrossValidationResult) -> None:
    if options.report:
        if options.split is None:
            parts = [test for _, _, test in result.folds]
            names = [f"fold {row['fold']}" for row in result.rows]
        else:
            parts, names = result.folds[0], ["train", "validation", "test"]
        columns = problem.stratify or {problem.target: problem.y[:, 0]}
        print(model_selection.distribution_report(columns, parts, part_names=names))
    lines = str(result).splitlines()
    print("\n".join(lines if len(result.rows) > 1 else lines[:4]))  # one row is its own mean


@dataclass
class Holdout:
    """One round of `cross_validate`: a part of the samples tests, another one validates."""

    sizes: tuple[float, float, float]
    random_state: int | None = None

    def split(self, X, y=None, groups=None, *, stratify=None):
        yield tuple(
            model_selection.train_val_test_split(
                np.arange(len(X)),
                sizes=self.sizes,
                stratify=stratify,
                groups=groups,
                random_state=self.random_state,
            )
        )
