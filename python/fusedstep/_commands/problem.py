"""What is to be learnt from a table: the target, its kind, and the features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .csv_table import DECIMAL_COMMA
from .tables import Column, Table, as_option, near, parse_number, text_of

CLASSIFICATION, REGRESSION = "classification", "regression"
TASK_OF_METRIC = {
    "accuracy": CLASSIFICATION,
    "f1_macro": CLASSIFICATION,
    "roc_auc": CLASSIFICATION,
    "rmse": REGRESSION,
    "r2": REGRESSION,
}
_FEW = 20  # different integers that still look like classes
_EXACT = 2**53  # a float64 holds all integers below
_LARGEST = 1e150  # sums of squares are finite


@dataclass
class Problem:
    """A table, arranged for training.

    Attributes
    ----------
    task, why : str
        Classification or regression, and how it was decided.
    target : str
    classes : list of str
        Empty for a regression.
    numbers : list of str
        The features that are numbers, the first columns of X.
    categories : dict of str to list of str
        The others and what values they have.
    X : ndarray (n_samples, n_features)
        float64; a category is its index. NaN is missing.
    y : ndarray
        Indices of classes, (n_samples,) int64, or numbers, (n_samples, 1) float64.
    stratify : dict of str to ndarray, or None
    groups : ndarray or None
    """

    task: str
    why: str
    target: str
    classes: list[str]
    numbers: list[str]
    categories: dict[str, list[str]]
    X: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    stratify: dict[str, np.ndarray] | None = field(repr=False)
    groups: np.ndarray | None = field(repr=False)

    def fingerprint(self) -> str:
        """A hash of all that training sees, by which a resumed run knows its data."""
        names = [self.target, self.classes, self.numbers, self.categories, list(self.stratify or ())]
        digest = hashlib.sha256(repr(names).encode())
        for array in (self.X, self.y, self.groups, *(self.stratify or {}).values()):
            if array is not None:
                digest.update(np.ascontiguousarray(array).view(np.uint8))
        return digest.hexdigest()


def pose(table: Table, options) -> Problem:
    """Choose target and features as the options of ``fusedstep train`` say.

    Raises
    ------
    ValueError
        A column is not there, has values that are missing or infinite, or cannot be what it is to be.
    """
    target = table.column(options.target, "--target")
    if options.task != CLASSIFICATION:
        _refuse_spoiled_numbers(table, [target])
    _refuse_missing(table, target, "the target")
    task, why = _task(table, target, options.task)
    if task == REGRESSION and options.class_weight is not None:
        raise ValueError(f"argument --class-weight: a regression has no classes ({why})")
    _check_metrics(options.metrics or (), task, why)
    if task == REGRESSION:
        classes, y = [], _regression_target(table, target)
    else:
        classes, y = _classes(table, target, options.max_categories)
    groups = None
    if options.group is not None:
        column = table.column(options.group, "--group")
        _refuse_missing(table, column, "the group")
        groups = column.texts()
    stratify = {target.name: np.array(classes)[y]} if classes else None
    if options.stratify:
        stratify = {name: _criterion(table, table.column(name, "--stratify")) for name in options.stratify}
    features = _features(table, options)
    numbers = [column.name for column in features if column.numbers is not None]
    categories = {column.name: column.categories for column in features if column.numbers is None}
    X = matrix(table, numbers, categories)
    return Problem(task, why, target.name, classes, numbers, categories, X, y, stratify, groups)


def matrix(table: Table, numbers: Iterable[str], categories: Iterable[str]) -> np.ndarray:
    """Columns side by side, categories by their codes; NaN is missing."""
    columns = [table.columns[name] for name in (*numbers, *categories)]
    X = np.empty((table.n_rows, len(columns)))
    for j, column in enumerate(columns):
        if column.numbers is None:
            X[:, j] = column.codes
            X[column.missing, j] = np.nan
        else:
            refuse_infinite(table, column)
            X[:, j] = column.numbers
    return X


def labels_of(column: Column) -> tuple[list[str], np.ndarray]:
    """The different values as texts, and the index of each row's, int64."""
    if column.numbers is None:
        return column.categories, column.codes.astype(np.int64)
    values, index = np.unique(column.numbers, return_inverse=True)
    return [text_of(value) for value in values.tolist()], index.reshape(-1)


def refuse_infinite(table: Table, column: Column) -> None:
    """Refuse what is too large for a standard deviation, too."""
    wrong = np.abs(column.numbers) > _LARGEST
    if wrong.any():
        row = int(wrong.argmax())
        value = column.numbers[row]
        found = "infinite" if np.isinf(value) else f"{value:g}, too large to be standardized"
        raise ValueError(f"{table.at(row)}: column {column.name!r} is {found}")


def refuse_missing_features(table: Table, names: Iterable[str], remedy: str = "--missing impute fills them in") -> None:
    found = {name: table.columns[name].missing for name in names if table.columns[name].missing.any()}
    if found:
        (name, missing), *others = found.items()
        more = f", nor in {missing.sum() - 1} other rows" if missing.sum() > 1 else ""
        if others:
            more += f"; values are missing of {', '.join(repr(other) for other, _ in others)}, too"
        raise ValueError(f"{table.at(int(missing.argmax()))}: column {name!r} has no value{more}: {remedy}")


def _refuse_missing(table: Table, column: Column, what: str) -> None:
    if column.missing.any():
        raise ValueError(f"{table.at(int(column.missing.argmax()))}: {what} {column.name!r} has no value")
    if column.numbers is not None:
        refuse_infinite(table, column)


