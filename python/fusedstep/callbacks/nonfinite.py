"""The end of a run at the first NaN or infinity, and where it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .._device import all_finite
from ..nn import Sequential
from ..nn.inspection import layer_outputs
from .base import Callback

if TYPE_CHECKING:
    from ..training import Run


class StopOnNaN(Callback):
    """Stop at the first loss, gradient, parameter or buffer that is NaN or infinite, and say where it began.

    Loss and gradients are looked at before each step, so the model keeps the parameters that it had, but running
    statistics have taken the batch in; parameters and buffers are looked at after each epoch. `history.stopped_by`
    names the first place, in the order in which values flow: the batch; for each layer its parameters, its buffers and
    its output, for which the layers are run once more on the batch, on copies; the loss; the gradients, from the last
    layer to the first. On a GPU each look waits for the device. The gradients are left to an optimizer with
    `skip_nonfinite`, which takes no step from such ones.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> X = np.full((8, 1), 1e30, np.float32)
    >>> model = fs.nn.Sequential(fs.nn.Dense(1, 4), fs.nn.ReLU(), fs.nn.Dense(4, 1))
    >>> model.parameters()[2].array[...] = 1e30
    >>> optimizer = fs.optim.SGD(model.parameters(), lr=0.1)
    >>> with np.errstate(all="ignore"):
    ...     history = fs.fit(model, optimizer, fs.nn.MeanSquaredError(), (X, X), epochs=1,
    ...                      callbacks=fs.callbacks.StopOnNaN(), progress=False)
    >>> history.stopped_by.partition("not finite: ")[2]
    "output of layer 2, Dense(in_features=4, out_features=1, init='he', bias=True)"
    """

    def before_step(self, run: Run) -> None:
        batch = f"batch {run.batch_index + 1} of epoch {run.epoch}"
        if not math.isfinite(run.batch_loss):
            where = _first_nonfinite(_forward_values(run)) or "the loss itself"
            self._stop(run, f"the loss of {batch} is {run.batch_loss}", where)
        elif not getattr(run.optimizer, "skip_nonfinite", False) and not _gradients_are_finite(run.model):
            where = _first_nonfinite(_gradients(run.model))
            self._stop(run, f"the loss of {batch} is finite but its gradients are not", where)

    def on_epoch_end(self, run: Run) -> None:
        where = _first_nonfinite(_state(run.model))
        if where:
            self._stop(run, f"epoch {run.epoch}", where)

    def _stop(self, run: Run, when: str, where: str) -> None:
        run.stop = True
        run.history.stopped_by = f"StopOnNaN: {when}; first value that is not finite: {where}"


Named = Iterator[tuple[str, object]]
"""Arrays, and what messages call them."""


def _forward_values(run: Run) -> Named:
    """What decides the loss, in the order in which it is used."""
    for name, array in zip(("X", "y", "weights"), run.batch, strict=False):
        yield f"{name} of the batch", array
    outputs = layer_outputs(run.model, run.batch[0])
    for index, layer in enumerate(run.model.layers):
        yield from _layer_state(run.model, index)
        yield f"output of layer {index}, {layer!r}", next(outputs)


def _gradients_are_finite(model: Sequential) -> bool:
    """In one look at all of them, as a GPU is waited for."""
    return all(all_finite(p.segment[0].grad) for p in model.parameters()[:1])


def _gradients(model: Sequential) -> Named:
    # The chain rule runs from the last layer to the first.
    for parameter in reversed(model.parameters()):
        index = int(parameter.name.partition(".")[0])
        yield f"layer {index}, {model.layers[index]!r}, gradient of {parameter.name}", parameter.grad


def _state(model: Sequential) -> Named:
    for index in range(len(model.layers)):
        yield from _layer_state(model, index)


def _layer_state(model: Sequential, index: int) -> Named:
    place = f"layer {index}, {model.layers[index]!r},"
    for parameter in model.parameters():
        if parameter.name.startswith(f"{index}."):
            yield f"{place} parameter {parameter.name}", parameter.array
    for name, array in model.buffers().items():
        if name.startswith(f"{index}."):
            yield f"{place} buffer {name}", array


def _first_nonfinite(named: Named) -> str | None:
    return next((name for name, array in named if array.dtype.kind == "f" and not all_finite(array)), None)
