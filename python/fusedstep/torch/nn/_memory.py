"""New tensors for results."""

from __future__ import annotations

import numpy as np
import torch

from ..._arena import aligned_zeros

_LARGE = 1 << 25
"""Bytes: from here on the C library asks the system for new memory at each allocation."""


def empty_like(x):
    """`torch.empty_like(x)`; a large one on the CPU in huge pages.

    The system hands new memory out page by page at the first write, which takes as long as the kernel that writes: in
    pages of 4 KiB 25 ms for 100 MB. NumPy asks for huge ones where it allocates, torch does not.
    """
    if not x.is_cpu or x.numel() * x.itemsize < _LARGE:
        return torch.empty_like(x)
    layout = torch.empty_like(x, device="meta")
    memory = torch.from_numpy(aligned_zeros(x.numel() * x.itemsize, np.uint8)).untyped_storage()
    # A tensor of its own, not a view of one: autograd forbids to change the view that a Function returned.
    return torch.empty(0, dtype=x.dtype).set_(memory, 0, layout.size(), layout.stride())
