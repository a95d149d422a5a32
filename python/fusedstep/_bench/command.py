"""The subcommand ``fusedstep bench``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .. import backend
from .._arguments import HelpFormatter, integer
from .._extras import require
from . import cpu, layers, steps
from .device import Device
from .table import Sides, Work, header, line, row, write_json
from .timing import in_turn, machine

WRONG_USE = 2
FAILED = 1

# How the sides of a work are timed: (device, sides, repeats) -> seconds of each function.
CLOCKS: dict[str, Callable[[Device, Sides, int], dict[str, list[float]]]] = {
    # the device's time: the host queues a call's launches while the device is still busy
    "device": lambda device, sides, repeats: device.in_turn(sides.functions(), repeats, device.queue_ahead(2e-3)),
    "device, 20 ms ahead": lambda device, sides, repeats: device.in_turn(
        sides.functions(), repeats, device.queue_ahead(20e-3)
    ),
    # between events around the call as it comes: the device's time or the host's, whichever is longer
    "call": lambda device, sides, repeats: device.in_turn(sides.functions(), repeats),
    # the host's time until the call returns
    "host": lambda device, sides, repeats: in_turn(sides.functions(), repeats, before=_ready(device, sides)),
    "host, 200 calls": lambda device, sides, repeats: in_turn(
        sides.functions(), repeats, warm_up=100, calls=200, before=_ready(device, sides)
    ),
}


def _ready(device: Device, sides: Sides) -> Callable[[], object]:
    def before():
        sides.before()
        device.synchronize()

    return before


# The child imports torch first, so that its OpenMP threads wait as torch's users know them, not passively.
_CHILD = "import sys, torch\nfrom fusedstep.cli import main\nsys.exit(main(sys.argv[1:]))"


def add_bench_command(commands) -> None:
    """Add ``bench`` to a parser's subcommands."""
    names = "; ".join(
        f"{device}: {', '.join(work.name for work in _works(Device(device)))}" for device in ("cpu", "cuda")
    )
    parser = commands.add_parser(
        "bench",
        help="measure the kernels beside torch",
        description=f"Works of {names}.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the kernels run")
    add_options(parser)
    parser.set_defaults(command=bench)


def add_options(parser: argparse.ArgumentParser, repeats: int = 100) -> None:
    """The choice of the works, and the options that `measure` reads."""
    parser.add_argument("--work", nargs="+", metavar="NAME", help="only these works, see above")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    parser.add_argument("--repeats", type=integer(1), default=repeats, help="calls of each side that are timed")
    parser.add_argument("--quick", action="store_true", help="small arrays, to try it out; no target is judged")


def bench(options: argparse.Namespace) -> int:
    """Print the table. 0, also where a target is missed; 1 where two sides differ or a work fails; 2 for wrong use."""
    device = Device(options.device)
    chosen = {work.name: work for work in _works(device)}
    unknown = [name for name in options.work or () if name not in chosen]
    if unknown:
        return _refuse(f"argument --work: {options.device} has no {unknown[0]!r}; it has {', '.join(chosen)}")
    if options.device == "cuda" and not backend.info()["cuda"]:
        return _refuse(f"no CUDA device: {backend.info()['cuda_reason']}")
    if options.device == "cpu" and "torch" not in sys.modules:
        require("torch", extra="torch")
        return subprocess.run([sys.executable, "-c", _CHILD, *_arguments(options)]).returncode
    return measure(device, [chosen[name] for name in options.work or chosen], options)


def _works(device: Device) -> list[Work]:
    return cpu.works() if device.name == "cpu" else [*steps.works(device), *layers.works(device)]


def measure(device: Device, works: list[Work], options: argparse.Namespace, program: str = "fusedstep") -> int:
    """Print the table of the works, and store it. 1 where two sides differ or a work fails, else 0."""
    torchs = {"torch": device.torch.__version__, "torch's threads": device.torch.get_num_threads()}
    about = machine() | torchs | (device.about() if device.name == "cuda" else {})
    print(", ".join(f"{key} {about[key]}" for key in _HEADING if about.get(key) is not None))
    print("times in us: medians and quartiles of calls in turn; GB/s: bytes read and written")
    if options.quick:
        print("--quick: the arrays are far smaller than the titles say, and no target is judged")
    print(header())
    rows: list[dict] = []
    failures: dict[str, str] = {}
    for work in works:
        try:
            rows.append(_measure(device, work, options))
            print(line(rows[-1]), flush=True)
        except (AssertionError, RuntimeError) as error:  # the other works are worth having
            failures[work.name] = str(error)
            print(f"{work.title}: FAILED: {error}", flush=True)
        if options.json is not None:
            write_json(options.json, about, rows, failures, program)
    return FAILED if failures else 0


def _measure(device: Device, work: Work, options: argparse.Namespace) -> dict:
    sides = work.make(options.quick)
    sides.check()
    seconds = CLOCKS[work.clock](device, sides, options.repeats)
    return row(work, sides, seconds, judged=not options.quick)


_HEADING = ("gpu", "driver", "torch's cuda", "cudnn", "processor", "cores", "num_threads", "isa", "torch")
_HEADING += ("torch's threads", "version", "date")


def _arguments(options: argparse.Namespace) -> list[str]:
    """The options as the command line had them."""
    arguments = ["bench", "--device", options.device, "--repeats", str(options.repeats)]
    arguments += ["--work", *options.work] if options.work else []
    arguments += ["--json", str(options.json)] if options.json else []
    return arguments + (["--quick"] if options.quick else [])


def _refuse(message: str) -> int:
    print(f"fusedstep bench: {message}", file=sys.stderr)
    return WRONG_USE
