import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedstep.data import MiniBatches


def indices(batches):
    return [batch[0].tolist() for batch in batches]


@pytest.mark.parametrize(
    ("size", "last", "lengths"),
    [
        (4, "keep", [4, 4, 2]),
        (4, "drop", [4, 4]),
        (4, "merge", [4, 6]),
        (5, "merge", [5, 5]),
        (6, "merge", [10]),
        (1, "keep", [1] * 10),
        (None, "keep", [10]),
        (None, "drop", [10]),
        (99, "keep", [10]),
        (99, "merge", [10]),
    ],
)
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batch_lengths(size, last, lengths, prefetch):
    batches = MiniBatches(np.arange(10), batch_size=size, last=last, prefetch=prefetch)
    drawn = indices(batches)
    assert list(map(len, drawn)) == lengths and len(batches) == len(lengths)
    assert len({i for batch in drawn for i in batch}) == sum(lengths)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    size=st.integers(1, 45) | st.none(),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 1000),
    prefetch=st.integers(0, 2),
)
def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone(n, size, seed, epoch, prefetch):
    x = np.arange(n)
    batches = MiniBatches(x, x * 2, batch_size=size, seed=seed, prefetch=prefetch)
    batches.set_epoch(epoch)
    drawn = list(batches)
    first = np.concatenate([a for a, _ in drawn])
    assert sorted(first) == x.tolist()
    assert (np.concatenate([b for _, b in drawn]) == 2 * first).all()
    other = MiniBatches(x, batch_size=3, seed=seed)
    assert (other.order(epoch) == first).all()


def test_epoch_advances_only_at_the_end_of_an_iteration():
    batches = MiniBatches(np.arange(20), batch_size=3)
    first = indices(batches)
    second = indices(batches)
    assert first != second and batches.epoch == 2
    for _ in batches:
        break
    assert batches.epoch == 2
    batches.set_epoch(0)
    assert indices(batches) == first


@pytest.mark.parametrize("shuffle", [False, True])
def test_what_the_batches_of_the_next_epoch_count(shuffle):
    weights = np.linspace(0, 1, 20)
    batches = MiniBatches(np.arange(20), weights, batch_size=6, shuffle=shuffle, last="merge")
    assert (batches.smallest, batches.largest) == (6, 8)
    for _ in range(2):
        assert list(batches.totals()) == [6, 6, 8]
        totals = list(batches.totals(weights))
        assert totals == [np.sum(batch[1]) for batch in batches]


def test_without_shuffle_batches_are_views_in_order():
    x = np.arange(6)
    batches = MiniBatches(x, batch_size=4, shuffle=False)
    assert indices(batches) == [[0, 1, 2, 3], [4, 5]] == indices(batches)
    assert all(np.shares_memory(batch, x) for (batch,) in batches)


def test_shuffled_batches_are_not_written_again():
    batches = MiniBatches(np.arange(10), batch_size=3, prefetch=2)
    kept = [batch[0] for batch in batches]
    assert sorted(np.concatenate(kept)) == list(range(10))


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fusedstep-prefetch")]


def test_breaking_off_ends_the_prefetch_thread():
    iterator = iter(MiniBatches(np.arange(100), batch_size=1, prefetch=4))
    next(iterator)
    assert prefetch_threads()
    iterator.close()
    assert not prefetch_threads()


def test_errors_of_the_prefetch_thread_pass_through():
    batches = MiniBatches(np.arange(10), batch_size=2, prefetch=2)

    def fail(reader, bounds):
        if bounds[0] == 4:
            raise OSError("disk")
        return bounds

    drawn = []
    with pytest.raises(OSError, match="disk"):
        drawn.extend(batches.gathered(fail))
    assert not prefetch_threads() and batches.epoch == 0


def test_position_can_be_saved_and_restored():
    batches = MiniBatches(np.arange(20), batch_size=3, seed=5)
    indices(batches)
    state = batches.state_dict()
    expected = indices(batches)
    other = MiniBatches(np.arange(20), batch_size=3, seed=5)
    other.load_state_dict(state)
    assert indices(other) == expected
    with pytest.raises(ValueError, match="'batch_size' is 4 but the saved order has 3"):
        MiniBatches(np.arange(20), batch_size=4, seed=5).load_state_dict(state)


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ((), {"batch_size": 1}, TypeError, "at least one array"),
        (([1, 2], [1]), {"batch_size": 1}, ValueError, r"'arrays\[0\]' and 'arrays\[1\]'.*\(2,\) and \(1,\)"),
        ((3,), {"batch_size": 1}, ValueError, "at least one axis"),
        (([],), {"batch_size": 1}, ValueError, "empty"),
        (([1],), {"batch_size": 0}, ValueError, "'batch_size' must be"),
        (([1],), {"batch_size": 2.0}, TypeError, "'batch_size' must be an integer"),
        (([1],), {"batch_size": 1, "seed": -1}, ValueError, "'seed' must be"),
        (([1],), {"batch_size": 1, "last": "pad"}, ValueError, "'last' must be one of 'keep', 'drop', 'merge'"),
        (([1],), {"batch_size": 1, "prefetch": -1}, ValueError, "'prefetch' must be"),
        (([1],), {"batch_size": 2, "last": "drop"}, ValueError, "no batch would be left"),
    ],
)
def test_wrong_input(arrays, options, error, message):
    with pytest.raises(error, match=message):
        MiniBatches(*arrays, **options)
