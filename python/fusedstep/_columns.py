"""Columns to stratify on or to report on: how they are read, which are classes, and how numbers are binned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

MAX_CLASSES = 20
"""A column of whole numbers with more distinct values than this is continuous."""


@dataclass(frozen=True)
class Column:
    """One value a sample.

    Attributes
    ----------
    name : str
        Empty where the caller gave labels alone, not columns.
    kind : {"categorical", "continuous"}
    values : ndarray of shape (n_samples,)
        Numbers where continuous; otherwise the index of each sample's class.
    classes : list of str
        The name of each class, in order; empty where continuous.
    """

    name: str
    kind: str
    values: np.ndarray = field(repr=False)
    classes: list[str] = field(repr=False)

    def binned(self, bins: int) -> Column:
        """This column as classes: a continuous one by quantile, in at most `bins` of them."""
        if self.kind == "categorical":
            return self
        codes = quantile_bins(self.values, bins)
        members = [self.values[codes == code] for code in range(codes.max() + 1)]
        ends = [(some.min(), some.max()) for some in members]
        classes = [f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in ends]
        return Column(self.name, "categorical", codes, classes)


def quantile_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each value, counted from 0. Equal values share a bin, and no bin is empty.

    A value goes to the bin in which the middle of its ranks lies: one that many samples share takes the middle one of
    the bins that they would fill. Of at most `bins` distinct values each is a bin of its own.

    >>> quantile_bins(np.array([5.0, 1.0, 2.0, 4.0, 3.0, 6.0]), 3).tolist()
    [2, 0, 0, 1, 1, 2]
    >>> quantile_bins(np.array([0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]), 3).tolist()
    [0, 0, 0, 0, 1, 2, 2]
    """
    distinct, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) <= bins:
        return index
    middle = np.cumsum(counts) - counts / 2
    _, bin_of = np.unique((bins * middle / len(values)).astype(np.int64), return_inverse=True)
    return bin_of[index]


def read(where: str, argument: str, columns, n_samples: int | None = None) -> list[Column]:
    """The columns of 1-D labels, a 2-D array (a column a criterion), a dict or a data frame; none of None.

    Strings, booleans, objects and categoricals of pandas are categorical. Numbers are continuous where some are not
    whole or where more than 20 of them differ, but 1-D integers are labels and stay classes.

    Parameters
    ----------
    where, argument : str
        For messages.
    columns : None, array_like, dict or data frame
    n_samples : int, optional
        The length of every column; that of the first when None.

    Raises
    ------
    TypeError
        A dtype that is neither numbers nor classes, or a name that is no string.
    ValueError
        No column, lengths that differ, a missing or infinite value.
    """
    if columns is None:
        return []
    found = []
    for name, title, values in _entries(where, argument, columns):
        column = _read_column(where, name, title, values, n_samples)
        found.append(column)
        n_samples = len(column.values)
    if not found:
        raise ValueError(f"[{where}] '{argument}' must have at least one column but is empty")
    return found


def is_labels(where: str, argument: str, y) -> bool:
    """Whether targets are classes: integers, booleans or strings of one axis."""
    values, _ = _as_array(where, f"'{argument}'", y)
    return values.ndim == 1 and values.dtype.kind in "biuSUO"


def _entries(where: str, argument: str, columns) -> Iterator[tuple[str, str, object]]:
    """(name, how messages call it, values) of each column."""
    if isinstance(columns, Mapping):
        names = list(columns)
    elif hasattr(columns, "columns") and hasattr(columns, "__getitem__"):  # pandas, polars
        names = list(columns.columns)
    else:
        values, _ = _as_array(where, f"'{argument}'", columns)
        if values.ndim == 1:
            yield "", f"'{argument}'", columns
        elif values.ndim == 2:
            for j in range(values.shape[1]):
                yield f"column {j}", f"'{argument}' column {j}", values[:, j]
        else:
            raise ValueError(f"[{where}] '{argument}' must have one or two axes but its shape is {values.shape}")
        return
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"[{where}] '{argument}' must have strings as names of columns but got {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"[{where}] '{argument}' has two columns of the name {name!r}")
        yield name, f"'{argument}' column {name!r}", columns[name]


