"""Threads and forks: children neither hang nor lose their threads, Python threads run at once, bits stay."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import fusedstep as fs
from bits import assert_same_bits
from fusedstep import backend, ops

SIZE = 1_000_003  # well above the size from which kernels use several threads
TIMEOUT = 30

BUNDLED = (Path(fs.__file__).parent.parent / "fusedstep.libs").is_dir()
compiled = pytest.mark.skipif(backend.native() is None, reason="FUSEDSTEP_BACKEND=reference")
threaded = pytest.mark.skipif(not getattr(backend.native(), "openmp", False), reason="built without OpenMP")
linux = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")


@pytest.fixture(autouse=True)
def two_threads():
    before = fs.get_num_threads()
    fs.set_num_threads(2)
    yield
    fs.set_num_threads(before)


def step(seed: int = 0, steps: int = 2, size: int = SIZE) -> np.ndarray:
    """A few steps of Adam on arrays of their own."""
    rng = np.random.default_rng(seed)
    p, g = rng.standard_normal((2, size), np.float32)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in range(steps):
        ops.adam_step(p, g, m, v, lr=0.01, step=t + 1)
    return p


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def in_child(connection) -> None:
    before = thread_count()
    digest = step().tobytes()
    connection.send((before, thread_count(), digest))


def forked() -> tuple[int, int, bytes]:
    """What a forked child reports: (threads before, threads after its kernel, bytes of its result)."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(sender,))
    with warnings.catch_warnings():  # Python 3.12 and newer warn of a fork in a process with threads, the matter here
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    try:
        if not receiver.poll(TIMEOUT):
            pytest.fail("the forked child hangs")
        return receiver.recv()
    finally:
        child.kill()
        child.join()


@threaded
@linux
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(BUNDLED, reason="the OpenMP runtime of a repaired wheel is its own")
def test_serial_inside_another_parallel_region(tmp_path):
    """A caller's own OpenMP region, of the same runtime: the kernel must not open another within it."""
    source, library = tmp_path / "region.cpp", tmp_path / "region.so"
    pragmas = "#pragma omp parallel num_threads(2)\n#pragma omp master\n"
    source.write_text('extern "C" void call_inside(void (*f)()) {\n' + pragmas + "f();\n}\n")
    subprocess.run(["g++", "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    script = f"""
import ctypes, os
import numpy as np
import fusedstep as fs
fs.set_num_threads(4)  # not the region's number, so that a region of ours would show
arrays = [np.ones({SIZE}, np.float32) for _ in range(4)]
count = lambda: len(os.listdir("/proc/self/task"))
seen = []
def kernel():
    before = count()
    fs.ops.adam_step(*arrays, lr=0.1, step=1)
    seen.append((before, count()))
call_inside = ctypes.CDLL({str(library)!r}).call_inside
call_inside(ctypes.CFUNCTYPE(None)(kernel))
before = count()
fs.ops.adam_step(*arrays, lr=0.1, step=2)
print(*seen[0], before, count())
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert run.returncode == 0, run.stderr
    before_inside, after_inside, before_outside, after_outside = map(int, run.stdout.split())
    assert after_inside == before_inside, "the kernel opened a region inside the caller's"
    assert after_outside > before_outside, "outside, it uses its threads"


@threaded
@linux
def test_forked_child_keeps_its_threads():
    expected = step().tobytes()
    for _ in range(3):
        before, after, result = forked()
        assert before == 1
        assert after > 1, "the child computes on one thread"
        assert result == expected
        threads = thread_count()
        assert step().tobytes() == expected
        assert thread_count() >= threads > 0
    assert thread_count() > 1, "the parent lost its threads"


@threaded
@linux
def test_fork_from_another_thread():
    results = []

    def work():
        step()
        results.append(forked())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(2 * TIMEOUT)
    assert results and results[0][1] > 1
    assert results[0][2] == step().tobytes()


@threaded
@linux
def test_fork_while_another_thread_runs_kernels():
    step()
    stop = threading.Event()

    def work():
        while not stop.is_set():
            step(steps=1)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(3):
            assert forked()[1] > 1
    finally:
        stop.set()
        worker.join()


@threaded
@linux
def test_child_of_a_child():
    step()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child():
        step()
        sender.send(forked()[1])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = context.Process(target=child)
        process.start()
    try:
        assert receiver.poll(2 * TIMEOUT), "the forked child hangs"
        assert receiver.recv() > 1
    finally:
        process.kill()
        process.join()


def test_python_threads_give_the_bits_of_the_serial_run():
    size = SIZE if backend.native() else 1000
    expected = [step(seed, 3, size) for seed in range(4)]
    results: list = [None] * 4
    barrier = threading.Barrier(4)

    def work(seed):
        barrier.wait()
        results[seed] = step(seed, 3, size)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for actual, wanted in zip(results, expected, strict=True):
        assert_same_bits("adam_step", actual, wanted)


@compiled
def test_kernels_release_the_gil():
    """Another Python thread counts on while one kernel call is under way."""
    fs.set_num_threads(1)
    p, g = np.zeros((2, 30_000_000), np.float32)
    counter, running, stop = [0], threading.Event(), threading.Event()

    def count():
        while not stop.is_set():
            counter[0] += 1
            running.set()
            time.sleep(0)

    before_switch = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody takes the GIL from a thread that keeps it
    worker = threading.Thread(target=count)
    worker.start()
    try:
        running.wait(TIMEOUT)
        before = counter[0]
        ops.sgd_step(p, g, lr=0.1)
        assert counter[0] > before
    finally:
        sys.setswitchinterval(before_switch)
        stop.set()
        worker.join()


@pytest.mark.parametrize("n", [1, 2, 3, 64])
def test_more_threads_than_cores(n):
    size = SIZE if backend.native() else 1000
    expected = step(size=size)
    fs.set_num_threads(n)
    assert_same_bits("adam_step", step(size=size), expected)


EPOCH = """
import json, sys, time
import numpy as np
import fusedstep as fs

rng = np.random.default_rng(0)
X = rng.standard_normal((32 * 20, 784), dtype=np.float32)
y = rng.integers(0, 10, len(X))
loss = fs.nn.SoftmaxCrossEntropy()

def epoch(threads):
    fs.set_num_threads(threads)
    model = fs.nn.Sequential(
        fs.nn.Dense(784, 256), fs.nn.ReLU(), fs.nn.Dense(256, 128), fs.nn.ReLU(), fs.nn.Dense(128, 10)
    )
    optimizer = fs.optim.Adam(model.parameters())
    start = time.perf_counter()
    for i in range(0, len(X), 32):
        _, gradient = loss(model.forward(X[i : i + 32]), y[i : i + 32])
        model.backward(gradient)
        optimizer.step()
    return time.perf_counter() - start

times = {1: [], 2: []}
for _ in range(5):  # in turn, so that a busy machine slows both
    for threads in times:
        times[threads].append(epoch(threads))
print(json.dumps({threads: min(t) for threads, t in times.items()}))
"""


@compiled
def test_threads_do_not_fight_with_the_blas():
    """Spinning threads made an epoch 16 times as long; the bound is wide enough not to flicker."""
    drop = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in drop}
    command = [sys.executable, "-c", EPOCH]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    seconds = json.loads(done.stdout)
    assert seconds["2"] < 4 * seconds["1"], seconds
