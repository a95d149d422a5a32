import sys

import numpy as np
import pytest

from fusedstep._distribution_tests import chi_square, holm, kolmogorov_smirnov, total_variation
from fusedstep.model_selection import DistributionReport, RotatingKFold, distribution_report, train_val_test_split

stats = pytest.importorskip("scipy.stats")


def table(n=600, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "class": rng.integers(0, 3, n),
        "age": rng.normal(45, 15, n),
        "sex": rng.choice(["f", "m"], n),
        "skin type": rng.choice(list("ABCDEF"), n, p=[0.15, 0.35, 0.3, 0.12, 0.05, 0.03]),
    }


def thirds(n):
    return np.split(np.arange(n), [int(0.6 * n), int(0.8 * n)])


def test_rows_and_numbers():
    data = table()
    parts = thirds(600)
    report = distribution_report(data, parts)
    assert isinstance(report, DistributionReport) and len(report.rows) == 12
    assert [row["part"] for row in report.rows[:3]] == ["train", "validation", "test"]
    assert [row["size"] for row in report.rows[:3]] == [360, 120, 120]
    by_name = {(row["column"], row["part"]): row for row in report.rows}
    for k, name in enumerate(("train", "validation", "test")):
        others = np.setdiff1d(np.arange(600), parts[k])
        age = by_name["age", name]
        assert age["kind"] == "continuous" and age["shares"] is None and age["test"] == "Kolmogorov-Smirnov"
        expected = stats.ks_2samp(data["age"][parts[k]], data["age"][others])
        assert (age["statistic"], age["p_value"]) == pytest.approx((expected.statistic, expected.pvalue))
        assert list(age["quantiles"]) == [0.05, 0.25, 0.5, 0.75, 0.95]
        assert age["quantiles"][0.5] == np.median(data["age"][parts[k]])
        sex = by_name["sex", name]
        assert sex["kind"] == "categorical" and sex["quantiles"] is None and sex["test"] == "chi-square"
        own, rest = ([(data["sex"][i] == s).sum() for s in "fm"] for i in (parts[k], others))
        expected = stats.chi2_contingency([own, rest], correction=False)
        assert (sex["statistic"], sex["p_value"]) == pytest.approx((expected.statistic, expected.pvalue))
        assert sex["shares"] == {"f": own[0] / sum(own), "m": own[1] / sum(own)}
        assert sex["effect"] == pytest.approx(abs(own[0] / sum(own) - rest[0] / sum(rest)))
    assert report.deviations == [] and not any(row["deviates"] for row in report.rows)
    assert str(report).endswith("no part deviates (each against the others; Holm, alpha = 0.05)")


def test_the_part_that_deviates_is_named_with_column_and_size():
    data = table()
    data["age"][360:480] += 16
    data["sex"][480:] = "f"
    report = distribution_report(data, thirds(600))
    assert len(report.deviations) == sum(row["deviates"] for row in report.rows)
    words = "\n".join(report.deviations)
    age = next(line for line in report.deviations if line.startswith("validation deviates"))
    own, rest = np.median(data["age"][360:480]), np.median(np.r_[data["age"][:360], data["age"][480:]])
    assert f"strongly in age: its median is {own:.4g} where the others' is {rest:.4g} (Kolmogorov-Smirnov 0." in age
    assert age.endswith("p < 0.0001)")
    assert "test deviates strongly in sex: 0.0% of it are m where 5" in words or "100.0% of it are f" in words
    assert "skin type" not in words and "class" not in words
    assert str(report).endswith(report.deviations[-1]) and "0.000*" in str(report)


def test_a_deviation_of_no_size_is_called_so():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200_000)
    x[100_000:] += 0.03
    report = distribution_report({"x": x}, np.split(np.arange(200_000), 2), part_names=["old", "new"])
    assert report.deviations[1].startswith("new deviates negligibly in x: its median is ")


def test_equal_medians_name_another_quantile():
    x = np.concatenate([np.linspace(-1, 1, 201), np.linspace(-9, 9, 201)])
    first = distribution_report({"x": x}, np.split(np.arange(402), 2)).deviations[0]
    assert "part 1 deviates strongly in x: its 5% quantile is -0.9 where the others' is -8.1" in first


def test_false_alarms_are_as_rare_as_alpha_says():
    alarms = 0
    for seed in range(60):
        data = table(200, seed)
        parts = train_val_test_split(np.arange(200), random_state=seed)
        alarms += bool(distribution_report(data, parts, alpha=0.1).deviations)
    assert alarms <= 12  # binomial(60, 0.1) is above this once in 100


