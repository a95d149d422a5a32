"""A work, the row of its times, and how rows are printed and stored."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from .._files import atomic_write
from .timing import Functions, summary

CEILING = "ceiling"  # the name of the ceiling's times among those of a work
OURS = "fusedstep"
_NO_CEILING = 1.05  # a share above it: the ceiling was none


@dataclass(frozen=True)
class Sides:
    """What is timed in turn.

    ours, peers: functions without arguments; the row takes the fastest peer. check: raises AssertionError unless all
    compute the same. bytes_moved: what the work must read and write. ceiling: (name, function) that moves as much.
    before: runs ahead of each call that the host's clock times, outside its time. missing: {peer: why it is not there}.
    remarks: asked once all is timed; the lines stand below the row.
    """

    ours: Callable[[], object]
    peers: Functions
    check: Callable[[], None]
    bytes_moved: int | None = None
    ceiling: tuple[str, Callable[[], object]] | None = None
    before: Callable[[], object] = lambda: None
    missing: dict[str, str] = field(default_factory=dict)
    remarks: Callable[[], list[str]] = list

    def functions(self) -> Functions:
        """All that is timed, by name."""
        ceiling = {} if self.ceiling is None else {CEILING: self.ceiling[1]}
        return {OURS: self.ours, **self.peers, **ceiling}


@dataclass(frozen=True)
class Work:
    """A line of the table.

    name: for --work. make: builds the sides; its argument says whether they are small, for a trial. clock: how it is
    timed, a key of `command.CLOCKS`. targets: {"share": of the ceiling's speed, "ratio": times the fastest peer's
    speed, a peer's name: times that one's}. about: stored in the row, such as its size. setting: holds meanwhile.
    """

    name: str
    title: str
    make: Callable[[bool], Sides]
    clock: str
    targets: dict[str, float] = field(default_factory=dict)
    about: dict = field(default_factory=dict)
    setting: Callable[[], AbstractContextManager] = nullcontext


def row(work: Work, sides: Sides, seconds: dict[str, list[float]], *, judged: bool) -> dict:
    """The row of a work as JSON can hold it; targets are judged unless the work was a small trial."""
    times = {name: summary(values) for name, values in seconds.items()}
    ours = times[OURS]["median"]
    result = {"work": work.name, "title": work.title, "clock": work.clock, **work.about, OURS: times[OURS]}
    result["turns"] = len(seconds[OURS])
    if sides.bytes_moved is not None:
        result["bytes"] = sides.bytes_moved
        result["GB/s"] = sides.bytes_moved / ours / 1e9
    if sides.ceiling is not None:
        ceiling = times[CEILING]
        result[CEILING] = {"name": sides.ceiling[0], **ceiling, "GB/s": sides.bytes_moved / ceiling["median"] / 1e9}
        result["share"] = ceiling["median"] / ours
    if sides.peers:
        result["peers"] = {name: times[name] | {"ratio": times[name]["median"] / ours} for name in sides.peers}
        result["peer"] = min(sides.peers, key=lambda name: times[name]["median"])
        result["ratio"] = times[result["peer"]]["median"] / ours
    if sides.missing:
        result["missing"] = sides.missing
    remarks = sides.remarks()
    if result.get("share", 0) > _NO_CEILING:
        faster = f"{OURS} is {result['share']:.2f} times as fast as the {sides.ceiling[0]}"
        remarks = [*remarks, f"{faster}: no ceiling here"]
    if remarks:
        result["remarks"] = remarks
    if judged:
        reached = {name: peer["ratio"] for name, peer in result.get("peers", {}).items()} | result
        result["targets"] = {
            name: {"at least": least, "met": reached[name] >= least if name in reached else None}
            for name, least in work.targets.items()
        }
    return result


_COLUMNS = "{:<62} {:<16} {:>28} {:>5}  {:>14} {:>6}  {}"
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def header() -> str:
    """The table's first line."""
    return _COLUMNS.format("work", "", "time [quartiles]", "turns", "GB/s of", "ratio", "targets").rstrip()


def lines(row: dict) -> list[str]:
    """The row as lines of the table: ours with its share of the ceiling, then a line for each peer, then remarks."""
    speed = share = ""
    if "GB/s" in row:
        speed = f"{row['GB/s']:.3g}"
    if CEILING in row:
        speed += f" of {row[CEILING]['GB/s']:.3g}"
        share = f"{row['share']:.2f}"
    judged = ", ".join(
        f"{name} >= {target['at least']:g}: {_judgement(name, target['met'])}"
        for name, target in row.get("targets", {}).items()
    )
    result = [_COLUMNS.format(row["title"], OURS, _time(row[OURS]), row["turns"], speed, share, judged)]
    for name, times in row.get("peers", {}).items():
        result.append(_COLUMNS.format("", name, _time(times), "", "", f"{times['ratio']:.2f}x", ""))
    for name, reason in row.get("missing", {}).items():
        result.append(_COLUMNS.format("", name, reason, "", "", "", ""))
    result += [f"    {remark}" for remark in row.get("remarks", ())]
    return [text.rstrip() for text in result]


def _judgement(name: str, met: bool | None) -> str:
    if met is None:
        return f"not judged, the {'ceiling' if name == 'share' else 'peer'} is missing"
    return "met" if met else "MISSED"


def _time(times: dict[str, float]) -> str:
    """In the unit that fits the median.

    >>> _time({"median": 0.0123, "lower": 0.012, "upper": 0.013})
    '12.30 [12.00, 13.00] ms'
    """
    unit = next((unit for unit, size in _UNITS.items() if times["median"] >= size), "us")
    median, lower, upper = (f"{times[key] / _UNITS[unit]:.2f}" for key in ("median", "lower", "upper"))
    return f"{median} [{lower}, {upper}] {unit}"


def write_json(path: Path, machine: dict, rows: list[dict], failures: dict[str, str], program="fusedstep") -> None:
    """Store the rows with the machine and the command that made them."""
    result = {"command": " ".join([program, *sys.argv[1:]]), "machine": machine, "rows": rows}
    if failures:
        result["failures"] = failures
    atomic_write(path, (json.dumps(result, indent=1, default=str) + "\n").encode())
