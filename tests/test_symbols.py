"""No code compiled for one instruction set may be shared with another by the linker.

A weak symbol in an object file of the kernels (an inline function that was not inlined) would be merged with its
copies elsewhere: the AVX-512 one may then run on a processor that lacks it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "csrc" / "cpu" / "kernels.cpp"
COMPILER, NM = shutil.which("g++"), shutil.which("nm")


@pytest.mark.skipif(not (COMPILER and NM and sys.platform == "linux"), reason="needs g++ and nm")
@pytest.mark.parametrize("level", ["-O1", "-O3"])
def test_kernels_export_one_strong_symbol(tmp_path, level):
    out = tmp_path / "kernels.o"
    flags = ["-std=c++17", level, "-fPIC", "-fopenmp-simd", "-fvisibility=hidden", "-DFUSEDSTEP_ISA_NAME=baseline"]
    subprocess.run([COMPILER, *flags, "-c", str(SOURCE), "-o", str(out)], check=True)
    lines = subprocess.run([NM, "-C", "--defined-only", str(out)], check=True, capture_output=True, text=True).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in lines.splitlines()]
    assert [s for s in symbols if s[0] in "WwVvuCi"] == []
    assert [name for kind, name in symbols if kind.isupper()] == ["fusedstep::kernels_baseline()"]
