"""The options of ``fusedstep train``: what they are, which were given, and what holds where none was."""

from __future__ import annotations

import argparse
import io
import json
import math
from pathlib import Path

from .._arguments import batch_size, integer, names, number, shares, widths
from .network import ACTIVATIONS, OPTIMIZERS, RATES, SCHEDULE_HELP, SCHEDULES
from .problem import CLASSIFICATION, REGRESSION
from .reading import FORMATS, read_table
from .run_folder import CONFIG, csv_text
from .tables import MISSING, near

DIGITS = "digits"
_DEFAULTS: dict = {
    "target": None,
    "task": None,
    "stratify": None,
    "group": None,
    "drop": None,
    "categorical": None,
    "missing": "refuse",
    "max_categories": 200,
    "delimiter": ",",
    "encoding": "utf-8",
    "na": None,
    "decimal": ".",
    "cv": 5,
    "split": None,
    "metrics": None,
    "report": False,
    "hidden": (128, 64),
    "activation": "relu",
    "batch_norm": True,
    "dropout": 0.2,
    "optimizer": "adam",
    "lr": None,
    "schedule": "cosine",
    "weight_decay": None,
    "max_norm": None,
    "class_weight": None,
    "batch_size": None,
    "epochs": 80,
    "patience": 20,
    "seed": 0,
    "n_jobs": 1,
    "threads": None,
    "device": "cpu",
    "no_progress": False,
}
_OF_A_TABLE = ("target", "stratify", "group", "drop", "categorical", "missing", "task", "max_categories")
_OF_A_FILE = ("delimiter", "encoding", "na", "decimal")
_OF_THE_PROCESS = ("n_jobs", "threads", "no_progress")  # they change no bit of the result
_DEFAULT_BATCH = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options. Those not given are None until `settle`."""
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help=f"a .csv, .npz or .parquet file, or {DIGITS}: scikit-learn's 1,797 images of 8 x 8",
    )
    group = parser.add_argument_group("columns")
    _add(group, "--target", metavar="NAME", help="the column to predict")
    _add(group, "--task", choices=[CLASSIFICATION, REGRESSION], help="default: by the target")
    _add(
        group,
        "--stratify",
        type=names,
        metavar="A,B",
        help="columns whose distribution all parts keep (default: the classes)",
    )
    _add(group, "--group", metavar="NAME", help="rows of equal value stay in one part; no feature")
    _add(group, "--drop", type=names, metavar="A,B", help="columns that are no features")
    _add(group, "--categorical", type=names, metavar="A,B", help="numbers that are names of categories")
    _add(
        group,
        "--missing",
        choices=["refuse", "impute"],
        help="impute: the median or the most frequent category of the training part",
    )
    _add(group, "--max-categories", type=integer(2), metavar="N", help="more in a column are refused")
    _add(group, "--delimiter", type=_delimiter, metavar="C", help="between the fields of a CSV file; tab is one")
    _add(group, "--encoding", type=_encoding, metavar="NAME", help="of a CSV file")
    _add(
        group,
        "--na",
        type=names,
        metavar="A,B",
        help=f"texts of a CSV file that stand for missing values, beside {', '.join(sorted(MISSING - {''}))} "
        "and the empty one",
    )
    _add(group, "--decimal", choices=[".", ","], help="the decimal sign of a CSV file")
    group = parser.add_argument_group("validation")
    either = group.add_mutually_exclusive_group()
    _add(
        either,
        "--cv",
        "--folds",
        type=integer(3),
        metavar="K",
        help="models; each fold tests one of them and validates another",
    )
    _add(either, "--split", type=shares, metavar="60/20/20", help="one model: shares of train, validation and test")
    _add(group, "--metrics", type=names, metavar="A,B", help="default: accuracy, or rmse,r2")
    _add(group, "--report", flag=True, help="say how far the parts agree in the columns to stratify on")
    group = parser.add_argument_group("model")
    _add(group, "--hidden", type=widths, help="widths of the hidden layers")
    _add(group, "--activation", choices=list(ACTIVATIONS), help="between the layers")
    _add(group, "--batch-norm", action=argparse.BooleanOptionalAction, help="after each hidden layer")
    _add(group, "--dropout", type=number(0, 1, low_included=True), help="probability")
    group = parser.add_argument_group("training")
    _add(group, "--optimizer", choices=list(OPTIMIZERS), help="the method")
    _add(group, "--lr", type=number(0, math.inf), help=f"learning rate (default: {_shown_rates()})")
    _add(group, "--schedule", choices=list(SCHEDULES), help=SCHEDULE_HELP)
    _add(group, "--weight-decay", type=number(0, math.inf, low_included=True), help="default: 0, and 0.01 for adamw")
    _add(group, "--max-norm", type=number(0, math.inf), help="clip gradients to this global norm")
    _add(group, "--class-weight", choices=["balanced"], help="rare classes count as much as frequent ones")
    _add(
        group,
        "--batch-size",
        type=batch_size,
        help=f"samples in a step, or full (default: {_DEFAULT_BATCH}, or all where there are fewer)",
    )
    _add(group, "--epochs", type=integer(1), help="at most so many")
    _add(group, "--patience", type=integer(1), help="epochs without a better validation loss")
    _add(group, "--seed", type=integer(0), help="decides everything random")
    group = parser.add_argument_group("run")
    _add(group, "--n-jobs", type=integer(1), help="folds that run at a time")
    _add(group, "--threads", type=integer(1), help="threads of the kernels (default: all cores)")
    _add(group, "--device", choices=["cpu", "cuda"], help="where the model is")
    group.add_argument("--out", type=Path, help="a new or empty folder (default: runs/<name of the data>-<time>)")
    group.add_argument(
        "--resume",
        type=Path,
        metavar="FOLDER",
        help="go on with a run that was interrupted: with its data and its options",
    )
    _add(group, "--no-progress", flag=True, help="no progress bars")


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Those that say how a file is read; None where they were not given."""
    parser.add_argument("--delimiter", type=_delimiter, metavar="C", help="of a CSV file (default: that of the run)")
    parser.add_argument("--encoding", type=_encoding, metavar="NAME", help="of a CSV file (default: that of the run)")
    parser.add_argument("--na", type=names, metavar="A,B", help="missing values of a CSV file (default: as in the run)")
    parser.add_argument("--decimal", choices=[".", ","], help="of a CSV file (default: that of the run)")


