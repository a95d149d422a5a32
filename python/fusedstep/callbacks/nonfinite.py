"""The end of a run at the first NaN or infinity, and where it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .._device import all_finite
from .base import Callback

if TYPE_CHECKING:
    from ..training import Run


class StopOnNaN(Callback):
    """Stop at the first loss, parameter or buffer that is NaN or infinite, and say where it is.

    The loss is looked at before each step, so the model keeps the parameters that it had; parameters and
    buffers are looked at after each epoch. `history.stopped_by` names the first place, in the order in which
    values flow: the batch, the parameters and buffers in the order of the layers, the gradients. On a GPU each
    look at the loss waits for the device.
    """

    def before_step(self, run: Run) -> None:
        if not math.isfinite(run.batch_loss):
            where = _first_nonfinite(_named_values(run)) or "the loss itself"
            self._stop(run, f"the loss of batch {run.batch_index + 1} of epoch {run.epoch} is {run.batch_loss}", where)

    def on_epoch_end(self, run: Run) -> None:
        where = _first_nonfinite(_model_values(run.model))
        if where:
            self._stop(run, f"epoch {run.epoch}", where)

    def _stop(self, run: Run, when: str, where: str) -> None:
        run.stop = True
        run.history.stopped_by = f"StopOnNaN: {when}; first value that is not finite: {where}"


def _named_values(run: Run):
    for name, array in zip(("X", "y", "weights"), run.batch, strict=False):
        yield f"{name} of the batch", array
    yield from _model_values(run.model)
    # The chain rule runs from the last layer to the first.
    for parameter in reversed(run.model.parameters()):
        yield f"gradient of {parameter.name}", parameter.grad


def _model_values(model):
    buffers = model.buffers()
    layer = None
    for parameter in model.parameters():
        layer = parameter.name.rpartition(".")[0]
        yield f"parameter {parameter.name}", parameter.array
        for name in [name for name in buffers if name.rpartition(".")[0] == layer]:
            yield f"buffer {name}", buffers.pop(name)
    for name, array in buffers.items():
        yield f"buffer {name}", array


def _first_nonfinite(named) -> str | None:
    return next((name for name, array in named if array.dtype.kind == "f" and not all_finite(array)), None)
