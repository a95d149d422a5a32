"""The GPU as the benchmark uses it, through torch: times by CUDA events, the copy's bandwidth, its description."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

from .._extras import require
from .timing import Functions, shuffled

_CYCLES_A_SECOND = 2e9  # about; a spin need only outlast the host's part of a call

_PART = 1 << 18  # values; what is made of so many stays in the cache


@dataclass(frozen=True)
class Device:
    """Where torch puts the arrays; works are built on "cpu", too, for tests."""

    name: str

    @cached_property
    def torch(self) -> ModuleType:
        """The module, imported when it is first needed."""
        return require("torch", extra="torch")

    def normal(self, *shape: int, dtype: str = "float32"):
        """A tensor of normal values, the same in every run."""
        generator = self.torch.Generator(self.name).manual_seed(sum(shape))
        kind = getattr(self.torch, dtype)
        return self.torch.empty(shape, dtype=kind, device=self.name).normal_(generator=generator)

    def copy(self, bytes_moved: int) -> tuple[str, Callable[[], object]]:
        """The ceiling: a copy on the device that reads and writes `bytes_moved` bytes together."""
        n = max(1, bytes_moved // 8)
        source, target = (self.torch.ones(n, dtype=self.torch.float32, device=self.name) for _ in range(2))
        return "copy", lambda: target.copy_(source)

    def assert_close(self, name: str, actual, expected, tolerance: float) -> None:
        """AssertionError unless all values differ by `tolerance` or less; NaN never passes."""
        pairs = zip(actual.flatten().split(_PART), expected.flatten().split(_PART), strict=True)
        for a, e in pairs if actual.numel() else ():  # in parts, as float64 takes twice the memory
            difference = (a.double() - e.double()).abs().max().item()
            if not difference <= tolerance:
                raise AssertionError(f"{name} differs by {difference:.3g} from the peer's, more than {tolerance:.3g}")

    def assert_close_in_ulps(self, name: str, actual, expected, ulps: int) -> None:
        """The same, with the tolerance in units in the last place of the largest value expected."""
        largest = max(abs(end.item()) for end in self.torch.aminmax(expected)) if expected.numel() else 0.0
        unit = self.torch.finfo(expected.dtype).eps * largest
        self.assert_close(name, actual, expected, ulps * unit)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.name == "cuda":
            self.torch.cuda.synchronize()

    def in_turn(
        self, functions: Functions, repeats: int, before: Callable[[], object] = lambda: None, warm_up: int = 10
    ) -> dict[str, list[float]]:
        """Seconds between an event before a call and one behind it, by turns; nothing waits in between.

        `before` runs ahead of each first event.
        """
        cuda = self.torch.cuda
        for _ in range(warm_up):
            for function in functions.values():
                function()
        cuda.synchronize()
        events: dict[str, list[tuple]] = {name: [] for name in functions}
        for turn in range(repeats):
            for name, function in shuffled(functions, turn):
                before()
                start, end = (cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                function()
                end.record()
                events[name].append((start, end))
        cuda.synchronize()
        return {name: [start.elapsed_time(end) * 1e-3 for start, end in pairs] for name, pairs in events.items()}

    def queue_ahead(self, host_seconds: float) -> Callable[[], object]:
        """A function to run before a timed call, so that the events see the device's time alone.

        It reads four times the cache, so that every call begins with a cold one and none finds what the one before it
        left to be written back; then it spins for `host_seconds`, during which the host queues the call's launches.
        """
        torch = self.torch
        scratch = torch.ones(torch.cuda.get_device_properties().L2_cache_size, dtype=torch.float32, device=self.name)

        def before():
            torch.sum(scratch)
            torch.cuda._sleep(int(host_seconds * _CYCLES_A_SECOND))

        return before

    def about(self) -> dict:
        """The GPU, its driver, and the versions of what runs on it."""
        torch = self.torch
        properties = torch.cuda.get_device_properties()
        return {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "cache": properties.L2_cache_size,
            "driver": _driver(),
            "torch": torch.__version__,
            "torch's cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }


def _driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(asked, capture_output=True, text=True).stdout.split()
    return lines[0] if lines else None
