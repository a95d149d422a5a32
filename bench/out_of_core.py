"""An epoch from a file on the disk beside one from memory, once the file is in the page cache.

    python bench/out_of_core.py [--gib 2] [--repeats 5] [--json bench/results/out_of_core.json]

The network is 784-256-128-10, the batch 128, the step Adam's; both sides see the same samples. In memory they are
shuffled as a whole; from the disk, a memory map, within windows, read ahead by a thread. Both run in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import fusedstep as fs
from fusedstep._bench.timing import in_turn, machine, summary
from fusedstep._files import atomic_write


def samples_on_disk(path: Path, gib: float) -> np.ndarray:
    n = int(gib * 2**30) // (784 * 4)
    data = np.lib.format.open_memmap(path, "w+", np.float32, (n, 784))
    rng = np.random.default_rng(0)
    for start in range(0, n, 8192):
        data[start : start + 8192] = rng.normal(size=(min(8192, n - start), 784))
    data.flush()
    return np.load(path, mmap_mode="r")


def epoch_of(X: np.ndarray, y: np.ndarray):
    layers = [fs.nn.Dense(784, 256), fs.nn.ReLU(), fs.nn.Dense(256, 128), fs.nn.ReLU(), fs.nn.Dense(128, 10)]
    model = fs.nn.Sequential(*layers)
    optimizer, loss = fs.optim.Adam(model.parameters()), fs.nn.SoftmaxCrossEntropy()
    return lambda: fs.fit(model, optimizer, loss, (X, y), epochs=1, batch_size=128, progress=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=2.0, help="size of the file; it must fit into memory twice")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mapped = samples_on_disk(Path(folder, "x.npy"), options.gib)
        y = np.random.default_rng(1).integers(0, 10, len(mapped))
        memory = np.array(mapped)
        seconds = in_turn({"memory": epoch_of(memory, y), "disk": epoch_of(mapped, y)}, options.repeats, warm_up=1)
    about, rates = machine(), {}
    for name, times in seconds.items():
        rates[name] = len(y) / summary(times)["median"]
    ratio = rates["disk"] / rates["memory"]
    print(f"{about['processor']}, {about['cores']} cores; {len(y):,} samples of 784 float32, {options.gib:g} GiB")
    for name, rate in rates.items():
        print(f"{name:>6}: {rate:10,.0f} samples a second, {rate * 784 * 4 / 2**30:.2f} GiB/s")
    print(f"from the disk at {ratio:.2f} of the rate in memory")
    if options.json:
        content = {
            "command": " ".join(["python", "bench/out_of_core.py", *sys.argv[1:]]),
            "machine": about,
            "samples": len(y),
            "seconds": {name: summary(times) for name, times in seconds.items()},
            "ratio": ratio,
        }
        atomic_write(options.json, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