def distinct(
    where: str, title: str, given, n_samples: int | None, kinds: str = "biufcmMSUO"
) -> tuple[np.ndarray, np.ndarray, bool]:
    """(the distinct values in order, the index among them of each sample's, whether they are a categorical's).

    Refuses shapes other than (n_samples,), missing and infinite values, and dtypes that are not of `kinds`.
    """
    values, categorical = _as_array(where, title, given)
    if values.shape != (len(values) if n_samples is None and values.ndim else n_samples,):
        wanted = "(n_samples,)" if n_samples is None else f"({n_samples},)"
        raise ValueError(f"[{where}] {title} must be one value a sample, shape {wanted}, but has shape {values.shape}")
    if values.dtype.kind not in kinds:
        raise TypeError(f"[{where}] {title} must be numbers, booleans, strings or objects but got {values.dtype}")
    missing = _missing(values)
    if missing is not None:
        shown = str(values[missing]).replace("nan", "NaN")
        raise ValueError(f"[{where}] {title} has {shown} at index {missing}: fill it in or leave it out")
    if values.dtype.kind == "O":
        return *_distinct_objects(where, title, values), categorical
    return *np.unique(values, return_inverse=True), categorical


def _read_column(where: str, name: str, title: str, given, n_samples: int | None) -> Column:
    values, index, categorical = distinct(where, title, given, n_samples, "biufSUO")
    if values.dtype.kind in "iuf" and not categorical:
        whole = values.dtype.kind != "f" or (values == np.floor(values)).all()
        labels = not name and values.dtype.kind != "f"
        if not whole or (len(values) > MAX_CLASSES and not labels):
            return Column(name, "continuous", values[index], [])
    return Column(name, "categorical", index, [str(value) for value in values])


def _as_array(where: str, title: str, given) -> tuple[np.ndarray, bool]:
    """(array, whether it is categorical whatever its values are). Objects that all are numbers become numbers."""
    categorical = str(getattr(given, "dtype", "")) == "category"
    try:
        values = np.asarray(given)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"[{where}] {title} cannot be made an array: {error}") from None
    if values.dtype.kind == "T" or categorical or (values.dtype.kind in "SU" and not hasattr(given, "dtype")):
        values = np.array(given, dtype=object)  # [1.5, "a"] would become strings
    if values.dtype.kind == "O" and values.ndim == 1:
        values = _plain(values)
    return values, categorical


def _plain(values: np.ndarray) -> np.ndarray:
    """Objects as numbers, booleans or strings where all are such."""
    types = {type(value) for value in values.tolist()}
    for accepted in ((bool, np.bool_), (int, float, np.integer, np.floating), (str,)):
        if types and all(issubclass(t, accepted) and (t is not bool or bool in accepted) for t in types):
            return np.array(values.tolist())
    return values


def _missing(values: np.ndarray) -> int | None:
    """The first index of None, NaN, NA, NaT or infinity."""
    if values.dtype.kind in "fcmM":
        bad = ~np.isfinite(values)
        return int(bad.argmax()) if bad.any() else None
    if values.dtype.kind == "O":
        return next((i for i, value in enumerate(values) if _is_missing(value)), None)
    return None


def _is_missing(value) -> bool:
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA compares as NA, which is neither true nor false
        return True
    except ValueError:  # an array
        return False


def _distinct_objects(where: str, title: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `distinct`, ordered as their names are."""
    seen: dict = {}
    try:
        first_seen = np.array([seen.setdefault(value, len(seen)) for value in values], np.int64)
    except TypeError:
        raise TypeError(f"[{where}] {title} must be numbers, booleans, strings or objects to compare") from None
    found = list(seen)
    order = sorted(range(len(found)), key=lambda i: (str(found[i]), type(found[i]).__name__))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return np.array([str(found[i]) for i in order]), rank[first_seen]
