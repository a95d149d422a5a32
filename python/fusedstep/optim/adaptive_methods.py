"""More optimizers with a step size a coordinate, as in methods.py, and Lion, which has the same for all."""

from __future__ import annotations

from .. import ops
from ..reference import scalars
from .optimizer import Optimizer


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012, algorithm 1): the step sizes come from the updates before, not from lr.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch.
    lr : float, callable or 0-d array
        What the update is multiplied by, 1 in the paper; a function of the step, or on a GPU an array there.
    rho : float
        Decay of the averages of squares of gradients and of updates, in [0, 1].
    eps : float
        Added under both roots; it sets the size of the first steps.
    weight_decay : float
    maximize, decoupled_weight_decay : bool
        Ascend; shrink the weights by ``1 - lr * weight_decay`` instead of adding to the gradient.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([-4.0]), "p")
    >>> fs.optim.Adadelta([p], rho=0.75, eps=0).step()  # there is no update before the first
    >>> p.array
    array([1.])
    """

    _method = "Adadelta"
    _states = ("square_avg", "acc_delta")

    def __init__(
        self,
        params,
        lr=1.0,
        rho=0.9,
        eps=1e-6,
        weight_decay=0.0,
        *,
        maximize=False,
        decoupled_weight_decay=False,
        **options,
    ):
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_adadelta(group["rho"], group["eps"])

    def _update(self, group, params, grads, states, step, common):
        ops.adadelta_step(
            params,
            grads,
            states["square_avg"],
            states["acc_delta"],
            rho=group["rho"],
            eps=group["eps"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )


class Adamax(Optimizer):
    """Adamax (Kingma & Ba 2014, algorithm 2): Adam with a decaying maximum in place of the root.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch.
    lr : float, callable or 0-d array
        Step size, or a function of the step; on a GPU also an array there.
    betas : (float, float)
        Decays of the average of gradients and of the maximum, each in [0, 1).
    eps : float
        Added to the gradient's absolute value.
    weight_decay : float
    maximize, decoupled_weight_decay : bool
        Ascend; shrink the weights by ``1 - lr * weight_decay`` instead of adding to the gradient.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([-4.0]), "p")
    >>> fs.optim.Adamax([p], lr=0.5, betas=(0.5, 0.5), eps=0).step()
    >>> p.array
    array([1.5])
    """

    _method = "Adamax"
    _states = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params,
        lr=2e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        *,
        maximize=False,
        decoupled_weight_decay=False,
        **options,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_moments("Adamax", 1, group["betas"], group["eps"])

    def _update(self, group, params, grads, states, step, common):
        ops.adamax_step(
            params,
            grads,
            states["exp_avg"],
            states["exp_inf"],
            step=step,
            betas=group["betas"],
            eps=group["eps"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )


class Lion(Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): the sign of an average of gradients, one state a value.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch.
    lr : float, callable or 0-d array
        How far every value moves, a third to a tenth of Adam's; a function of the step, or on a GPU an array there.
    betas : (float, float)
        Of the average whose sign is taken, and of the one that is kept, each in [0, 1).
    weight_decay : float
        Decoupled; 3 to 10 times AdamW's, as lr is smaller.
    maximize : bool
    decoupled_weight_decay : bool
        False: the decay is added to the gradient.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([-4.0]), "p")
    >>> fs.optim.Lion([p], lr=0.5).step()
    >>> p.array
    array([1.5])
    """

    _method = "Lion"
    _states = ("exp_avg",)

    def __init__(
        self,
        params,
        lr=1e-4,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        *,
        maximize=False,
        decoupled_weight_decay=True,
        **options,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_moments("Lion", 1, group["betas"], 0.0)

    def _update(self, group, params, grads, states, step, common):
        ops.lion_step(
            params,
            grads,
            states["exp_avg"],
            betas=group["betas"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )


class NAdam(Optimizer):
    """NAdam (Dozat 2016): Adam with Nesterov's momentum, which rises with the steps.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch.
    lr : float, callable or 0-d array
        Step size, or a function of the step; on a GPU also an array there.
    betas : (float, float)
        Decays of the averages of gradients and of squares, each in [0, 1).
    eps : float
        Added to the root.
    weight_decay : float
    momentum_decay : float
        The momentum of step t is ``beta1 * (1 - 0.5 * 0.96**(t * momentum_decay))``.
    decoupled_weight_decay, maximize : bool
        Shrink the weights by ``1 - lr * weight_decay`` instead of adding to the gradient; ascend.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([-4.0]), "p")
    >>> fs.optim.NAdam([p], lr=0.5, eps=0, momentum_decay=0).step()
    >>> p.array.round(3)
    array([1.528])
    """

    _method = "NAdam"
    _states = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params,
        lr=2e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        momentum_decay=4e-3,
        decoupled_weight_decay=False,
        *,
        maximize=False,
        **options,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **options)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_nadam(1, group["betas"], group["eps"], group["momentum_decay"])

    def _update(self, group, params, grads, states, step, common):
        ops.nadam_step(
            params,
            grads,
            states["exp_avg"],
            states["exp_avg_sq"],
            step=step,
            betas=group["betas"],
            eps=group["eps"],
            momentum_decay=group["momentum_decay"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )


class RAdam(Optimizer):
    """RAdam (Liu et al. 2020, algorithm 2): momentum until the variance can be estimated, then a warm-up of its own.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch.
    lr : float, callable or 0-d array
        Step size, or a function of the step; on a GPU also an array there.
    betas : (float, float)
        Decays of the averages of gradients and of squares, each in [0, 1). With the usual 0.999 the first five steps
        are momentum's, below 2/3 all are.
    eps : float
        Added to the root.
    weight_decay : float
    decoupled_weight_decay, maximize : bool
        Shrink the weights by ``1 - lr * weight_decay`` instead of adding to the gradient; ascend.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([-4.0]), "p")
    >>> fs.optim.RAdam([p], lr=0.25).step()
    >>> p.array
    array([2.])
    """

    _method = "RAdam"
    _states = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled_weight_decay=False,
        *,
        maximize=False,
        **options,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **options)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_moments("RAdam", 1, group["betas"], group["eps"])

    def _update(self, group, params, grads, states, step, common):
        ops.radam_step(
            params,
            grads,
            states["exp_avg"],
            states["exp_avg_sq"],
            step=step,
            betas=group["betas"],
            eps=group["eps"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )
