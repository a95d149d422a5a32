"""Data sets that are not in memory."""

import mmap
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusedstep as fs
from fusedstep import fit, nn, optim
from fusedstep.data import MiniBatches, Source
from fusedstep.data.sources import as_samples, is_on_disk, select
from fusedstep.data.windows import choose
from fusedstep.evaluation import evaluate, predict

RNG = np.random.default_rng(0)
X = RNG.normal(size=(203, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


class Slices:
    """Nothing but a length and slices, and a record of what was asked for."""

    def __init__(self, array=X):
        self.array, self.reads, self.threads = array, [], set()

    def __len__(self):
        return len(self.array)

    def __getitem__(self, samples):
        self.reads.append((samples.start, samples.stop))
        self.threads.add(threading.current_thread().name)
        return self.array[samples]


@pytest.fixture(params=["memmap", "hdf5", "zarr", "slices", "array"])
def stored(request, tmp_path):
    """X, kept in one of several ways."""
    if request.param == "memmap":
        np.save(tmp_path / "x.npy", X)
        return np.load(tmp_path / "x.npy", mmap_mode="r")
    if request.param == "hdf5":
        h5py = pytest.importorskip("h5py")
        file = h5py.File(tmp_path / "x.h5", "w")
        request.addfinalizer(file.close)
        return file.create_dataset("x", data=X, chunks=(16, 5))
    if request.param == "zarr":
        zarr = pytest.importorskip("zarr")
        array = zarr.open(str(tmp_path / "x.zarr"), mode="w", shape=X.shape, chunks=(16, 5), dtype="float32")
        array[:] = X
        return array
    return Slices() if request.param == "slices" else X


@pytest.mark.parametrize("prefetch", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 64, None])
@pytest.mark.parametrize("last", ["keep", "merge", "drop"])
def test_the_batches_are_those_of_the_array_in_memory(stored, batch_size, last, prefetch):
    options = {"batch_size": batch_size, "seed": 3, "last": last, "block_size": 16, "shuffle_window": 48}
    expected = MiniBatches(X, Y, **options)
    batches = MiniBatches(stored, Y, prefetch=prefetch, **options)
    assert len(batches) == len(expected) and batches.state_dict() == expected.state_dict()
    for _ in range(2):
        for (x, y), (x_expected, y_expected) in zip(batches, expected, strict=True):
            assert type(x) is np.ndarray
            np.testing.assert_array_equal(x, x_expected)
            np.testing.assert_array_equal(y, y_expected)
    in_order = MiniBatches(stored, batch_size=batch_size, last=last, shuffle=False, prefetch=prefetch)
    taken = np.concatenate([x for (x,) in in_order])
    np.testing.assert_array_equal(taken, X[: len(taken)])


def test_what_is_on_disk(stored):
    samples = as_samples(stored)
    assert is_on_disk(samples) == (stored is not X)
    assert samples.shape == X.shape and samples.dtype == X.dtype
    batches = MiniBatches(stored, batch_size=4)
    assert batches.prefetch == (0 if stored is X else 2)
    assert (batches.block_size is None) == (stored is X)
    indices = np.array([0, 3, 4, 100, 202])
    np.testing.assert_array_equal(np.asarray(select(samples, indices)), X[indices])
    np.testing.assert_array_equal(np.asarray(select(select(samples, indices), np.array([1, 4]))), X[[3, 202]])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    block=st.integers(1, 70),
    window=st.integers(1, 70),
    batch=st.integers(1, 70),
    seed=st.integers(0, 2**32),
    position=st.integers(0, 60),
    prefetch=st.integers(0, 2),
)
def test_every_window_is_a_permutation_of_whole_blocks(n, block, window, batch, seed, position, prefetch):
    source = Slices(np.arange(n)[:, None])
    options = {"batch_size": batch, "seed": seed, "block_size": block, "shuffle_window": window}
    batches = MiniBatches(source, prefetch=prefetch, **options)
    order = batches.order(0)
    assert sorted(order) == list(range(n))
    block, size = batches.block_size, batches.shuffle_window
    assert size % block == 0 and (size <= window or size == block)
    full = [set(range(start, min(start + block, n))) for start in range(0, n, block)]
    starts = np.cumsum([0] + [len(w) for w in windows_of(batches)])
    for start, stop in pairwise(starts):
        inside = set(order[start:stop].tolist())
        assert all(b <= inside or not b & inside for b in full)
    drawn = np.concatenate([x.ravel() for (x,) in batches])
    assert (drawn == order).all()
    assert all(stop - start <= block for start, stop in source.reads[1:])
    position = min(position, len(batches))
    batches.load_state_dict({**batches.state_dict(), "epoch": 0, "position": position})
    left = [x.ravel() for (x,) in batches]
    assert (np.concatenate([[], *left]) == order[position * min(batch, n) :]).all()
    assert batches.epoch == 1


