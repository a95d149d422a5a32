"""Memory of large results: in huge pages, aligned, and used again."""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections import deque

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

_idle: deque[mmap.mmap] = deque()  # the last given back at the end
_marked: set[int] = set()  # identities of what is marked as free


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


def _find(length: int) -> mmap.mmap | None:
    for memory in reversed(list(_idle)):
        if len(memory) == length:
            with contextlib.suppress(ValueError):  # another thread was faster
                _idle.remove(memory)
                _marked.discard(id(memory))
                return memory
    return None


def _map(length: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"cannot allocate {length} bytes for a result") from error
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _give_back(memory: mmap.mmap) -> None:
    if len(memory) > HELD:
        return
    _idle.append(memory)
    total = 0
    for place, other in reversed(list(enumerate(_idle))):
        total += len(other)
        with contextlib.suppress(ValueError, OSError):  # another thread was faster, or no such advice
            if total > HELD:
                _idle.remove(other)
                _marked.discard(id(other))
            elif total > WARM and id(other) not in _marked:
                _idle.remove(other)  # nobody may take it meanwhile
                other.madvise(mmap.MADV_FREE)
                _marked.add(id(other))
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
