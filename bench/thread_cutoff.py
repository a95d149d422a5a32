"""Where a second thread begins to pay: Adam steps of growing size on one thread and on all, and an epoch of training.

    python bench/thread_cutoff.py

The cut-off `kSerialBytes` in csrc/cpu/parallel.h was read off the first part, where there is none; the epochs run with
it. The two sides run in blocks, not in turn: data that stay in each core's own cache are part of the question.
"""

from __future__ import annotations

import statistics

import numpy as np

import fusedstep as fs
from fusedstep import backend
from fusedstep._arena import aligned_zeros
from fusedstep._bench.timing import in_turn, machine, summary


def seconds_with(threads: int, work, repeats: int) -> float:
    fs.set_num_threads(threads)
    return summary(in_turn({"work": work}, repeats, warm_up=5)["work"])["median"]


def compare(name: str, work, repeats: int, most: int) -> None:
    blocks = [(seconds_with(1, work, repeats), seconds_with(most, work, repeats)) for _ in range(5)]
    one, several = (statistics.median(side) * 1e6 for side in zip(*blocks, strict=True))
    print(f"{name}: {one:10.1f} {several:10.1f}  ratio {one / several:.2f}")


def step_of(size: int):
    arrays = [aligned_zeros(size, np.float32) for _ in range(4)]
    return lambda: fs.ops.adam_step(*arrays, lr=1e-3, step=10)


def epoch_of(batch_size: int):
    """784-256-128-10 on 2,000 random samples."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2000, 784)).astype(np.float32), rng.integers(0, 10, 2000)
    layers = [fs.nn.Dense(784, 256), fs.nn.ReLU(), fs.nn.Dense(256, 128), fs.nn.ReLU(), fs.nn.Dense(128, 10)]
    model = fs.nn.Sequential(*layers)
    optimizer, loss = fs.optim.Adam(model.parameters()), fs.nn.SoftmaxCrossEntropy()
    return lambda: fs.fit(model, optimizer, loss, (X, y), epochs=1, batch_size=batch_size, progress=False)


def main() -> None:
    about, most = machine(), fs.get_num_threads()
    print(f"{about['processor']}, {about['cores']} cores, {about['isa']}; one thread against {most}, medians in us")
    cutoff = backend.native().get_serial_bytes()
    backend.native().set_serial_bytes(0)
    for size in (1 << k for k in range(14, 23)):
        compare(f"Adam, {size:>9,} values, {28 * size:>11,} bytes", step_of(size), 100, most)
    backend.native().set_serial_bytes(cutoff)
    for size in (32, 128, 512):
        compare(f"epoch, batch {size}", epoch_of(size), 3, most)


if __name__ == "__main__":
    main()
