"""Compiles kernels_hash.cpp with every compiler that is named and compares what the programs print.

    python tests/cpp/compare.py BUILD_FOLDER [--compilers g++ g++-without-openmp clang++ aarch64-linux-gnu-g++]

The programs of aarch64 run under qemu-user. A compiler that is missing is an error: what did not run proves nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPECIAL = {  # the compiler, options of CMake, and what runs the program
    "g++-without-openmp": ("g++", ["-DFUSEDSTEP_OPENMP=OFF"], []),  # as the wheels of macOS are made
    "aarch64-linux-gnu-g++": (
        "aarch64-linux-gnu-g++",
        ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"],
        ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"],
    ),
}


def hashes(name: str, folder: Path) -> str:
    """What the program prints that the compiler of this name makes."""
    compiler, options, runner = SPECIAL.get(name, (name, [], []))
    for tool in (compiler, "cmake", *runner[:1]):
        if shutil.which(tool) is None:
            sys.exit(f"there is no {tool}")
    build = folder / name
    fixed = ["-DCMAKE_BUILD_TYPE=Release", "-DFUSEDSTEP_KERNELS_HASH=ON", "-DFUSEDSTEP_WERROR=ON"]
    configure = ["cmake", "-S", ROOT, "-B", build, f"-DCMAKE_CXX_COMPILER={compiler}", *fixed, *options]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", build, "-j2"], check=True, stdout=subprocess.DEVNULL)
    command = [*runner, str(build / "kernels_hash")]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compilers", nargs="+", default=["g++", "clang++", *SPECIAL])
    arguments = parser.parse_args()
    printed = {name: hashes(name, arguments.folder) for name in arguments.compilers}
    (first, expected), *others = printed.items()
    differing = 0
    for name, lines in others:
        pairs = zip(expected.splitlines(), lines.splitlines(), strict=True)
        different = [mine.partition(" ")[2] for mine, other in pairs if mine != other]
        differing += len(different)
        print(f"{name}: {', '.join(different) or 'the bits'} {'differ from' if different else 'of'} {first}")
    print(f"{len(expected.splitlines())} kernels")
    return differing != 0


if __name__ == "__main__":
    sys.exit(main())
