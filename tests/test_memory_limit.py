"""A set of 8 GiB trains in a process that may take 1.5 GiB."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from fusedstep import backend

SAMPLES, FEATURES = 131072, 16384  # 8 GiB of float32
LIMIT = 3 << 29


@pytest.fixture
def large_file(tmp_path):
    """8 GiB of which one block in 64 is written, and the rest are holes, which the disk need not hold but which are
    read like all else."""
    path = tmp_path / "x.npy"
    data = np.lib.format.open_memmap(path, "w+", np.float32, (SAMPLES, FEATURES))
    rng = np.random.default_rng(0)
    for start in range(0, SAMPLES, 64 * 64):
        data[start : start + 64] = rng.normal(size=(64, FEATURES))
    del data
    yield path
    path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(backend.info()["backend"] == "reference", reason="takes minutes without the compiled module")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_8_gib_train_in_1_5_gib(large_file):
    code = f"""
        import json, resource, sys, threading, time
        resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))
        import numpy as np
        import fusedstep as fs

        peak, done = 0, threading.Event()

        def watch():
            global peak
            while not done.wait(0.02):
                status = dict(line.split(":") for line in open("/proc/self/status"))
                peak = max(peak, int(status["RssAnon"].split()[0]) * 1024)

        watcher = threading.Thread(target=watch)
        watcher.start()
        X = np.load(sys.argv[1], mmap_mode="r")
        y = np.arange(len(X)) % 2
        model = fs.nn.Sequential(fs.nn.Dense({FEATURES}, 16), fs.nn.ReLU(), fs.nn.Dense(16, 2))
        optimizer = fs.optim.Adam(model.parameters())
        loss = fs.nn.SoftmaxCrossEntropy()
        validation = fs.data.Source(X, np.arange(0, len(X), 64)), y[::64]
        history = fs.fit(model, optimizer, loss, (X, y), validation, epochs=1, batch_size=256, progress=False)
        largest = fs.data.largest_batch_size(model, ({FEATURES},))
        try:
            fs.fit(model, optimizer, loss, (X, y), epochs=1, batch_size=None, progress=False)
        except ValueError as error:
            refused = str(error)
        done.set()
        watcher.join()
        print(json.dumps([history.rows[0], peak, largest, refused]))
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(large_file)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    row, peak, largest, refused = json.loads(result.stdout)
    assert 0 < row["train_loss"] < 2 and 0 < row["validation_loss"] < 2
    assert peak < LIMIT
    assert 2**10 <= largest < LIMIT // (4 * FEATURES)
    assert refused.startswith(f"[fit] a batch of {SAMPLES} samples needs 16 GiB of memory on cpu but ")
    assert f"batches of {largest} fit" in refused
