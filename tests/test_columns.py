"""Which columns are classes, which numbers; how data frames are read; bins by quantile."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedstep import _columns


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b", "a"], "categorical"),
        ([True, False, True], "categorical"),
        (np.array([1, "1", None.__class__], object), "categorical"),
        ([1, 2, 2], "categorical"),
        ([1.0, 2.0, 2.0], "categorical"),
        ([1.5, 2.0, 2.0], "continuous"),
        (np.array([1.5, 2, 2], object), "continuous"),
        (np.array([1.5, 2, 2], np.float16), "continuous"),
        (np.arange(20), "categorical"),
        (np.arange(21), "continuous"),
        (np.arange(21, dtype=np.uint8), "continuous"),
        (np.arange(21).astype(object), "continuous"),
        (np.arange(21.0), "continuous"),
        (np.arange(21).astype(str), "categorical"),
        (np.arange(21).astype("S2"), "categorical"),
        (np.arange(21).astype(np.dtypes.StringDType()), "categorical"),
    ],
)
def test_kinds(values, kind):
    (column,) = _columns.read("test", "stratify", {"c": values})
    assert column.kind == kind and column.name == "c"


def test_one_axis_of_integers_is_always_labels():
    (labels,) = _columns.read("test", "stratify", np.arange(100))
    (column,) = _columns.read("test", "stratify", np.arange(100)[:, None])
    (numbers,) = _columns.read("test", "stratify", np.arange(100) / 2)
    assert (labels.kind, column.kind, numbers.kind) == ("categorical", "continuous", "continuous")
    assert column.name == "column 0"


def test_mixed_rows_keep_the_type_of_each_column():
    age, sex, ward = _columns.read("test", "stratify", [[30.5, "f", 1], [41, "m", 2], [52, "f", 1]])
    assert (age.kind, sex.kind, ward.kind) == ("continuous", "categorical", "categorical")
    assert age.values.tolist() == [30.5, 41, 52] and sex.classes == ["f", "m"] and ward.classes == ["1", "2"]


def test_equal_objects_alone_share_a_class():
    (column,) = _columns.read("test", "stratify", np.array([1, "1", 1, (2,)], object))
    assert column.values[0] == column.values[2] != column.values[1] and column.values.max() == 2


def test_data_frames():
    pd = pytest.importorskip("pandas")
    table = {"age": np.linspace(20, 80, 60), "sex": np.array(["f", "m"] * 30), "skin type": np.repeat(["I", "II"], 30)}
    frame = pd.DataFrame(table)
    frame["skin type"] = frame["skin type"].astype("category")
    frame["sex"] = frame["sex"].astype("string")
    frame.index = np.arange(60)[::-1]  # an index is not a position
    for a, b in zip(_columns.read("t", "s", frame), _columns.read("t", "s", table), strict=True):
        assert (a.name, a.kind, a.classes) == (b.name, b.kind, b.classes) and (a.values == b.values).all()
    codes = pd.DataFrame({"ward": pd.Categorical(np.arange(30)), "n": pd.array(np.arange(30), dtype="Int64")})
    ward, number = _columns.read("t", "s", codes)
    assert (ward.kind, number.kind) == ("categorical", "continuous")
    assert ward.classes == [str(i) for i in range(30)]
    for column in (pd.Categorical(["a", None]), pd.array([1, None], dtype="Int64"), pd.Series(["a", pd.NA])):
        with pytest.raises(ValueError, match=r"'stratify' column 'c' has (NaN|None|<NA>) at index 1"):
            _columns.read("t", "stratify", {"c": column})
    with pytest.raises(ValueError, match="two columns of the name 'a'"):
        _columns.read("t", "stratify", pd.DataFrame(np.zeros((3, 2)), columns=["a", "a"]))
    with pytest.raises(TypeError, match="strings as names of columns but got 0"):
        _columns.read("t", "stratify", pd.DataFrame(np.zeros((3, 2))))


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(0, 30) | st.floats(-1e6, 1e6, width=32), min_size=1, max_size=80),
    bins=st.integers(2, 8),
)
def test_bins(values, bins):
    values = np.array(values, np.float64)
    codes = _columns.quantile_bins(values, bins)
    order = np.argsort(values, kind="stable")
    assert (np.diff(codes[order]) >= 0).all()  # in order, and equal values together
    assert ((np.diff(values[order]) > 0) | (np.diff(codes[order]) == 0)).all()
    counts = np.bincount(codes)
    assert counts.min() > 0 and len(counts) <= bins
    heaviest = np.unique(values, return_counts=True)[1].max()
    if len(np.unique(values)) > bins:
        assert counts.max() < len(values) / bins + heaviest


def test_bins_of_special_columns():
    assert (_columns.quantile_bins(np.full(9, 3.5), 5) == 0).all()
    assert np.bincount(_columns.quantile_bins(np.random.default_rng(0).normal(size=1000), 5)).tolist() == [200] * 5
    rare = np.repeat([0.5, 1.5, 2.5], [98, 1, 1])  # few values stay what they are
    assert np.bincount(_columns.quantile_bins(rare, 3)).tolist() == [98, 1, 1]
    many = np.concatenate([np.arange(20), np.full(60, 50), np.arange(100, 120)])
    assert np.bincount(_columns.quantile_bins(many, 5)).tolist() == [20, 60, 20]
    (column,) = _columns.read("t", "s", {"age": np.arange(40)})
    assert column.binned(2).classes == ["0 to 19", "20 to 39"]
    (constant,) = _columns.read("t", "s", {"x": np.full(10, 0.5)})
    assert constant.binned(5).classes == ["0.5"]