def windows_of(batches):
    return [batches._windows.samples(blocks) for blocks in batches._plan(0)[1]]


def test_a_set_that_fits_into_a_window_has_the_order_of_one_in_memory(stored):
    batches = MiniBatches(stored, batch_size=10, block_size=8, seed=3)
    assert (batches.order(5) == MiniBatches(X, batch_size=10, seed=3).order(5)).all()


def test_each_block_is_read_once_and_ahead_of_its_use():
    source = Slices()
    batches = MiniBatches(source, batch_size=10, block_size=10, shuffle_window=50, prefetch=1)
    source.reads.clear()
    assert len(list(batches)) == 21
    assert sorted(source.reads) == [(i, min(i + 10, 203)) for i in range(0, 203, 10)]
    assert all(name.startswith("fusedstep-read") for name in source.threads - {"MainThread"})
    assert not [t for t in threading.enumerate() if t.name.startswith("fusedstep")]


def test_resuming_reads_no_window_that_is_over():
    source = Slices()
    batches = MiniBatches(source, batch_size=10, block_size=10, shuffle_window=50, prefetch=0)
    batches.position = 15
    source.reads.clear()
    rest = np.concatenate([x for (x,) in batches])
    np.testing.assert_array_equal(rest, X[batches.order(0)[150:]])
    assert len(source.reads) == 6


def test_only_one_window_is_in_memory_or_two_while_reading_ahead():
    x = np.zeros((1000, 100), np.float32)
    for prefetch, n_windows in ((0, 1), (2, 2)):
        batches = MiniBatches(Source(Slices(x)), batch_size=10, block_size=10, shuffle_window=100, prefetch=prefetch)
        reader = batches._reader(0, 0, None)
        assert sum(buffer.nbytes for buffers in reader._buffers for buffer in buffers) == n_windows * 100 * 400
        reader.close()


def test_breaking_off_and_errors_end_the_threads():
    iterator = iter(MiniBatches(Slices(), batch_size=1, block_size=4, shuffle_window=16))
    next(iterator)
    iterator.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("fusedstep")]

    class Broken(Slices):
        def __getitem__(self, samples):
            if samples.start >= 100:
                raise OSError("disk")
            return super().__getitem__(samples)

    for prefetch in (0, 2):
        with pytest.raises(OSError, match="disk"):
            list(MiniBatches(Broken(), batch_size=3, block_size=10, shuffle_window=20, prefetch=prefetch))
        assert not [t for t in threading.enumerate() if t.name.startswith("fusedstep")]


def test_default_sizes():
    class Large:
        shape, dtype = (1_000_000, 784), np.dtype(np.float32)
        chunks = (100, 784)

        def __len__(self):
            return self.shape[0]

        def __getitem__(self, samples):
            raise AssertionError

    batches = MiniBatches(Large(), batch_size=128)
    assert batches.block_size == 400 and 2**20 <= batches.block_size * 784 * 4 < 2**20 + 100 * 784 * 4
    assert 0.9 * 2**27 <= batches.shuffle_window * 784 * 4 <= 2**27
    assert choose(10, [], None, None) is None and choose(10, [], None, 5).block == 1