def file_options(given: argparse.Namespace, saved: dict) -> dict:
    """How to read a file: as was asked for, or as the options `saved` by a run say."""
    return {
        "delimiter": given.delimiter or saved.get("delimiter", ","),
        "encoding": given.encoding or saved.get("encoding", "utf-8"),
        "na": given.na or saved.get("na") or (),
        "decimal": given.decimal or saved.get("decimal", "."),
    }


def settle(given: argparse.Namespace, config: dict | None = None) -> argparse.Namespace:
    """All options, with defaults where none was given, or those of the run that is resumed.

    Parameters
    ----------
    given : Namespace
    config : dict, optional
        Of the run that is resumed.

    Raises
    ------
    ValueError
        An option does not go with another, with the data, or with the run.
    """
    options = argparse.Namespace(**vars(given))
    if config is not None:
        check_saved(given.resume, config["options"])
        options.data = given.data or config["data"]
        vars(options).update(_taken_up(given, config["options"]))
        return options
    _check_data(given)
    vars(options).update({name: _either(getattr(given, name), default) for name, default in _DEFAULTS.items()})
    options.lr = _either(options.lr, RATES[options.optimizer])
    if options.data == DIGITS:
        options.target, options.task = "y", CLASSIFICATION
    if options.split is not None:
        options.cv = None
    if options.batch_norm and options.batch_size == 1:
        raise ValueError(
            "argument --batch-size: must be an integer >= 2 with batch normalization but got 1; see --no-batch-norm"
        )
    if options.group is not None and options.group == options.target:
        raise ValueError(f"argument --group: {options.group!r} is the target")
    if options.stratify and options.group in options.stratify:
        raise ValueError(f"argument --stratify: {options.group!r} is the group, which stays together")
    return options


