"""Every kernel in pure NumPy: the definition, the documentation and the test oracle.

The same names and arguments as `fusedstep.ops`, for NumPy arrays; the compiled kernels give the same
bits. `FUSEDSTEP_BACKEND=reference` makes the whole package use it.
"""

from .activations import bias_activation, bias_activation_backward
from .adaptive_optimizers import adadelta_step, adamax_step, lion_step, nadam_step, radam_step
from .batch_norm import BatchNormSaved, batch_norm, batch_norm_backward
from .dropout import dropout, dropout_backward, dropout_mask
from .layer_optimizers import lamb_step, lars_step
from .losses import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from .optimizers import adagrad_step, adam_step, ewma, global_norm, rmsprop_step, sgd_step
from .prepare_step import prepare_step

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
