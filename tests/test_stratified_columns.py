"""Splits that keep several columns at once: iterative stratification, joint cells, groups."""

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusedstep as fs
from fusedstep import _columns, _splitting
from fusedstep._iterative import deal_iteratively
from fusedstep.model_selection import RotatingKFold, distribution_report, train_val_test_split

quick = settings(max_examples=60, deadline=None)
SIZES = [(0.6, 0.2, 0.2), (0.7, 0.15, 0.15), (0.5, 0.3, 0.2)]


def patients(n, seed=0):
    """A table as of a study of skin lesions: some types of skin are rare, sick people are older."""
    rng = np.random.default_rng(seed)
    sick = rng.random(n) < 0.2
    return {
        "class": np.where(sick, "melanoma", rng.choice(["nevus", "keratosis"], n, p=[0.8, 0.2])),
        "age": np.clip(rng.normal(45 + 15 * sick, 15, n), 0, 95),
        "sex": rng.choice(["f", "m"], n),
        "skin type": rng.choice(["I", "II", "III", "IV", "V", "VI"], n, p=[0.15, 0.35, 0.3, 0.12, 0.05, 0.03]),
    }


def codes_of(table, bins=5):
    return [column.binned(bins).values for column in _columns.read("test", "stratify", table)]


def contingency(rows, columns):
    """How many samples have each pair of row and column."""
    counts = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(counts, (rows, columns), 1)
    return counts


def deviation(codes, part, shares):
    """How far each label's count in each part is from its share."""
    counts = [contingency(column, part) for column in codes]
    return np.concatenate([np.abs(c - np.outer(c.sum(axis=1), shares)).ravel() for c in counts])


def quiet(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = function(*args, **options)
        return result if isinstance(result, list) else list(result)


def fold_of(rounds, n):
    fold = np.full(n, -1)
    for k, (_, _, test) in enumerate(rounds):
        fold[test] = k
    assert fold.min() >= 0
    return fold


tables = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.booleans(), st.floats(-5, 5, width=16)),
    min_size=12,
    max_size=80,
)


@quick
@given(rows=tables, n_splits=st.integers(3, 6), shuffle=st.booleans(), seed=st.integers(0, 99))
def test_folds_are_a_partition_of_equal_sizes(rows, n_splits, shuffle, seed):
    columns = {name: np.array(values) for name, values in zip("pqrs", zip(*rows, strict=True), strict=True)}
    cv = RotatingKFold(n_splits, shuffle=shuffle, random_state=seed)
    rounds = quiet(cv.split, rows, stratify=columns)
    for k, parts in enumerate(rounds):
        assert sorted(np.concatenate(parts)) == list(range(len(rows)))
        assert (parts[1] == rounds[(k + 1) % n_splits][2]).all()
    sizes = [len(test) for _, _, test in rounds]
    assert max(sizes) - min(sizes) <= 1
    again = quiet(cv.split, rows, stratify=columns)
    assert all((a[2] == b[2]).all() for a, b in zip(rounds, again, strict=True))


@quick
@given(rows=tables, sizes=st.sampled_from(SIZES), seed=st.integers(0, 99))
def test_sizes_of_three_parts(rows, sizes, seed):
    columns = [list(column) for column in zip(*rows, strict=True)]
    parts = quiet(
        train_val_test_split,
        np.arange(len(rows)),
        sizes=sizes,
        stratify=dict(zip("pqrs", columns, strict=True)),
        random_state=seed,
    )
    assert sorted(np.concatenate(parts)) == list(range(len(rows)))
    assert np.abs(np.array([len(part) for part in parts]) - np.array(sizes) * len(rows)).max() < 2


@quick
@given(
    codes=st.lists(st.lists(st.integers(0, 4), min_size=30, max_size=30), min_size=2, max_size=4),
    shares=st.sampled_from([*SIZES, (0.2,) * 5, (0.25,) * 4]),
    seed=st.integers(0, 9),
    shuffle=st.booleans(),
)
def test_iterative_sizes_are_less_than_one_sample_off(codes, shares, seed, shuffle):
    columns = [np.unique(column, return_inverse=True)[1] for column in codes]
    rng = np.random.default_rng(seed) if shuffle else None
    part = deal_iteratively(columns, shares, rng)
    assert np.abs(np.bincount(part, minlength=len(shares)) - 30 * np.array(shares)).max() < 1


