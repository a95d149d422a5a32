"""What the benchmarks share: timing in turn within one process, and the machine's description."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fusedstep as fs


def in_turn(
    functions: dict[str, Callable[[], object]], repeats: int, warm_up: int = 3, calls: int = 1
) -> dict[str, list[float]]:
    """Seconds a call: A B A B ..., so that a drift of the machine's speed falls on all alike.

    Small work is timed over several `calls` at a time: as in training, where nobody else takes the cache in between.
    """
    for _ in range(warm_up):
        for function in functions.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    quartiles = statistics.quantiles(seconds, n=4)
    return {"median": statistics.median(seconds), "lower": quartiles[0], "upper": quartiles[2]}


def machine() -> dict:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), **fs.info()}


def compiled_traffic() -> Callable:
    """The loop of traffic.cpp, compiled for this machine with the compiler that CXX names (c++ by default)."""
    source = Path(__file__).with_name("traffic.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "traffic.so"
        flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run([os.environ.get("CXX", "c++"), *flags, str(source), "-o", str(library)], check=True)
        function = ctypes.CDLL(str(library)).traffic
    function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64]
    function.restype = None
    return function


def write_json(path: str | None, rows: list[dict]) -> None:
    if path is not None:
        result = {"command": " ".join(["python", *sys.argv]), "machine": machine(), "rows": rows}
        Path(path).write_text(json.dumps(result, indent=2) + "\n")