def test_an_array_in_memory_that_is_not_contiguous():
    for x in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        for (a,), (b,) in zip(MiniBatches(x, batch_size=9), MiniBatches(X, batch_size=9), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_split_of_samples_on_disk_reads_nothing(stored):
    split = fs.model_selection.train_val_test_split
    parts, expected = split(stored, Y, stratify=Y, random_state=0), split(X, Y, stratify=Y, random_state=0)
    for part, in_memory in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(part), in_memory)
    assert all(isinstance(part, Source) == (stored is not X) for part in parts[:3])
    model, history = train(parts[0], parts[3], validation=(parts[1], parts[4]))
    assert without_seconds(history) == without_seconds(train(*expected[0:4:3], validation=tuple(expected[1:5:3]))[1])
    np.testing.assert_array_equal(predict(model, parts[2]), predict(model, expected[2]))


def test_a_subset_is_read_a_part_at_a_time():
    """Not its whole span at once, where samples are small, and no chunk twice."""
    source = Slices(np.arange(2_000_000, dtype=np.float64).reshape(-1, 2))
    part = Source(source, np.arange(0, 1_000_000, 1000))
    assert (part[:][:, 0] == 2 * np.arange(0, 1_000_000, 1000)).all()
    lengths = [stop - start for start, stop in source.reads]
    assert max(lengths) <= 2**23 // 16 and len(lengths) < 5
    source = Slices(np.zeros((1000, 1000)))
    source.chunks = (100, 1000)
    part = Source(source, np.arange(0, 1000, 50))
    source.reads.clear()
    assert part[:].shape == (20, 1000)
    assert len({start // 100 for start, _ in source.reads}) == len(source.reads)


def test_labels_on_disk_are_read_at_once():
    source = Slices(Y)
    batches = MiniBatches(X, source, batch_size=4)
    assert type(batches.arrays[1]) is np.ndarray and not batches.on_disk


def test_views_of_a_map_are_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert is_on_disk(np.asarray(mapped)[10:, 1:]) and not is_on_disk(np.array(mapped))
    with open(tmp_path / "x.npy", "rb") as file:
        assert is_on_disk(np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8))
    writable = MiniBatches(np.array(mapped), batch_size=50, shuffle=False)
    assert all(np.shares_memory(x, writable.arrays[0]) for (x,) in writable)
    read_only = MiniBatches(mapped, batch_size=50, shuffle=False, prefetch=0)
    assert all(np.shares_memory(x, mapped) and not x.flags.writeable for (x,) in read_only)


def net(seed=0):
    return nn.Sequential(nn.Dense(5, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.2), nn.Dense(8, 2), seed=seed)


def train(x, y=Y, **options):
    model = net()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    options = {"epochs": 3, "batch_size": 16, "progress": False, "metrics": ["accuracy"]} | options
    loss = nn.SoftmaxCrossEntropy()
    return model, fit(model, optimizer, loss, (x, y), options.pop("validation", (x, y)), **options)


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]


def test_training_from_disk_gives_the_bits_of_training_in_memory(stored):
    sizes = {"block_size": 20, "shuffle_window": 60, "batch_size": 16, "seed": 4}
    results = []
    for x in (X, stored):
        model = net()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        history = fit(
            model,
            optimizer,
            nn.SoftmaxCrossEntropy(),
            MiniBatches(x, Y, **sizes),
            (x, Y),
            epochs=3,
            metrics=["accuracy"],
            progress=False,
        )
        results.append((model, history))
    (first, one), (second, two) = results
    assert without_seconds(one) == without_seconds(two)
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(array, second.state_dict()[name])
    np.testing.assert_array_equal(predict(first, stored), predict(first, X))
    assert evaluate(first, nn.SoftmaxCrossEntropy(), stored, Y) == evaluate(first, nn.SoftmaxCrossEntropy(), X, Y)


