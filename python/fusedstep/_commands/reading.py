"""Files that hold a table."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from .._extras import require
from .csv_table import read_csv
from .tables import Column, Table, column_of, column_of_texts, filled, table_of

FORMATS = (".csv", ".npz", ".parquet")


def read_table(
    path: str | Path,
    *,
    text: Collection[str] = (),
    delimiter: str = ",",
    encoding: str = "utf-8",
    na: Collection[str] = (),
    decimal: str = ".",
) -> Table:
    """Read a file; the suffix decides how.

    Parameters
    ----------
    path : str or path
    text : collection of str
        Columns whose values are categories, also where all are numbers.
    delimiter, encoding, na, decimal
        Of a CSV file; `na` are texts that stand for missing values, beside the usual ones.

    Raises
    ------
    ValueError
        The file is damaged, empty or of another kind: one line that names it and, of a text, the line.
    OSError
        It cannot be read.
    ImportError
        pyarrow is missing.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: must end in {', '.join(FORMATS)}")
    if suffix == ".parquet":
        require("pyarrow.parquet", extra="parquet")
    with open(path, "rb"):  # a missing file or a folder: the usual OSError
        pass
    if suffix == ".csv":
        return read_csv(path, text=text, delimiter=delimiter, encoding=encoding, na=na, decimal=decimal)
    return _read_npz(path, text) if suffix == ".npz" else _read_parquet(path, text)


def _read_npz(path: Path, text: Collection[str]) -> Table:
    try:
        with open(path, "rb") as file:  # np.load would leave it open where it fails
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise ValueError("it holds one array without a name")
            arrays = {name: content[name] for name in content.files}
            other = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
            if other is not None:
                raise ValueError(f"{other!r} is not an array")
    except (ValueError, EOFError, KeyError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not an NPZ file of numbers and texts, or damaged: {error}") from error
    return table_of(str(path), arrays, text)


def _read_parquet(path: Path, text: Collection[str]) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file, or damaged: {error}") from error
    names = [name.strip() for name in content.column_names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}: column {twice!r} is there twice")
    return filled(
        str(path), {n: _parquet_column(n, values, n in text) for n, values in zip(names, content.columns, strict=True)}
    )


def _parquet_column(name: str, values, as_text: bool) -> Column:
    import pyarrow
    import pyarrow.compute
    from pyarrow import types

    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    if types.is_boolean(kind):  # as texts of NumPy's and as pandas writes them
        return _texts_of(name, pyarrow.compute.if_else(values, "True", "False"), True)
    if any(test(kind) for test in (types.is_integer, types.is_floating, types.is_decimal)):
        if as_text and types.is_integer(kind):  # a float64 would not hold all of an int64
            return _texts_of(name, values.cast(kind).cast(pyarrow.string()), as_text)
        return column_of(name, values.cast(pyarrow.float64(), safe=False).to_numpy(), as_text)
    if types.is_null(kind):
        n = len(values)
        return Column(name, codes=np.full(n, -1, np.int32)) if as_text else Column(name, numbers=np.full(n, np.nan))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _texts_of(name, values.cast(pyarrow.large_string()), as_text)
    return Column(name, unusable=f"holds {kind}, neither numbers nor texts")


def _texts_of(name: str, values, as_text: bool) -> Column:
    encoded = values.fill_null("").dictionary_encode().combine_chunks()
    if not len(values):
        return Column(name, codes=np.empty(0, np.int32))
    return column_of_texts(name, encoded.dictionary.to_pylist(), encoded.indices.to_numpy(), as_text)
