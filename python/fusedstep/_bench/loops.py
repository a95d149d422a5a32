"""The loops of traffic.cpp: the speed that memory allows."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from .. import backend

_POINTERS = {"update1": 2, "update2": 3, "update3": 4, "update4": 5, "read": 1, "copy": 2}


class NoCompilerError(RuntimeError):
    """The loops cannot be had."""


class _Loops:
    """The library, compiled when a loop is first asked for."""

    def __getattr__(self, name: str):
        loop = self.__dict__[name] = getattr(_library(), name)  # found at once from now on: small loops are timed, too
        return loop


def compiled_loops() -> _Loops:
    """`update1` to `update4`, `read` and `copy`: each takes addresses of float32 arrays, then their length.

    Compiled for this machine with the compiler that CXX names (c++ by default); without one that does it, the use of a
    loop raises NoCompilerError.
    """
    return _Loops()


def _library() -> ctypes.CDLL:
    compiler = os.environ.get("CXX", "c++")
    command = shlex.split(compiler)  # "ccache g++", too
    if not command or shutil.which(command[0]) is None:
        raise NoCompilerError(f"needs a C++ compiler, but there is no {compiler}: set CXX")
    try:
        return _compile(*command)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (error.strerror or str(error)) if isinstance(error, OSError) else error.stderr
        reason = said.strip().splitlines() or ["no reason given"]
        raise NoCompilerError(f"is not to be had from {compiler}: {reason[-1]}") from error


@functools.cache
def _compile(*compiler: str) -> ctypes.CDLL:
    source = Path(__file__).with_name("traffic.cpp")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traffic.so"
        flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run([*compiler, *flags, str(source), "-o", str(path)], check=True, capture_output=True, text=True)
        library = ctypes.CDLL(str(path))
    for name, pointers in _POINTERS.items():
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64]
        function.restype = ctypes.c_uint32 if name == "read" else None
    library.set_threads(backend.get_num_threads())  # as many as ours: FUSEDSTEP_NUM_THREADS
    return library