def test_what_parts_may_be():
    data = table()
    rounds = list(RotatingKFold(4, random_state=0).split(data["age"], stratify=data))
    folds = [test for _, _, test in rounds]
    assert [row["part"] for row in distribution_report(data, folds).rows[:4]] == [
        "part 1",
        "part 2",
        "part 3",
        "part 4",
    ]
    one = distribution_report(data, rounds[0])
    assert one.rows == distribution_report(data, iter(rounds[0])).rows
    two = distribution_report(data, (rounds[0][0].tolist(), rounds[0][2]), part_names=("train", "test"))
    assert [row["part"] for row in two.rows[:2]] == ["train", "test"]
    labels = distribution_report(data["class"], rounds[0])
    assert {row["column"] for row in labels.rows} == {"label"}
    array = distribution_report(np.stack([data["class"], data["age"]], axis=1), rounds[0])
    assert [row["column"] for row in array.rows[::3]] == ["column 0", "column 1"]
    assert [row["kind"] for row in array.rows[::3]] == ["categorical", "continuous"]


def test_the_table_of_many_values_stays_readable():
    rng = np.random.default_rng(0)
    names = np.array([f"a hospital with a long name, number {i:04d}" for i in range(300)])
    hospital = names[np.minimum(rng.geometric(0.05, 2000), 299)]
    parts = np.split(np.arange(2000), 10)
    report = distribution_report({"hospital": hospital, "constant": ["x"] * 2000}, parts)
    text = str(report).splitlines()
    assert len(text) < 30 and max(map(len, text)) <= 140
    assert len({len(line) for line in text if line.startswith("  p, after Holm")}) == 1
    more = next(line for line in text if " more " in line)
    assert more.split()[0] == str(len(set(hospital)) - 7)
    assert [row["p_value"] for row in report.rows if row["column"] == "constant"] == [1.0] * 10
    assert report.deviations == []


def test_large_numbers_are_written_out():
    report = distribution_report({"income": np.arange(600.0) * 1000}, thirds(600))
    assert "its median is 179500 where the others' is 479500" in report.deviations[0]


# The tests themselves


def test_small_expected_counts_are_divided_at_random():
    own, others = np.array([3, 0]), np.array([1, 9])
    statistic, p = chi_square(own, others, 100_000)
    assert statistic == pytest.approx(stats.chi2_contingency([own, others], correction=False).statistic)
    assert p == pytest.approx(stats.fisher_exact([own, others])[1], abs=0.002)
    assert chi_square(own, others, 10_000) == chi_square(own, others, 10_000)
    rare = np.array([50, 45, 1, 0, 2]), np.array([150, 150, 1, 2, 1])
    draws = np.random.default_rng(5)
    statistic, p = chi_square(*rare, 10_000)
    total = rare[0] + rare[1]
    counts = draws.multivariate_hypergeometric(total, rare[0].sum(), size=5000)
    expected = total * rare[0].sum() / total.sum()
    scale = 1 / (1 - rare[0].sum() / total.sum())
    by_hand = (((counts - expected) ** 2 / expected).sum(axis=1) * scale >= statistic - 1e-9).mean()
    assert p == pytest.approx(by_hand, abs=0.04)


def test_a_rare_value_in_one_part_alone_is_found():
    values = np.array(["common"] * 200 + ["rare"] * 6)
    parts = [np.arange(100), np.arange(100, 206)]
    assert distribution_report({"v": values}, parts).rows[0]["p_value"] == pytest.approx(
        stats.fisher_exact([[100, 0], [100, 6]])[1], abs=0.005
    )
    parts = [np.arange(180), np.arange(180, 206)]
    words = distribution_report({"v": values}, parts).deviations
    assert "part 2 deviates moderately in v: 23.1% of it are rare where 0.0% of the others are" in words[1]


def test_many_rows_can_still_be_significant():
    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.permutation(np.repeat([0, 1], [396, 4])) for i in range(400)}
    columns["c0"] = np.repeat([0, 1], [388, 12])
    report = distribution_report(columns, [np.arange(380), np.arange(380, 400)])
    assert {row["column"] for row in report.rows if row["deviates"]} == {"c0"}


@pytest.mark.parametrize("n", [2, 7, 50, 400])
def test_kolmogorov_smirnov_of_all_sizes_with_and_without_ties(n):
    rng = np.random.default_rng(n)
    for a, b in ((rng.normal(size=n), rng.normal(size=3 * n + 1)), (rng.integers(0, 9, n), rng.integers(0, 9, 2 * n))):
        statistic, p = kolmogorov_smirnov(a, b)
        assert 0 <= statistic <= 1 and 0 <= p <= 1