def check_saved(path: Path, saved: dict) -> None:
    """Raise ValueError for the first of the options in the configuration of the run in `path` that cannot be one."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    for name, default in _DEFAULTS.items():
        value = saved.get(name, default)
        if name == "cv" and value is None and saved.get("split") is not None:
            continue
        unsettled = name == "lr" and value is None  # a run keeps its rate
        if unsettled or not _can_be(parser, name, value, default):
            raise ValueError(f"{path / CONFIG}: damaged: the option {name!r} is {json.dumps(value)[:40]}")


def to_save(options: argparse.Namespace) -> dict:
    """The options as the configuration of a run keeps them."""
    return json.loads(json.dumps({name: getattr(options, name) for name in _DEFAULTS}))


def batch_of(options: argparse.Namespace, train_size: int) -> int | None:
    """The batch size for a training part, None for all of it."""
    if options.batch_size == "full":
        return None
    if options.batch_size is not None and options.batch_size > train_size:
        raise ValueError(
            f"argument --batch-size: a training part has about {train_size} samples but got {options.batch_size}; "
            "'full' takes them all"
        )
    return min(options.batch_size or _DEFAULT_BATCH, train_size)


def _check_data(given: argparse.Namespace) -> None:
    if given.data is None:
        raise ValueError("the following arguments are required: DATA")
    if given.data != DIGITS:
        if Path(given.data).suffix.lower() not in FORMATS:
            raise ValueError(f"argument DATA: must be {DIGITS} or end in {', '.join(FORMATS)} but got {given.data!r}")
        if given.target is None:
            raise ValueError("argument --target: name the column to predict" + _columns_of(given))
        return
    for name in (*_OF_A_TABLE, *_OF_A_FILE):
        if getattr(given, name) is not None:
            raise ValueError(f"argument {_option(name)}: {DIGITS} takes none; it is for tables")


def _columns_of(given: argparse.Namespace) -> str:
    try:
        table = read_table(given.data, **file_options(given, {}))
    except (ImportError, OSError, ValueError):
        return ""
    return f"; {near('', table.columns)}"


def _taken_up(given: argparse.Namespace, saved: dict) -> dict:
    """The options of a run that is resumed; only what changes no bit of its result may be given anew."""
    if given.out is not None:
        raise ValueError("argument --out: not allowed with argument --resume, which goes on in the folder of the run")
    values = {}
    for name, default in _DEFAULTS.items():
        new = getattr(given, name)
        old = saved.get(name, default)
        if new is not None and name not in _OF_THE_PROCESS and json.loads(json.dumps(new)) != old:
            raise ValueError(
                f"argument {_option(name)}: the run in {given.resume} was started with {_shown(old)}, "
                f"which goes on, but got {_shown(new)}"
            )
        values[name] = _either(new, tuple(old) if isinstance(old, list) else old)
    return values


def _can_be(parser: argparse.ArgumentParser, name: str, value, default) -> bool:
    """Whether the parser gives this value, as JSON keeps it, for some text."""
    if value is None or isinstance(default, bool):
        return type(value) is type(default)
    text = value
    if isinstance(value, (list, tuple)):
        text = "/".join(map(str, value)) if name == "split" else csv_text(map(str, value), ()).rstrip("\n")
    try:
        parsed = getattr(parser.parse_args([f"{_option(name)}={text}"]), name)
    except argparse.ArgumentError:
        return False
    if isinstance(parsed, tuple):  # shares may differ in the last bit
        return isinstance(value, (list, tuple)) and (name == "split" or parsed == tuple(value))
    return parsed == value


def _either(value, default):
    return default if value is None else value


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(value) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _shown_rates() -> str:
    """Which optimizers have which rate, the largest first: "1 for adadelta, lars; 0.1 for sgd"."""
    of_rate = {rate: [name for name in RATES if RATES[name] == rate] for rate in sorted(RATES.values(), reverse=True)}
    return "; ".join(f"{rate:g} for {', '.join(names)}" for rate, names in of_rate.items())


def _add(parser, *flags: str, flag: bool = False, help: str, **keywords) -> None:
    """An option that is None where it was not given, and whose default is shown."""
    name = flags[0].removeprefix("--").replace("-", "_")
    default = _DEFAULTS[name]
    if flag:
        keywords |= {"action": "store_const", "const": True}
    elif default is not None:
        help = f"{help} (default: {_shown(default)})"
    parser.add_argument(*flags, dest=name, default=None, help=help, **keywords)


def _delimiter(text: str) -> str:
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1 or text in '"\r\n' or text.isalnum():
        raise argparse.ArgumentTypeError(f"must be one character such as ; but got {text!r}")
    return text


def _encoding(text: str) -> str:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=text)  # b"".decode(text) would not look
    except (LookupError, ValueError):
        raise argparse.ArgumentTypeError(f"must be an encoding such as latin-1 but got {text!r}") from None
    return text
