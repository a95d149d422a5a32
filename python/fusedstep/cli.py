"""The command line: ``fusedstep info``, ``fusedstep train`` and ``fusedstep bench``."""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from . import backend, callbacks, model_selection, nn, optim
from ._arguments import HelpFormatter, integer, number, widths
from ._bench.command import add_bench_command
from ._extras import require
from ._files import atomic_write
from .cross_validation import CrossValidationResult
from .plot import plot_histories

WRONG_USE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process when None.

    Returns
    -------
    int
        The exit code: 0; 2 for what cannot be done as asked, be it a wrong option, a missing package or too little
        memory (one line on stderr); 130 after Ctrl-C; 141 when the reader of stdout has gone.
    """
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except MemoryError as error:
        return _refuse(f"not enough memory: {error}")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("fusedstep: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(argv)
    except SystemExit as end:  # argparse, after --help, --version or a wrong option
        return int(end.code or 0)
    return options.command(options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One line; argparse would print the usage, too."""
        self.exit(WRONG_USE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fusedstep", description="Train neural networks with fused kernels.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fusedstep {backend.info()['version']}")
    commands = parser.add_subparsers(required=True, metavar="{info,train,bench}")

    info = commands.add_parser("info", help="show the version, the backend and the instruction set in use")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(command=_info)

    train = commands.add_parser(
        "train",
        help="train and test a classifier by rotating cross-validation",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    train.add_argument("data", metavar="DATA", choices=["digits"], help="digits: scikit-learn's 1,797 images of 8 x 8")
    train.add_argument("--epochs", type=integer(1), default=80, help="at most so many")
    train.add_argument("--batch-size", type=integer(2), default=64, help="samples in a step")
    train.add_argument("--lr", type=number(0, math.inf), default=0.004, help="learning rate, decayed by a cosine")
    train.add_argument("--hidden", type=widths, default="128,64", help="widths of the hidden layers")
    train.add_argument("--dropout", type=number(0, 1, low_included=True), default=0.2, help="probability")
    train.add_argument("--patience", type=integer(1), default=20, help="epochs without a better validation loss")
    train.add_argument("--folds", type=integer(3), default=5, help="models; each fold tests one of them")
    train.add_argument("--seed", type=integer(0), default=0, help="decides everything random")
    train.add_argument("--n-jobs", type=integer(1), default=1, help="folds that run at a time")
    train.add_argument("--threads", type=integer(1), help="threads of the kernels (default: all cores)")
    train.add_argument("--out", type=Path, help="a new or empty folder (default: runs/digits-<time>)")
    train.add_argument("--no-progress", action="store_true", help="no progress bars")
    train.set_defaults(command=_train_digits)

    add_bench_command(commands)
    return parser


def _info(options: argparse.Namespace) -> int:
    facts = backend.info()
    if options.json:
        print(json.dumps(facts, indent=1, default=str))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<{width}}  {_readable(value)}")
    return 0


def _train_digits(options: argparse.Namespace) -> int:
    X, y = _digits()
    if options.folds > len(X):
        return _refuse(f"argument --folds: there are only {len(X)} samples but got {options.folds}")
    if options.threads:
        backend.set_num_threads(options.threads)
    folder = options.out
    existed = folder is not None and folder.exists()
    try:
        if folder is None:
            folder = _new_run_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            return _refuse(f"{folder} is not empty: choose another folder with --out")
        with tempfile.TemporaryFile(dir=folder):
            pass  # better known before the training than after it
    except OSError as error:
        return _refuse(f"cannot write to {folder or 'runs'}: {error.strerror}")
    try:
        result = _cross_validate(options, X, y)
    except BaseException:
        if not existed:
            with suppress(OSError):
                folder.rmdir()
        raise
    print(result)
    _write_run(folder, options, result)
    print(f"written to {folder}")
    return 0


def _new_run_folder() -> Path:
    """A folder that no other run has, not even one that starts in the same second."""
    name = f"digits-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in ("", *(f"-{k}" for k in range(2, 1000))):
        with suppress(FileExistsError):
            folder = Path("runs", name + suffix)
            folder.mkdir(parents=True)
            return folder
    raise FileExistsError(errno.EEXIST, "too many runs in one second")


def _digits() -> tuple[np.ndarray, np.ndarray]:
    require("sklearn", extra="sklearn")
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return np.float32(X / 16), y  # pixels are 0 ... 16: a fixed scale, so nothing has to be fitted or saved


def _cross_validate(options: argparse.Namespace, X: np.ndarray, y: np.ndarray) -> CrossValidationResult:
    train_size = len(X) * (options.folds - 2) // options.folds
    steps = options.epochs * -(-train_size // options.batch_size)
    return model_selection.cross_validate(
        lambda seed: _network((X.shape[1], *options.hidden, 10), options.dropout, seed),
        lambda model: optim.Adam(model.parameters(), lr=optim.schedules.cosine(options.lr, steps)),
        nn.SoftmaxCrossEntropy(),
        X,
        y,
        cv=model_selection.RotatingKFold(options.folds),
        metrics=["accuracy"],
        n_jobs=min(options.n_jobs, options.folds),
        random_state=options.seed,
        epochs=options.epochs,
        batch_size=options.batch_size,
        last="merge",
        callbacks=[callbacks.EarlyStopping(options.patience)],
        progress=not options.no_progress,
    )


def _network(widths: Sequence[int], dropout: float, seed: int) -> nn.Sequential:
    layers = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Dense(inputs, outputs), nn.BatchNorm(outputs), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Dense(widths[-2], widths[-1]), seed=seed)


def _write_run(folder: Path, options: argparse.Namespace, result: CrossValidationResult) -> None:
    config = {name: value for name, value in vars(options).items() if name not in ("command", "out")}
    content = {
        "config": config,
        "environment": backend.info(),
        "rows": result.rows,
        "mean": result.mean,
        "std": result.std,
        "histories": [history.to_dict() for history in result.histories],
        "test_indices": [test.tolist() for _, _, test in result.folds],
    }
    atomic_write(folder / "history.json", json.dumps(content, indent=1, default=str).encode())
    for fold, model in enumerate(result.models, start=1):
        model.save(folder / f"model-fold-{fold}.safetensors")
    try:
        titles = [f"fold {row['fold']}" for row in result.rows]
        plot_histories(result.histories, titles, path=folder / "curves.png")
    except ImportError as error:
        print(f"no curves.png: {error}")


def _readable(value) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _refuse(message: str) -> int:
    print(f"fusedstep: {message}", file=sys.stderr)
    return WRONG_USE
