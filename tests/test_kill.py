"""A run that is killed at any moment and resumed until it is done ends with the bits of one that was not killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

CHILD = textwrap.dedent(
    """
    import os, pathlib, signal, sys
    import numpy as np
    import fusedstep as fs
    from fusedstep import _files

    folder, kind, fate = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    replace = os.replace

    def killed_replace(source, target):  # the temporary file is whole, the rename has not come
        os.kill(os.getpid(), signal.SIGKILL)

    class Die(fs.callbacks.Callback):
        def before_step(self, run):
            if fate == f"save {run.epoch}":
                os.replace = killed_replace
            if fate == f"batch {run.epoch}":
                os.kill(os.getpid(), signal.SIGKILL)

    rng = np.random.default_rng(0)
    X = rng.standard_normal((240, 6)).astype(np.float32)
    y = (X[:, 0] + 0.5 * X[:, 1] ** 2 > 0.3).astype(np.int64)
    layers = [fs.nn.Dense(6, 16), fs.nn.BatchNorm(16), fs.nn.ReLU(), fs.nn.Dropout(0.2), fs.nn.Dense(16, 2)]
    model = fs.nn.Sequential(*layers, seed=3)
    path = folder / "run.safetensors"
    callbacks = [Die(), fs.callbacks.EarlyStopping(patience=99), fs.callbacks.Checkpoint(path, every_batches=2)]
    train, lr = (X[:160], y[:160]), fs.optim.schedules.cosine(0.02, 400)
    if kind == "plateau":
        callbacks.insert(1, fs.callbacks.ReduceOnPlateau(0.7, patience=0, cooldown=1))
        lr = 0.02
        np.save(folder / "x.npy", X[:160])
        mapped = np.load(folder / "x.npy", mmap_mode="r")
        train = fs.data.MiniBatches(mapped, y[:160], batch_size=16, block_size=4, shuffle_window=64, seed=5)
    optimizer = fs.optim.Adam(model.parameters(), lr=lr, max_norm=0.5, ema_decay=0.95)
    history = fs.fit(
        model, optimizer, fs.nn.SoftmaxCrossEntropy(), train, (X[160:], y[160:]), epochs=20, batch_size=16, seed=5,
        accumulate=3, class_weight="balanced" if kind == "schedule" else None, callbacks=callbacks, progress=False,
        resume=path if path.exists() else None,
    )
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
    bits = [(name, array.tobytes().hex()) for name, array in model.state_dict().items()]
    states = [
        (name, key, array.tobytes().hex())
        for name, arrays in optimizer.state_dict()["state"].items()
        for key, array in arrays.items()
    ]
    (folder / "end").write_text(repr((rows, history.best_epoch, bits, states, optimizer.steps, model.random_offset)))
    """
)


KINDS = ["schedule", "plateau"]
"""Of runs: with the step size a function and class weights; lowered on plateaus, the samples on disk."""


def start(folder, kind, fate="none") -> subprocess.Popen:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-W", "error", "-c", CHILD, str(folder), kind, fate], env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By kind, how a run ends that nothing stops, and how many seconds it takes."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        began = time.perf_counter()
        assert start(folder, kind).wait() == 0
        found[kind] = (folder / "end").read_text(), time.perf_counter() - began
    return found


def finish(folder, kind) -> str:
    assert start(folder, kind).wait() == 0
    assert [p.name for p in folder.iterdir() if p.suffix == ".tmp"] == []
    return (folder / "end").read_text()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fates", [["save 1"], ["batch 14", "save 17"], ["save 2", "save 11", "batch 20"]], ids=str)
def test_killed_where_it_hurts(tmp_path, whole, kind, fates):
    """At the instant of a save, in the midst of an epoch, in the second half of training."""
    for fate in fates:
        assert start(tmp_path, kind, fate).wait() == -signal.SIGKILL
    assert finish(tmp_path, kind) == whole[kind][0]


@pytest.mark.slow
@pytest.mark.skipif("not config.getoption('-m')", reason="takes a minute: pytest -m slow")
def test_killed_at_random_moments(tmp_path, whole):
    """Twenty moments from the first import to the end of the process."""
    moments = random.Random(0)
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        kind = KINDS[number % 2]
        end, seconds = whole[kind]
        process = start(folder, kind)
        time.sleep(moments.uniform(0.3, 1.0) * seconds)
        process.kill()
        process.wait()
        assert finish(folder, kind) == end, number
