"""The compiled kernels. Private: call `fusedstep.ops`, which checks hyper-parameters and allocates results."""

from typing import Any

openmp: bool
device: str  # "cpu"

_Arrays = Any  # an array that exports DLPack, or a list or tuple of them
_Array = Any
_Number = Any  # a float, or a 0-d array
_Counter = Any  # an int, or a 0-d array
# (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay)
_Common = tuple[_Number, float, bool, bool, _Number, float]
_Dropout = tuple[float, int, _Counter] | None

def available_isas() -> list[str]: ...
def get_isa() -> str: ...
def set_isa(name: str, /) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...
def get_serial_bytes() -> int: ...
def set_serial_bytes(bytes: int, /) -> None: ...
def sgd_step(
    params: _Arrays,
    grads: _Arrays,
    momentum_buffers: _Arrays | None,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    momentum: float,
    dampening: float,
    nesterov: bool,
    /,
) -> None: ...
def adagrad_step(
    params: _Arrays,
    grads: _Arrays,
    state_sums: _Arrays,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    step: _Counter,
    lr_decay: float,
    eps: float,
    /,
) -> None: ...
def rmsprop_step(
    params: _Arrays,
    grads: _Arrays,
    square_avgs: _Arrays,
    momentum_buffers: _Arrays | None,
    grad_avgs: _Arrays | None,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    alpha: float,
    eps: float,
    momentum: float,
    /,
) -> None: ...
def adam_step(
    params: _Arrays,
    grads: _Arrays,
    exp_avgs: _Arrays,
    exp_avg_sqs: _Arrays,
    max_exp_avg_sqs: _Arrays | None,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    step: _Counter,
    beta1: float,
    beta2: float,
    eps: float,
    bias_correction: bool,
    eps_inside: bool,
    /,
) -> None: ...
def nadam_step(
    params: _Arrays,
    grads: _Arrays,
    exp_avgs: _Arrays,
    exp_avg_sqs: _Arrays,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    step: _Counter,
    beta1: float,
    beta2: float,
    eps: float,
    momentum_schedule: float,
    /,
) -> None: ...
def radam_step(
    params: _Arrays,
    grads: _Arrays,
    exp_avgs: _Arrays,
    exp_avg_sqs: _Arrays,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    step: _Counter,
    beta1: float,
    beta2: float,
    eps: float,
    /,
) -> None: ...
def adamax_step(
    params: _Arrays,
    grads: _Arrays,
    exp_avgs: _Arrays,
    exp_infs: _Arrays,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    step: _Counter,
    beta1: float,
    beta2: float,
    eps: float,
    /,
) -> None: ...
def adadelta_step(
    params: _Arrays,
    grads: _Arrays,
    square_avgs: _Arrays,
    acc_deltas: _Arrays,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    rho: float,
    eps: float,
    /,
) -> None: ...
def lion_step(
    params: _Arrays,
    grads: _Arrays,
    exp_avgs: _Arrays,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    beta1: float,
    beta2: float,
    /,
) -> None: ...
def lars_step(
    params: _Arrays,
    grads: _Arrays,
    momentum_buffers: _Arrays,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    momentum: float,
    trust_coefficient: float,
    eps: float,
    adapt: bool,
    /,
) -> None: ...
def lamb_step(
    params: _Arrays,
    grads: _Arrays,
    exp_avgs: _Arrays,
    exp_avg_sqs: _Arrays,
    ema_params: _Arrays | None,
    common: _Common,
    skip: _Array | None,
    step: _Counter,
    beta1: float,
    beta2: float,
    eps: float,
    bias_correction: bool,
    adapt: bool,
    /,
) -> None: ...
def global_norm(grads: _Arrays, out: _Array | None, nonfinite: _Array | None, /) -> float: ...
def prepare_step(
    step: _Array,
    multiplier: _Array,
    skip: _Array | None,
    norm: _Array | None,
    nonfinite: _Array | None,
    grad_multiplier: _Number,
    max_norm: float | None,
    skipped: _Array | None,
    /,
) -> None: ...
def is_capturing(x: _Array, /) -> bool: ...
def batch_norm(
    x: _Array,
    weight: _Array | None,
    bias: _Array | None,
    running_mean: _Array | None,
    running_var: _Array | None,
    mean: _Array,
    var: _Array,
    out: _Array,
    channel_axis: int,
    fraction: float | None,
    eps: float,
    relu: bool,
    unbiased_running_var: bool,
    dropout: _Dropout,
    /,
) -> None: ...
def batch_norm_backward(
    dy: _Array,
    x: _Array,
    mean: _Array,
    var: _Array,
    weight: _Array | None,
    bias: _Array | None,
    dx: _Array,
    dweight: _Array,
    dbias: _Array,
    channel_axis: int,
    eps: float,
    relu: bool,
    training: bool,
    dropout: _Dropout,
    /,
) -> None: ...
def dropout(x: _Array, out: _Array, p: float, seed: int, offset: _Counter, relu: bool, /) -> None: ...
def dropout_backward(dy: _Array, out: _Array, p: float, seed: int, offset: _Counter, /) -> None: ...
def dropout_relu_backward(dy: _Array, y: _Array, out: _Array, p: float, /) -> None: ...
def dropout_mask(
    mask: _Array, shape: tuple[int, ...], p: float, seed: int, offset: _Counter, packed: bool, /
) -> None: ...
def bias_activation(x: _Array, bias: _Array | None, out: _Array, activation: str, negative_slope: float, /) -> None: ...
def bias_activation_backward(
    dy: _Array, saved: _Array, dx: _Array, dbias: _Array | None, activation: str, negative_slope: float, /
) -> None: ...
def softmax_cross_entropy(
    logits: _Array, labels: _Array, weights: _Array | None, total: float, out: _Array, value: _Array | None, /
) -> float: ...
def sigmoid_cross_entropy(
    logits: _Array, target: _Array, weights: _Array | None, total: float, out: _Array, value: _Array | None, /
) -> float: ...
def mean_squared_error(
    output: _Array, target: _Array, weights: _Array | None, total: float, out: _Array, value: _Array | None, /
) -> float: ...

class StepPlan:
    """A whole step of a torch optimizer, checked before and compared with what it was."""

    def __init__(self, method: str, buckets: list[tuple], options: tuple, /) -> None: ...
    def attach(self, groups: list, state: dict, keys: list, /) -> bool: ...
    def remember(self, attributes: dict, keys: tuple, hooks: tuple, /) -> None: ...
    def run_again(self, attributes: dict, /) -> bool: ...
    def run(self, multiplier: _Number, max_norm: float | None, ema_decay: float, skip: _Array | None, /) -> None: ...
    def run_attached(
        self,
        groups: list,
        state: dict,
        options: tuple,
        multiplier: _Number,
        max_norm: float | None,
        ema_decay: float,
        skip: _Array | None,
        /,
    ) -> bool: ...
