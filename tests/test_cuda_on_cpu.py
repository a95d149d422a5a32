"""The emulator that runs CUDA kernels on the CPU: right kernels give right results, planted faults are found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_on_cpu.build import build_program, sanitized

SOURCE = Path(__file__).with_name("cuda_on_cpu") / "planted.cu"
SEEDS = range(5)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="needs g++ and Linux's ucontext"
)

CORRECT = {
    "sum": "1507509",
    "last-block": "210 20",
    "warp-barrier": " ".join(str(t ^ 3) for t in range(64)) + " 0",
    "warp-barrier-of-some": " ".join(str(max(19 - t, 0)) for t in range(33)),
    "warp-operations": "3 30 5 3 1227133513 1 1 43691\n"
    "3 31 4 3 1227133513 1 1 43691\n"
    "3 31 26 3 1227133513 1 1 99\n"
    "35 37 32 35 1227133513 1 1 43691",
    "atomics": "-120 39 ffffffff 120",
    "indices": "0 wrong of 1680",
}

ERRORS = {
    "early-return": "barrier not reached by every thread: this one waits at LINE; of 96 threads 95 wait at "
    "__syncthreads, 0 at a warp operation, and 1 have returned",
    "different-barriers": "threads meet at different __syncthreads: ",
    "different-warp-operations": "lanes of one warp meet at different places or with different masks: ",
    "shuffle-from-absent-lane": "thread (15, 0, 0): shuffle from lane 16, which takes no part, at LINE",
    "not-in-mask": "thread (0, 0, 0): lane 0 is not in its own mask at LINE",
}

RACES = ["missing-barrier", "reused-array", "missing-fence", "overlapping-blocks", "shuffle-as-barrier"]


class Program:
    """planted.cu, built with one kind of sanitizer."""

    def __init__(self, folder: Path, sanitize: str | None) -> None:
        self.path, self.sanitize = build_program(SOURCE, folder, sanitize), sanitize

    def __call__(self, case: str, seed: int = 0) -> subprocess.CompletedProcess[str]:
        command = sanitized([str(self.path), case, str(seed)], self.sanitize)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def plain(folder):
    return Program(folder, None)


@pytest.fixture(scope="module")
def addresses(folder):
    return Program(folder, "address,undefined")


@pytest.fixture(scope="module")
def races(folder):
    program = Program(folder, "thread")
    started = program("indices")
    if "unexpected memory mapping" in started.stderr:
        pytest.skip("ThreadSanitizer cannot start here, with addresses so randomized")
    return program


def marked_line(case: str) -> str:
    """planted.cu:LINE of the line that bears the fault."""
    lines = SOURCE.read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.endswith(f"fault: {case}"))
    return f"planted.cu:{number}"


def assert_correct(program: Program, case: str, seed: int) -> None:
    run = program(case, seed)
    assert run.returncode == 0, run.stderr
    assert "ERROR" not in run.stderr
    assert [line.strip() for line in run.stdout.splitlines()] == CORRECT[case].splitlines()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", CORRECT)
def test_correct_kernels(plain, case, seed):
    assert_correct(plain, case, seed)


@pytest.mark.parametrize("case", ERRORS)
def test_threads_that_do_not_meet(plain, case):
    run = plain(case)
    assert run.returncode == 1
    assert run.stdout.startswith(f"error: kernel '{case.replace('-', '_')}', block (")
    assert ERRORS[case].replace("LINE", marked_line(case)) in run.stdout
    assert marked_line(case) in run.stdout


def test_the_next_launch_after_an_error(plain):
    lines = plain("recovery").stdout.splitlines()
    assert "barrier not reached" in lines[0]
    assert lines[1:] == [CORRECT["sum"], "2 launches, 0 allocations"]


def test_the_schedule_is_shuffled(plain):
    """Blocks and the threads in them, anew for every launch, and by the seed alone."""
    outputs = [plain("order", seed).stdout for seed in SEEDS]
    assert plain("order", SEEDS[-1]).stdout == outputs[-1]
    orders = [tuple(map(int, line.split())) for output in outputs for line in output.splitlines()]
    assert len(set(orders)) == len(orders) == 2 * len(SEEDS)
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(thread // 8 for thread in order) for order in orders}) > 3
    assert len({tuple(thread for thread in order if thread < 8) for order in orders}) > 3


def test_missing_barrier_shows_in_the_result(plain):
    outputs = {plain("missing-barrier", seed).stdout for seed in SEEDS}
    assert outputs - {CORRECT["sum"] + "\n"}


def test_launch_configurations(plain):
    """The limits are CUDA's. The last two: an error on demand, once."""
    accepted, refused = "cudaSuccess, ran", "cudaErrorInvalidConfiguration"
    lines = plain("configurations").stdout.splitlines()
    assert lines == [accepted] * 2 + [refused] * 7 + ["cudaErrorLaunchFailure", accepted]


def test_memory(plain):
    """New memory is NaN and aligned to 256 bytes; allocations are counted; a foreign pointer is not freed."""
    assert plain("memory").stdout == "1 0 1 0 cudaErrorInvalidValue\n"


def test_only_what_has_changed_is_built(plain, folder):
    before = {path: path.stat().st_mtime_ns for path in plain.path.parent.iterdir()}
    assert build_program(SOURCE, folder) == plain.path
    assert {path: path.stat().st_mtime_ns for path in plain.path.parent.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("case", CORRECT)
def test_correct_kernels_under_address_sanitizer(addresses, case):
    assert_correct(addresses, case, 1)


@pytest.mark.slow
def test_address_sanitizer_finds_a_read_out_of_bounds(addresses):
    run = addresses("out-of-bounds")
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
    assert marked_line("out-of-bounds") in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["addresses", "races"])
def test_errors_leave_the_sanitizers_in_order(request, sanitizer):
    run = request.getfixturevalue(sanitizer)("recovery")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1:] == [CORRECT["sum"], "2 launches, 0 allocations"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", CORRECT)
def test_correct_kernels_under_thread_sanitizer(races, case, seed):
    assert_correct(races, case, seed)


@pytest.mark.slow
@pytest.mark.parametrize("case", RACES)
def test_thread_sanitizer_finds_the_race(races, case):
    run = races(case)
    assert run.returncode == 66
    assert "ThreadSanitizer: data race" in run.stderr
    assert marked_line(case) in run.stderr


def test_division_by_a_product(folder):
    program = build_program(SOURCE.with_name("divider.cu"), folder)
    result = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
