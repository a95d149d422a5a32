"""Dropout: torch's module around one fused kernel; the mask is made again in the backward pass."""

from __future__ import annotations

import torch
from torch.autograd import Function

from ... import ops
from ._autograd import REFUSAL

_SEEDS = 2**63 - 1


class _Drop(Function):
    """`ops.dropout`"""

    @staticmethod
    def forward(ctx, x, p, seed, inplace):
        ctx.p, ctx.seed = p, seed
        if inplace:
            ctx.mark_dirty(x)
        return ops.dropout(x, p, seed=seed, out=x if inplace else None)

    @staticmethod
    def backward(ctx, dy):
        # It is linear and its own transpose, so that it serves as its own gradient, however often.
        if torch.is_grad_enabled():
            return _Drop.apply(dy, ctx.p, ctx.seed, False), None, None, None
        return ops.dropout_backward(dy, ctx.p, seed=ctx.seed), None, None, None

    @staticmethod
    def jvp(ctx, *_):
        raise RuntimeError(REFUSAL.format("Dropout", "forward-mode derivative"))


class Dropout(torch.nn.Dropout):
    """`torch.nn.Dropout`, in one pass: each value is dropped (+0) with probability p, the others are scaled.

    The seed is one draw from torch's default CPU generator a call, whatever device the input is on: after
    `torch.manual_seed` the masks repeat, CPU and GPU have the same, `torch.random.fork_rng` and activation
    checkpointing work, and nothing waits for a GPU. The masks are not those of torch's own dropout.

    Parameters
    ----------
    p : float in [0, 1]
        Realized as ``round(p * 65536) / 65536``; the scale belongs to the realized p.
    inplace : bool
        Write the result over the input. A leaf that requires a gradient is refused, as by torch; a view is changed
        through a temporary copy.

    Raises
    ------
    TypeError
        The input is of another dtype than float16, bfloat16, float32 and float64, or on a device without kernels.

    Notes
    -----
    Srivastava et al. 2014, section 4; random bits by Philox4x32-10 (Salmon et al. 2011). The mask depends on seed and
    C-order index alone and is made again in the backward pass: nothing is stored. A dropped value is 0 also where it
    was NaN (torch's stays NaN). Gradients of gradients exist; vmap and forward-mode derivatives are refused.

    Examples
    --------
    >>> import torch, fusedstep as fs
    >>> drop = fs.torch.nn.Dropout(0.5)
    >>> seed = torch.manual_seed(0)
    >>> y = drop(torch.ones(1000))
    >>> y.unique()
    tensor([0., 2.])
    >>> drop.eval()(y) is y
    True
    """

    @torch.compiler.disable  # a kernel cannot be traced: it breaks the graph here, once
    def forward(self, input):
        if not self.training or self.p == 0 or input.numel() == 0:
            return input
        if input.is_meta:
            return super().forward(input)
        seed = torch.randint(_SEEDS, (), device="cpu").item()  # the cheapest draw, and there is nothing to wait for
        if not self.inplace:
            return _Drop.apply(input, self.p, seed, False)
        if input._is_view() or (input.is_leaf and input.requires_grad):
            # torch's copy_ knows which of these may be written, before it writes; a Function's would be too late.
            return input.copy_(_Drop.apply(input, self.p, seed, False))
        return _Drop.apply(input, self.p, seed, True)
