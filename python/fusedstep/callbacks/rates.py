"""What callbacks share that set the step size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._device import device_of, is_cupy

if TYPE_CHECKING:
    from ..training import Run


def check_rates(where: str, run: Run) -> None:
    """Refuse a run whose step size is not `where`'s to set: that of a schedule, or of another callback."""
    others = [type(c).__name__ for c in run.callbacks if c.changes_lr]
    if len(others) > 1:
        raise ValueError(f"[{where}] one callback alone may set the step size but fit got {', '.join(others)}")
    groups = getattr(run.optimizer, "param_groups", ())
    if not groups:
        raise TypeError(f"[{where}] 'optimizer' must have param_groups but got {run.optimizer!r}")
    for group in groups:
        if callable(group["lr"]):
            raise ValueError(
                f"[{where}] 'lr' of the optimizer must be a number or an array but is a function, which sets the step "
                "size already"
            )


def set_rates(optimizer, rate) -> None:
    """Give each group the step size ``rate(its own)``. An array is written into, not replaced."""
    seen = set()  # groups may share an array
    for group in optimizer.param_groups:
        lr = group["lr"]
        if not is_cupy(lr):
            group["lr"] = rate(float(lr))
        elif id(lr) not in seen:
            seen.add(id(lr))
            device_of(lr).write(lr, rate(float(lr)))
