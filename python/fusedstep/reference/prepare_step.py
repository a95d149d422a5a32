"""What a step needs to know beforehand, from the norm of the gradients: the twin of `count_step` in csrc/launch.h."""

from __future__ import annotations

from .arrays import FLOATING, check_overlap, check_scalar, scalar_arrays
from .scalars import check_finite, check_max_norm, clipping_factor, read_number


def check_prepare_step(skip, norm, nonfinite, grad_multiplier, max_norm) -> None:
    """The numbers, and which arguments need which."""
    check_finite("prepare_step", "grad_multiplier", grad_multiplier)
    check_max_norm("prepare_step", max_norm)
    if max_norm is not None and norm is None:
        raise ValueError("[prepare_step] 'max_norm' needs 'norm'")
    if skip is not None and nonfinite is None:
        raise ValueError("[prepare_step] 'skip' needs 'nonfinite'")


def prepare_step(
    step, multiplier, skip=None, *, norm=None, nonfinite=None, grad_multiplier=1.0, max_norm=None, skipped=None
) -> None:
    """Count the step and fold clipping into its multiplier; or, where a gradient is not finite, skip it and count that.

    ``step += 1; multiplier = grad_multiplier * min(1, max_norm / (norm * abs(grad_multiplier) + 1e-6))``
    """
    number = read_number("grad_multiplier", grad_multiplier, FLOATING)
    check_prepare_step(skip, norm, nonfinite, number, max_norm)
    outputs = [("step", step, "int64"), ("multiplier", multiplier, "float64")]
    outputs += [("skip", skip, "int32"), ("skipped", skipped, "int64")]
    inputs = [("norm", norm, "float64"), ("nonfinite", nonfinite, "int32")]
    for name, array, dtype in outputs:
        if array is not None or name in ("step", "multiplier"):
            check_scalar(name, array, (dtype,), writable=True)
    for name, array, dtype in inputs:
        if array is not None:
            check_scalar(name, array, (dtype,))
    check_overlap(
        scalar_arrays(step=step, multiplier=multiplier, skip=skip, skipped=skipped),
        scalar_arrays(norm=norm, nonfinite=nonfinite, grad_multiplier=grad_multiplier),
    )

    if skip is not None:
        skip[...] = nonfinite != 0
        if skip:
            if skipped is not None:
                skipped += 1
            return
    step += 1
    factor = 1.0 if max_norm is None else clipping_factor(float(max_norm), norm.item() * abs(float(number)))
    multiplier[...] = float(number) * factor
