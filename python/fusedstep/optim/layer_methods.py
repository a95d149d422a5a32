"""Optimizers whose step size is each parameter's own, for training with large batches; as methods.py."""

from __future__ import annotations

from .. import ops
from ..reference import scalars
from .optimizer import Optimizer


class LARS(Optimizer):
    """LARS (You, Gitman & Ginsburg 2017, equation 6): momentum, and a step in proportion to the norm of the weights.

    ``v = momentum * v + trust * (g + weight_decay * p); p = p - lr * v`` with, of each parameter,
    ``trust = trust_coefficient * |p| / (|g| + weight_decay * |p| + eps)``, 1 where a norm is 0.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch. Each Parameter is a layer, whatever lies beside it in memory.
    lr : float, callable or 0-d array
        Step size, or a function of the step; on a GPU also an array there. As the ratio is small, about 1.
    momentum, weight_decay, trust_coefficient, eps : float
    adapt : bool
        False: ``trust = 1``, momentum as in `SGD`. Usual for biases and batch norm, in a group of their own or by
        ``decay_1d=False``.
    maximize, decoupled_weight_decay : bool
        Ascend; shrink the weights by ``1 - lr * weight_decay`` instead.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([3.0, -4.0]), np.array([0.0, 2.0]), "p")
    >>> fs.optim.LARS([p], trust_coefficient=0.1, eps=0).step()
    >>> p.array
    array([ 3. , -4.5])
    """

    _method = "LARS"
    _states = ("momentum_buffer",)
    _merges = False

    def __init__(
        self,
        params,
        lr=1.0,
        momentum=0.9,
        weight_decay=0.0,
        trust_coefficient=1e-3,
        eps=1e-8,
        *,
        adapt=True,
        maximize=False,
        decoupled_weight_decay=False,
        **options,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "adapt": adapt,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_lars((), group["momentum"], group["trust_coefficient"], group["eps"], group["adapt"])

    def _update(self, group, params, grads, states, step, common):
        ops.lars_step(
            params,
            grads,
            states["momentum_buffer"],
            momentum=group["momentum"],
            trust_coefficient=group["trust_coefficient"],
            eps=group["eps"],
            adapt=group["adapt"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )


class LAMB(Optimizer):
    """LAMB (You et al. 2020, algorithm 2): Adam, and a step in proportion to the norm of the weights.

    ``u = m_hat / (sqrt(v_hat) + eps) + weight_decay * p; p = p - lr * |p| / |u| * u`` with Adam's averages and, of each
    parameter, the norms; the ratio is 1 where one of them is 0.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch. Each Parameter is a layer, whatever lies beside it in memory.
    lr : float, callable or 0-d array
        Step size, or a function of the step; on a GPU also an array there.
    betas : (float, float)
        Decays of the averages of gradients and of squares, each in [0, 1).
    eps : float
        Added to the root.
    weight_decay : float
        Part of the update, so that the ratio scales it, too.
    adapt : bool
        False: the ratio is 1. Usual for biases and batch norm, in a group of their own or by ``decay_1d=False``.
    bias_correction : bool
        False: the form without it.
    maximize, decoupled_weight_decay : bool
        Ascend; shrink the weights by ``1 - lr * weight_decay`` instead, as AdamW.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([3.0, -4.0]), np.array([0.0, 2.0]), "p")
    >>> fs.optim.LAMB([p], lr=0.1, weight_decay=0).step()  # lr times |p| = 5, along u
    >>> p.array.round(9)
    array([ 3. , -4.5])
    """

    _method = "LAMB"
    _states = ("exp_avg", "exp_avg_sq")
    _merges = False

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=1e-2,
        *,
        adapt=True,
        bias_correction=True,
        maximize=False,
        decoupled_weight_decay=False,
        **options,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "adapt": adapt,
            "bias_correction": bias_correction,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_lamb(1, group["betas"], group["eps"], group["bias_correction"], group["adapt"])

    def _update(self, group, params, grads, states, step, common):
        ops.lamb_step(
            params,
            grads,
            states["exp_avg"],
            states["exp_avg_sq"],
            step=step,
            betas=group["betas"],
            eps=group["eps"],
            adapt=group["adapt"],
            bias_correction=group["bias_correction"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )
