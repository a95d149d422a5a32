import csv
import gzip
import io
import math
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedstep._commands import csv_table
from fusedstep._commands.reading import read_table
from fusedstep._commands.tables import near, parse_number, table_of


def read(tmp_path, content, **options):
    path = tmp_path / "data.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, **options)


def refused(tmp_path, content, **options):
    with pytest.raises(ValueError) as info:
        read(tmp_path, content, **options)
    return str(info.value).removeprefix(str(tmp_path / "data.csv"))


def test_numbers_and_categories(tmp_path):
    table = read(tmp_path, "x,colour,n\n1.5, red ,3\n-2e3,blue,NA\n,red,4\n")
    x, colour, n = table.columns.values()
    np.testing.assert_array_equal(x.numbers, [1.5, -2000, np.nan])
    np.testing.assert_array_equal(n.numbers, [3, np.nan, 4])
    assert colour.categories == ["blue", "red"] and colour.codes.tolist() == [1, 0, 1]
    assert colour.stray == (0, "red") and table.n_rows == 3
    assert x.missing.tolist() == [False, False, True]
    assert colour.texts().tolist() == ["red", "blue", "red"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa,b\n1,2\n3,4\n",
        b"a,b\r\n1,2\r\n3,4\r\n",
        b"a,b\r1,2\r3,4",
        b'"a","b"\n"1","2"\n"3","4"\n\n\n',
        b" a , b \n 1 , 2 \n 3 , 4 \n",
    ],
)
def test_dialects(tmp_path, content):
    table = read(tmp_path, content)
    assert {name: column.numbers.tolist() for name, column in table.columns.items()} == {"a": [1, 3], "b": [2, 4]}


def test_delimiter_and_encoding(tmp_path):
    table = read(tmp_path, "größe;y\n1;ä\n2;ö\n".encode("latin-1"), delimiter=";", encoding="latin-1")
    assert list(table.columns) == ["größe", "y"] and table.columns["y"].categories == ["ä", "ö"]
    table = read(tmp_path, "a,b\n1,é\n2,x\n".encode("utf-16"), encoding="utf-16")
    assert table.columns["b"].categories == ["x", "é"]


def test_a_quoted_field_may_hold_delimiters_quotes_and_line_breaks(tmp_path):
    table = read(tmp_path, 'a,b\n"x, ""y""\nz",1\nx,2\nx,oops\n')
    assert table.columns["a"].categories == ["x", 'x, "y"\nz']
    assert table.lines.tolist() == [2, 4, 5] and table.at(2).endswith("data.csv, line 5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": is empty"),
        ("a,b\n", ": has a header but no rows"),
        ("a,b\n\n\n", ": has a header but no rows"),
        ("\na,b\n1,2\n", ", line 1: is empty, not a header"),
        ("a,,b\n1,2,3\n", ", line 1: column 2 of the header has no name"),
        ("a,b,a\n1,2,3\n", ", line 1: column 'a' is there twice"),
        ("a,b\n1,2\n1\n", ", line 3: 1 fields, but the header has 2"),
        ("a,b\n1,2\n1,2,3\n", ", line 3: 3 fields, but the header has 2"),
        ('a,b\n"x\ny",2\n1\n', ", line 4: 1 fields, but the header has 2"),
        ("a,b\n1,2\n\n3,4\n", ", line 3: is empty, but the header has 2"),
        ('a,b\n1,2\n3,"4\n5,6\n', ", line 3: unexpected end of data"),
        ('a,b\n1,"2"x\n', ", line 2: ',' expected after '\"'"),
        ("a;b\n1;2\n", ", line 1: the only column is 'a;b': try --delimiter ';'"),
        ("a\tb\n1\t2\n", ", line 1: the only column is 'a\\tb': try --delimiter tab"),
        (b"a,b\n1,2\n1,\x00\n", ", line 3: holds a zero byte: not a text"),
        (b"a,b\n1,2\n1,\xe9\n", ", line 3: not a text in utf-8; save the file as UTF-8, or name its encoding"),
        (gzip.compress(b"a,b\n1,2\n"), ", line 1: not a text in utf-8"),
        ("a,b\n1," + "x" * 200_000 + "\n", ", line 2: field larger than field limit"),
    ],
)
def test_broken_files_are_refused_with_their_line(tmp_path, content, message):
    assert refused(tmp_path, content).startswith(message)


def test_a_column_that_stops_being_one_of_numbers(tmp_path, monkeypatch):
    """In the first chunk or a later one: the same column of texts, as they were written."""
    content = "x,y\n" + "".join(f"{i}.0,{i}\n" for i in range(10)) + "abc,10\nNA,11\n"
    tables = []
    for chunk in (100, 4, 1):
        monkeypatch.setattr(csv_table, "_CHUNK", chunk)
        tables.append(read(tmp_path, content))
    for table in tables:
        x = table.columns["x"]
        assert x.categories == [*(f"{i}.0" for i in range(10)), "abc"]
        assert x.codes.tolist() == [*range(11), -1] and x.stray == (10, "abc")
        assert table.columns["y"].numbers.tolist() == list(range(12))


def test_numbers_that_are_names(tmp_path):
    zips = read(tmp_path, "zip,y\n01,1\n1,2\n,3\n", text={"zip"}).columns["zip"]
    assert zips.categories == ["01", "1"] and zips.codes.tolist() == [0, 1, -1] and zips.stray is None


def test_what_is_a_number():
    assert [parse_number(text) for text in ("1", " -1.5e3 ", "1_000", "12a", "0x10", "1,5")] == [1, -1500, *[None] * 4]
    assert all(math.isnan(parse_number(text)) for text in ("", " ", "NA", "NaN", "nan", "null", "None", "N/A"))
    assert parse_number("none") is None, "a category as likely as not"
    assert parse_number("1e999") == math.inf


def test_arrays():
    table = table_of("memory", {"X": np.arange(6).reshape(3, 2), "y": np.array(["a", "NA", "b"]), "z": np.ones((3, 1))})
    assert list(table.columns) == ["X_0", "X_1", "y", "z"] and table.at(1) == "memory, row 2"
    assert table.columns["X_1"].numbers.tolist() == [1, 3, 5] and table.columns["y"].codes.tolist() == [0, -1, 1]


def test_categories_are_the_same_in_integers_floats_and_texts():
    for values in (np.array([1, 20]), np.array([1.0, 20.0]), np.array(["1", "20"]), np.array([b"1", b"20"])):
        assert table_of("memory", {"x": values}, {"x"}).columns["x"].categories == ["1", "20"]
    big = table_of("memory", {"x": np.array([2**60, 2**60 + 1])}, {"x"}).columns["x"]
    assert len(big.categories) == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.ones((3, 2)), "y": np.ones(4)}, "arrays 'X' and 'y' have 3 and 4 rows"),
        ({"X": np.ones((3, 2, 2))}, "array 'X' must have one or two axes but has shape (3, 2, 2)"),
        ({"X": np.float64(1)}, "array 'X' must have one or two axes but has shape ()"),
        ({"X": np.ones((3, 2)), "X_0": np.ones(3)}, "column 'X_0' is there twice"),
        ({"x": np.ones(3), " x": np.ones(3)}, "column 'x' is there twice"),
        ({"X": np.ones(0)}, "has no rows"),
        ({}, "has no columns"),
    ],
)
def test_arrays_that_are_no_table(arrays, message):
    with pytest.raises(ValueError) as info:
        table_of("memory", arrays)
    assert message in str(info.value)


def test_columns_of_no_use_are_refused_only_where_they_are_used():
    dates = np.array(["2020-01-01"], "datetime64[D]")
    table = table_of("memory", {"x": np.ones(1), "when": dates, "z": np.ones(1, complex), "b": np.array([b"\xff"])})
    assert table.column("x", "--target").numbers.tolist() == [1]
    for name, why in (("when", "datetime64"), ("z", "complex128"), ("b", "bytes that are not UTF-8")):
        with pytest.raises(ValueError, match=f"column '{name}' holds .*{why}.*--drop {name}"):
            table.column(name, "--target")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8).map(str.strip)


@given(
    st.lists(st.tuples(st.floats(allow_nan=False), TEXT.filter(lambda t: parse_number(t) is None)), min_size=1),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_is_read_back(rows, delimiter, end):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC)  # also a lone CR
    writer.writerows([("number", "text"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        table = read(Path(folder), text.getvalue(), delimiter=delimiter)
    assert table.columns["number"].numbers.tolist() == [number for number, _ in rows]
    assert table.columns["text"].texts().tolist() == [text for _, text in rows]


def test_npz(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, X=np.ones((2, 2), np.float32), y=np.array([True, False]))
    table = read_table(path)
    assert list(table.columns) == ["X_0", "X_1", "y"]
    for text in ((), {"y"}):  # as texts of NumPy's and as pandas writes them
        column = read_table(path, text=text).columns["y"]
        assert column.categories == ["False", "True"] and column.codes.tolist() == [1, 0]
    np.savez(path, X=np.array([object()]))
    with pytest.raises(ValueError, match=r"data\.npz: not an NPZ file of numbers and texts.*pickle"):
        read_table(path)
    np.savez(path, X=np.ones((2, 2)))
    other_zip = path.read_bytes().replace(b"PK\x01\x02-\x03-", b"PK\x01\x02-\x03\xff")  # of a version to come
    for content in (b"", b"garbage", b"PK\x03\x04 and no more", other_zip):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"data\.npz: not an NPZ file of numbers and texts, or damaged"):
            read_table(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(ValueError, match=r"data\.npz: not an NPZ file .*: 'notes\.txt' is not an array"):
        read_table(path)
    with open(path, "wb") as file:
        np.save(file, np.ones(3))  # an .npy file by another name
    with pytest.raises(ValueError, match=r"data\.npz: not an NPZ file"):
        read_table(path)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    columns = {
        "i": pyarrow.array([1, None, 3]),
        "f": pyarrow.array([0.5, float("nan"), None], pyarrow.float32()),
        "b": pyarrow.array([True, False, None]),
        "s": pyarrow.array(["x", None, "y"]),
        "numbers": pyarrow.array(["1", "", "3"]),
        "d": pyarrow.array(["p", "q", "p"]).dictionary_encode(),
        "id": pyarrow.array([2**60, 2**60 + 1, 5]),
        "nothing": pyarrow.nulls(3),
        "when": pyarrow.array([1, 2, 3], pyarrow.timestamp("s")),
        "yes": pyarrow.array([True, False, None]),
        "view": pyarrow.array(["x", None, "y"], pyarrow.string_view()),
        " blank ": pyarrow.array([1, 2, 3]),
    }
    parquet.write_table(pyarrow.table(columns), path)
    table = read_table(path, text={"id", "yes"})
    expected = {
        "i": [1, np.nan, 3],
        "f": [0.5, np.nan, np.nan],
        "numbers": [1, np.nan, 3],
        "nothing": [np.nan] * 3,
    }
    for name, numbers in expected.items():
        np.testing.assert_array_equal(table.columns[name].numbers, numbers)
    assert table.columns["s"].categories == ["x", "y"] and table.columns["s"].codes.tolist() == [0, -1, 1]
    assert table.columns["d"].categories == ["p", "q"] and table.columns["d"].codes.tolist() == [0, 1, 0]
    assert table.columns["id"].categories == sorted([str(2**60), str(2**60 + 1), "5"])
    assert "timestamp" in table.columns["when"].unusable
    for name in ("b", "yes"):
        assert table.columns[name].categories == ["False", "True"]
        assert table.columns[name].codes.tolist() == [1, 0, -1]
    assert table.columns["view"].categories == ["x", "y"] and table.columns["view"].codes.tolist() == [0, -1, 1]
    assert table.columns["blank"].numbers.tolist() == [1, 2, 3]  # as in a CSV file

    parquet.write_table(pyarrow.table({"x": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(ValueError, match="has no rows"):
        read_table(path)
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"data\.parquet: not a Parquet file, or damaged"):
        read_table(path)


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"data\.xlsx: must end in \.csv, \.npz, \.parquet"):
        read_table(tmp_path / "data.xlsx")
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "data.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OSError):
        read_table(tmp_path / "folder.csv")


def test_near_names():
    assert near("Targte", ["a", "target"]) == "did you mean 'target'?"
    assert near("q", ["a", "b"]) == "the columns are 'a', 'b'"
    assert near("q", map(str, range(25))).endswith("'19' and 5 more")
