"""The optimizer: torch's interface to the parameters, and optimizers of ours on their masters."""

from __future__ import annotations

import weakref

import torch

from ... import ops
from ...reference.scalars import check_integer, check_max_norm, clipping_factor
from ..optim import AdamW
from ..optim.rows import is_dense, is_expanded, share_memory
from ..optim.step import FusedStep
from .bucket import Bucket, split
from .link import link_of

_WHERE = "OffloadedOptimizer"
_MASTERS = (torch.float32, torch.float64)


class OffloadedOptimizer(torch.optim.Optimizer):
    """Any optimizer of `fs.torch.optim`, with master weights, states and update on the CPU.

    The device keeps parameters and gradients alone: with AdamW and 16-bit parameters 4 bytes a parameter in place of
    16. A step fetches the gradients layer by layer on a stream of its own, updates the masters of a layer while the
    next one's gradients are still coming, and sends the rounded masters back on a third stream; work that the current
    stream is given afterwards sees them. Parameters on the CPU take the same way by plain copies.

    Parameters
    ----------
    params : iterable of tensors, or of dicts that are parameter groups
        float16, bfloat16, float32 or float64, on CUDA devices or the CPU.
    optimizer_class : class
        Of `fs.torch.optim`; AdamW by default.
    master_dtype : torch.float32 or torch.float64
        Of masters and states; at least as wide as the parameters.
    pin_memory : bool, optional
        Pinned host memory for what is copied and for the masters, without which nothing overlaps; by default where a
        parameter is on a GPU. The optimizer's states never leave the host.
    bucket_size : int
        Values of small layers that are copied and updated together.
    overlap_backward : bool
        Fetch each gradient as soon as the backward pass has added to it, not in `step`. Gradients that were changed
        afterwards, by ``clip_grad_norm_``, ``unscale_`` or another backward pass, are fetched again. What torch's
        version counters do not see is missed: leave it off with data-parallel wrappers and changes to ``grad.data``.
    max_norm : float, optional
        Clip the gradients of all groups together to this global norm, inside the step; they stay as they are (Pascanu
        et al. 2013, algorithm 1). All gradients are then on the host before the first update.
    **options
        Of `optimizer_class`: lr, weight_decay, ema_decay, and so on.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        For wrong arguments, by name, in torch's words where they are torch's. A `step` checks all gradients before it
        changes anything.

    Notes
    -----
    The states of a parameter are those of `optimizer_class` and "master", all in `master_dtype` on the CPU. With
    float32 masters a 16-bit parameter takes 10 bytes there for its master and what is copied, AdamW's states 8. The
    trajectory of the masters is that of `optimizer_class` on parameters of `master_dtype` with the same gradients, bit
    for bit. State dicts that have no masters, of `fs.torch.optim` or torch.optim, are loaded too. What others write to
    a parameter is taken over by its master at the next step, where torch's version counter has seen it.
    Rajbhandari et al. 2020 (ZeRO); Ren et al. 2021 (ZeRO-Offload).

    Examples
    --------
    >>> import torch, fusedstep as fs
    >>> model = torch.nn.Linear(3, 1, dtype=torch.bfloat16)
    >>> optimizer = fs.torch.OffloadedOptimizer(model.parameters(), fs.torch.optim.AdamW, lr=0.01, max_norm=1.0)
    >>> model(torch.ones(2, 3, dtype=torch.bfloat16)).sum().backward()
    >>> optimizer.step()
    >>> optimizer.state[model.weight]["master"].dtype, model.weight.dtype
    (torch.float32, torch.bfloat16)
    """

    _step_supports_amp_scaling = True
    _OWN = ("optimizer_class", "master_dtype", "pin_memory", "bucket_size", "overlap_backward", "max_norm", "_options")

    def __init__(
        self,
        params,
        optimizer_class=AdamW,
        *,
        master_dtype=torch.float32,
        pin_memory=None,
        bucket_size=1 << 24,
        overlap_backward=False,
        max_norm=None,
        **options,
    ):
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, FusedStep)):
            raise TypeError(
                f"[{_WHERE}] 'optimizer_class' must be a class of fs.torch.optim but got {optimizer_class!r}"
            )
        if master_dtype not in _MASTERS:
            raise ValueError(
                f"[{_WHERE}] 'master_dtype' must be torch.float32 or torch.float64 but got {master_dtype!r}"
            )
        if pin_memory and not torch.cuda.is_available():
            raise RuntimeError(f"[{_WHERE}] 'pin_memory' needs a GPU, and torch finds none")
        check_max_norm(_WHERE, max_norm)
        self.optimizer_class, self.master_dtype, self.pin_memory = optimizer_class, master_dtype, pin_memory
        self.bucket_size = check_integer(_WHERE, "bucket_size", bucket_size, 1)
        self.overlap_backward, self.max_norm = bool(overlap_backward), max_norm
        self._options = options
        self._start()
        placeholder = torch.nn.Parameter(torch.zeros(1, dtype=master_dtype))
        super().__init__(params, optimizer_class([placeholder], **options).defaults)

    def _start(self) -> None:
        self._buckets: list[Bucket] = []
        self._inner: list[FusedStep] = []  # of each bucket
        self._links: dict = {}

    def add_param_group(self, param_group) -> None:
        """As torch's; makes the masters of the new parameters."""
        super().add_param_group(param_group)
        try:
            self._add_buckets(len(self.param_groups) - 1)
        except BaseException:
            self.param_groups.pop()
            raise

    def _add_buckets(self, index: int) -> None:
        group = self.param_groups[index]
        params = group["params"]
        for p in params:
            self._check_parameter(p)
        if _overlap([p for g in self.param_groups for p in g["params"]]):
            raise ValueError(f"[{_WHERE}] 'params' holds a parameter twice, or two that share memory")
        pin = any(p.is_cuda for p in params) if self.pin_memory is None else bool(self.pin_memory)
        made = []
        for part in split(params, self.bucket_size):
            device = part[0].device
            if device not in self._links:
                self._links[device] = link_of(device)
            bucket = Bucket(part, index, self._links[device], self.master_dtype, pin)
            masters = {**_values(group), "params": [slot.master for slot in bucket.slots]}
            made.append((bucket, _on_masters(self.optimizer_class)([masters], **self._options)))
        for bucket, inner in made:
            self._buckets.append(bucket)
            self._inner.append(inner)
            self._link_states(bucket, inner)
            if self.overlap_backward:
                for k, slot in enumerate(bucket.slots):
                    if slot.param.requires_grad:
                        slot.param.register_post_accumulate_grad_hook(_fetching(weakref.ref(bucket), k))

    def _check_parameter(self, p) -> None:
        if p.layout != torch.strided or p.device.type not in ("cpu", "cuda"):
            raise TypeError(
                f"[{_WHERE}] a parameter must be a dense tensor on a CUDA device or the CPU but one has layout "
                f"{p.layout} on {p.device}"
            )
        if p.dtype not in (torch.float16, torch.bfloat16, *_MASTERS):
            raise TypeError(
                f"[{_WHERE}] a parameter has dtype {p.dtype}; accepted are float16, bfloat16, float32 and float64"
            )
        if p.dtype.itemsize > self.master_dtype.itemsize:
            raise TypeError(
                f"[{_WHERE}] a parameter has dtype {p.dtype}, which 'master_dtype' {self.master_dtype} does not hold"
            )
        if p.is_inference():
            raise RuntimeError(
                f"[{_WHERE}] a parameter is an inference tensor, whose changes nobody counts; pass a clone() of it"
            )
        if is_expanded(p):
            raise ValueError(f"[{_WHERE}] a parameter is expanded, so that values share memory; pass a clone() of it")

    def _link_states(self, bucket: Bucket, inner: FusedStep) -> None:
        """One dict of states, known to both by their own parameters."""
        for slot in bucket.slots:
            state = inner.state[slot.master]
            state["master"] = slot.master.detach()
            self.state[slot.param] = state

    @torch.compiler.disable
    def step(self, closure=None):
        """One optimization step; returns what `closure` returns, which is called first with gradients enabled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._run()
        return loss

    def _run(self) -> None:
        pairs = [(b, inner) for b, inner in zip(self._buckets, self._inner, strict=True) if b.stepped()]
        self._check_gradients(pairs)
        for bucket, inner in pairs:  # hyper-parameters that are out of range are told before anything is changed
            group = self.param_groups[bucket.group]
            inner.param_groups[0].update(_values(group))
            inner._refuse_differentiable()
            inner._read_options()
        links = dict.fromkeys(bucket.link for bucket, _ in pairs)
        for link in links:
            link.begin()
        # GradScaler.unscale_ writes the gradients past their version counters; it then leaves no scale to the step.
        unscaled = getattr(self, "found_inf", None) is not None and getattr(self, "grad_scale", None) is None
        for bucket, _ in pairs:
            for slot in bucket.stepped():
                slot.read_parameter()
            bucket.fetch([slot for slot in bucket.stepped() if unscaled or not slot.is_fetched()])
        multiplier = self._multiplier()  # waits for the gradients to be made
        if multiplier is not None:
            if self.max_norm is not None:
                multiplier *= self._clipping(pairs, multiplier)
            for bucket, inner in pairs:
                bucket.receive()
                inner.multiplier = multiplier
                inner._step()
                bucket.send()
            for link in links:
                link.finish()
        for bucket, _ in pairs:
            bucket.forget()

    def _check_gradients(self, pairs) -> None:
        for bucket, _ in pairs:
            for slot in bucket.stepped():
                p, grad = slot.param, slot.param.grad
                if grad.layout != torch.strided:
                    raise RuntimeError(f"[{_WHERE}] does not support sparse gradients; pass grad.to_dense()")
                if (p.shape, p.dtype, p.device) != (slot.master.shape, slot.inbox.dtype, bucket.device):
                    raise RuntimeError(
                        f"[{_WHERE}] a parameter had shape {tuple(slot.master.shape)} and dtype {slot.inbox.dtype} on "
                        f"{bucket.device} and now has {tuple(p.shape)} and {p.dtype} on {p.device}: make a new one"
                    )
                if p.device != grad.device or p.shape != grad.shape or p.dtype != grad.dtype:
                    raise RuntimeError(
                        f"[{_WHERE}] a gradient has shape {tuple(grad.shape)} and dtype {grad.dtype} on {grad.device} "
                        f"but its parameter has {tuple(p.shape)} and {p.dtype} on {p.device}"
                    )

    def _multiplier(self) -> float | None:
        """Of the gradients, or None where the step is to be skipped, as GradScaler has left them on this optimizer."""
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return None
        return 1.0 if scale is None else 1.0 / scale.item()

    def _clipping(self, pairs, multiplier: float) -> float:
        for bucket, _ in pairs:
            bucket.receive()
        norm = ops.global_norm([slot.grad for bucket, _ in pairs for slot in bucket.stepped()])
        return clipping_factor(self.max_norm, norm * abs(multiplier))

    def averages(self) -> list[torch.Tensor]:
        """The averaged weights on the CPU, one tensor a parameter in the order of the groups; a parameter that has not
        been stepped yet stands for its own average. RuntimeError without `ema_decay`."""
        return [average for inner in self._inner for average in inner.averages()]

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's; the parameters become the rounded masters, or where there are none, the masters the parameters.

        ValueError or TypeError for states that do not fit, before anything is changed.
        """
        given: dict = {}

        def take(_, final):
            given.update(self._checked(final))
            return {**final, "state": {}}  # which torch would put on the device, in the parameters' dtype

        handle = self.register_load_state_dict_pre_hook(take)  # behind the others
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        self._set_states(given)

    def _checked(self, state_dict: dict) -> dict:
        """{parameter: its states}"""
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        states = {}
        for i, p in zip(ids, params, strict=False):  # torch compares the lengths
            states[p] = state_dict["state"].get(i, {})
            for name, value in states[p].items():
                if name == "step":
                    continue
                if isinstance(value, torch.Tensor) and value.shape != p.shape:
                    raise ValueError(
                        f"[{_WHERE}] the state {name!r} of parameter {i} has shape {tuple(value.shape)} but the "
                        f"parameter has {tuple(p.shape)}"
                    )
                if name == "master" and not isinstance(value, torch.Tensor):
                    raise TypeError(f"[{_WHERE}] the 'master' of parameter {i} must be a tensor but got {value!r}")
        return states

    @torch.no_grad()
    def _set_states(self, states: dict) -> None:
        self.state.clear()
        for bucket, inner in zip(self._buckets, self._inner, strict=True):
            inner._forget()
            for slot in bucket.slots:
                values = dict(states.get(slot.param, {}))
                master = values.pop("master", None)
                if master is None:
                    slot.master.copy_(slot.param)
                else:
                    slot.master.copy_(master)
                    slot.param.copy_(slot.master)
                slot.note()
                inner.state[slot.master].clear()
                for name, value in values.items():
                    if isinstance(value, torch.Tensor):
                        widened = value.is_floating_point() and name != "step"
                        value = value.detach().to("cpu", self.master_dtype if widened else value.dtype, copy=True)
                    inner.state[slot.master][name] = value
            self._link_states(bucket, inner)

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self._OWN}}

    def __setstate__(self, state: dict) -> None:
        if "_options" not in state:  # from torch's load_state_dict
            super().__setstate__(state)
            return
        states = dict(state["state"])
        self._start()
        super().__setstate__({**state, "state": type(state["state"])(dict)})
        for index in range(len(self.param_groups)):
            self._add_buckets(index)
        self._set_states(states)


class _OnMasters:
    """An optimizer of masters: the multiplier of the gradients comes from without."""

    multiplier = 1.0
    grad_scale = None

    def _step(self, closure=None):
        self.grad_scale = self.multiplier if self.multiplier != 1.0 else None
        return super()._step(closure)

    def _scaling(self):
        return self.multiplier, None


def _on_masters(optimizer_class: type) -> type:
    return type(optimizer_class.__name__, (_OnMasters, optimizer_class), {})


def _overlap(params: list) -> bool:
    """Whether dense tensors share memory, or a tensor is there twice."""
    return share_memory([p for p in params if is_dense(p)]) or len(set(params)) < len(params)


def _values(group: dict) -> dict:
    """The hyper-parameters of a group, on the host."""
    values = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in values.items()}


def _fetching(alive, k: int):
    """A hook that fetches the gradient of slot `k` when it was added to."""

    def fetch(p) -> None:
        bucket = alive()
        if bucket is not None:  # a parameter may outlive its optimizer
            bucket.fetch_early(bucket.slots[k])

    return fetch