def test_a_resumed_run_from_disk_ends_with_the_same_bits(tmp_path, stored):
    class Stop(fs.callbacks.Callback):
        def on_batch_end(self, run):
            if run.epoch == 2 and run.batch_index == 5:
                run.history.interrupted = True

    path = tmp_path / "run.safetensors"
    expected, _ = train(stored, callbacks=[fs.callbacks.Checkpoint(path)])
    train(stored, callbacks=[Stop(), fs.callbacks.Checkpoint(path)])
    model = net()
    fit(
        model,
        optim.Adam(model.parameters(), lr=0.01),
        nn.SoftmaxCrossEntropy(),
        (stored, Y),
        (stored, Y),
        epochs=3,
        batch_size=16,
        metrics=["accuracy"],
        progress=False,
        callbacks=[Callbacks(), fs.callbacks.Checkpoint(path)],
        resume=path,
    )
    for name, array in expected.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])


class Callbacks(fs.callbacks.Callback):
    """Called as the one that stopped the run."""


Callbacks.__name__ = "Stop"


@pytest.mark.parametrize("which", ["train", "validation"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_nan_on_disk_is_refused_when_it_is_read(tmp_path, which, shuffle):
    bad = X.copy()
    bad[150, 2] = np.nan
    np.save(tmp_path / "x.npy", bad)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = {"train": (X, Y), "validation": (X, Y)} | {which: (mapped, Y)}
    with pytest.raises(ValueError, match=rf"\[fit\] '{which} X' holds NaN or infinity, first in sample 150"):
        train(*data["train"], validation=data["validation"], shuffle=shuffle)
    with pytest.raises(ValueError, match=r"\[evaluate\] 'data X' holds NaN or infinity, first in sample 150"):
        evaluate(net(), nn.SoftmaxCrossEntropy(), mapped, Y)


def test_metrics_on_more_samples_than_a_batch():
    x, y = np.tile(X, (20, 1)), np.tile(Y, 20)
    expected = train(X, validation=(x, y))[1]
    assert without_seconds(train(X, validation=(Slices(x), y))[1]) == without_seconds(expected)


def test_targets_on_disk():
    model = nn.Sequential(nn.Dense(5, 5))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    loss = nn.MeanSquaredError()
    history = fit(model, optimizer, loss, (X, Slices()), (X, Slices()), epochs=20, progress=False)
    assert history.rows[-1]["validation_loss"] < history.rows[0]["validation_loss"]
    with pytest.raises(ValueError, match=r"'train y' of shape \(203, 5\) does not fit the loss"):
        model = net()
        fit(model, optim.SGD(model.parameters()), loss, (X, Slices()), epochs=1, progress=False)


class Wrong(Slices):
    shape, dtype = (203, 4), np.dtype(np.float32)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Source(5), TypeError, r"\[Source\] int has no length"),
        (lambda: Source({"a": 1}), TypeError, r"\[Source\] dict gives no slices"),
        (lambda: Source(Slices(X[:0])), ValueError, "there is no sample"),
        (lambda: Source(Slices(), [1, 1]), ValueError, r"'indices' must rise and be in 0 \.\.\. 202"),
        (lambda: Source(Slices(), [0, 203]), ValueError, "'indices' must rise"),
        (lambda: Source(Slices(), [0.5]), TypeError, "'indices' must be integers"),
        (lambda: Source(Slices(), []), ValueError, "there is no sample"),
        (lambda: Source(Slices())[3], TypeError, "gives slices without a step but was asked for 3"),
        (lambda: Source(Slices())[::2], TypeError, "without a step"),
        (lambda: Source(Wrong())[:2], ValueError, r"is float32\(2, 5\) but should be float32\(2, 4\)"),
        (lambda: MiniBatches(Slices(), Y[:5], batch_size=1), ValueError, "same number of samples"),
        (lambda: MiniBatches(X, batch_size=1, block_size=0), ValueError, "'block_size' must be"),
        (lambda: MiniBatches(X, batch_size=1, shuffle_window=2.5), TypeError, "'shuffle_window' must be an integer"),
    ],
)
def test_wrong_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
