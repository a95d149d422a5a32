"""CSV files, strictly: what another reader would guess at is refused with its line."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from .tables import Column, Table, column_of_texts, parse_number

_CHUNK = 8192  # rows that are texts at a time
_DELIMITERS = ",;\t|"
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")


def read_csv(
    path: Path,
    *,
    text: Collection[str] = (),
    delimiter: str = ",",
    encoding: str = "utf-8",
    na: Collection[str] = (),
    decimal: str = ".",
) -> Table:
    """Read a CSV file (RFC 4180) with a header.

    A column whose first chunks are numbers and a later one is not is read once more, as texts.
    """
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"  # which takes away a byte order mark, where there is one
    strays: dict[str, tuple[int, str]] = {}
    while True:
        try:
            with open(path, encoding=encoding, newline="") as file:
                builders, lines = _read(str(path), file, delimiter, {*text, *strays}, _translation(na, decimal))
        except UnicodeError:
            line = _undecodable_line(path, encoding)
            raise ValueError(
                f"{path}, line {line}: not a text in {encoding.removesuffix('-sig')}; "
                "save the file as UTF-8, or name its encoding: --encoding latin-1, say"
            ) from None
        turned = {builder.name: builder.stray for builder in builders if builder.turned}
        if not turned:
            break
        strays |= turned
    if not lines:
        raise ValueError(f"{path}: has a header but no rows")
    columns = {builder.name: builder.column() for builder in builders}
    for name, stray in strays.items():
        columns[name].stray = stray
    return Table(str(path), columns, len(lines), np.array(lines))


class _Builder:
    """A column that grows: numbers until a value is none."""

    def __init__(self, name: str, as_text: bool):
        self.name = name
        self.parts: list[np.ndarray] = []
        self.vocabulary: dict[str, int] | None = {} if as_text else None
        self.stray: tuple[int, str] | None = None
        self.turned = False

    def add(self, values: tuple[str, ...], first_row: int) -> None:
        if self.turned:
            return
        if self.vocabulary is None:
            numbers, stray = _numbers(values)
            if stray is None:
                self.parts.append(numbers)
                return
            self.stray = first_row + stray, values[stray].strip()
            self.turned = bool(self.parts)
            self.vocabulary = {}
        known = self.vocabulary
        self.parts.append(np.array([known.setdefault(value, len(known)) for value in values], np.int32))

    def column(self) -> Column:
        values = np.concatenate(self.parts)
        if self.vocabulary is None:
            return Column(self.name, numbers=values)
        column = column_of_texts(self.name, list(self.vocabulary), values, as_text=True)
        column.stray = self.stray
        return column


def _numbers(values: tuple[str, ...]) -> tuple[np.ndarray | None, int | None]:
    """The numbers, or the index of the first value that is none."""
    if "_" not in "".join(values):
        try:
            return np.fromiter(map(float, values), np.float64, len(values)), None
        except ValueError:  # a missing value, or a text
            pass
    numbers = np.empty(len(values))
    for i, value in enumerate(values):
        number = parse_number(value)
        if number is None:
            return None, i
        numbers[i] = number
    return numbers, None


def _translation(na: Collection[str], decimal: str) -> Callable[[str], str] | None:
    """What turns a field into one with decimal points and empty where missing; None where each is so already."""
    if not na and decimal == ".":
        return None

    def translate(field: str) -> str:
        stripped = field.strip()
        if stripped in na:
            return ""
        return field.replace(",", ".") if decimal == "," and DECIMAL_COMMA.fullmatch(stripped) else field

    return translate


def _read(
    source: str, file, delimiter: str, text: Collection[str], translate: Callable[[str], str] | None
) -> tuple[list[_Builder], list[int]]:
    records = _records(source, file, delimiter)
    _, header = next(records, (0, None))
    if not header:
        raise ValueError(f"{source}: is empty" if header is None else f"{source}, line 1: is empty, not a header")
    names = _names(source, header, delimiter)
    builders = [_Builder(name, name in text) for name in names]
    lines: list[int] = []
    chunk: list[list[str]] = []
    for line, fields in records:
        if len(fields) != len(names):
            found = f"{len(fields)} fields" if fields else "is empty"
            raise ValueError(f"{source}, line {line}: {found}, but the header has {len(names)}")
        lines.append(line)
        chunk.append(fields if translate is None else [*map(translate, fields)])
        if len(chunk) == _CHUNK:
            _add(builders, chunk, len(lines))
    if chunk:
        _add(builders, chunk, len(lines))
    return builders, lines


def _add(builders: list[_Builder], chunk: list[list[str]], n_rows: int) -> None:
    for builder, values in zip(builders, zip(*chunk, strict=True), strict=True):
        builder.add(values, n_rows - len(chunk))
    chunk.clear()


def _records(source: str, file, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line in which each record begins, and its fields. Empty lines at the end are left out."""
    reader = csv.reader(_without_nul(source, file), delimiter=delimiter, strict=True)
    empty: list[int] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{source}, line {line}: {error}") from error
        if fields is None:
            return
        if not fields:
            empty.append(line)
            continue
        yield from ((number, []) for number in empty)
        empty.clear()
        yield line, fields


def _without_nul(source: str, file) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if "\0" in line:
            raise ValueError(f"{source}, line {number}: holds a zero byte: not a text")
        yield line


def _names(source: str, header: list[str], delimiter: str) -> list[str]:
    names = [name.strip() for name in header]
    if len(names) == 1:
        other = next((other for other in _DELIMITERS if other != delimiter and other in names[0]), None)
        if other is not None:
            shown = "tab" if other == "\t" else repr(other)
            raise ValueError(f"{source}, line 1: the only column is {names[0]!r}: try --delimiter {shown}")
    if "" in names:
        number = names.index("") + 1
        hint = "; is it an index of pandas? to_csv(..., index=False) leaves it out" if number == 1 else ""
        raise ValueError(f"{source}, line 1: column {number} of the header has no name{hint}")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"{source}, line 1: column {twice!r} is there twice")
    return names


def _undecodable_line(path: Path, encoding: str) -> int:
    with open(path, encoding=encoding, errors="replace", newline="") as file:
        return next((number for number, line in enumerate(file, start=1) if "\ufffd" in line), 1)
