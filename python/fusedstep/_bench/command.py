"""The subcommand ``fusedstep bench``."""

from __future__ import annotations

import argparse
import fnmatch
import functools
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from .. import backend
from .._arguments import HelpFormatter, integer, number
from . import cost, kernels, layers, plot, steps, training
from .device import Device
from .loops import NoCompilerError
from .peers import peers_about, same_threads
from .table import Sides, Work, header, lines, row, write_json
from .timing import in_turn, machine

WRONG_USE = 2
FAILED = 1
CHILD_FAILED = 3  # FAILED of the child; a traceback ends in 1, too

# The tables of the processor: each module's works() are its rows, its text(rows), where it has one, stands below.
# Those in ALONE have no peers.
TABLES: dict[str, ModuleType] = {
    "kernels": kernels,
    "training": training,
    "cost": cost,
}

ALONE = {"cost"}

BUDGET = 0.25  # seconds that the turns of a work may take on the processor; rows with targets name a longer clock


def _host(device: Device, sides: Sides, repeats: int, calls: int = 1, budget: float = BUDGET) -> dict[str, list[float]]:
    """The host's time until a call returns."""
    before, warm_up = _ready(device, sides), 100 if calls > 1 else 3
    budget = budget if device.name == "cpu" else math.inf
    return in_turn(sides.functions(), repeats, warm_up, calls, before, budget)


# How the sides of a work are timed: (device, sides, repeats) -> seconds of each function.
CLOCKS: dict[str, Callable[[Device, Sides, int], dict[str, list[float]]]] = {
    # the device's time: the host queues a call's launches while the device is still busy
    "device": lambda device, sides, repeats: device.in_turn(sides.functions(), repeats, device.queue_ahead(2e-3)),
    "device, 20 ms ahead": lambda device, sides, repeats: device.in_turn(
        sides.functions(), repeats, device.queue_ahead(20e-3)
    ),
    # between events around the call as it comes: the device's time or the host's, whichever is longer
    "call": lambda device, sides, repeats: device.in_turn(sides.functions(), repeats),
    "host": _host,
    "host, 1 s": functools.partial(_host, budget=1.0),
    "host, 4 s": functools.partial(_host, budget=4.0),
    "host, 1 s, 200 calls": functools.partial(_host, calls=200, budget=1.0),
    "host, 20 calls": functools.partial(_host, calls=20),
    "host, 200 calls": functools.partial(_host, calls=200),
}


def _ready(device: Device, sides: Sides) -> Callable[[], object]:
    def before():
        sides.before()
        device.synchronize()

    return before


# The child imports torch first, so that its OpenMP threads wait as torch's users know them, not passively. Tables
# without peers are measured without torch: beside it our threads wait like torch's, and take the cores from BLAS.
_CHILD = f"""import sys, torch
from fusedstep.cli import main
code = main(sys.argv[1:])
sys.exit({CHILD_FAILED} if code == {FAILED} else code)"""


def add_bench_command(commands) -> None:
    """Add ``bench`` to a parser's subcommands."""
    parser = commands.add_parser(
        "bench", help="measure fusedstep beside its peers", formatter_class=HelpFormatter, allow_abbrev=False
    )

    def format_help() -> str:
        """With the works, which are made for it alone."""
        tables = "; ".join(f"{name}: {_stems(_works(Device('cpu'), name))}" for name in TABLES)
        parser.description = f"Tables of cpu and their works: {tables}. Works of cuda: {_stems(_gpu_works())}."
        return argparse.ArgumentParser.format_help(parser)

    parser.format_help = format_help
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="only these tables of cpu, see above")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the kernels run")
    add_options(parser)
    parser.set_defaults(command=bench)


def add_options(parser: argparse.ArgumentParser, repeats: int = 100) -> None:
    """The choice of the works, and the options that `measure` reads."""
    parser.add_argument("--work", nargs="+", metavar="NAME", help="only these works; patterns, too: 'adamw-*'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw throughput by size here, a .png for instance")
    parser.add_argument("--repeats", type=integer(1), default=repeats, help="calls of each side that are timed at most")
    parser.add_argument(
        "--rest",
        type=number(0, 60, low_included=True),
        default=0.0,
        metavar="SECONDS",
        help="wait ahead of each time that is taken, until the threads of the side before spin no longer",
    )
    parser.add_argument("--quick", action="store_true", help="small arrays, to try it out; no target is judged")


def bench(options: argparse.Namespace) -> int:
    """Print the tables. 0, also where a target is missed; 1 where two sides differ or a work fails; 2 for wrong use."""
    device = Device(options.device)
    for name in options.tables:
        if device.name == "cuda" or name not in TABLES:
            has = "no tables, only works" if device.name == "cuda" else f"the tables {', '.join(TABLES)}"
            return _refuse(f"argument TABLE: {device.name} has no {name!r}; it has {has}")
    tables = {name: _works(device, name) for name in options.tables or (TABLES if device.name == "cpu" else ["cuda"])}
    every = [work for works in tables.values() for work in works]
    for pattern in options.work or ():
        if not _chosen(every, [pattern]):
            return _refuse(f"argument --work: {device.name} has no {pattern!r}; it has {_stems(every)}")
    tables = {name: chosen for name, works in tables.items() if (chosen := _chosen(works, options.work))}
    if reason := cannot_write(options, [work for works in tables.values() for work in works]):
        return _refuse(reason)
    if options.device == "cuda" and not backend.info()["cuda"]:
        return _refuse(f"no CUDA device: {backend.info()['cuda_reason']}")
    beside = {name: works for name, works in tables.items() if name not in ALONE}
    if device.name == "cuda" or "torch" in sys.modules or not beside or importlib.util.find_spec("torch") is None:
        return measure(device, tables, options)
    code = subprocess.run([sys.executable, "-c", _CHILD, *_arguments(options, beside)]).returncode
    if code not in (0, CHILD_FAILED):  # there may be no file of its rows, or one of an earlier run
        print(f"fusedstep bench: the process beside torch ended with {code}", file=sys.stderr)
        return code if code > 0 else FAILED
    code = FAILED if code == CHILD_FAILED else 0
    alone = {name: works for name, works in tables.items() if name in ALONE}
    options.plot = None  # the child's
    return max(code, measure(device, alone, options, earlier=options.json)) if alone else code


