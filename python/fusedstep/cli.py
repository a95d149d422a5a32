"""The command line: ``fusedstep info``, ``train``, ``predict`` and ``bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from . import __version__, backend
from ._bench.command import add_bench_command
from ._commands.messages import note
from ._commands.predict import add_predict_command
from ._commands.train import add_train_command

NO_BACKEND = 1
WRONG_USE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process when None.

    Returns
    -------
    int
        The exit code: 0; 1 of `info` where the environment's settings let no kernel run; 2 for what cannot be done as
        asked, be it a wrong option, a missing package or too little memory (one line on stderr); 130 after Ctrl-C; 141
        when the reader of stdout has gone.
    """
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except MemoryError as error:
        return _refuse(f"not enough memory: {error}")
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except (ImportError, RuntimeError, ValueError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt as interruption:
        note(str(interruption) or "interrupted")
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(argv)
    except SystemExit as end:  # argparse, after --help, --version or a wrong option
        return int(end.code or 0)
    return options.command(options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One line; argparse would print the usage, too."""
        self.exit(WRONG_USE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fusedstep", description="Train neural networks with fused kernels.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fusedstep {__version__}")
    commands = parser.add_subparsers(required=True, metavar="{info,train,predict,bench}")

    info = commands.add_parser("info", help="show the version, the backend and the instruction set in use")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(command=_info)

    add_train_command(commands)
    add_predict_command(commands)
    add_bench_command(commands)
    return parser


def _info(options: argparse.Namespace) -> int:
    facts = backend.info()
    if options.json:
        print(json.dumps(facts, indent=1, default=str))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):<{width}}  {_readable(value)}")
    return 0 if facts["backend"] else NO_BACKEND


def _readable(value) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _refuse(message: str) -> int:
    note(message)
    return WRONG_USE
