"""Memory of large results: in huge pages, aligned, and used again."""

from __future__ import annotations

import contextlib
import mmap
import weakref

import numpy as np

from ._arena import aligned_zeros, placed

LARGE = 1 << 25
"""Bytes: from here on the C library asks the system for new memory at each allocation."""

HELD = 1 << 30
"""Bytes that are kept for the next results at most."""

WARM = 1 << 28
"""Bytes of them that the system is not told to take when it runs short: to tell it costs 1 ms for 100 MB."""

_HUGE = 1 << 21
_POSSIBLE = hasattr(mmap, "MADV_HUGEPAGE") and hasattr(mmap, "MADV_FREE")


class _Memory(mmap.mmap):
    marked = False  # as free


# The last given back at the end. Memory comes back at any time, from any thread or from the collector of garbage, also
# in the midst of the functions below: each works on a copy, and has what it could remove for itself.
_idle: list[_Memory] = []


def take(size: int) -> np.ndarray:
    """`size` bytes, not set to anything; they come back here when the last array on them is gone.

    The system hands new memory out page by page at the first write and clears it before, which takes longer than the
    kernel that writes. So memory is kept for the next result of its size, as a model asks for the same sizes at each
    step; what lies idle longest is marked as free, for the system to take when it runs short.
    """
    if not _POSSIBLE:
        return aligned_zeros(size, np.uint8)
    length = -(-(size + mmap.PAGESIZE) // _HUGE) * _HUGE
    memory = _find(length) or _map(length)
    # The last array on the memory: NumPy makes it the base of every view, also of views of views.
    owner = np.frombuffer(memory, np.uint8)
    weakref.finalize(owner, _give_back, memory).atexit = False
    return placed(owner, size)


def _find(length: int) -> _Memory | None:
    for memory in reversed(_idle.copy()):
        if len(memory) == length:
            with contextlib.suppress(ValueError):  # another thread was faster
                _idle.remove(memory)
                memory.marked = False
                return memory
    return None


def _map(length: int) -> _Memory:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        memory = _Memory(-1, length, flags=flags)
    except OSError:
        _idle.clear()  # a limit of the process counts it, too
        try:
            memory = _Memory(-1, length, flags=flags)
        except OSError as error:
            raise MemoryError(f"cannot allocate {length} bytes for a result") from error
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _give_back(memory: _Memory) -> None:
    if len(memory) > HELD:
        return
    _idle.append(memory)
    total = 0
    for place, other in reversed(list(enumerate(_idle.copy()))):
        total += len(other)
        with contextlib.suppress(ValueError, OSError):  # another thread was faster, or no such advice
            if total > HELD:
                _idle.remove(other)
            elif total > WARM and not other.marked:
                _idle.remove(other)  # nobody may take it meanwhile
                other.madvise(mmap.MADV_FREE)
                other.marked = True
                _idle.insert(place, other)


def empty_array(x: np.ndarray) -> np.ndarray:
    """`numpy.empty_like(x)`"""
    if x.nbytes < LARGE or type(x) is not np.ndarray or not x.flags.forc:
        return np.empty_like(x)
    order = "C" if x.flags.c_contiguous else "F"
    return np.ndarray(x.shape, x.dtype, take(x.nbytes), order=order)


def empty_tensor(torch, x, dtype=None):
    """`torch.empty_like(x, dtype=dtype)`"""
    dtype = x.dtype if dtype is None else dtype
    plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.is_cpu and x.layout is torch.strided
    if not plain or x.numel() * dtype.itemsize < LARGE:
        return torch.empty_like(x, dtype=dtype)
    layout = torch.empty_like(x, device="meta")
    memory = torch.from_numpy(take(x.numel() * dtype.itemsize)).untyped_storage()
    # A tensor of its own, not a view of one: autograd forbids to change the view that a Function returned.
    return torch.empty(0, dtype=dtype, device="cpu").set_(memory, 0, layout.size(), layout.stride())
