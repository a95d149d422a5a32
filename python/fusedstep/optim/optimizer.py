"""What all optimizers share: parameter groups, flat states, clipping, the step counter, state dicts."""

from __future__ import annotations

import math

import numpy as np

from .. import ops
from .._device import CPU, as_host, device_of, host_copy, is_cupy
from ..reference.arrays import check_step
from ..reference.scalars import check_finite, check_flag, check_max_norm, check_range, clipping_factor
from .device import DeviceScalars, check_lr_array, check_parameters, stored
from .groups import make_groups, split_1d
from .options import Checked
from .runs import find_runs, zeros_like

_FLAGS = ("maximize", "decoupled_weight_decay")
"""Those of all optimizers but the second-order ones."""


def _one_or_list(arrays: list):
    """A single array costs less to hand over than a list of one."""
    return arrays[0] if len(arrays) == 1 else arrays


class Optimizer:
    """The base of all optimizers.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        `model.parameters()`, or groups as in torch: dicts with "params" and the hyper-parameters that differ.
    lr : float, callable or 0-d array
        Step size, or a function of the step (from 0), see `fusedstep.optim.schedules`. For parameters on a GPU also a
        float32 or float64 array there, read by each step: write into it to change the step size.
    max_norm : float, optional
        Clip the gradients of all groups together to this global norm, inside the step (Pascanu et al. 2013).
    ema_decay : float or callable, optional
        Keep averages of the weights, ``e = ema_decay * e + (1 - ema_decay) * p``, in the same pass: `averages()`. Also
        a function of the step (from 0): `fusedstep.optim.schedules.uniform_average` makes e the mean of all iterates.
    skip_nonfinite : bool
        Skip the whole step when a gradient is NaN or infinite; `skipped` counts, the step counter stays. On a GPU
        this is decided there, and an lr that is a function waits for the step before, as it needs the true count.
    decay_1d : bool
        False: parameters with fewer than two axes (biases, batch norm) get no weight decay, and of LARS and LAMB no
        step size of their own: ``adapt=False``.
    capturable : bool
        For parameters on a GPU: the steps are counted there, so that a whole `step()` can be captured in a CUDA graph
        and replayed. lr is then a number or an array.

    Attributes
    ----------
    param_groups : list of dict
        The hyper-parameters of each group and its "params"; changes take effect at the next step, as do those of
        `max_norm` and `skip_nonfinite`.
    steps : int
        Steps taken. Read from the device, which waits for it, where only the device knows: on a GPU with
        `skip_nonfinite` or `capturable`.
    skipped : int
        Steps skipped; likewise.

    Raises
    ------
    ValueError
        For a hyper-parameter out of range, an empty list, a parameter or a name that comes twice.
    TypeError
        For a hyper-parameter of another type: flags are bools.
    """

    _method: str
    _states: tuple[str, ...] = ()
    _merges = True  # whether a step may walk neighbouring parameters as one array
    max_norm = Checked(check_max_norm)
    skip_nonfinite = Checked(lambda method, value: check_flag(method, "skip_nonfinite", value))

    def __init__(
        self,
        params,
        defaults: dict,
        *,
        max_norm=None,
        ema_decay=None,
        skip_nonfinite=False,
        decay_1d=True,
        capturable=False,
        **unknown,
    ):
        if unknown:
            known = [*defaults, "max_norm", "ema_decay", "skip_nonfinite", "decay_1d", "capturable"]
            raise TypeError(f"[{self._method}] has no argument {min(unknown)!r}; it takes {', '.join(known)}")
        if ema_decay is not None and not callable(ema_decay):
            check_range(self._method, "ema_decay", ema_decay, 0, 1, closed=True)
        if callable(ema_decay) and capturable:
            raise ValueError(
                f"[{self._method}] 'ema_decay' is a function, which a captured step could not call: give a number"
            )
        self.max_norm = max_norm
        self.ema_decay = ema_decay
        self.skip_nonfinite = skip_nonfinite
        self.capturable = check_flag(self._method, "capturable", capturable)
        self._steps = 0  # on a GPU that counts for itself, those that the host knows of
        self._skipped = 0
        decay_1d = check_flag(self._method, "decay_1d", decay_1d)
        self.param_groups = split_1d(make_groups(self._method, params, defaults), decay_1d)
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        self._grads = [p.grad for p in self._parameters]
        self._device = device_of(self._parameters[0].array)
        self._scalars: DeviceScalars | None = None  # on a GPU only
        if self._device is CPU:
            if self.capturable:
                raise ValueError(f"[{self._method}] 'capturable' needs parameters on a GPU: see Sequential.to")
            check_step([p.array for p in self._parameters], self._grads, [])
        else:
            check_parameters(self._method, self._parameters, self._device)
            self._scalars = DeviceScalars(self._device)
        self._device_counts = self._scalars is not None and (self.skip_nonfinite or self.capturable)
        self._plans = []
        for group in self.param_groups:
            self._check_group(group)
            runs = find_runs(group["params"], self._merges)
            names = self._state_names(group)
            states = {name: [zeros_like(run.array) for run in runs] for name in names}
            if ema_decay is not None:
                states["ema"] = [zeros_like(run.array) for run in runs]
                with self._device.active():
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
        if is_cupy(lr):
            check_lr_array(self._method, lr, self._device)
        elif not callable(lr):
            check_range(self._method, "lr", lr, 0)
        elif self.capturable:
            raise ValueError(
                f"[{self._method}] 'lr' is a function, which a captured step could not call: with capturable=True give "
                "a number, or a 0-d array on the device and write into it"
            )
        check_range(self._method, "weight_decay", group["weight_decay"], 0)
        for name in _FLAGS:
            check_flag(self._method, name, group.get(name, False))

    def _update(self, group: dict, params: list, grads: list, states: dict, step: int, common: dict) -> None:
        raise NotImplementedError

    @property
    def steps(self) -> int:
        if self._device_counts:
            self._steps = int(as_host(self._scalars.step))
        return self._steps

    @property
    def skipped(self) -> int:
        if self._device_counts:
            self._skipped = int(as_host(self._scalars.skipped))
        return self._skipped

    def _is_first(self, step) -> bool:
        """Whether the step that is being taken is the first; where the device counts, it is asked until it is not."""
        if not self._device_counts:
            return step == 1
        return self._steps <= 1 and self.steps <= 1  # `_steps` lags behind, but never goes ahead

    @property
    def lr(self) -> float:
        """The step size of the first group at the next step; an array where it was given as one."""
        return self._lr(self.param_groups[0])

    def _lr(self, group: dict) -> float:
        lr = group["lr"]
        return lr(self._counted()) if callable(lr) else lr

    def _decay(self) -> float | None:
        """What `ema_decay` is at the next step, checked before anything is written."""
        if not callable(self.ema_decay):
            return self.ema_decay
        return check_range(self._method, "ema_decay", self.ema_decay(self._counted()), 0, 1, closed=True)

    def _counted(self) -> int:
        """The steps so far; the device is asked only where it alone knows."""
        return self.steps if self._device_counts else self._steps

    def step(self, *, grad_multiplier: float = 1.0) -> None:
        """Update all parameters from their gradients, which stay as they are.

        Parameters
        ----------
        grad_multiplier : float
            What the gradients are multiplied by first, in the same pass: 1 / scale undoes a loss scale. On a GPU it
            may be a 0-d float32 or float64 array there.
        """
        if self._scalars is not None:
            self._step_on_device(grad_multiplier)
            return
        multiplier = check_finite(self._method, "grad_multiplier", grad_multiplier)
        if len(self._calls) > 1:  # the op checks its group, but then the first would be written before the second is
            for group, _, _, states in self._calls:
                self._check_group({**group, "lr": self._lr(group)} if callable(group["lr"]) else group)
                self._check_states(group, states)
        if self.max_norm is not None or self.skip_nonfinite:
            norm = ops.global_norm(self._grads) * abs(multiplier)
            if self.skip_nonfinite and not math.isfinite(norm) and not self._gradients_are_finite():
                self._skipped += 1
                return
            if self.max_norm is not None:
                multiplier *= clipping_factor(self.max_norm, norm)
        decay = self._decay()
        for group, params, grads, states in self._calls:
            common = {
                "lr": self._lr(group),
                "weight_decay": group["weight_decay"],
                "maximize": group["maximize"],
                "grad_multiplier": multiplier,
                "ema_params": states.get("ema"),
                "ema_decay": decay,
            }
            self._update(group, params, grads, states, self._steps + 1, common)
        self._steps += 1

    def _step_on_device(self, grad_multiplier) -> None:
        """The same, queued on the device: the host neither waits for the norm nor knows whether the step is skipped."""
        if not self.capturable and self._device.is_capturing():  # a replay would repeat one number of steps, one lr
            raise RuntimeError(f"[{self._method}] a step is captured only by an optimizer made with capturable=True")
        if not is_cupy(grad_multiplier):
            grad_multiplier = check_finite(self._method, "grad_multiplier", grad_multiplier)
        if self.skip_nonfinite and not self._device_counts:  # switched on since the last step
            self._device.write(self._scalars.step, self._steps)
            self._device_counts = True
        lrs = [self._lr(group) for group, *_ in self._calls]
        decay = self._decay()
        for (group, _, _, states), lr in zip(self._calls, lrs, strict=True):
            self._check_group({**group, "lr": lr})
            self._check_states(group, states)
        scalars, step, skip = self._scalars, self._steps + 1, None
        with self._device.active():
            if self._device_counts or self.max_norm is not None:
                scalars.prepare(self._grads, grad_multiplier, self.max_norm, self.skip_nonfinite)
                grad_multiplier = scalars.multiplier
            if self._device_counts:
                step, skip = scalars.step, scalars.skip if self.skip_nonfinite else None
            for (group, params, grads, states), lr in zip(self._calls, lrs, strict=True):
                common = {
                    "lr": lr,
                    "weight_decay": group["weight_decay"],
                    "maximize": group["maximize"],
                    "grad_multiplier": grad_multiplier,
                    "ema_params": states.get("ema"),
                    "ema_decay": decay,
                    "skip": skip,
                }
                self._update(group, params, grads, states, step, common)
        if not self._device_counts:
            self._steps += 1

    def _check_states(self, group: dict, states: dict) -> None:
        for name in self._state_names(group):
            if name not in states:
                raise ValueError(f"[{self._method}] the group has no {name!r}: switch it on in a new optimizer")

    def _gradients_are_finite(self) -> bool:
        return all(np.isfinite(grad).all() for grad in self._grads)

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        with self._device.active():
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
        """A copy of everything the next steps depend on, keyed by parameter name; NumPy arrays, whatever the device.

        {"state": {name: {state: array}}, "steps": int, "skipped": int, "param_groups": [{..., "params": [names]}]};
        an lr that is a function is stored as None.
        """
        return {
            "state": {
                name: {state: host_copy(view) for state, view in views.items()}
                for name, views in self._state_views().items()
            },
            "steps": self.steps,
            "skipped": self.skipped,
            "param_groups": [
                {key: [p.name for p in value] if key == "params" else stored(value) for key, value in group.items()}
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
                self._device.write(view, state[name][key])
        for group, new in zip(self.param_groups, groups, strict=True):
            lr = group["lr"]
            group.update({k: v for k, v in new.items() if k != "params" and not (k == "lr" and v is None)})
            if is_cupy(lr) and not is_cupy(group["lr"]):  # the array that captured steps read stays in its place
                self._device.write(lr, group["lr"])
                group["lr"] = lr
        self._steps, self._skipped = int(state_dict["steps"]), int(state_dict["skipped"])
        if self._scalars is not None:
            self._device.write(self._scalars.step, self._steps)
            self._device.write(self._scalars.skipped, self._skipped)

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
            kept = state_dict["state"].get(name, {})
            unknown = kept.keys() - views.keys()
            if unknown:
                raise ValueError(f"[{self._method}] the state dict has an unknown state {min(unknown)!r} of {name!r}")
            for key, view in views.items():
                if key not in kept:
                    raise ValueError(f"[{self._method}] the state dict has no {key!r} of {name!r}")
                array = as_host(kept[key])
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
