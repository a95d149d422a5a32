"""Tables: columns of numbers and of categories."""

from __future__ import annotations

import difflib
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

MISSING = frozenset(["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "NAN", "nan", "NULL", "Null", "null", "None"])


@dataclass
class Column:
    """Numbers (NaN is missing), or codes of categories (-1 is missing).

    `stray` is the row and the text of the first value that keeps a column from being one of numbers. `unusable` says
    why it is neither; that is held against a file only where the column is used.
    """

    name: str
    numbers: np.ndarray | None = None
    codes: np.ndarray | None = None
    categories: list[str] = field(default_factory=list)
    stray: tuple[int, str] | None = None
    unusable: str = ""

    @property
    def missing(self) -> np.ndarray:
        """Where it has no value."""
        return self.codes < 0 if self.numbers is None else np.isnan(self.numbers)

    def texts(self) -> np.ndarray:
        """The categories of all rows, which must have one."""
        return np.array(self.categories)[self.codes]


@dataclass
class Table:
    """Columns by name. `lines` are those of a text file in which the rows begin."""

    source: str
    columns: dict[str, Column]
    n_rows: int
    lines: np.ndarray | None = None

    def at(self, row: int) -> str:
        """Where to look for a row."""
        return f"{self.source}, row {row + 1}" if self.lines is None else f"{self.source}, line {self.lines[row]}"

    def column(self, name: str, option: str) -> Column:
        """A column that an option names.

        Raises
        ------
        ValueError
            There is none, and which names are near; or it is of no use.
        """
        if name not in self.columns:
            raise ValueError(f"argument {option}: there is no column {name!r}; {near(name, self.columns)}")
        column = self.columns[name]
        if column.unusable:
            raise ValueError(
                f"{self.source}: column {name!r} {column.unusable}; leave it out with --drop {as_option(name)}"
            )
        return column


def as_option(name: str) -> str:
    """A name as a shell and the options that take names understand it."""
    return shlex.quote('"' + name.replace('"', '""') + '"' if "," in name or name.startswith('"') else name)


def near(name: str, names: Iterable[str]) -> str:
    """Which of `names` may have been meant."""
    names = list(names)
    folded = {other.casefold(): other for other in reversed(names)}
    close = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, 3)]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"the columns are {', '.join(map(repr, names[:20]))}{more}"


def table_of(source: str, arrays: Mapping[str, np.ndarray], text: Collection[str] = ()) -> Table:
    """A table of arrays by name: of one axis a column, of two axes the columns name_0, name_1, ...

    >>> list(table_of("memory", {"x": np.zeros((3, 2)), "y": np.ones(3)}).columns)
    ['x_0', 'x_1', 'y']
    """
    columns: dict[str, Column] = {}
    lengths = {}
    for name, array in arrays.items():
        name = name.strip()
        if array.ndim not in (1, 2):
            raise ValueError(f"{source}: array {name!r} must have one or two axes but has shape {array.shape}")
        lengths[name] = len(array)
        several = array.ndim == 2 and array.shape[1] != 1
        parts = {f"{name}_{j}": array[:, j] for j in range(array.shape[1])} if several else {name: array.reshape(-1)}
        for part, values in parts.items():
            if part in columns:
                raise ValueError(f"{source}: column {part!r} is there twice")
            columns[part] = column_of(part, values, part in text or name in text)
    if len(set(lengths.values())) > 1:
        (first, n), (other, m) = _differing(lengths)
        raise ValueError(f"{source}: arrays {first!r} and {other!r} have {n} and {m} rows")
    return filled(source, columns)


def parse_number(text: str) -> float | None:
    """The number that a text is: NaN for a missing one, None for a text that is none.

    >>> parse_number(" 1e3"), parse_number("NA"), parse_number("12a"), parse_number("1_000")
    (1000.0, nan, None, None)
    """
    text = text.strip()
    if text in MISSING:
        return math.nan
    try:
        return None if "_" in text else float(text)  # Python alone reads 1_000 as a number
    except ValueError:
        return None


def column_of_texts(name: str, texts: Sequence[str], index: np.ndarray, as_text: bool) -> Column:
    """A column from its different texts and the index of each row's; numbers where all are, if not `as_text`."""
    numbers = [parse_number(text) for text in texts]
    if not as_text and None not in numbers:
        return Column(name, numbers=np.array(numbers, np.float64)[index])
    stripped = [text.strip() for text in texts]
    categories = sorted({text for text in stripped if text not in MISSING})
    code = {text: i for i, text in enumerate(categories)}
    codes = np.array([code.get(text, -1) for text in stripped], np.int32)[index]
    stray = None
    if not as_text:
        row = int(np.flatnonzero(np.array([number is None for number in numbers])[index])[0])
        stray = row, stripped[index[row]]
    return Column(name, codes=codes, categories=categories, stray=stray)


def column_of(name: str, values: np.ndarray, as_text: bool) -> Column:
    """A column from an array of one axis. Booleans are the categories True and False, as a CSV file has them."""
    kind = values.dtype.kind
    if kind in "iuf" and not as_text:
        return Column(name, numbers=values.astype(np.float64))
    if kind in "biufUS":
        different, index = np.unique(values, return_inverse=True)
        try:
            texts = [text_of(value) for value in different.tolist()]
        except UnicodeDecodeError:
            return Column(name, unusable="holds bytes that are not UTF-8")
        return column_of_texts(name, texts, index.reshape(-1), as_text or kind == "b")
    return Column(name, unusable=f"holds {values.dtype}, neither numbers nor texts")


def text_of(value) -> str:
    """Numbers as people write them: the category 1 is the same in integers and in floats."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _differing(lengths: dict[str, int]):
    first, *others = lengths.items()
    return first, next(other for other in others if other[1] != first[1])


def filled(source: str, columns: dict[str, Column]) -> Table:
    """A table of columns, which must have rows."""
    sizes = [len(c.codes if c.numbers is None else c.numbers) for c in columns.values() if not c.unusable]
    if not sizes or not sizes[0]:
        raise ValueError(f"{source}: has no rows" if columns else f"{source}: has no columns")
    return Table(source, columns, sizes[0])
