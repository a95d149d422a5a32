"""Build the CUDA kernels for the CPU, with g++ alone.

    python tests/cuda_on_cpu/build.py OUTPUT_DIR
    python tests/cuda_on_cpu/build.py OUTPUT_DIR --sanitize thread --run python -m pytest ...

The module `_cuda_on_cpu` has the functions of `_cuda` and a submodule `emulator` (see emulator.h). Only what has
changed is compiled again. Builds with sanitizers stand beside the plain one.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
MODULE = "_cuda_on_cpu"
COMPILER = "g++"

FLAGS = [
    *("-std=c++17", "-O1", "-g", "-fPIC", "-fvisibility=hidden", "-fno-omit-frame-pointer"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),  # unroll
    f"-I{HERE / 'include'}",
]
MODULE_FLAGS = [
    *("-DFUSEDSTEP_CUDA_MODULE", "-DFUSEDSTEP_CUDA_ON_CPU", f"-DFUSEDSTEP_MODULE_NAME={MODULE}"),
    f"-isystem{sysconfig.get_path('include')}",
]
# What each kind of build is told, and the libraries that have to be loaded before Python for it.
SANITIZERS = {
    None: ([], []),
    "address,undefined": (["-DEMULATOR_ASAN"], ["libasan.so", "libubsan.so"]),
    "thread": (["-DEMULATOR_TSAN"], ["libtsan.so"]),
}
OPTIONS = {
    "address,undefined": ["ASAN_OPTIONS=detect_leaks=0", "UBSAN_OPTIONS=print_stacktrace=1"],  # Python leaks
    # Python and NumPy order their threads by means that the sanitizer cannot see: they are not compiled with it.
    "thread": ["TSAN_OPTIONS=ignore_noninstrumented_modules=1"],
}
EMULATOR = [HERE / "emulator.cpp", HERE / "runtime.cpp"]


def build(output_dir: str | os.PathLike, sanitize: str | None = None, jobs: int | None = None) -> Path:
    """Build the extension module.

    Parameters
    ----------
    output_dir : path
        Where objects and the module go; builds with and without sanitizers have folders of their own in it.
    sanitize : None, "address,undefined" or "thread"
    jobs : int, optional
        How many compilers run at once; by default one a core.

    Returns
    -------
    Path
        The module. Put its folder on `sys.path` to import it.

    Raises
    ------
    subprocess.CalledProcessError
        If a source does not compile; the compiler has then said why on stderr.
    """
    import pybind11

    bindings = [path for path in sorted((CSRC / "bindings").glob("*.cpp")) if path.name != "cpu_module.cpp"]
    sources = [*sorted((CSRC / "cuda").glob("*.cu")), *bindings, *EMULATOR, HERE / "emulator_bindings.cpp"]
    flags = [*MODULE_FLAGS, f"-isystem{pybind11.get_include()}"]
    target = _folder(output_dir, sanitize) / (MODULE + sysconfig.get_config_var("EXT_SUFFIX"))
    return _build(sources, target, flags, ["-shared"], sanitize, jobs)


def build_program(source: Path, output_dir: str | os.PathLike, sanitize: str | None = None) -> Path:
    """Build a program of one file of kernels with a `main`; arguments and errors as for `build`."""
    return _build([source, *EMULATOR], _folder(output_dir, sanitize) / source.stem, [], [], sanitize, None)


def sanitized(command: list[str], sanitize: str | None) -> list[str]:
    """The command that runs `command`, a Python which imports a sanitized build, or a sanitized program.

    An error that a sanitizer finds ends it with an exit code other than 0: at once (addresses, undefined behaviour), or
    at the end (races: 66).
    """
    if sanitize is None:
        return command
    libraries = [_output([COMPILER, f"-print-file-name={name}"]) for name in SANITIZERS[sanitize][1]]
    # ThreadSanitizer cannot start where addresses are much randomized.
    fixed = ["setarch", platform.machine(), "-R"] if sanitize == "thread" and shutil.which("setarch") else []
    return [*fixed, "env", f"LD_PRELOAD={' '.join(libraries)}", *OPTIONS[sanitize], *command]


def _folder(output_dir: str | os.PathLike, sanitize: str | None) -> Path:
    folder = Path(output_dir).resolve() / (sanitize or "plain").replace(",", "_")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _build(
    sources: list[Path], target: Path, flags: list[str], link_flags: list[str], sanitize: str | None, jobs: int | None
) -> Path:
    sanitizer = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=undefined"] if sanitize else []

    def compiled(source: Path) -> Path:
        # ThreadSanitizer must see the kernels, and not the fibers that run them.
        instrument = [] if sanitize == "thread" and source.name == "emulator.cpp" else sanitizer
        output = target.parent / f"{source.parent.name}_{source.name}.o"
        command = [COMPILER, *FLAGS, *flags, *SANITIZERS[sanitize][0], *instrument, "-MMD", "-x", "c++"]
        _make(output, [*command, "-c", str(source), "-o", str(output)], _dependencies(output))
        return output

    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    command = [COMPILER, *link_flags, *sanitizer, *map(str, objects), "-o", str(target)]
    _make(target, command, objects)
    return target


def _make(output: Path, command: list[str], dependencies: list[Path] | None) -> None:
    """Run the command unless the output is newer than all it depends on, and was made by the same command."""
    record = output.with_name(output.name + ".command")
    if dependencies is not None and output.exists() and record.exists() and record.read_text() == shlex.join(command):
        made = output.stat().st_mtime_ns
        if all(path.exists() and path.stat().st_mtime_ns < made for path in dependencies):
            return
    record.unlink(missing_ok=True)  # until it has worked
    subprocess.run(command, check=True)
    record.write_text(shlex.join(command))


def _dependencies(output: Path) -> list[Path] | None:
    """Source and headers of the object, as the compiler wrote them beside it; None if it never did."""
    rule = output.with_suffix(".d")
    if not rule.exists():
        return None
    _, _, names = rule.read_text().replace("\\\n", " ").partition(": ")
    return [Path(name) for name in shlex.split(names)]


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir")
    parser.add_argument("--sanitize", choices=[name for name in SANITIZERS if name])
    parser.add_argument("--jobs", type=int, help="how many compilers run at once (one a core)")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="a command that can import the module; comes last")
    args = parser.parse_args()
    module = build(args.output_dir, args.sanitize, args.jobs)
    print(module, flush=True)
    if not args.run:
        return 0
    paths = [str(module.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(sanitized(args.run, args.sanitize), env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