@pytest.mark.parametrize("shares", [(0.2,) * 5, (0.6, 0.2, 0.2)])
@pytest.mark.parametrize(("n", "worst"), [(300, 3), (1000, 2), (10_000, 2)])
def test_labels_keep_their_shares_far_better_than_at_random(shares, n, worst):
    codes = codes_of(patients(n))
    assert np.bincount(_splitting._joint(codes)).min() < 3  # the joint cells are too small
    means = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        ours = deviation(codes, deal_iteratively(codes, shares, rng), shares)
        plain = deviation(codes, _splitting.deal_shares(np.zeros(n, int), shares, rng), shares)
        assert ours.max() <= worst
        means.append((ours.mean(), plain.mean()))
    ours, plain = np.mean(means, axis=0)
    assert ours < plain / 4


@pytest.mark.parametrize("shares", [(0.2,) * 5, (0.6, 0.2, 0.2), (0.1,) * 10])
@pytest.mark.parametrize("shuffle", [True, False])
def test_many_equally_rare_labels(shares, shuffle):
    """The labels that are dealt last have no samples left to choose from: only mending helps them."""
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 20, 2000) for _ in range(4)]
    part = deal_iteratively(codes, shares, rng if shuffle else None)
    assert deviation(codes, part, shares).max() <= 3
    assert np.abs(np.bincount(part) - 2000 * np.array(shares)).max() < 1


def literal(columns, shares, rng):
    """Algorithm 1 of Sechidis et al. 2011, sample by sample."""
    labels = np.stack(columns, axis=1) + np.cumsum([0, *(c.max() + 1 for c in columns[:-1])])
    left = np.bincount(labels.ravel())
    wants, size_wants = np.outer(left, shares), len(labels) * np.asarray(shares)
    part = np.full(len(labels), -1)
    while (left > 0).any():
        label = np.where(left > 0, left, len(labels) + 1).argmin()
        for sample in rng.permutation(np.flatnonzero((labels == label).any(axis=1) & (part < 0))):
            best = np.flatnonzero(wants[label] >= wants[label].max() - 1e-9)
            best = best[size_wants[best] >= size_wants[best].max() - 1e-9]
            part[sample] = chosen = rng.choice(best)
            wants[labels[sample], chosen] -= 1
            size_wants[chosen] -= 1
            left[labels[sample]] -= 1
    return part


@pytest.mark.parametrize("shares", [(0.2,) * 5, (0.6, 0.2, 0.2)])
def test_beside_the_algorithm_as_published(shares):
    codes = codes_of(patients(1000))
    ours = np.concatenate(
        [deviation(codes, deal_iteratively(codes, shares, np.random.default_rng(s)), shares) for s in range(3)]
    )
    published = np.concatenate(
        [deviation(codes, literal(codes, shares, np.random.default_rng(s)), shares) for s in range(3)]
    )
    assert ours.mean() <= published.mean() and ours.max() <= published.max()


def test_the_rarest_label_is_dealt_as_if_it_were_alone():
    table = patients(2000)
    codes = codes_of(table)
    sizes = [np.bincount(column) for column in codes]
    column = min(range(4), key=lambda j: sizes[j].min())
    rare = codes[column] == sizes[column].argmin()
    for rng in (None, np.random.default_rng(0)):
        counts = np.bincount(deal_iteratively(codes, (0.6, 0.2, 0.2), rng)[rare], minlength=3)
        assert np.abs(counts - rare.sum() * np.array([0.6, 0.2, 0.2])).max() <= 1


