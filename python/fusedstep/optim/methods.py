"""The optimizers: hyper-parameters by torch.optim's names, defaults as there; the formulas are in `fusedstep.ops`."""

from __future__ import annotations

from .. import ops
from ..reference import scalars
from .optimizer import Optimizer


class Momentum(Optimizer):
    """Gradient descent with a velocity that starts at 0 (Polyak 1964, equation 9).

    ``v = momentum * v + (1 - dampening) * g; p = p - lr * v``; `dampening = momentum` makes v the exponential average
    of the gradients, `nesterov` takes ``p = p - lr * (g + momentum * v)`` (Sutskever et al. 2013).

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch.
    lr : float, callable or 0-d array
        Step size, or a function of the step; on a GPU also an array there.
    momentum, dampening, weight_decay : float
    nesterov : bool
    maximize, decoupled_weight_decay : bool
        Ascend; shrink the weights by ``1 - lr * weight_decay`` instead of adding to the gradient.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([1.0]), "p")
    >>> optimizer = fs.optim.Momentum([p], lr=0.5, momentum=0.5, dampening=0.5)
    >>> optimizer.step(); optimizer.step()
    >>> p.array
    array([0.375])
    """

    _method = "Momentum"

    def __init__(
        self,
        params,
        lr=1e-3,
        momentum=0.9,
        dampening=0.0,
        weight_decay=0.0,
        nesterov=False,
        *,
        maximize=False,
        decoupled_weight_decay=False,
        **options,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)

    def _state_names(self, group):
        return ("momentum_buffer",)

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_range(self._method, "momentum", group["momentum"], 0)
        scalars.check_finite(self._method, "dampening", group["dampening"])
        scalars.check_flag(self._method, "nesterov", group["nesterov"])

    def _update(self, group, params, grads, states, step, common):
        ops.sgd_step(
            params,
            grads,
            states.get("momentum_buffer"),
            momentum=group["momentum"],
            dampening=self._dampening(group, step),
            nesterov=group["nesterov"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )

    def _dampening(self, group, step):
        return group["dampening"]


class SGD(Momentum):
    """Stochastic gradient descent as in torch.optim.SGD (Robbins & Monro 1951; Sutskever et al. 2013).

    As `Momentum`, parameters too, but without momentum by default, and the first step takes ``v = g`` whatever
    `dampening` is. `nesterov` needs a momentum and no dampening.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([0.5]), "p")
    >>> fs.optim.SGD([p], lr=0.5).step()
    >>> p.array
    array([0.75])
    """

    _method = "SGD"

    def __init__(self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, **options):
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, **options)

    def _state_names(self, group):
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _check_group(self, group):
        super()._check_group(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("[SGD] 'nesterov' needs a 'momentum' greater than 0 and no 'dampening'")
        if self.capturable and group["momentum"] != 0 and group["dampening"] != 0:
            raise ValueError(
                "[SGD] 'capturable' needs a 'dampening' of 0, since the first step differs from the others; "
                "fusedstep.optim.Momentum has no such first step"
            )

    def _dampening(self, group, step):
        dampening = group["dampening"]
        if dampening == 0 or group["momentum"] == 0:
            return 0.0
        return 0.0 if self._is_first(step) else dampening


class Adagrad(Optimizer):
    """AdaGrad (Duchi, Hazan & Singer 2011): one step size a coordinate, ever decreasing.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch.
    lr : float, callable or 0-d array
        Step size, or a function of the step; on a GPU also an array there.
    lr_decay : float
        The step size is ``lr / (1 + (step - 1) * lr_decay)``.
    weight_decay : float
    initial_accumulator_value : float
        Where the sums of squares start.
    eps : float
        Added to the root.
    maximize, decoupled_weight_decay : bool
        Ascend; shrink the weights by ``1 - lr * weight_decay`` instead of adding to the gradient.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([-4.0]), "p")
    >>> fs.optim.Adagrad([p], lr=0.5, eps=0).step()
    >>> p.array
    array([1.5])
    """

    _method = "Adagrad"
    _states = ("sum",)

    def __init__(
        self,
        params,
        lr=1e-2,
        lr_decay=0.0,
        weight_decay=0.0,
        initial_accumulator_value=0.0,
        eps=1e-10,
        *,
        maximize=False,
        decoupled_weight_decay=False,
        **options,
    ):
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)
        with self._device.active():
            for group, _, states in self._plans:
                for array in states["sum"]:
                    array.fill(group["initial_accumulator_value"])

    def _check_group(self, group):
        super()._check_group(group)
        scalars.check_range("Adagrad", "initial_accumulator_value", group["initial_accumulator_value"], 0)
        scalars.check_adagrad(1, group["lr_decay"], group["eps"])

    def _update(self, group, params, grads, states, step, common):
        ops.adagrad_step(
            params,
            grads,
            states["sum"],
            step=step,
            lr_decay=group["lr_decay"],
            eps=group["eps"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), with momentum, and centered (Graves 2013).

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch.
    lr : float, callable or 0-d array
        Step size, or a function of the step; on a GPU also an array there.
    alpha : float
        Decay of the average of squares, in [0, 1].
    eps : float
        Added to the root.
    weight_decay, momentum : float
    centered : bool
        Divide by an estimate of the standard deviation: the squared mean gradient is taken off.
    maximize, decoupled_weight_decay : bool
        Ascend; shrink the weights by ``1 - lr * weight_decay`` instead of adding to the gradient.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([-4.0]), "p")
    >>> fs.optim.RMSprop([p], lr=0.1, alpha=0.75, eps=0).step()
    >>> p.array
    array([1.2])
    """

    _method = "RMSprop"

    def __init__(
        self,
        params,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0.0,
        momentum=0.0,
        centered=False,
        *,
        maximize=False,
        decoupled_weight_decay=False,
        **options,
    ):
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **options)

    def _state_names(self, group):
        momentum = ("momentum_buffer",) if group["momentum"] != 0 else ()
        return ("square_avg", *momentum, *(("grad_avg",) if group["centered"] else ()))

    def _check_group(self, group):
        super()._check_group(group)
        given = group["centered"] or None
        scalars.check_rmsprop((), given, group["alpha"], group["eps"], group["momentum"], group["centered"])

    def _update(self, group, params, grads, states, step, common):
        ops.rmsprop_step(
            params,
            grads,
            states["square_avg"],
            states.get("momentum_buffer"),
            states.get("grad_avg"),
            alpha=group["alpha"],
            eps=group["eps"],
            momentum=group["momentum"],
            centered=group["centered"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )


class Adam(Optimizer):
    """Adam (Kingma & Ba 2014, algorithm 1), AMSGrad (Reddi et al. 2018).

    Parameters
    ----------
    params : list of Parameter, or list of dict
        ``model.parameters()``, or groups as in torch.
    lr : float, callable or 0-d array
        Step size, or a function of the step; on a GPU also an array there.
    betas : (float, float)
        Decays of the averages of gradients and of squares, each in [0, 1).
    eps : float
        Added to the root, or under it with ``eps_mode="inside"``.
    weight_decay : float
    amsgrad : bool
        The running maximum of the squares' average under the root.
    bias_correction : bool
        False: the form without it.
    maximize, decoupled_weight_decay : bool
        Ascend; shrink the weights by ``1 - lr * weight_decay`` instead of adding to the gradient.
    **options
        `max_norm`, `ema_decay`, `skip_nonfinite`, `decay_1d`, `capturable` as in `Optimizer`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([-4.0]), "p")
    >>> fs.optim.Adam([p], lr=0.5, eps=0).step()
    >>> p.array
    array([1.5])
    """

    _method = "Adam"

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        amsgrad=False,
        *,
        maximize=False,
        decoupled_weight_decay=False,
        bias_correction=True,
        eps_mode="outside",
        **options,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
            "bias_correction": bias_correction,
            "eps_mode": eps_mode,
        }
        super().__init__(params, defaults, **options)

    def _state_names(self, group):
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _check_group(self, group):
        super()._check_group(group)
        given = group["amsgrad"] or None
        scalars.check_adam(
            given, 1, group["betas"], group["eps"], group["amsgrad"], group["bias_correction"], group["eps_mode"]
        )

    def _update(self, group, params, grads, states, step, common):
        ops.adam_step(
            params,
            grads,
            states["exp_avg"],
            states["exp_avg_sq"],
            states.get("max_exp_avg_sq"),
            step=step,
            betas=group["betas"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            bias_correction=group["bias_correction"],
            eps_mode=group["eps_mode"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2); parameters as in `Adam`.

    >>> import numpy as np, fusedstep as fs
    >>> p = fs.nn.Parameter(np.array([1.0]), np.array([0.0]), "p")
    >>> fs.optim.AdamW([p], lr=0.5, weight_decay=0.5).step()
    >>> p.array
    array([0.75])
    """

    _method = "AdamW"

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, **options):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True, **options)