def _task(table: Table, target: Column, wanted: str | None) -> tuple[str, str]:
    if wanted is not None:
        return wanted, "as --task says"
    if target.numbers is None:
        return CLASSIFICATION, f"the target {target.name!r} is categorical"
    different = np.unique(target.numbers)
    integers = bool((different == np.round(different)).all())
    if integers and (len(different) <= 2 or len(different) <= min(_FEW, table.n_rows // 5)):
        return CLASSIFICATION, f"the target {target.name!r} has {len(different)} different values, all integers"
    kind = "integers" if integers else "numbers"
    return REGRESSION, f"the target {target.name!r} has {len(different)} different {kind}"


def _check_metrics(names: Iterable[str], task: str, why: str) -> None:
    for name in names:
        if name not in TASK_OF_METRIC:
            raise ValueError(f"argument --metrics: must be of {', '.join(TASK_OF_METRIC)} but got {name!r}")
        if TASK_OF_METRIC[name] != task:
            raise ValueError(f"argument --metrics: {name} is for a {TASK_OF_METRIC[name]}, this is a {task} ({why})")


def _refuse_spoiled_numbers(table: Table, columns: Iterable[Column]) -> None:
    """One stray text would turn a column of numbers into one of categories."""
    for column in columns:
        if column.numbers is None and column.stray is not None and _mostly_numbers(column):
            row, text = column.stray
            if DECIMAL_COMMA.fullmatch(text):
                remedy = "--decimal , reads decimal commas"
            else:
                remedy = f"mend it, or say --na {as_option(text)} if it stands for a missing value"
            raise ValueError(
                f"{table.at(row)}: column {column.name!r} has numbers, but here {text[:40]!r}: "
                f"{remedy}, or --categorical {as_option(column.name)}"
            )


def _mostly_numbers(column: Column) -> bool:
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.categories))
    numbers = [parse_number(text) is not None or DECIMAL_COMMA.fullmatch(text) for text in column.categories]
    return 2 * counts[np.array(numbers, bool)].sum() > counts.sum()


def _regression_target(table: Table, target: Column) -> np.ndarray:
    if target.numbers is None:
        row, text = target.stray or (0, target.categories[target.codes[0]])
        raise ValueError(f"{table.at(row)}: a regression needs numbers but the target {target.name!r} is {text[:40]!r}")
    if (target.numbers == target.numbers[0]).all():
        raise ValueError(f"the target {target.name!r} is {target.numbers[0]:g} in all rows: there is nothing to learn")
    return target.numbers[:, None]


def _classes(table: Table, target: Column, limit: int) -> tuple[list[str], np.ndarray]:
    if target.numbers is not None and (np.abs(target.numbers) >= _EXACT).any():
        row = int((np.abs(target.numbers) >= _EXACT).argmax())
        raise ValueError(
            f"{table.at(row)}: the target {target.name!r} is {target.numbers[row]:.0f}: numbers from 2**53 on are not "
            f"all told apart; --categorical {as_option(target.name)} takes them as names"
        )
    classes, y = labels_of(target)
    if len(classes) == 1:
        raise ValueError(f"the target {target.name!r} has one class only, {classes[0]!r}: there is nothing to learn")
    if _too_many(len(classes), table.n_rows, limit):
        raise ValueError(
            f"the target {target.name!r} has {len(classes)} classes in {table.n_rows} rows: "
            f"{_limits(limit)}; numbers are learnt by --task regression"
        )
    return classes, y


def _features(table: Table, options) -> list[Column]:
    for option, names in (("--drop", options.drop), ("--categorical", options.categorical)):
        for name in names or ():
            if name not in table.columns:
                raise ValueError(f"argument {option}: there is no column {name!r}; {near(name, table.columns)}")
    left_out = {options.target, options.group, *(options.drop or ())}
    names = [name for name in table.columns if name not in left_out]
    if not names:
        raise ValueError(f"{table.source}: has no column left to learn from")
    features = [table.column(name, "DATA") for name in names]
    for column in features:
        if column.missing.all():
            raise ValueError(
                f"{table.source}: column {column.name!r} has no values; "
                f"leave it out with --drop {as_option(column.name)}"
            )
    _refuse_spoiled_numbers(table, features)
    many = [
        column
        for column in features
        if column.numbers is None and _too_many(len(column.categories), table.n_rows, options.max_categories)
    ]
    if many:
        first, *others = many
        more = "".join(f", and {column.name!r} has {len(column.categories)}" for column in others)
        raise ValueError(
            f"{table.source}: column {first.name!r} has {len(first.categories)} categories "
            f"in {table.n_rows} rows{more}: {_limits(options.max_categories)}; "
            f"leave {'them' if others else 'it'} out with --drop {','.join(as_option(c.name) for c in many)}"
        )
    if options.missing == "refuse":
        refuse_missing_features(table, names)
    return features


def _too_many(categories: int, rows: int, limit: int) -> bool:
    return categories > limit or (categories > _FEW and 2 * categories > rows)


def _limits(limit: int) -> str:
    return f"more than --max-categories {limit}, or than half of the rows, look like names"


def _criterion(table: Table, column: Column) -> np.ndarray:
    if column.numbers is None:
        return np.array([*column.categories, "(missing)"])[column.codes]  # -1 is the last
    _refuse_missing(table, column, "--stratify")
    return column.numbers