def _gpu_works() -> list[Work]:
    device = Device("cuda")
    return [*steps.works(device), *layers.works(device)]


def _works(device: Device, table: str) -> list[Work]:
    return TABLES[table].works() if device.name == "cpu" else _gpu_works()


def _chosen(works: list[Work], patterns: list[str] | None) -> list[Work]:
    if patterns is None:
        return works
    return [work for work in works if any(fnmatch.fnmatchcase(work.name, pattern) for pattern in patterns)]


def _stems(works: list[Work]) -> str:
    """The names, those of one kernel at many sizes as a pattern."""
    series = [(w, w.about.get("kernel", w.about.get("series"))) for w in works]
    return ", ".join(dict.fromkeys(w.name if stem is None else f"{stem}-*" for w, stem in series))


def cannot_write(options: argparse.Namespace, works: list[Work]) -> str | None:
    """Why --json or --plot could not be written once all is measured; None if they can."""
    for path in (options.json, options.plot):
        if path is None:
            continue
        if not path.parent.is_dir():
            return f"the folder of '{path}' does not exist"
        if path.is_dir():
            return f"'{path}' is a folder"
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            return f"cannot write '{path}': {error.strerror}"
    if options.plot is None:
        return None
    if not any("kernel" in work.about for work in works):
        return "argument --plot: draws kernels by size, and none of these works is one: see the table kernels"
    return plot.unknown_type(options.plot)


def measure(
    device: Device,
    tables: dict[str, list[Work]],
    options: argparse.Namespace,
    program: str = "fusedstep",
    earlier: Path | None = None,
) -> int:
    """Print the tables, and store them behind the rows of the file `earlier`.

    1 where two sides differ or a work fails, else 0.
    """
    same_threads()
    about = machine() | peers_about() | (device.about() if device.name == "cuda" else {})
    print(", ".join(f"{key} {about[key]}" for key in _HEADING if about.get(key) is not None))
    print("times: medians and quartiles of calls in turn; GB/s: bytes read and written, of the ceiling's; ratio: share")
    print("of the ceiling's speed, below it how many times as long a peer takes (x)")
    if options.quick:
        print("--quick: the arrays are far smaller than the titles say, and no target is judged")
    stored = {} if earlier is None else json.loads(earlier.read_text())
    every: list[dict] = stored.get("rows", [])
    failures: dict[str, str] = {}
    for table, works in tables.items():
        print(f"\n{table}\n{header()}")
        rows: list[dict] = []
        for work in works:
            try:
                rows.append(_measure(device, work, options) | {"table": table})
                print("\n".join(lines(rows[-1])), flush=True)
            except Exception as error:  # the other works are worth having
                told = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
                failures[work.name] = told
                print(f"{work.title}: FAILED: {told}", flush=True)
            if options.json is not None:
                both = stored.get("failures", {}) | failures
                write_json(options.json, about | stored.get("machine", {}), [*every, *rows], both, program)
        text = getattr(TABLES.get(table), "text", None)
        if text is not None and rows and not options.quick:
            print("\n".join(text(rows)))
        every += rows
    if options.plot is not None:
        plot.throughput(every, options.plot, about)
    return FAILED if failures else 0


def _measure(device: Device, work: Work, options: argparse.Namespace) -> dict:
    with work.setting():
        sides = work.make(options.quick)
        sides.check()
        if sides.ceiling is not None:
            try:
                sides.ceiling[1]()
            except NoCompilerError as error:
                sides = replace(sides, ceiling=None, missing=sides.missing | {sides.ceiling[0]: str(error)})
        if options.rest:
            before = sides.before
            sides = replace(sides, before=lambda: (before(), time.sleep(options.rest)))
        seconds = CLOCKS[work.clock](device, sides, options.repeats)
    return row(work, sides, seconds, judged=not options.quick)


_HEADING = ("gpu", "driver", "torch's cuda", "cudnn", "processor", "cores", "backend", "num_threads", "isa", "torch")
_HEADING += ("torch's threads", "jax", "optax", "scikit-learn", "numpy", "version", "date")


def _arguments(options: argparse.Namespace, tables: dict[str, list[Work]]) -> list[str]:
    """The options as the command line had them, with these tables and what was chosen of their works."""
    arguments = ["bench", *tables, "--device", options.device, "--repeats", str(options.repeats)]
    arguments += ["--rest", str(options.rest)]
    works = [work for chosen in tables.values() for work in chosen]
    if options.work:
        arguments += ["--work", *(pattern for pattern in options.work if _chosen(works, [pattern]))]
    for name in ("json", "plot"):
        arguments += [f"--{name}", str(getattr(options, name))] if getattr(options, name) else []
    return arguments + (["--quick"] if options.quick else [])


def _refuse(message: str) -> int:
    print(f"fusedstep bench: {message}", file=sys.stderr)
    return WRONG_USE
