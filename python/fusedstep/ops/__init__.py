"""The kernels as functions on arrays.

Arrays are NumPy arrays, PyTorch tensors or CuPy arrays, one or a list of them, all of a call on one device. Optimizer
steps, norms, batch normalization and dropout take float16, bfloat16 (in NumPy: that of ml_dtypes), float32 and
float64, activations and losses float32 and float64. The 16-bit types are computed in float32 and rounded to nearest
even when they are stored. What a function changes, it changes in place, without a copy. Everything is checked before
anything is written:

- TypeError: something is not an array, or has another dtype than is accepted, or is on another device.
- ValueError: shapes or lengths differ, an output is read-only, overlaps another array or has gaps in memory, or a
  hyper-parameter is out of range.

On a GPU the kernels run on the current stream of PyTorch or CuPy, and no function waits for the device, except
`global_norm` where it is to return a number. For the same input every instruction set, every number of threads and
`fusedstep.reference` give the same bits; the CUDA kernels, run by an emulator in the tests, give them too.

These functions stand outside autograd: the `_backward` functions give the gradients, and torch's version counters tell
autograd what was changed in place. While torch records a graph, `batch_norm`, `bias_activation`, `dropout` and their
`_backward` refuse a tensor that requires a gradient (RuntimeError), as their results carry none: `fs.torch.nn` has
modules for autograd. torch.jit.trace and make_fx are refused, as they cannot record a kernel.
"""

from ..reference import BatchNormSaved
from .activations import bias_activation, bias_activation_backward
from .adaptive_steps import adadelta_step, adamax_step, lion_step, nadam_step, radam_step
from .layer_steps import lamb_step, lars_step
from .losses import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from .normalization import batch_norm, batch_norm_backward
from .random import dropout, dropout_backward, dropout_mask
from .steps import adagrad_step, adam_step, ewma, global_norm, prepare_step, rmsprop_step, sgd_step

__all__ = [
    "BatchNormSaved",
    "adadelta_step",
    "adagrad_step",
    "adam_step",
    "adamax_step",
    "batch_norm",
    "batch_norm_backward",
    "bias_activation",
    "bias_activation_backward",
    "dropout",
    "dropout_backward",
    "dropout_mask",
    "ewma",
    "global_norm",
    "lamb_step",
    "lars_step",
    "lion_step",
    "mean_squared_error",
    "nadam_step",
    "prepare_step",
    "radam_step",
    "rmsprop_step",
    "sgd_step",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
]
