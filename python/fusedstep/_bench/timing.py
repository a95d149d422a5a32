"""Times of several functions in turn, by the host's clock, and the description of the processor."""

from __future__ import annotations

import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from .. import backend

Functions = dict[str, Callable[[], object]]
LEAST_TURNS = 5


def in_turn(
    functions: Functions,
    repeats: int,
    warm_up: int = 3,
    calls: int = 1,
    before: Callable[[], object] = lambda: None,
    budget: float = math.inf,
) -> dict[str, list[float]]:
    """Seconds a call, by turns: a drift of the machine's speed, and what the one before left in the caches, falls on
    all alike.

    Small work is timed over several `calls` at a time: as in training, where nobody else takes the cache in between.
    `before` runs ahead of each time that is taken, outside it. Turns end before `repeats` once they took `budget`
    seconds, but there are five at least, if need be of fewer calls; the warm-up takes a fourth of it, or one turn.
    """
    start = time.perf_counter()
    turns = 0
    while turns < warm_up and (turns == 0 or time.perf_counter() - start < budget / 4):
        for function in functions.values():
            function()
        turns += 1
    turn_seconds = (time.perf_counter() - start) / max(turns, 1)
    calls = max(1, int(min(calls, budget / LEAST_TURNS / max(turn_seconds, 1e-9))))
    end = time.perf_counter() + budget
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats):
        if turn >= LEAST_TURNS and time.perf_counter() > end:
            break
        for name, function in shuffled(functions, turn):
            before()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def shuffled(functions: Functions, turn: int) -> list[tuple[str, Callable[[], object]]]:
    """The functions with their names in the order of a turn, the same in every run."""
    return random.Random(turn).sample(list(functions.items()), len(functions))


def summary(seconds: list[float]) -> dict[str, float]:
    """The median and the quartiles.

    >>> summary([1.0, 2.0, 4.0])
    {'median': 2.0, 'lower': 1.5, 'upper': 3.0}
    """
    if len(seconds) == 1:
        return dict.fromkeys(("median", "lower", "upper"), seconds[0])
    lower, _, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": statistics.median(seconds), "lower": lower, "upper": upper}


def machine() -> dict:
    """The date, the processor, its cores and `fusedstep.info()`."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    date = datetime.now(timezone.utc).date().isoformat()
    processor = models[0] if models else platform.processor()
    return {"date": date, "processor": processor, "cores": cores, **backend.info()}
