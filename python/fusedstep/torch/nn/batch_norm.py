"""Batch normalization: torch's modules around one fused kernel forward and one backward."""

from __future__ import annotations

import torch
from torch.autograd import Function

from ... import ops
from ..._result_memory import empty_tensor
from ._autograd import REFUSAL


class _Normalize(Function):
    """`ops.batch_norm`. In the older style with `ctx`: torch takes 30 microseconds a call to enter `setup_context`."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, count, training, momentum, eps, relu):
        y, saved = ops.batch_norm(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            training=training,
            momentum=momentum,
            eps=eps,
            relu=relu,
        )
        if count is not None:
            count.add_(1)  # together with the statistics, or not at all
        # Only a ReLU's mask needs the bias: without one it may be stepped before the backward pass, as with torch.
        ctx.save_for_backward(x, weight, bias if relu else None, saved.mean, saved.var)
        ctx.settings = (eps, relu, training, None if bias is None else bias.dtype)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx, dy):
        if dy is None:
            return (None,) * 10
        given = (dy, *ctx.saved_tensors, ctx.settings)
        # With create_graph=True: as a node that refuses its own derivative.
        gradients = _Gradients.apply(*given) if torch.is_grad_enabled() else _gradients(*given)
        needed = ctx.needs_input_grad
        return *(g if n else None for g, n in zip(gradients, needed, strict=False)), *(None,) * 7

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(REFUSAL.format("BatchNorm", "forward-mode derivative"))


class _Gradients(Function):
    @staticmethod
    def forward(ctx, *given):
        return _gradients(*given)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(REFUSAL.format("BatchNorm", "double backward"))


def has_relu(x) -> bool:
    """Whether `x` is the result of one of these modules with a ReLU, as that left it."""
    mark = getattr(x, "_fusedstep_relu", _UNMARKED)
    return mark is not _UNMARKED and mark == (None if x.is_inference() else x._version)


_UNMARKED = object()


@torch.compiler.disable
def _gradients(dy, x, weight, bias, mean, var, settings):
    """`ops.batch_norm_backward`"""
    eps, relu, training, bias_dtype = settings
    dx, dbias = empty_tensor(torch, x), None
    if not _same_strides(dy, x):  # torch gives gradients of any strides, an expanded one for a sum
        dy = dx.copy_(dy)
    if bias is None and bias_dtype is not None:
        dbias = torch.empty(x.shape[1], dtype=bias_dtype, device=x.device)
    saved = ops.BatchNormSaved(mean, var, weight, bias, eps, relu, training, 1, None)
    return ops.batch_norm_backward(dy, x, saved, dx=dx, dbias=dbias)


def _same_strides(a, b) -> bool:
    """Whether both are laid out alike in memory; the strides of axes of length 1 say nothing."""
    sa, sb = a.stride(), b.stride()
    return sa == sb or all(n == 1 or i == j for n, i, j in zip(a.shape, sa, sb, strict=True))


def _as_dense(x):
    """`x`, or a copy in the layout that torch's batch norm gives its result: contiguous or channels-last."""
    if x.is_contiguous():
        return x
    if x.ndim < 4:
        return x.contiguous()
    strides = [x.stride(axis) for axis in (1, *range(x.ndim - 1, 1, -1), 0)]
    if strides[0] == 0 or strides != sorted(strides):
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


class _FusedBatchNorm:
    """What the three modules share, in front of torch's own classes."""

    relu = False  # also of modules that torch made

    def __init__(self, *args, relu=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.relu = bool(relu)

    def extra_repr(self) -> str:
        return super().extra_repr() + (", relu=True" if self.relu else "")

    @torch.compiler.disable  # a kernel cannot be traced: it breaks the graph here, once
    def forward(self, input):
        self._check_input_dim(input)
        if input.numel() == 0 or input.is_meta:  # there are no values to normalize: torch's shapes, zeros and errors
            y = super().forward(input)
            return torch.relu(y) if self.relu else y
        training, mean, var, momentum, count = self.training, self.running_mean, self.running_var, self.momentum, None
        if training:
            if self.track_running_stats:
                count = self.num_batches_tracked
            else:
                mean = var = None
        elif mean is var is None:
            training = True
        if training and input.numel() == input.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
        weight, bias = (None if v is None else v.contiguous() for v in (self.weight, self.bias))
        if mean is None:
            momentum = 0.0  # there is nothing to average
        elif momentum is None:
            momentum = 0.0 if count is None else 1 / (float(count) + 1)
        statistics = (mean, var, count)
        y = _Normalize.apply(_as_dense(input), weight, bias, *statistics, training, momentum, self.eps, self.relu)
        if self.relu:
            y._fusedstep_relu = None if y.is_inference() else y._version  # for `has_relu`
        return y


class BatchNorm1d(_FusedBatchNorm, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, for inputs of shape (N, C) or (N, C, L); see `BatchNorm2d`.

    >>> import torch, fusedstep as fs
    >>> fs.torch.nn.BatchNorm1d(2)(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).detach().round()
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """


class BatchNorm2d(_FusedBatchNorm, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` in one kernel forward and one backward, with a ReLU behind it on request.

    A subclass: arguments, defaults, buffers, state dicts and `repr` are those of the installed torch.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype
        As in torch; 16-bit inputs take parameters and running statistics of their own type or of float32, and
        `momentum` must lie in [0, 1] or be None.
    relu : bool
        ReLU behind it, in the same pass; equal to ``Sequential(BatchNorm2d(...), ReLU())``, NaN passes. What torch
        turns into something else as a batch norm (``SyncBatchNorm.convert_sync_batchnorm``, fusion with a
        convolution) loses the ReLU; one that `replace_modules` has fused then comes back by itself.

    Raises
    ------
    ValueError
        The input is not 4-dimensional, has another number of channels, or in training one value a channel.
    TypeError
        dtypes or devices differ or have no kernel.
    RuntimeError
        From autograd: double backward, forward-mode derivatives and torch.func's transforms are refused; and a stale
        backward pass, where the input or the weight was changed in place since the forward one.

    Notes
    -----
    Ioffe & Szegedy 2015, algorithm 1. Result and input gradient are contiguous or channels-last as torch's are; an
    input of other strides is copied first. A refused batch changes neither running statistics nor their counter.

    Examples
    --------
    >>> import torch, fusedstep as fs
    >>> norm = fs.torch.nn.BatchNorm2d(3, relu=True)
    >>> norm(torch.randn(8, 3, 4, 4)).min()
    tensor(0., grad_fn=<MinBackward1>)
    >>> list(norm.state_dict())
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """


class BatchNorm3d(_FusedBatchNorm, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, for inputs of shape (N, C, D, H, W); see `BatchNorm2d`.

    >>> import torch, fusedstep as fs
    >>> fs.torch.nn.BatchNorm3d(2)(torch.randn(3, 2, 4, 4, 4)).shape
    torch.Size([3, 2, 4, 4, 4])
    """
