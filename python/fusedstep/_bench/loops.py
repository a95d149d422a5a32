"""The loops of traffic.cpp: the speed that memory allows."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_POINTERS = {"update1": 2, "update2": 3, "update3": 4, "update4": 5, "read": 1, "copy": 2}


def compiled_loops() -> ctypes.CDLL:
    """`update1` to `update4`, `read` and `copy`: each takes addresses of float32 arrays, then their length.

    Compiled for this machine with the compiler that CXX names (c++ by default).
    """
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise RuntimeError(f"the loop of the same traffic needs a C++ compiler, but there is no {compiler}: set CXX")
    return _compile(compiler)


@functools.cache
def _compile(compiler: str) -> ctypes.CDLL:
    source = Path(__file__).with_name("traffic.cpp")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traffic.so"
        flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, str(source), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    for name, pointers in _POINTERS.items():
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64]
        function.restype = ctypes.c_uint32 if name == "read" else None
    return library
