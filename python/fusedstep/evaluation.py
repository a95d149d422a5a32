"""What a model gives for whole data sets, in memory or on disk, and how good it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from . import metrics as _metrics
from ._device import as_host, get_device, host_copy, loss_value
from ._loop import Mean, host_weights
from ._training_checks import check_arrays, finite_on_disk
from ._transfer import batches_on
from .data import MiniBatches
from .data.sources import Source, as_samples
from .nn.accounting import evaluation_bytes

_EVALUATION_BATCH = 1024
_EVALUATION_BYTES = 1 << 28  # large samples are judged fewer at a time


def evaluate(model, loss, X, y, weights=None, *, metrics=(), batch_size: int | None = None) -> dict:
    """Loss and metrics of a model in evaluation mode.

    Parameters
    ----------
    model, loss
        As for `fit`; the model is not changed.
    X, y : array_like
        Samples and targets, of the same length.
    weights : array_like, optional
        One weight a sample, for the loss.
    metrics : str, callable, dict, or a sequence of these
        As for `fit`; each sees all targets and outputs at once.
    batch_size : int, optional
        How many samples to predict at a time; a remainder joins the batch before it. None: 1024, or fewer where they
        are so large that their activations would take more than 256 MiB. The loss is the mean over all samples,
        whatever the batch size.

    Returns
    -------
    dict of str to float
        ``"loss"`` and the metrics by name.

    Raises
    ------
    TypeError, ValueError
        An array is empty or does not fit the model or the loss, or lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> model = fs.nn.Sequential(fs.nn.Dense(2, 3, init="zeros"))
    >>> X, y = np.ones((4, 2), np.float32), np.array([0, 1, 2, 0])
    >>> result = fs.evaluate(model, fs.nn.SoftmaxCrossEntropy(), X, y, metrics="accuracy")
    >>> round(result["loss"], 4), result["accuracy"]
    (1.0986, 0.5)
    """
    arrays = (X, y) if weights is None else (X, y, weights)
    arrays = check_arrays("data", arrays, where="evaluate")
    return judge(model, loss, arrays, _metrics.resolve(metrics), batch_size, finite_on_disk("data", "evaluate"))


def try_metrics(model, loss, arrays, measured) -> None:
    """Raise what metrics would raise after the first epoch, before training has cost anything."""
    on_disk = any(isinstance(array, Source) for array in arrays)
    step = -(-len(arrays[0]) // _EVALUATION_BATCH)
    some = [array[:_EVALUATION_BATCH] if on_disk else array[::step] for array in arrays]
    try:
        judge(model, loss, some, measured, None, None)
    except Exception:  # all samples decide: a few may lack a class
        judge(model, loss, arrays, measured, None, finite_on_disk("validation"))


def judge(model, loss, arrays, measured, batch_size: int | None, look: Callable | None) -> dict:
    """`evaluate` of checked arrays and metrics that are resolved; `look` is as for `MiniBatches.gathered`."""
    outputs, targets, losses = [], [], Mean()
    batches = _in_order_of_samples(model, arrays, batch_size)
    totals = batches.totals(host_weights(arrays))
    device = get_device(model.device)
    with device.active(), closing(batches_on(device, batches, look)) as on_device:
        for (x, *target), total in zip(on_device, totals, strict=True):
            output = model.predict(x)
            if total:
                losses.add(loss_value(loss(output, *target)[0]), total)
            if measured:
                outputs.append(as_host(output))
                targets.append(host_copy(target[0]))
        result = {"loss": losses.value}
    if measured:
        output, target = np.concatenate(outputs), np.concatenate(targets)
        result |= {name: metric(target, output) for name, metric in measured.items()}
    return result


def predict(model, X, *, batch_size: int | None = None) -> np.ndarray:
    """The model's outputs in evaluation mode, a batch at a time on the model's device.

    Parameters
    ----------
    model : Sequential
    X : array_like
        All that `fit` takes, samples on disk included.
    batch_size : int, optional
        As for `evaluate`.

    Returns
    -------
    ndarray
        The output of the last layer for each sample: logits, for a model that was trained with a cross entropy.

    Raises
    ------
    TypeError, ValueError
        X is empty or does not fit the model.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> fs.predict(fs.nn.Sequential(fs.nn.Dense(2, 3)), np.ones((4, 2), np.float32)).shape
    (4, 3)
    """
    batches = _in_order_of_samples(model, [as_samples(X)], batch_size)
    with closing(batches_on(get_device(model.device), batches)) as on_device:
        return np.concatenate([as_host(model.predict(x)) for (x,) in on_device])


def _in_order_of_samples(model, arrays, batch_size: int | None) -> MiniBatches:
    if batch_size is None:
        fit = _EVALUATION_BYTES // max(1, evaluation_bytes(model, arrays[0].shape[1:]))
        batch_size = min(_EVALUATION_BATCH, max(1, fit))
    return MiniBatches(*arrays, batch_size=batch_size, shuffle=False, last="merge")