def test_large_joint_cells_are_dealt_cell_by_cell():
    rng = np.random.default_rng(0)
    columns = np.stack([rng.integers(0, 3, 400), rng.integers(0, 2, 400)], axis=1)
    cells = columns @ [2, 1]
    for same in (columns, columns.tolist(), dict(zip("ab", columns.T, strict=True))):
        fold = fold_of(RotatingKFold(random_state=0).split(cells, stratify=same), 400)
        assert np.ptp(contingency(cells, fold), axis=1).max() <= 1
    parts = train_val_test_split(cells, stratify=columns, random_state=0)
    counts = np.array([np.bincount(part) for part in parts])
    assert np.abs(counts - np.outer((0.6, 0.2, 0.2), np.bincount(cells))).max() < 1


@pytest.mark.parametrize("shares", [5, 10, (0.6, 0.2, 0.2), (0.7, 0.17, 0.13)])
@pytest.mark.parametrize(("values", "times"), [((10, 10, 10), 16), ((5, 10), 11), ((2, 5, 5), 17), ((2,) * 6, 13)])
def test_joint_cells_of_equal_size_keep_every_column(shares, values, times):
    """Their remainders must not all go to the same part for one value."""
    codes = list(np.repeat(np.indices(values).reshape(len(values), -1), times, axis=1))
    columns = [_columns.Column("", "categorical", c, [str(value) for value in range(c.max() + 1)]) for c in codes]
    fractions = np.full(shares, 1 / shares) if isinstance(shares, int) else np.array(shares)
    for rng in (None, np.random.default_rng(0)):
        part = _splitting.deal(columns, len(codes[0]), shares, None, rng)
        assert deviation(codes, part, fractions).max() <= 3
        assert deviation([_splitting._joint(codes)], part, fractions).max() < 1
        assert np.abs(np.bincount(part) - len(part) * fractions).max() < (1 if isinstance(shares, int) else 2)


def test_a_study_is_split_so_that_no_part_deviates():
    table = patients(1500)
    for parts in RotatingKFold(random_state=0).split(table["age"], stratify=table):
        report = distribution_report(table, parts)
        assert report.deviations == [] and max(row["effect"] for row in report.rows) < 0.05
    fifths = np.searchsorted(np.quantile(table["age"], [0.2, 0.4, 0.6, 0.8]), table["age"])
    fold = fold_of(RotatingKFold(random_state=0).split(table["age"], stratify=table), 1500)
    assert np.abs(contingency(fifths, fold) - 60).max() <= 2
    parts = train_val_test_split(np.arange(1500), stratify=table, random_state=0)
    assert distribution_report(table, parts).deviations == []


def test_random_state_and_order():
    table = patients(400)

    def tests(seed, **options):
        cv = RotatingKFold(random_state=seed, **options)
        return fold_of(cv.split(table["age"], stratify=table), 400).tolist()

    assert tests(0) == tests(0) != tests(1)
    assert tests(0, shuffle=False) == tests(None, shuffle=False) == tests(1, shuffle=False)
    assert tests(0, bins=8) != tests(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        one, other = (
            train_val_test_split(np.arange(400), stratify=table, random_state=s, bins=b) for s, b in [(0, 5), (0, 5)]
        )
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_unique_samples_are_shuffled_too():
    """Cells of one sample leave the choice to chance, not to the order of the values."""
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 12, 120) for _ in range(3)]
    folds = {tuple(deal_iteratively(codes, (0.2,) * 5, np.random.default_rng(seed))) for seed in range(20)}
    assert len(folds) == 20
    together = np.mean([np.array(fold)[0] == np.array(fold)[1:] for fold in folds])
    assert 0.1 < together < 0.3


def test_many_samples_and_labels():
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, k, 100_000) for k in (5, 5, 300, 2000)]
    part = deal_iteratively(codes, (0.6, 0.2, 0.2), rng)
    assert np.abs(np.bincount(part) - [60_000, 20_000, 20_000]).max() < 1
    assert deviation(codes, part, (0.6, 0.2, 0.2)).max() <= 3


