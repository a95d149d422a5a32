"""How much memory there is, and how large a batch it holds."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .._device import CPU, Gpu, get_device
from ..nn import Sequential
from ..nn.accounting import held_bytes, parameter_bytes, training_bytes
from ..reference.scalars import check_integer

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_LARGEST = 1 << 40
_RESERVE = 1 << 25  # for what no accounting sees: scratch memory of kernels and of the BLAS


def largest_batch_size(
    model: Sequential, sample_shape: Sequence[int], memory: int | None = None, *, optimizer=None
) -> int:
    """The largest power of two of samples that a model can be trained on at a time.

    Counted are parameters and gradients, the optimizer's states, and what a training step keeps: the buffers of the
    layers, as the model itself would make them, the batch and the next one. 32 MiB are left for the rest.

    Parameters
    ----------
    model : Sequential
    sample_shape : sequence of int
        The shape of one sample: ``(784,)``, ``(3, 32, 32)``.
    memory : int, optional
        Bytes that training may take in all. None: what is free on the model's device, the CPU or the GPU, and what
        the model, and the optimizer that is given, take already. On the CPU the limits of the process and its control
        group count, too.
    optimizer : Optimizer, optional
        What its states take. None: two values a parameter, as Adam keeps.

    Returns
    -------
    int

    Raises
    ------
    TypeError, ValueError
        `sample_shape` does not fit the model, or not even one sample fits into the memory.
    RuntimeError
        `memory` is None, and this system does not tell how much memory is free.

    Examples
    --------
    >>> import fusedstep as fs
    >>> model = fs.nn.Sequential(fs.nn.Dense(784, 256), fs.nn.ReLU(), fs.nn.Dense(256, 10))
    >>> fs.data.largest_batch_size(model, (784,), memory=1 << 30)
    65536
    """
    if not isinstance(sample_shape, Sequence):
        raise TypeError(
            f"[largest_batch_size] 'sample_shape' must be a sequence such as (784,) but got {sample_shape!r}"
        )
    shape = tuple(check_integer("largest_batch_size", "sample_shape", size, 1) for size in sample_shape)
    own = 2 * parameter_bytes(model)
    states = 2 * parameter_bytes(model) if optimizer is None else _state_bytes(model, optimizer)
    if memory is None:
        free = free_memory(model.device)
        if free is None:
            raise RuntimeError("[largest_batch_size] this system does not tell how much memory is free: give 'memory'")
        memory = free + held_bytes(model) + own + (0 if optimizer is None else states)
    memory = check_integer("largest_batch_size", "memory", memory, 1)
    left = memory - own - states - _RESERVE
    size = largest_that_fits(model, shape, left)
    if size == 0:
        raise ValueError(
            f"[largest_batch_size] not even one sample fits: parameters, gradients and optimizer states take "
            f"{readable(own + states)}, a step on one sample {readable(training_bytes(model, (1, *shape)))}, and "
            f"{readable(_RESERVE)} are kept free, but there are {readable(memory)}"
        )
    return size


def _state_bytes(model: Sequential, optimizer) -> int:
    return sum(state.nbytes for p in model.parameters() for state in optimizer.state_arrays(p.name).values())


def largest_that_fits(model: Sequential, sample_shape: tuple[int, ...], memory: int, ahead: int = 0) -> int:
    """The largest power of two of samples whose training step takes at most `memory` bytes; 0 if there is none."""
    size = 1
    while size <= _LARGEST and training_bytes(model, (size, *sample_shape), ahead) <= memory:
        size *= 2
    return size // 2


def check_batch_fits(
    model: Sequential, sample_shape: tuple[int, ...], batch_size: int, ahead: int = 0, windows: int = 0
) -> None:
    """Raise ValueError if a batch cannot fit into the memory that is free, and say how large one can be.

    `ahead` is as for `training_bytes`; `windows` are bytes that reading from a disk takes.
    """
    free = free_memory(model.device)
    if free is None:
        return
    free += held_bytes(model) - windows
    need = training_bytes(model, (batch_size, *sample_shape), ahead)
    if need <= free:
        return
    size = largest_that_fits(model, sample_shape, free - _RESERVE, ahead)
    fits = f"batches of {size} fit; accumulate=k makes one step of k of them" if size else "not even one sample fits"
    raise ValueError(
        f"[fit] a batch of {batch_size} samples needs {readable(need)} of memory on {model.device} "
        f"but {readable(max(free, 0))} are free: {fits}"
    )


def free_memory(device: str) -> int | None:
    """Bytes that can still be taken on a device, None where the system does not tell."""
    place = get_device(device)
    if isinstance(place, Gpu):
        with place.active():
            pool = place.xp.get_default_memory_pool()
            return place.xp.cuda.runtime.memGetInfo()[0] + pool.free_bytes()
    assert place is CPU
    known = [*_system(), *_control_group(), *_process()]
    return max(0, min(known)) if known else None


def readable(n_bytes: int) -> str:
    """A size as a person writes it.

    >>> readable(3 << 29)
    '1.5 GiB'
    """
    exponent = min(int(math.log2(max(n_bytes, 1))) // 10, 4)
    return f"{n_bytes / 1024**exponent:.3g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[exponent]}"


def _system() -> list[int]:
    """What the system can give without swapping."""
    fields = _fields("/proc/meminfo")
    if "MemAvailable" in fields:
        return [fields["MemAvailable"]]
    if sys.platform != "win32" and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return []


def _control_group() -> list[int]:
    """What the limits of this process's control group and those above it leave, each that has one.

    File pages that a group caches are given back when needed.
    """
    left = []
    for mounted, controller, limit, used in (
        (_GROUPS, "", "memory.max", "memory.current"),
        (_GROUPS / "memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        inside = mounted / _path_of_group(controller)
        for folder in (inside, *inside.parents):
            try:
                free = int((folder / limit).read_text()) - int((folder / used).read_text())
                left.append(free + _fields(folder / "memory.stat").get("inactive_file", 0))
            except (OSError, ValueError):  # there is none, or it is "max"
                pass
            if folder == mounted:
                break
    return left


def _path_of_group(controller: str) -> str:
    """Where the group of this process is below the place where groups are mounted; "" where nothing says so."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return ""
    found = [path for _, names, path in (line.split(":", 2) for line in lines) if controller in names.split(",")]
    return found[0].lstrip("/") if found and ".." not in found[0] else ""


def _process() -> list[int]:
    """What the limits of this process leave."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    status = _fields("/proc/self/status")
    left = []
    for kind, used in (("RLIMIT_DATA", "VmData"), ("RLIMIT_AS", "VmSize")):
        limit = resource.getrlimit(getattr(resource, kind))[0]
        if limit != resource.RLIM_INFINITY and used in status:
            left.append(limit - status[used])
    return left


def _fields(path) -> dict[str, int]:
    """The sizes in a file of lines such as "VmData:  120 kB" or "inactive_file 4096", in bytes."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    fields = {}
    for line in lines:
        name, *rest = line.replace(":", " ").split() or [""]
        if rest and rest[0].isdigit():
            fields[name] = int(rest[0]) * (1024 if rest[1:] == ["kB"] else 1)
    return fields
