"""The batches of a training run on the host: those of `MiniBatches`, in aligned memory that is used again."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import nn, optim
from fusedstep.data import MiniBatches

SAMPLES, SIZE = 130, 32  # the last batch is smaller


class Keep(fs.callbacks.Callback):
    def __init__(self):
        self.copies, self.addresses = [], []

    def on_batch_end(self, run):
        self.copies.append([a.copy() for a in run.batch])
        self.addresses.append(tuple(a.ctypes.data for a in run.batch))


def batches(x, y, **options) -> MiniBatches:
    return MiniBatches(x, y, batch_size=SIZE, seed=3, **options)


def run(given: MiniBatches) -> Keep:
    keep = Keep()
    model = nn.Sequential(nn.Dense(7, 3))
    fs.fit(
        model,
        optim.SGD(model.parameters(), lr=0.1),
        nn.SoftmaxCrossEntropy(),
        given,
        epochs=2,
        callbacks=[keep],
        progress=False,
    )
    return keep


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((SAMPLES, 7), np.float32), rng.integers(0, 3, SAMPLES)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("mapped", [False, True])
def test_the_batches_of_a_run(prefetch, mapped, data, tmp_path):
    x, y = data
    if mapped:
        np.save(tmp_path / "x.npy", x)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    keep = run(batches(x, y, prefetch=prefetch))
    alone = batches(x, y)
    expected = [batch for _ in range(2) for batch in alone]
    assert len(keep.copies) == len(expected) == 2 * len(alone)
    for (kept_x, kept_y), (wanted_x, wanted_y) in zip(keep.copies, expected, strict=True):
        np.testing.assert_array_equal(kept_x, wanted_x)
        np.testing.assert_array_equal(kept_y, wanted_y)
    assert not any(address % 64 for pair in keep.addresses for address in pair)
    for epoch in (keep.addresses[: len(alone)], keep.addresses[len(alone) :]):
        assert len(set(epoch)) == min(1 + prefetch, len(alone))


def test_batches_in_their_own_order_are_views(data):
    x, y = data
    keep = run(batches(x, y, shuffle=False))
    assert keep.addresses[1] == (x[SIZE:].ctypes.data, y[SIZE:].ctypes.data)


def test_what_mini_batches_hand_out_stays(data):
    handed = list(batches(*data))
    assert len({batch[0].ctypes.data for batch in handed}) == len(handed)


@pytest.mark.parametrize("shuffle", [False, True])
def test_targets_of_python_objects(shuffle, data):
    """Which a loss of one's own may take."""
    x, classes = data
    names = np.array([{"class": int(c)} for c in classes], object)
    softmax, model = nn.SoftmaxCrossEntropy(), nn.Sequential(nn.Dense(7, 3))

    def loss(output, target):
        return softmax(output, np.array([t["class"] for t in target]))

    optimizer = optim.SGD(model.parameters(), lr=0.1)
    given = batches(x, names, shuffle=shuffle)
    history = fs.fit(model, optimizer, loss, given, epochs=2, progress=False)
    assert history.rows[1]["train_loss"] < history.rows[0]["train_loss"]
