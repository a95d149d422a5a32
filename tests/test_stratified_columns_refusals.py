"""What splits that keep several columns warn of, and the wrong input that they refuse."""

import numpy as np
import pytest

from fusedstep.model_selection import RotatingKFold, train_val_test_split


def test_small_values_warn_once_and_name_the_column():
    table = {"sex": ["f", "m"] * 10, "type": ["I"] * 17 + ["V"] * 2 + ["VI"]}
    with pytest.warns(UserWarning, match=r"fewer than 5 members .* parts: type = V \(2\), type = VI \(1\)$") as caught:
        list(RotatingKFold().split(range(20), stratify=table))
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"fewer than 3 members .* parts: type = V \(2\), type = VI \(1\)$") as caught:
        train_val_test_split(range(20), stratify=table)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_values_of_few_groups_warn():
    groups = np.repeat(np.arange(10), 4)
    y = np.repeat([0, 1, 2], [24, 12, 4])
    with pytest.warns(UserWarning, match=r"fewer than 5 groups .* parts: 1 \(3\), 2 \(1\)$"):
        list(RotatingKFold().split(y, y, groups))


def split(stratify, n=4, **options):
    return list(RotatingKFold(3, **options).split(range(n), stratify=stratify))


@pytest.mark.parametrize(
    ("stratify", "error", "message"),
    [
        ({}, ValueError, "'stratify' must have at least one column but is empty"),
        (np.zeros((4, 0)), ValueError, "'stratify' must have at least one column but is empty"),
        ({"a": [1, 2, 3, 4], 5: [1, 2, 3, 4]}, TypeError, "'stratify' must have strings as names .* got 5"),
        ({"a": [1, 2, 3]}, ValueError, r"column 'a' must be one value a sample, shape \(4,\), but has shape \(3,\)"),
        ({"a": [[1], [2], [3], [4]]}, ValueError, r"'a' must be one value a sample, .* shape \(4, 1\)"),
        ({"a": 3}, ValueError, r"column 'a' must be one value a sample, .* has shape \(\)"),
        ({"a": [[1], [2, 3], [4], [5]]}, ValueError, "column 'a' cannot be made an array"),
        ([[1, 2], [3]], ValueError, "'stratify' cannot be made an array"),
        (np.zeros((3, 2)), ValueError, r"column 0 must be one value a sample, shape \(4,\), but has shape \(3,\)"),
        (np.zeros((4, 1, 1)), ValueError, r"one or two axes but its shape is \(4, 1, 1\)"),
        ("abcd", ValueError, r"one or two axes but its shape is \(\)"),
        ({"a": np.zeros(4, complex)}, TypeError, "column 'a' must be numbers, .* but got complex128"),
        ({"a": np.zeros(4, "M8[D]")}, TypeError, r"column 'a' must be numbers, .* but got datetime64\[D\]"),
        ({"a": np.zeros(4, [("x", int)])}, TypeError, "column 'a' must be numbers"),
        ({"a": np.array([{}, {}, {}, {}])}, TypeError, "column 'a' must be .* objects to compare"),
        ({"a": [1.5, 2.5, np.nan, 3]}, ValueError, "column 'a' has NaN at index 2"),
        ({"a": [1, 2, np.nan, 3]}, ValueError, "column 'a' has NaN at index 2"),
        ({"a": [1.5, 2.5, 1.0, -np.inf]}, ValueError, "column 'a' has -inf at index 3"),
        ({"a": ["x", None, "y", "x"]}, ValueError, "column 'a' has None at index 1"),
        ({"a": np.array(["x", "y", np.nan, "x"], object)}, ValueError, "column 'a' has NaN at index 2"),
        ({"a": ["x", "y", np.nan, "x"]}, ValueError, "column 'a' has NaN at index 2"),
        (np.array([[1, "x"], [2, None], [3, "x"], [4, "y"]], object), ValueError, "column 1 has None at index 1"),
        ([0, None, 1, 1], ValueError, "'stratify' has None at index 1"),
    ],
)
def test_wrong_columns(stratify, error, message):
    with pytest.raises(error, match=r"\[RotatingKFold\] " + ".*" + message):
        split(stratify)
    with pytest.raises(error, match=r"\[train_val_test_split\] " + ".*" + message):
        train_val_test_split(range(4), stratify=stratify)


@pytest.mark.parametrize(("bins", "error"), [(1, ValueError), (0, ValueError), (2.5, TypeError), ("5", TypeError)])
def test_wrong_bins(bins, error):
    with pytest.raises(error, match=r"\[RotatingKFold\] 'bins' must be"):
        RotatingKFold(bins=bins)
    with pytest.raises(error, match=r"\[train_val_test_split\] 'bins' must be"):
        train_val_test_split(range(9), bins=bins)


def test_missing_labels_in_y_are_refused():
    with pytest.raises(ValueError, match=r"\[RotatingKFold\] 'y' has None at index 2"):
        list(RotatingKFold(3).split(range(4), ["a", "b", None, "a"]))
