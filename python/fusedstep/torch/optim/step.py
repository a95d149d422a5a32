"""What our optimizers share: torch's class around them, and one crossing into the kernels for a whole step."""

from __future__ import annotations

import torch
from torch.autograd import _profiler_enabled
from torch.compiler import is_dynamo_compiling
from torch.optim import optimizer as _torch_optimizer

from ...backend import why_reference
from ...ops._dispatch import increment_versions, module_for
from ...reference.scalars import check_finite, check_max_norm, check_range, clipping_factor
from .rows import Row, make_row, read_again, share_memory, write_back


class FusedStep:
    """The step of ours that stands before torch's class; see `Adam` for what it adds."""

    _method: str
    _keys: tuple[str, ...]
    """Hyper-parameters of a group that a step reads."""
    _counts = True
    """Whether the state has a `step`."""
    _step_supports_amp_scaling = True

    def __init__(self, params, *args, max_norm=None, ema_decay=None, state_dtype=None, **kwargs):
        if state_dtype not in (None, torch.float32):
            raise ValueError(f"[{self._method}] 'state_dtype' must be None or torch.float32 but got {state_dtype!r}")
        self.max_norm = max_norm
        self.ema_decay = ema_decay
        self.state_dtype = state_dtype
        self._forget()
        self._check_own()
        super().__init__(params, *args, **kwargs)
        self._refuse_differentiable()

    def _check_own(self) -> None:
        """Check the options of ours, unless they are those that were checked last."""
        own = self.max_norm, self.ema_decay
        if own == self._own:
            return
        if self._own and (self._own[1] is None) != (self.ema_decay is None):
            self._plan = None  # it has, or lacks, the averages
        check_max_norm(self._method, self.max_norm)
        if self.ema_decay is not None:
            check_range(self._method, "ema_decay", self.ema_decay, 0, 1, closed=True)
        self._own = own

    def _refuse_differentiable(self) -> None:
        if any(group["differentiable"] for group in self.param_groups):
            raise RuntimeError(
                f"[{self._method}] 'differentiable' must be False: the fused step is outside of autograd; use "
                f"torch.optim.{self._method}"
            )

    def __getstate__(self) -> dict:
        ours = {name: getattr(self, name) for name in ("max_norm", "ema_decay", "state_dtype")}
        return {**super().__getstate__(), **ours}

    def __setstate__(self, state: dict) -> None:
        self._forget()
        super().__setstate__(state)

    def _forget(self) -> None:
        self._plan = None
        self._written: list = []
        self._values: list = []
        self._options: tuple = ()
        self._own: tuple = ()

    def _wide(self, p) -> torch.dtype:
        """The dtype of new states of `p`."""
        return self.state_dtype if self.state_dtype is not None and p.dtype.itemsize == 2 else p.dtype

    def _states(self, options: tuple) -> tuple[str, ...]:
        """Names of the states that a step with these options has."""
        raise NotImplementedError

    def _group_options(self, values: tuple) -> tuple:
        """(lr, weight_decay, decoupled, maximize) and the method's own, from the values of `_keys`, checked."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict) -> None:
        for name in ("max_norm", "ema_decay", "state_dtype"):
            if isinstance(param_group, dict) and name in param_group:
                raise ValueError(f"[{self._method}] {name!r} is one for all groups: give it to the optimizer")
        super().add_param_group(param_group)

    def _common(self, lr, weight_decay, maximize, *, decoupled=False) -> tuple:
        if isinstance(lr, torch.Tensor):
            lr = lr.detach().reshape(()) if lr.is_cuda else lr.item()
        if not isinstance(lr, torch.Tensor):
            lr = check_finite(self._method, "lr", lr)
        return lr, check_finite(self._method, "weight_decay", weight_decay), bool(decoupled), bool(maximize)

    def _read_options(self) -> tuple:
        """The options of each group; the very same tuples as long as nothing in a group changes."""
        values = [self._read(group) for group in self.param_groups]
        if values == self._values and all(map(_is_fixed, values)):  # a tensor may equal the number that was there
            return self._options
        self._options = tuple(self._group_options(v) for v in values)
        self._values = values if all(map(_is_fixed, values)) else []
        return self._options

    def step(self, closure=None):
        """One optimization step; returns what `closure` returns, which is called first with gradients enabled."""
        if is_dynamo_compiling():
            return self._checked_step(closure)
        plan = self._plan
        if closure is None and plan is not None and not _profiler_enabled() and plan.run_again(self.__dict__):
            try:
                _increment(self._written)
            except (TypeError, RuntimeError):
                increment_versions(self._written)
            return None
        return self._checked_step(closure)

    step.hooked = True  # hooks are called and the profiler is told below, only where there are any

    @torch.compiler.disable
    def _checked_step(self, closure):
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _torch_optimizer._global_optimizer_pre_hooks
            or _torch_optimizer._global_optimizer_post_hooks
            or _profiler_enabled()
        ):
            return _observed_step(self, closure)
        return self._step(closure)

    def _step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        multiplier, skip = 1.0, None
        scaling = self.__dict__
        if scaling.get("found_inf") is not None or scaling.get("grad_scale") is not None:  # torch.amp.GradScaler's
            multiplier, skip = self._scaling()
            if skip is True:
                return loss
        self._check_own()
        self._refuse_differentiable()
        options = self._read_options()
        ema_decay = self.ema_decay or 0.0
        if self._plan is not None and self._plan.run_attached(
            self.param_groups, self.state, options, multiplier, self.max_norm, ema_decay, skip
        ):
            increment_versions(self._written)
            self._remember(multiplier, skip)
            return loss
        self._plan = None
        with torch.no_grad():
            self._new_step(options, multiplier, skip)
        return loss

    def _remember(self, multiplier, skip) -> None:
        """Let `step` run the plan at once, as long as all stays as it was just checked."""
        if self._values and skip is None and type(multiplier) is float and multiplier == 1.0:
            self._plan.remember(self.__dict__, (*self._keys, "differentiable"), _HOOKS_OF_ALL)

    def _scaling(self):
        """(grad_multiplier, whether to skip) as GradScaler has left them on this optimizer."""
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        multiplier, skip = 1.0, None
        if found_inf is not None:
            skip = found_inf.reshape(()).to(torch.int32) if found_inf.is_cuda else bool(found_inf.item()) or None
        if scale is not None:
            multiplier = scale.double().reciprocal().reshape(()) if scale.is_cuda else 1.0 / scale.item()
        return multiplier, skip

    def _new_step(self, options: tuple, multiplier, skip) -> None:
        """A step on tensors that are looked at for the first time, or anew."""
        rows = [
            make_row(self, index, p, self._states(options[index]))
            for index, group in enumerate(self.param_groups)
            for p in group["params"]
            if p.grad is not None
        ]
        if not rows:
            return
        if any(row.is_copied for row in rows) and share_memory([row.owner for row in rows]):
            parts = [[row] for row in rows]  # in turn: each copy is made of what the step before it has left
        else:
            devices = dict.fromkeys(row.param.device for row in rows)
            parts = [[row for row in rows if row.param.device == device] for device in devices]
        plan, max_norm = None, self.max_norm
        if len(parts) > 1:
            multiplier, max_norm = self._clip_all(rows, multiplier), None
        for part in parts:
            device = part[0].param.device
            for row in part:
                read_again(row)
            plan = self._run_rows(part, options, _on(device, multiplier), _on(device, skip), max_norm)
            for row in part:
                write_back(row)
        self._written = [tensor for row in rows for tensor in row.written]
        increment_versions(self._written)
        if plan is not None and len(parts) == 1 and all(row.is_plain for row in rows):
            plan, keys = plan
            if plan.attach(self.param_groups, self.state, keys):
                self._plan = plan
                self._remember(multiplier, skip)

    def _clip_all(self, rows: list[Row], multiplier):
        if self.max_norm is None:
            return multiplier
        norms = torch.stack([torch.linalg.vector_norm(row.grad, dtype=torch.float64).cpu() for row in rows])
        multiplier = float(multiplier)
        return multiplier * clipping_factor(self.max_norm, torch.linalg.vector_norm(norms).item() * abs(multiplier))

    def _run_rows(self, rows: list[Row], options: tuple, multiplier, skip, max_norm):
        """(plan, keys) of what ran, or None where it is not to be kept."""
        module = module_for(rows[0].param)
        if module is None:
            raise RuntimeError(
                f"[{self._method}] the fused step needs the compiled kernels: {why_reference()}; or use "
                f"torch.optim.{self._method}"
            )
        first = [row for row in rows if row.is_first]
        if first:  # torch's SGD begins its buffers with the gradient itself
            self._run_first(rows, first, options, multiplier, skip, max_norm)
            return None
        buckets, keys = self._buckets(rows)
        try:
            plan = module.StepPlan(self._method, buckets, options)
        except ValueError:
            if len(buckets) == len(rows):
                raise
            # Parameters that share memory are stepped one after another, as torch does.
            buckets, keys = self._buckets(rows, apart=True)
            plan = module.StepPlan(self._method, buckets, options)
        plan.run(multiplier, max_norm, self.ema_decay or 0.0, skip)
        return plan, keys

    def _run_first(self, rows, first, options, multiplier, skip, max_norm) -> None:
        raise NotImplementedError

    def _buckets(self, rows: list[Row], *, apart=False):
        together: dict = {}
        for row in rows:
            key = (row.group, row.param.dtype, row.state_dtype, len(together) if apart else 0)
            together.setdefault(key, []).append(row)
        buckets, keys = [], []
        for (group, *_), some in together.items():
            names = some[0].names
            buckets.append(
                (
                    group,
                    [row.param for row in some],
                    [row.grad for row in some],
                    [(name, [row.states[k] for row in some]) for k, name in enumerate(names)],
                    None if some[0].ema is None else [row.ema for row in some],
                    [row.step for row in some] if self._counts else None,
                )
            )
            stored = names if some[0].ema is None else (*names, "ema")
            keys.append((*stored, "step") if self._counts else stored)
        return buckets, keys

    def averages(self) -> list[torch.Tensor]:
        """The averaged weights, one tensor a parameter in the order of the groups; a parameter that has not been
        stepped yet stands for its own average. RuntimeError without `ema_decay`."""
        if self.ema_decay is None:
            raise RuntimeError(f"[{self._method}] has no averages: 'ema_decay' was not given")
        params = [p for group in self.param_groups for p in group["params"]]
        return [self.state[p]["ema"] if "ema" in self.state.get(p, {}) else p.detach() for p in params]

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's; with `state_dtype` the states stay as wide as they were saved, or become so."""
        if self.state_dtype is None:
            return super().load_state_dict(state_dict)
        final: dict = {}
        handle = self.register_load_state_dict_pre_hook(lambda _, given: final.update(given))  # behind the others
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        ids = [i for group in final["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(ids, params, strict=True):
            for name, value in final["state"].get(i, {}).items():
                if name != "step" and isinstance(value, torch.Tensor):
                    self.state[p][name] = value.to(device=p.device, dtype=self._wide(p))


def _is_fixed(value) -> bool:
    """Whether a hyper-parameter cannot change in place: a tensor's or a list's values may."""
    return all(map(_is_fixed, value)) if isinstance(value, tuple) else isinstance(value, _FIXED)


def _on(device, value):
    return value.to(device) if isinstance(value, torch.Tensor) else value


_increment = getattr(torch._C, "_increment_version", increment_versions)  # without two frames around it
_FIXED = (bool, int, float, type(None))
_HOOKS_OF_ALL = (_torch_optimizer._global_optimizer_pre_hooks, _torch_optimizer._global_optimizer_post_hooks)
_observed_step = torch.optim.Optimizer.profile_hook_step(FusedStep._step)
