"""The kernels on CUDA devices: the functions of `_cpu`, on device arrays. Private: call `fusedstep.ops`."""

from typing import Any

from ._cpu import StepPlan as StepPlan
from ._cpu import adadelta_step as adadelta_step
from ._cpu import adagrad_step as adagrad_step
from ._cpu import adam_step as adam_step
from ._cpu import adamax_step as adamax_step
from ._cpu import batch_norm as batch_norm
from ._cpu import batch_norm_backward as batch_norm_backward
from ._cpu import bias_activation as bias_activation
from ._cpu import bias_activation_backward as bias_activation_backward
from ._cpu import dropout as dropout
from ._cpu import dropout_backward as dropout_backward
from ._cpu import dropout_mask as dropout_mask
from ._cpu import dropout_relu_backward as dropout_relu_backward
from ._cpu import global_norm as global_norm
from ._cpu import is_capturing as is_capturing
from ._cpu import lamb_step as lamb_step
from ._cpu import lars_step as lars_step
from ._cpu import lion_step as lion_step
from ._cpu import mean_squared_error as mean_squared_error
from ._cpu import nadam_step as nadam_step
from ._cpu import prepare_step as prepare_step
from ._cpu import radam_step as radam_step
from ._cpu import rmsprop_step as rmsprop_step
from ._cpu import sgd_step as sgd_step
from ._cpu import sigmoid_cross_entropy as sigmoid_cross_entropy
from ._cpu import softmax_cross_entropy as softmax_cross_entropy

device: str  # "cuda"
runtime_version: int  # 13000 for 13.0

def devices() -> list[dict[str, Any]]: ...
def driver_version() -> int: ...