def test_many_rare_values_take_little_memory(monkeypatch):
    """A column of names, say: random divisions of all of them at once would fill the memory."""
    largest = 0

    class Watched(np.random.Generator):
        def multivariate_hypergeometric(self, colors, nsample, size, method):
            nonlocal largest
            largest = max(largest, len(colors) * size)
            return super().multivariate_hypergeometric(colors, nsample, size, method)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Watched(np.random.PCG64(seed)))
    rng = np.random.Generator(np.random.PCG64(0))
    codes = rng.integers(0, 30_000, 30_000)
    own, others = (np.bincount(some, minlength=30_000) for some in (codes[:6000], codes[6000:]))
    assert chi_square(own, others, 10_000)[1] > 0.05
    assert 0 < largest <= 10**6


def test_holm_and_total_variation():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.2]) == [0.2]
    assert total_variation(np.array([1, 0]), np.array([0, 7])) == 1


def test_parts_of_unsigned_indices():
    ages = np.linspace(20, 80, 30)
    parts = np.split(np.random.default_rng(0).permutation(30), 3)
    report = distribution_report(ages, parts)
    assert distribution_report(ages, [parts[0].astype(np.uint64), *parts[1:]]).rows == report.rows


# Wrong input


@pytest.mark.parametrize(
    ("columns", "parts", "options", "error", "message"),
    [
        (None, [[0], [1]], {}, ValueError, "'columns' must have at least one column"),
        ({}, [[0], [1]], {}, ValueError, "'columns' must have at least one column"),
        ({"a": [1, 2], "b": [1]}, [[0], [1]], {}, ValueError, r"'columns' column 'b' must be .* \(2,\), .* \(1,\)"),
        ({"a": [1, np.nan]}, [[0], [1]], {}, ValueError, "'columns' column 'a' has NaN at index 1"),
        ([1, 2, 3], [[0, 1, 2]], {}, ValueError, "'parts' must be at least two arrays of indices but got 1"),
        ([1, 2, 3], [[0], [], [1]], {}, ValueError, r"validation must be indices .* has shape \(0,\)"),
        ([1, 2, 3], [[0], [[1]]], {}, ValueError, r"part 2 must be indices .* has shape \(1, 1\)"),
        ([1, 2, 3], 3, {}, TypeError, "'parts' must be at least two arrays of indices but got 3"),
        ([1, 2, 3], [[0], [1]], {"part_names": 3}, ValueError, "'part_names' must be 2 different strings but got 3"),
        ([1, 2, 3], [0, 1], {}, ValueError, r"part 1 must be indices .* has shape \(\)"),
        ([1, 2, 3], [[True, False], [1]], {}, TypeError, "part 1 must be integer indices but got bool"),
        ([1, 2, 3], [[0.0], [1.0]], {}, TypeError, "part 1 must be integer indices but got float64"),
        ([1, 2, 3], [[0], [3]], {}, ValueError, "part 2 has index 3, outside of the 3 samples"),
        ([1, 2, 3], [[0], [-1]], {}, ValueError, "part 2 has index -1, outside"),
        ([1, 2, 3], [[0, 1], [2, 1]], {}, ValueError, "part 1 and part 2 overlap: both have sample 1"),
        ([1, 2, 3], [[0, 0], [1]], {}, ValueError, "part 1 has a sample twice"),
        ([1, 2, 3], [[0], [1]], {"part_names": ["a"]}, ValueError, "'part_names' must be 2 different strings"),
        ([1, 2, 3], [[0], [1]], {"part_names": ["a", "a"]}, ValueError, "'part_names' must be 2 different strings"),
        ([1, 2, 3], [[0], [1]], {"part_names": [1, 2]}, ValueError, "'part_names' must be 2 different strings"),
        ([1, 2, 3], [[0], [1]], {"alpha": 0}, ValueError, "'alpha' must be in"),
        ([1, 2, 3], [[0], [1]], {"alpha": 1.0}, ValueError, "'alpha' must be in"),
    ],
)
def test_wrong_input(columns, parts, options, error, message):
    with pytest.raises(error, match=r"\[distribution_report\] " + message):
        distribution_report(columns, parts, **options)


def test_scipy_is_imported_only_when_used_and_its_lack_named(monkeypatch):
    for name in [name for name in sys.modules if name == "scipy" or name.startswith("scipy.")]:
        monkeypatch.delitem(sys.modules, name)

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "scipy":
                raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(ImportError, match=r"scipy is missing: pip install 'fusedstep\[sklearn\]'"):
        distribution_report({"x": np.arange(40.0)}, np.split(np.arange(40), 2))
