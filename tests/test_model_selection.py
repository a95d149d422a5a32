import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedstep.model_selection import RotatingKFold, train_val_test_split

quick = settings(max_examples=60, deadline=None)


def split(cv, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(cv.split(*args, **options))


def check_rotation(rounds, n):
    k = len(rounds)
    for i, parts in enumerate(rounds):
        assert sorted(np.concatenate(parts)) == list(range(n))
        for part in parts:
            assert part.dtype == np.int64 and len(part) and (np.diff(part) > 0).all()
        assert (parts[1] == rounds[(i + 1) % k][2]).all()
    for which in (1, 2):
        assert sorted(np.concatenate([parts[which] for parts in rounds])) == list(range(n))


@quick
@given(n_splits=st.integers(3, 8), extra=st.integers(0, 60), shuffle=st.booleans(), seed=st.integers(0, 99))
def test_every_sample_is_tested_once_and_validated_once(n_splits, extra, shuffle, seed):
    n = n_splits + extra
    rounds = split(RotatingKFold(n_splits, shuffle=shuffle, random_state=seed), np.zeros(n))
    check_rotation(rounds, n)
    assert len({len(test) for _, _, test in rounds} | {n // n_splits}) <= 2
    assert max(len(test) for _, _, test in rounds) - min(len(test) for _, _, test in rounds) <= 1


@quick
@given(n_splits=st.integers(3, 6), y=st.lists(st.integers(0, 5), min_size=6, max_size=80), shuffle=st.booleans())
def test_stratified_folds_are_balanced_over_all_and_in_each_class(n_splits, y, shuffle):
    y = np.array(y)
    rounds = split(RotatingKFold(n_splits, shuffle=shuffle, random_state=0), y, y)
    check_rotation(rounds, len(y))
    counts = np.array([np.bincount(y[test], minlength=6) for _, _, test in rounds])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


@quick
@given(
    n_splits=st.integers(3, 5),
    groups=st.lists(st.integers(0, 12), min_size=15, max_size=60),
    seed=st.integers(0, 9),
    stratified=st.booleans(),
)
def test_groups_stay_whole(n_splits, groups, seed, stratified):
    groups = np.array(groups)
    n = len(groups)
    y = np.random.default_rng(seed).integers(0, 2, n) if stratified else None
    cv = RotatingKFold(n_splits, random_state=seed)
    if len(np.unique(groups)) < n_splits:
        with pytest.raises(ValueError, match=f"at least {n_splits} groups"):
            split(cv, groups, y, groups)
        return
    rounds = split(cv, groups, y, groups)
    check_rotation(rounds, n)
    for parts in rounds:
        owners = [set(groups[part]) for part in parts]
        assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
    if y is None:
        # Dealing the largest first to the smallest fold leaves no fold behind by more than one group.
        sizes = [len(test) for _, _, test in rounds]
        assert max(sizes) - min(sizes) <= np.bincount(groups).max()


def test_many_groups_keep_the_classes():
    groups = np.repeat(np.arange(60), 5)
    y = (groups < 20).astype(int)
    for _, validation, test in RotatingKFold(random_state=0).split(y, y, groups):
        assert len(test) == 60 and y[test].sum() == 20 == y[validation].sum()


def test_labels_that_are_stratified():
    def tests(y, **options):
        return [test.tolist() for _, _, test in RotatingKFold(3, random_state=1).split(np.zeros(12), y, **options)]

    classes = np.repeat([0, 1], 6)
    expected = tests(classes)
    for same in (classes == 1, classes.astype("U1"), np.array(["a", "b"], object)[classes], classes.tolist()):
        assert tests(same) == expected
    assert tests(np.arange(12.0), stratify=classes) == expected
    assert tests(classes * 1.0) == tests(None) == tests(np.stack([classes, classes], 1))


def test_without_shuffling_unstratified_folds_are_blocks():
    tests = [test.tolist() for _, _, test in RotatingKFold(3, shuffle=False).split(range(7))]
    assert tests == [[0, 1, 2], [3, 4], [5, 6]]


def test_random_state():
    def tests(cv):
        return [test.tolist() for _, _, test in cv.split(range(50))]

    cv = RotatingKFold(random_state=3)
    assert tests(cv) == tests(cv) == tests(RotatingKFold(random_state=np.random.default_rng(3)))
    assert tests(RotatingKFold(random_state=4)) != tests(cv)
    assert tests(RotatingKFold()) != tests(RotatingKFold())
    moving = RotatingKFold(random_state=np.random.default_rng(3))
    assert tests(moving) != tests(moving)


def test_small_classes_warn_once():
    y = np.array([0] * 10 + [1] * 2 + [2])
    with pytest.warns(UserWarning, match=r"fewer than 5 members .*: 1 \(2\), 2 \(1\)") as caught:
        check_rotation(list(RotatingKFold().split(y, y)), 13)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="and 8 more"):
        list(RotatingKFold().split(range(13), range(13)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RotatingKFold(2), ValueError, "'n_splits' must be in"),
        (lambda: RotatingKFold(3.5), TypeError, "'n_splits' must be an integer"),
        (lambda: list(RotatingKFold().split(range(4))), ValueError, "at least 5 samples but got 4"),
        (lambda: list(RotatingKFold().split(range(9), [0, 1])), ValueError, "9 samples but 'y' has 2"),
        (
            lambda: list(RotatingKFold().split(range(9), stratify=[0])),
            ValueError,
            r"\(9,\), but has shape \(1,\)",
        ),
        (lambda: list(RotatingKFold().split(range(9), stratify=[np.nan] * 9)), ValueError, "NaN at index 0"),
        (lambda: list(RotatingKFold().split(range(9), groups=[0, 1])), ValueError, "'groups' must be one"),
        (lambda: list(RotatingKFold().split(range(9), groups=[*range(8), np.nan])), ValueError, "'groups' has NaN at"),
        (
            lambda: train_val_test_split(range(4), groups=["a", "b", None, "c"]),
            ValueError,
            "'groups' has None at index 2",
        ),
        (
            lambda: train_val_test_split(range(3), groups=np.array([0, 1, "NaT"], "M8[s]")),
            ValueError,
            "has NaT at index 2",
        ),
        (lambda: train_val_test_split(), TypeError, "at least one array"),
        (lambda: train_val_test_split([1, 2, 3], [1, 2]), ValueError, r"\(3,\) and \(2,\)"),
        (lambda: train_val_test_split(range(9), sizes=(0.5, 0.5)), ValueError, "three positive shares"),
        (lambda: train_val_test_split(range(9), sizes=0.5), TypeError, r"\[train.*'sizes' must be three .* got 0\.5"),
        (lambda: train_val_test_split(range(9), sizes="abc"), TypeError, "three positive shares .* got 'abc'"),
        (lambda: train_val_test_split([1, 2, 3], random_state=-1), ValueError, r"\[train.*_state' must .* got -1"),
        (lambda: split(RotatingKFold(random_state="a"), range(9)), TypeError, r"\[Rot.*'random_state' must .* got 'a'"),
        (lambda: split(RotatingKFold(), None), TypeError, r"\[RotatingKFold\] 'X' must have one entry a sample"),
        (lambda: split(RotatingKFold(), range(9), 3), TypeError, r"\[RotatingKFold\] 'y' must have one entry a sample"),
        (lambda: split(RotatingKFold(3), "abc", [[1], [1, 2], [3]]), ValueError, r"\[RotatingKFold\] 'y' cannot be"),
        (lambda: train_val_test_split(range(9), sizes=(0.5, 0.5, 0)), ValueError, "three positive shares"),
        (lambda: train_val_test_split(range(9), sizes=(0.5, 0.3, 0.3)), ValueError, "three positive shares"),
        (lambda: train_val_test_split([1, 2]), ValueError, "would be empty"),
        (lambda: train_val_test_split(range(4), groups=[0, 0, 1, 1]), ValueError, "at least 3 groups"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@quick
@given(
    y=st.lists(st.integers(0, 4), min_size=12, max_size=120),
    sizes=st.sampled_from([(0.6, 0.2, 0.2), (0.7, 0.15, 0.15), (1 / 3, 1 / 3, 1 / 3), (0.5, 0.3, 0.2)]),
    seed=st.integers(0, 50),
)
def test_split_keeps_the_share_of_each_class(y, sizes, seed):
    y = np.array(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        parts = train_val_test_split(np.arange(len(y)), sizes=sizes, stratify=y, random_state=seed)
    assert sorted(np.concatenate(parts)) == list(range(len(y)))
    counts = np.array([np.bincount(y[part], minlength=5) for part in parts])
    assert np.abs(counts - np.outer(sizes, np.bincount(y, minlength=5))).max() < 1
    assert np.abs(counts.sum(axis=1) - np.array(sizes) * len(y)).max() < 2


def test_split_order_of_results():
    X = np.arange(20).reshape(10, 2)
    y = list(range(10))
    X_tr, X_va, X_te, y_tr, y_va, y_te = train_val_test_split(X, y, random_state=0)
    assert [len(part) for part in (y_tr, y_va, y_te)] == [6, 2, 2]
    for rows, numbers in ((X_tr, y_tr), (X_va, y_va), (X_te, y_te)):
        assert (rows[:, 0] == 2 * numbers).all()
    again = train_val_test_split(X, y, random_state=0)
    assert all((a == b).all() for a, b in zip(again, [X_tr, X_va, X_te, y_tr, y_va, y_te], strict=True))


def test_split_with_groups():
    groups = np.repeat(np.arange(30), 4)
    parts = train_val_test_split(groups, groups=groups, random_state=0)
    assert [len(part) for part in parts] == [72, 24, 24]
    assert sum(len(set(part)) for part in parts) == 30


# scikit-learn


def check_rounds(pairs, folds, n):
    for (rest, test), parts in zip(pairs, folds, strict=True):
        assert (test == parts[2]).all() and (rest == np.setdiff1d(np.arange(n), test)).all()
        assert set(parts[0]) | set(parts[1]) == set(rest)


def test_as_sklearn_gives_the_same_folds():
    y = np.arange(60) % 3
    groups = np.repeat(np.arange(20), 3)
    columns = {"y": y, "x": np.linspace(0, 1, 60)}
    cv = RotatingKFold(4, random_state=2)
    for options in ({}, {"stratify": columns}, {"groups": groups}, {"stratify": columns, "groups": groups}):
        splitter = cv.as_sklearn(**options)
        assert splitter.get_n_splits(y, y, groups) == cv.get_n_splits() == 4
        check_rounds(splitter.split(y, y), split(cv, y, y, **options), 60)
    check_rounds(cv.as_sklearn().split(y, y, groups), split(cv, y, y, groups), 60)


def test_as_sklearn_in_scikit_learn():
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, check_cv, cross_val_predict, cross_val_score

    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 3))
    y = (X[:, 0] > 0).astype(int)
    groups = rng.integers(0, 30, 120)
    columns = {"y": y, "x": X[:, 1]}
    cv = RotatingKFold(4, random_state=0)
    model = LogisticRegression()
    assert check_cv(cv.as_sklearn()).get_n_splits() == 4
    scores = cross_val_score(model, X, y, cv=cv.as_sklearn(stratify=columns), error_score="raise")
    by_hand = []
    for train, validation, test in cv.split(X, stratify=columns):
        rest = np.concatenate([train, validation])
        by_hand.append(clone(model).fit(X[rest], y[rest]).score(X[test], y[test]))
    assert scores == pytest.approx(by_hand)

    seen = []

    class Spy(DummyClassifier):
        def fit(self, X, y, sample_weight=None):
            seen.append(set(X[:, -1]))
            return super().fit(X, y, sample_weight)

    with_groups = np.column_stack([X, groups])
    cross_val_score(Spy(), with_groups, y, groups=groups, cv=cv.as_sklearn(stratify=columns), error_score="raise")
    assert len(seen) == 4 and set.union(*seen) == set(groups)
    left_out = [set(groups) - trained for trained in seen]
    assert sum(map(len, left_out)) == len(set(groups))

    for search_cv in (cv.as_sklearn(), RotatingKFold(4).as_sklearn(stratify=columns, groups=groups)):
        search = GridSearchCV(model, {"C": [0.1, 1.0]}, cv=search_cv, error_score="raise").fit(X, y)
        assert search.n_splits_ == 4 and search.best_score_ > 0.8
    nested = GridSearchCV(model, {"C": [0.1, 1.0]}, cv=cv.as_sklearn(), error_score="raise")
    assert len(cross_val_score(nested, X, y, cv=cv.as_sklearn(), error_score="raise")) == 4
    predictions = cross_val_predict(model, X, y, cv=cv.as_sklearn(groups=groups))
    assert predictions.shape == (120,)


def test_as_sklearn_takes_sparse_samples():
    sparse = pytest.importorskip("scipy.sparse")
    X = sparse.csr_matrix(np.eye(12))
    check_rounds(RotatingKFold(3, random_state=0).as_sklearn().split(X), split(RotatingKFold(3, random_state=0), X), 12)


def test_as_sklearn_with_a_random_state_of_none_deals_anew_in_each_call():
    splitter = RotatingKFold(3).as_sklearn()
    first, second = ([test.tolist() for _, test in splitter.split(range(60))] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cv: cv.as_sklearn(groups=[0] * 9).split(range(9), None, [0] * 9), "not to both"),
        (lambda cv: cv.as_sklearn(stratify=[0] * 8).split(range(9)), r"shape \(9,\), but has shape \(8,\)"),
        (lambda cv: cv.as_sklearn(groups=range(8)).split(range(9)), "'groups' must be one value a sample"),
        (lambda cv: cv.as_sklearn().split(range(2)), "at least 3 samples but got 2"),
    ],
)
def test_as_sklearn_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        list(call(RotatingKFold(3)))


def test_stratify_replaces_y():
    y, other = np.repeat([0, 1], 6), np.arange(12) % 2
    cv = RotatingKFold(3, random_state=0)
    for (_, _, a), (_, _, b) in zip(cv.split(y, y, stratify=other), cv.split(y, stratify=other), strict=True):
        assert (a == b).all()
    assert [np.bincount(other[test]).tolist() for _, _, test in cv.split(y, y, stratify=other)] == [[2, 2]] * 3


def test_groups_of_any_type():
    names = np.repeat(np.arange(8), 3)

    def tests(groups):
        return [test.tolist() for _, _, test in RotatingKFold(3, random_state=0).split(names, groups=groups)]

    expected = tests(names)
    dates = np.datetime64("2020-01-01") + names.astype("m8[D]")
    for same in (names.astype(str), names * 0.5, dates, names.astype(object), names.tolist()):
        assert tests(same) == expected
    objects = np.empty(24, object)
    objects[:] = [(int(i), "ward") for i in names]
    assert tests(objects) == expected


def test_objects_that_are_no_classes_are_not_stratified():
    y = np.linspace(0, 1, 12).astype(object)
    same = [test.tolist() for _, _, test in RotatingKFold(3, random_state=1).split(y, y)]
    assert same == [test.tolist() for _, _, test in RotatingKFold(3, random_state=1).split(y)]


def test_data_frames_stay_data_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(20), "b": list("xy") * 10})
    parts = train_val_test_split(frame, frame["b"], stratify=frame["b"], random_state=0)
    for part, labels in zip(parts[:3], parts[3:], strict=True):
        assert list(part.columns) == ["a", "b"] and (part["b"] == labels).all()
    assert sorted(pandas.concat(parts[:3])["a"]) == list(range(20))
