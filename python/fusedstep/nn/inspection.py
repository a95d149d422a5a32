"""What each layer gave in a training pass, to find where it went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .._device import get_device
from .fusion import make_stages
from .sequential import Sequential


def layer_outputs(model: Sequential, x: np.ndarray) -> Iterator[np.ndarray]:
    """The output of each layer, in order, in the last training pass, if that was given `x`.

    The layers are run again, one by one, by stages that are made for it and on copies of the buffers: batch
    normalization takes the batch's moments and dropout the masks of that pass, and neither the model nor a pending
    backward pass changes. Parameters that changed since the pass have their new values.

    Parameters
    ----------
    model : Sequential
    x : ndarray
        ``(N, ...)`` in the model's dtype, on its device.

    Yields
    ------
    ndarray
        Computed when it is asked for. The next one may share its memory.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.nn import Dense, ReLU, Sequential
    >>> from fusedstep.nn.inspection import layer_outputs
    >>> model = Sequential(Dense(4, 3), ReLU())
    >>> x = np.ones((2, 4), np.float32)
    >>> y = model.forward(x)
    >>> *_, last = layer_outputs(model, x)
    >>> bool((last == y).all())
    True
    """
    device = get_device(model.device)
    offset = model.random_offset - model._n_dropouts
    for placed in model._placed:
        with device.active(), np.errstate(all="ignore"):  # the pass itself has warned
            x = device.xp.ascontiguousarray(x)
            alone = replace(placed, buffers={name: buffer.copy() for name, buffer in placed.buffers.items()})
            (stage,) = make_stages([alone], model.seed, device, training=True)
            stage.allocate(x.shape, placed.layer.output_shape(x.shape), model.dtype)
            x = stage.forward(x, offset)
        yield x
