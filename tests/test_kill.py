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

    folder, fate = pathlib.Path(sys.argv[1]), sys.argv[2]
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
    lr = fs.optim.schedules.cosine(0.02, 400)
    optimizer = fs.optim.Adam(model.parameters(), lr=lr, max_norm=0.5, ema_decay=0.95)
    path = folder / "run.safetensors"
    callbacks = [Die(), fs.callbacks.EarlyStopping(patience=99), fs.callbacks.Checkpoint(path, every_batches=2)]
    history = fs.fit(
        model, optimizer, fs.nn.SoftmaxCrossEntropy(), (X[:160], y[:160]), (X[160:], y[160:]), epochs=20, batch_size=16,
        accumulate=3, class_weight="balanced", callbacks=callbacks, progress=False, seed=5,
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


def start(folder, fate="none") -> subprocess.Popen:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-W", "error", "-c", CHILD, str(folder), fate], env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """How a run ends that nothing stops, and how many seconds it takes."""
    folder = tmp_path_factory.mktemp("whole")
    began = time.perf_counter()
    assert start(folder).wait() == 0
    return (folder / "end").read_text(), time.perf_counter() - began


def finish(folder) -> str:
    assert start(folder).wait() == 0
    assert [p.name for p in folder.iterdir() if p.suffix == ".tmp"] == []
    return (folder / "end").read_text()


@pytest.mark.parametrize("fates", [["save 1"], ["batch 14", "save 17"], ["save 2", "save 11", "batch 20"]], ids=str)
def test_killed_where_it_hurts(tmp_path, whole, fates):
    """At the instant of a save, in the midst of an epoch, in the second half of training."""
    for fate in fates:
        assert start(tmp_path, fate).wait() == -signal.SIGKILL
    assert finish(tmp_path) == whole[0]


@pytest.mark.slow
@pytest.mark.skipif("not config.getoption('-m')", reason="takes a minute: pytest -m slow")
def test_killed_at_random_moments(tmp_path, whole):
    """Twenty moments from the first import to the end of the process."""
    moments = random.Random(0)
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start(folder)
        time.sleep(moments.uniform(0.3, 1.0) * whole[1])
        process.kill()
        process.wait()
        assert finish(folder) == whole[0], number