def test_groups_stay_whole_and_keep_all_columns():
    rng = np.random.default_rng(0)
    table = patients(300, seed=1)
    groups = np.repeat(np.arange(300), rng.integers(1, 6, 300))
    samples = {name: values[groups] for name, values in table.items()}
    n, ours, plain = len(groups), [], []
    for seed in range(5):
        rounds = list(RotatingKFold(random_state=seed).split(groups, groups=groups, stratify=samples))
        fold = fold_of(rounds, n)
        assert (np.array([np.ptp(fold[groups == g]) for g in range(300)]) == 0).all()
        ours.append(deviation(codes_of(samples), fold, [0.2] * 5).mean())
        unaware = fold_of(RotatingKFold(random_state=seed).split(groups, groups=groups), n)
        plain.append(deviation(codes_of(samples), unaware, [0.2] * 5).mean())
        assert np.abs(np.bincount(fold) - n / 5).max() <= 5
    assert np.mean(ours) < np.mean(plain) / 2
    parts = train_val_test_split(np.arange(n), groups=groups, stratify=samples, random_state=0)
    assert np.abs(np.array([len(part) for part in parts]) - np.array([0.6, 0.2, 0.2]) * n).max() <= 5
    owners = [set(groups[part]) for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 300


def test_many_groups_and_classes_take_little_memory_and_keep_the_sizes():
    rng = np.random.default_rng(0)
    n = 4000
    groups, classes = rng.permutation(n) // 2, rng.permutation(n) // 3
    tracemalloc.start()
    part = _splitting.deal_groups(groups, [classes], (0.6, 0.2, 0.2), rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # a table of groups and classes has 21 MB
    # By the classes alone, which are in no part yet when their first sample comes, the parts would become alike.
    assert np.abs(np.bincount(part) - [2400, 800, 800]).max() <= 2


@quick
@given(rows=tables, seed=st.integers(0, 99), shuffle=st.booleans(), many=st.booleans())
def test_groups_of_random_tables_stay_whole(rows, seed, shuffle, many):
    n = len(rows)
    groups = np.random.default_rng(seed).integers(0, 30 if many else 6, n)
    columns = dict(zip("pqrs", map(list, zip(*rows, strict=True)), strict=True))
    if len(np.unique(groups)) < 3:
        return
    rounds = quiet(RotatingKFold(3, shuffle=shuffle, random_state=seed).split, rows, groups=groups, stratify=columns)
    for parts in rounds:
        assert sorted(np.concatenate(parts)) == list(range(n))
        assert sum(len(set(groups[part])) for part in parts) == len(set(groups))


@pytest.mark.parametrize("frame", [False, True])
def test_cross_validate_takes_columns(frame):
    table = patients(60)
    columns = pytest.importorskip("pandas").DataFrame(table) if frame else table
    X, y = table["age"][:, None].astype(np.float32), (table["class"] == "melanoma").astype(np.int64)
    cv = RotatingKFold(3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = fs.model_selection.cross_validate(
            lambda seed: fs.nn.Sequential(fs.nn.Dense(1, 2), seed=seed),
            lambda model: fs.optim.SGD(model.parameters(), lr=0.1),
            fs.nn.SoftmaxCrossEntropy(),
            X,
            y,
            cv=cv,
            stratify=columns,
            blas_threads=None,
            epochs=1,
            progress=False,
        )
    expected = quiet(cv.split, X, stratify=table)
    assert all(
        (a == b).all()
        for fold, parts in zip(result.folds, expected, strict=True)
        for a, b in zip(fold, parts, strict=True)
    )


def test_a_data_frame_is_split_as_its_columns():
    pd = pytest.importorskip("pandas")
    table = patients(60)
    frame = pd.DataFrame(table)
    first, second = (
        fold_of(quiet(RotatingKFold(random_state=0).split, frame, stratify=columns), 60) for columns in (frame, table)
    )
    assert (first == second).all()


def test_a_constant_column_does_no_harm():
    for _, _, test in RotatingKFold(random_state=0).split(range(10), stratify={"x": np.full(10, 0.5)}):
        assert len(test) == 2
