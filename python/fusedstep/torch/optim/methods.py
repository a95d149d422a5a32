"""The optimizers: torch's classes with their arguments, defaults and state dicts, and a step of ours."""

from __future__ import annotations

import inspect
from operator import itemgetter

import torch

from ...reference.scalars import check_finite, check_range
from .rows import initial_state
from .step import FusedStep

_ADDED = """

    Beyond torch's arguments:

    Parameters
    ----------
    max_norm : float, optional
        Clip the gradients of all groups together to this global norm, inside the step; they stay as they are
        (Pascanu et al. 2013, algorithm 1).
    ema_decay : float, optional
        Keep averages of the weights, ``e = ema_decay * e + (1 - ema_decay) * p``, in the same pass, from the weights
        before the first step on (Polyak & Juditsky 1992): `averages()`; in the state as "ema".
    state_dtype : torch.float32, optional
        Keep the states of float16 and bfloat16 parameters in float32.

    Notes
    -----
    `foreach`, `fused` and `capturable` choose among torch's implementations and are accepted; the step is always the
    fused one, the same bits for every number of threads. `differentiable` is refused.

    Examples
    --------
    >>> import torch, fusedstep as fs
    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = fs.torch.optim.{name}([p], lr=0.5)
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> optimizer.step()
    >>> [round(x, 4) for x in p.tolist()]
    {result}
    """


def _documented(result: list):
    def finish(cls):
        parent = cls.__bases__[1]
        theirs = inspect.signature(parent)
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
            for name in ("max_norm", "ema_decay", "state_dtype")
        ]
        cls.__signature__ = theirs.replace(parameters=[*theirs.parameters.values(), *added])
        cls._read = staticmethod(itemgetter(*cls._keys))
        if cls.__doc__ is not None:  # python -OO leaves it out
            cls.__doc__ += _ADDED.format(name=cls.__name__, result=result)
        return cls

    return finish


@_documented([0.5, 1.5])
class SGD(FusedStep, torch.optim.SGD):
    """Gradient descent with momentum, as torch.optim.SGD (Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013)."""

    _method = "SGD"
    _keys = ("lr", "weight_decay", "maximize", "momentum", "dampening", "nesterov")
    _counts = False

    def _states(self, options):
        return ("momentum_buffer",) if options[4] != 0 else ()

    def _group_options(self, values):
        lr, weight_decay, maximize, momentum, dampening, nesterov = values
        return (
            *self._common(lr, weight_decay, maximize),
            check_finite("SGD", "momentum", momentum),
            check_finite("SGD", "dampening", dampening),
            bool(nesterov),
        )

    def _run_first(self, rows, first, options, multiplier, skip, max_norm):
        undamped = tuple((*o[:5], 0.0, o[6]) for o in options)
        old = [row for row in rows if not row.is_first]
        if old and max_norm is not None:
            multiplier, max_norm = self._clip_all(rows, multiplier), None
        for row in rows:
            row.is_first = False
        self._run_rows(first, undamped, multiplier, skip, max_norm)
        if old:
            self._run_rows(old, options, multiplier, skip, max_norm)


@_documented([0.5, 1.5])
class Adagrad(FusedStep, torch.optim.Adagrad):
    """AdaGrad, as torch.optim.Adagrad (Duchi, Hazan & Singer 2011)."""

    _method = "Adagrad"
    _keys = ("lr", "weight_decay", "maximize", "lr_decay", "eps")

    def __init__(self, params, *args, **kwargs):
        super().__init__(params, *args, **kwargs)
        if self.state_dtype is not None:  # torch makes the sums here, in the parameter's type
            for p, state in self.state.items():
                del state["sum"]  # before the other is made
                state["sum"] = initial_state(self, p)

    def _states(self, options):
        return ("sum",)

    def _group_options(self, values):
        lr, weight_decay, maximize, lr_decay, eps = values
        return (
            *self._common(lr, weight_decay, maximize),
            check_finite("Adagrad", "lr_decay", lr_decay),
            check_finite("Adagrad", "eps", eps),
        )


@_documented([-4.0, 6.0])
class RMSprop(FusedStep, torch.optim.RMSprop):
    """RMSprop, as torch.optim.RMSprop (Tieleman & Hinton 2012; centered: Graves 2013)."""

    _method = "RMSprop"
    _keys = ("lr", "weight_decay", "maximize", "alpha", "eps", "momentum", "centered")

    def _states(self, options):
        momentum, centered = options[6], options[7]
        return ("square_avg", *(("momentum_buffer",) if momentum else ()), *(("grad_avg",) if centered else ()))

    def _group_options(self, values):
        lr, weight_decay, maximize, alpha, eps, momentum, centered = values
        return (
            *self._common(lr, weight_decay, maximize),
            check_finite("RMSprop", "alpha", alpha),
            check_finite("RMSprop", "eps", eps),
            check_finite("RMSprop", "momentum", momentum),
            bool(centered),
        )


class _Adam(FusedStep):
    _method = "Adam"
    _keys = ("lr", "weight_decay", "maximize", "betas", "eps", "amsgrad")

    def _states(self, options):
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if options[7] else ()))

    def _group_options(self, values):
        lr, weight_decay, maximize, betas, eps, amsgrad, *decoupled = values
        return (
            *self._common(lr, weight_decay, maximize, decoupled=decoupled[0] if decoupled else self._decoupled),
            check_range(self._method, "beta1", float(betas[0]), 0, 1),
            check_range(self._method, "beta2", float(betas[1]), 0, 1),
            check_finite(self._method, "eps", eps),
            bool(amsgrad),
        )


_HAS_DECOUPLED = "decoupled_weight_decay" in inspect.signature(torch.optim.Adam).parameters


@_documented([0.5, 1.5])
class Adam(_Adam, torch.optim.Adam):
    """Adam, as torch.optim.Adam (Kingma & Ba 2014, algorithm 1; AMSGrad: Reddi et al. 2018)."""

    _keys = (*_Adam._keys, *(("decoupled_weight_decay",) if _HAS_DECOUPLED else ()))
    _decoupled = False


@_documented([0.495, 1.495])
class AdamW(_Adam, torch.optim.AdamW):
    """AdamW, as torch.optim.AdamW (Loshchilov & Hutter 2019, algorithm 2)."""

    _method = "AdamW"
    _decoupled = True
