"""What all optimizers share: parameter groups, flat states, clipping, the step counter, state dicts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .. import ops
from .._arena import aligned_zeros
from ..nn.parameter import Parameter
from ..reference.arrays import check_step
from ..reference.scalars import check_finite, check_range


@dataclass(eq=False)
class _Run:
    """Neighbouring parameters of an arena, or one parameter alone: a step walks them as one array."""

    parameters: list[Parameter]
    array: np.ndarray
    grad: np.ndarray

    def views(self, flat: np.ndarray) -> list[np.ndarray]:
        """The part of `flat`, laid out as `self.array`, that belongs to each parameter."""
        if len(self.parameters) == 1 and self.array.shape == self.parameters[0].array.shape:
            return [flat]
        start = self.parameters[0].segment[1]
        return [
            flat[p.segment[1] - start : p.segment[1] - start + p.array.size].reshape(p.array.shape)
            for p in self.parameters
        ]


def _runs(parameters: list[Parameter]) -> list[_Run]:
    runs: list[list[Parameter]] = []
    for p in parameters:
        before = runs[-1][-1].segment if runs else None
        if before and p.segment and before[0] is p.segment[0] and before[2] == p.segment[1]:
            runs[-1].append(p)
        else:
            runs.append([p])
    result = []
    for run in runs:
        if run[0].segment is None:
            result.append(_Run(run, run[0].array, run[0].grad))
        else:
            arena, start, stop = run[0].segment[0], run[0].segment[1], run[-1].segment[2]
            result.append(_Run(run, arena.array[start:stop], arena.grad[start:stop]))
    return result


def _zeros_like(array: np.ndarray) -> np.ndarray:
    """Zeros laid out as `array`, aligned where it is C-contiguous."""
    if array.flags.c_contiguous:
        return aligned_zeros(array.size, array.dtype).reshape(array.shape)
    return np.zeros_like(array)


def _one_or_list(arrays: list):
    """A single array costs less to hand over than a list of one."""
    return arrays[0] if len(arrays) == 1 else arrays


class Optimizer:
    """The base of all optimizers.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        `model.parameters()`, or groups as in torch: dicts with "params" and the hyper-parameters that differ.
    lr : float or callable
        Step size, or a function of the step (from 0), see `fusedstep.optim.schedules`.
    max_norm : float, optional
        Clip the gradients of all groups together to this global norm, inside the step (Pascanu et al. 2013).
    ema_decay : float, optional
        Keep averages of the weights, ``e = ema_decay * e + (1 - ema_decay) * p``, in the same pass: `averages()`.
    skip_nonfinite : bool
        Skip the whole step when a gradient is NaN or infinite; `skipped` counts, the step counter stays.
    decay_1d : bool
        False: parameters with fewer than two axes (biases, batch norm) get no weight decay.

    Attributes
    ----------
    param_groups : list of dict
        The hyper-parameters of each group and its "params"; changes take effect at the next step.
    steps : int
        Steps taken.
    skipped : int
        Steps skipped.

    Raises
    ------
    ValueError
        For a hyper-parameter out of range, an empty list, a parameter or a name that comes twice.
    """

    _method: str
    _states: tuple[str, ...] = ()

    def __init__(
        self, params, defaults: dict, *, max_norm=None, ema_decay=None, skip_nonfinite=False, decay_1d=True, **unknown
    ):
        if unknown:
            known = [*defaults, "max_norm", "ema_decay", "skip_nonfinite", "decay_1d"]
            raise TypeError(f"[{self._method}] has no argument {min(unknown)!r}; it takes {', '.join(known)}")
        if max_norm is not None and check_range(self._method, "max_norm", max_norm, 0) == 0:
            raise ValueError(f"[{self._method}] 'max_norm' must be greater than 0 but got {max_norm!r}")
        if ema_decay is not None:
            check_range(self._method, "ema_decay", ema_decay, 0, 1, closed=True)
        self.max_norm = max_norm
        self.ema_decay = ema_decay
        self.skip_nonfinite = bool(skip_nonfinite)
        self.steps = 0
        self.skipped = 0
        self.param_groups = _split_1d(_groups(self._method, params, defaults), decay_1d)
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        self._grads = [p.grad for p in self._parameters]
        check_step([p.array for p in self._parameters], self._grads, [])
        self._plans = []
        for group in self.param_groups:
            self._check_group(group)
            runs = _runs(group["params"])
            names = self._state_names(group)
            states = {name: [_zeros_like(run.array) for run in runs] for name in names}
            if ema_decay is not None:
                states["ema"] = [_zeros_like(run.array) for run in runs]
                for average, run in zip(states["ema"], runs, strict=True):
                    average[...] = run.array
            self._plans.append((group, runs, states))
        self._calls = [
            (
                group,
                _one_or_list([run.array for run in runs]),
                _one_or_list([run.grad for run in runs]),
                {name: _one_or_list(arrays) for name, arrays in states.items()},
            )
            for group, runs, states in self._plans
        ]

    def _state_names(self, group: dict) -> tuple[str, ...]:
        return self._states

    def _check_group(self, group: dict) -> None:
        """Raise for a hyper-parameter out of range."""
        lr = group["lr"]
        check_range(self._method, "lr", 0.0 if callable(lr) else lr, 0)
        check_range(self._method, "weight_decay", group["weight_decay"], 0)

    def _update(self, group: dict, params: list, grads: list, states: dict, step: int, common: dict) -> None:
        raise NotImplementedError

    @property
    def lr(self) -> float:
        """The step size of the first group at the next step."""
        return self._lr(self.param_groups[0])

    def _lr(self, group: dict) -> float:
        lr = group["lr"]
        return lr(self.steps) if callable(lr) else lr

    def step(self, *, grad_multiplier: float = 1.0) -> None:
        """Update all parameters from their gradients, which stay as they are.

        Parameters
        ----------
        grad_multiplier : float
            What the gradients are multiplied by first, in the same pass: 1 / scale undoes a loss scale.
        """
        multiplier = check_finite(self._method, "grad_multiplier", grad_multiplier)
        if len(self._calls) > 1:  # the op checks its group, but then the first would be written before the second is
            for group, _, _, states in self._calls:
                self._check_group({**group, "lr": self._lr(group)})
                self._check_states(group, states)
        if self.max_norm is not None or self.skip_nonfinite:
            norm = ops.global_norm(self._grads) * abs(multiplier)
            if self.skip_nonfinite and not math.isfinite(norm) and not self._gradients_are_finite():
                self.skipped += 1
                return
            if self.max_norm is not None:
                multiplier *= _clipping_factor(self.max_norm, norm)
        for group, params, grads, states in self._calls:
            common = {
                "lr": self._lr(group),
                "weight_decay": group["weight_decay"],
                "maximize": group["maximize"],
                "grad_multiplier": multiplier,
                "ema_params": states.get("ema"),
                "ema_decay": self.ema_decay,
            }
            self._update(group, params, grads, states, self.steps + 1, common)
        self.steps += 1

    def _check_states(self, group: dict, states: dict) -> None:
        missing = set(self._state_names(group)) - states.keys()
        if missing:
            raise ValueError(f"[{self._method}] the group has no {min(missing)!r}: switch it on in a new optimizer")

    def _gradients_are_finite(self) -> bool:
        return all(np.isfinite(grad).all() for grad in self._grads)

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        for _, runs, _ in self._plans:
            for run in runs:
                run.grad.fill(0)

    def _state_views(self) -> dict[str, dict[str, np.ndarray]]:
        """{parameter name: {state name: view of its part}}"""
        views: dict[str, dict[str, np.ndarray]] = {p.name: {} for p in self._parameters}
        for _, runs, states in self._plans:
            for state, arrays in states.items():
                for run, array in zip(runs, arrays, strict=True):
                    for p, view in zip(run.parameters, run.views(array), strict=True):
                        views[p.name][state] = view
        return views

    def state_arrays(self, name: str) -> dict[str, np.ndarray]:
        """The states of the parameter `name`, by torch.optim's names, as views."""
        return self._state_views()[name]

    def averages(self) -> dict[str, np.ndarray]:
        """The averaged weights by parameter name, as views; RuntimeError without `ema_decay`."""
        if self.ema_decay is None:
            raise RuntimeError(f"[{self._method}] has no averages: 'ema_decay' was not given")
        return {name: states["ema"] for name, states in self._state_views().items()}

    def state_dict(self) -> dict:
        """A copy of everything the next steps depend on, keyed by parameter name.

        {"state": {name: {state: array}}, "steps": int, "skipped": int, "param_groups": [{..., "params": [names]}]};
        an lr that is a function is stored as None.
        """
        return {
            "state": {
                name: {state: view.copy() for state, view in views.items()}
                for name, views in self._state_views().items()
            },
            "steps": self.steps,
            "skipped": self.skipped,
            "param_groups": [
                {
                    key: [p.name for p in value] if key == "params" else None if callable(value) else value
                    for key, value in group.items()
                }
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` gave; nothing changes if it does not fit.

        A stored lr of None keeps this optimizer's schedule. Raises ValueError naming the first thing that differs.
        """
        state, groups = self._checked(state_dict)
        for name, views in self._state_views().items():
            for key, view in views.items():
                view[...] = state[name][key]
        for group, new in zip(self.param_groups, groups, strict=True):
            group.update({k: v for k, v in new.items() if k != "params" and not (k == "lr" and v is None)})
        self.steps, self.skipped = int(state_dict["steps"]), int(state_dict["skipped"])

    def _checked(self, state_dict: dict) -> tuple[dict, list[dict]]:
        for key in ("state", "steps", "skipped", "param_groups"):
            if key not in state_dict:
                raise ValueError(f"[{self._method}] the state dict has no {key!r}")
        for key in ("steps", "skipped"):
            count = state_dict[key]
            if not isinstance(count, int | np.integer) or count < 0:
                raise ValueError(f"[{self._method}] {key!r} of the state dict must be a count but is {count!r}")
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError(
                f"[{self._method}] the state dict has {len(groups)} parameter groups "
                f"but the optimizer has {len(self.param_groups)}"
            )
        for own, new in zip(self.param_groups, groups, strict=True):
            names = [p.name for p in own["params"]]
            if list(new.get("params", ())) != names:
                raise ValueError(f"[{self._method}] the state dict's parameters {new.get('params')} are not {names}")
            if new.keys() != own.keys():
                odd = sorted(new.keys() ^ own.keys())[0]
                raise ValueError(
                    f"[{self._method}] the state dict's groups differ in {odd!r}: it is of another optimizer"
                )
            merged = {**own, **{k: v for k, v in new.items() if k != "params" and not (k == "lr" and v is None)}}
            self._check_group(merged)
            if self._state_names(merged) != self._state_names(own):
                raise ValueError(f"[{self._method}] the state dict's hyper-parameters ask for other states: {new}")
        own_views = self._state_views()
        unknown = state_dict["state"].keys() - own_views.keys()
        if unknown:
            raise ValueError(f"[{self._method}] the state dict has states of an unknown parameter {min(unknown)!r}")
        for name, views in own_views.items():
            stored = state_dict["state"].get(name, {})
            unknown = stored.keys() - views.keys()
            if unknown:
                raise ValueError(f"[{self._method}] the state dict has an unknown state {min(unknown)!r} of {name!r}")
            for key, view in views.items():
                if key not in stored:
                    raise ValueError(f"[{self._method}] the state dict has no {key!r} of {name!r}")
                array = np.asarray(stored[key])
                if array.shape != view.shape or array.dtype != view.dtype:
                    raise ValueError(
                        f"[{self._method}] {key!r} of {name!r} is {array.dtype}{array.shape} in the state dict "
                        f"but {view.dtype}{view.shape} here"
                    )
        return state_dict["state"], groups

    def __reduce__(self):
        # A copy would step arrays that no model has.
        raise TypeError(
            f"[{self._method}] an optimizer is not copied or pickled: make a new one for the other model's parameters "
            "and call its load_state_dict(optimizer.state_dict())"
        )

    def __repr__(self) -> str:
        lines = []
        for group in self.param_groups:
            shown = ", ".join(f"{k}={v!r}" for k, v in group.items() if k != "params")
            lines.append(f"  {len(group['params'])} parameters: {shown}")
        options = {"max_norm": self.max_norm, "ema_decay": self.ema_decay, "skip_nonfinite": self.skip_nonfinite}
        lines += [f"  {name}={value!r}" for name, value in options.items() if value]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _clipping_factor(max_norm: float, norm: float) -> float:
    """min(1, max_norm / (norm + 1e-6)); a NaN norm gives NaN, as in IEEE arithmetic."""
    factor = max_norm / (norm + 1e-6)
    return factor if factor < 1 or math.isnan(factor) else 1.0


def _groups(method: str, params: Iterable, defaults: dict) -> list[dict]:
    if isinstance(params, Parameter) or not isinstance(params, Iterable):
        hint = "; pass its .parameters()" if hasattr(params, "parameters") else ""
        raise TypeError(
            f"[{method}] 'params' must be a list of Parameter or of dicts but got a {type(params).__name__}{hint}"
        )
    params = list(params)
    if not params:
        raise ValueError(f"[{method}] 'params' is empty")
    groups = [dict(g) for g in params] if isinstance(params[0], dict) else [{"params": params}]
    seen: set[int] = set()
    names: set[str] = set()
    for group in groups:
        unknown = group.keys() - defaults.keys() - {"params"}
        if unknown:
            raise ValueError(f"[{method}] a parameter group has an unknown key {sorted(unknown)[0]!r}")
        if "params" not in group:
            raise ValueError(f"[{method}] a parameter group has no 'params'")
        group["params"] = [group["params"]] if isinstance(group["params"], Parameter) else list(group["params"])
        for p in group["params"]:
            if not isinstance(p, Parameter):
                raise TypeError(f"[{method}] 'params' must hold Parameters but got {type(p).__name__}")
            if id(p) in seen or p.name in names:
                raise ValueError(f"[{method}] parameter {p.name!r} comes twice")
            seen.add(id(p))
            names.add(p.name)
    return [{"params": group["params"], **defaults, **group} for group in groups]


def _split_1d(groups: list[dict], decay_1d: bool) -> list[dict]:
    if decay_1d:
        return groups
    parts = []
    for group in groups:
        wide = [p for p in group["params"] if p.array.ndim >= 2]
        narrow = [p for p in group["params"] if p.array.ndim < 2]
        parts += [{**group, "params": wide}] if wide else []
        parts += [{**group, "params": narrow, "weight_decay": 0.0}] if narrow else []
    return parts
