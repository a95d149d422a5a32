"""A work, the row of its times, and how rows are printed and stored."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .._files import atomic_write
from .timing import Functions, summary

CEILING = "ceiling"  # the name of the ceiling's times among those of a work
OURS = "fusedstep"


@dataclass(frozen=True)
class Sides:
    """What is timed in turn.

    ours, peers: functions without arguments; the row takes the fastest peer. check: raises AssertionError unless all
    compute the same. bytes_moved: what the work must read and write. ceiling: (name, function) that moves as much.
    before: runs ahead of each call that the host's clock times, outside its time.
    """

    ours: Callable[[], object]
    peers: Functions
    check: Callable[[], None]
    bytes_moved: int | None = None
    ceiling: tuple[str, Callable[[], object]] | None = None
    before: Callable[[], object] = lambda: None

    def functions(self) -> Functions:
        """All that is timed, by name."""
        ceiling = {} if self.ceiling is None else {CEILING: self.ceiling[1]}
        return {OURS: self.ours, **self.peers, **ceiling}


@dataclass(frozen=True)
class Work:
    """A line of the table.

    name: for --work. make: builds the sides; its argument says whether they are small, for a trial. clock: how it is
    timed, a key of `command.CLOCKS`. targets: {"share": of the ceiling's speed, "ratio": times the peer's speed}.
    """

    name: str
    title: str
    make: Callable[[bool], Sides]
    clock: str
    targets: dict[str, float] = field(default_factory=dict)


def row(work: Work, sides: Sides, seconds: dict[str, list[float]], *, judged: bool) -> dict:
    """The row of a work as JSON can hold it; targets are judged unless the work was a small trial."""
    times = {name: summary(values) for name, values in seconds.items()}
    ours = times[OURS]["median"]
    result = {"work": work.name, "title": work.title, "clock": work.clock, OURS: times[OURS]}
    if sides.bytes_moved is not None:
        result["bytes"] = sides.bytes_moved
        result["GB/s"] = sides.bytes_moved / ours / 1e9
    if sides.ceiling is not None:
        ceiling = times[CEILING]
        result[CEILING] = {"name": sides.ceiling[0], **ceiling, "GB/s": sides.bytes_moved / ceiling["median"] / 1e9}
        result["share"] = ceiling["median"] / ours
    if sides.peers:
        result["peers"] = {name: times[name] for name in sides.peers}
        result["peer"] = min(sides.peers, key=lambda name: times[name]["median"])
        result["ratio"] = times[result["peer"]]["median"] / ours
    if judged:
        result["targets"] = {
            name: {"at least": least, "met": result[name] >= least} for name, least in work.targets.items()
        }
    return result


_COLUMNS = "{:<50} {:>26}  {:>12} {:>5}  {:<34} {:>26} {:>5}  {}"


def header() -> str:
    """The table's first line; times are in us."""
    names = ("work", "fusedstep [quartiles]", "GB/s of", "share", "peer", "us [quartiles]", "ratio", "targets")
    return _COLUMNS.format(*names).rstrip()


def line(row: dict) -> str:
    """The row as a line of the table."""
    speed = share = peer = peer_time = ratio = ""
    if "GB/s" in row:
        speed = f"{row['GB/s']:.0f}"
    if CEILING in row:
        speed += f" of {row[CEILING]['GB/s']:.0f}"
        share = f"{row['share']:.2f}"
    if "peer" in row:
        peer, ratio = row["peer"], f"{row['ratio']:.2f}"
        peer_time = _time(row["peers"][peer])
    judged = [
        f"{name} >= {target['at least']:g}: {'met' if target['met'] else 'MISSED'}"
        for name, target in row.get("targets", {}).items()
    ]
    return _COLUMNS.format(
        row["title"], _time(row[OURS]), speed, share, peer, peer_time, ratio, ", ".join(judged)
    ).rstrip()


def _time(times: dict[str, float]) -> str:
    median, lower, upper = (f"{times[key] * 1e6:.1f}" for key in ("median", "lower", "upper"))
    return f"{median} [{lower}, {upper}]"


def write_json(path: Path, machine: dict, rows: list[dict], failures: dict[str, str], program="fusedstep") -> None:
    """Store the rows with the machine and the command that made them."""
    result = {"command": " ".join([program, *sys.argv[1:]]), "machine": machine, "rows": rows}
    if failures:
        result["failures"] = failures
    atomic_write(path, (json.dumps(result, indent=1, default=str) + "\n").encode())
