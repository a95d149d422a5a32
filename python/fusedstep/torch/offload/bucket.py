"""Parameters that are fetched, updated and sent back together, with their memory on the host."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True, eq=False)
class Slot:
    """A parameter and its places on the host.

    `box` takes the gradient in and the parameter out, in the parameter's dtype; where that is the masters', the
    gradient comes straight to `grad` and the parameter straight from `master`, and there is no box.
    """

    param: torch.Tensor
    master: torch.nn.Parameter
    grad: torch.Tensor
    box: torch.Tensor | None
    early: tuple | None = None  # (gradient, its version) when it was fetched during the backward pass
    sent: tuple | None = None  # what the parameter was when it was last the rounded master

    @property
    def inbox(self) -> torch.Tensor:
        return self.grad if self.box is None else self.box

    def is_fetched(self) -> bool:
        grad = self.param.grad
        return self.early is not None and self.early[0] is grad and self.early[1] == grad._version

    def note(self) -> None:
        self.sent = (self.param.data_ptr(), self.param._version)

    def read_parameter(self) -> None:
        """Take over what was written to the parameter by others; masters that it is the rounding of stay."""
        if self.sent == (self.param.data_ptr(), self.param._version):
            return
        value = self.param.detach().to("cpu")
        changed = value != self.master.detach().to(value.dtype)
        self.master.copy_(torch.where(changed, value.to(self.master.dtype), self.master))
        self.note()


class Bucket:
    """Consecutive parameters of a group, of one dtype and on one device."""

    def __init__(self, params: list, group: int, link, master_dtype: torch.dtype, pin_memory: bool):
        self.group, self.link, self.device = group, link, params[0].device
        self.fetched = self.sent = None  # tickets of the link
        self.is_received = False
        dtype, size = params[0].dtype, sum(p.numel() for p in params)

        def flat(dtype):
            return torch.empty(size, dtype=dtype, pin_memory=pin_memory)

        # What crosses the bus is pinned, and what is next to it: the optimizer's states never leave the host.
        masters, grads = flat(master_dtype), flat(master_dtype)
        boxes = None if dtype == master_dtype else flat(dtype)
        self.slots, start = [], 0
        for p in params:
            strides = torch.empty_like(p, device="meta").stride()  # dense, with the axes in the parameter's order
            place = (p.shape, strides, start)
            master = torch.nn.Parameter(masters.as_strided(*place))
            box = None if boxes is None else boxes.as_strided(*place)
            slot = Slot(p, master, grads.as_strided(*place), box)
            with torch.no_grad():
                master.copy_(p)
            slot.note()
            self.slots.append(slot)
            start += p.numel()

    def stepped(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.param.grad is not None]

    def fetch(self, slots: list[Slot]) -> None:
        self.is_received = False
        self.fetched = self.link.fetch([(slot.inbox, slot.param.grad) for slot in slots], self.sent)

    def fetch_early(self, slot: Slot) -> None:
        """Fetch a gradient while the backward pass goes on; what it is and was is kept, to be compared by the step."""
        grad = slot.param.grad
        if grad is None or grad.is_inference():  # which has no version to be compared
            return
        if (grad.layout, grad.shape, grad.dtype) != (torch.strided, slot.inbox.shape, slot.inbox.dtype):
            return  # the step will say so
        with torch.no_grad():
            self.link.begin()
            self.link.fetch([(slot.inbox, grad)], self.sent)
        slot.early = (grad, grad._version)

    def receive(self) -> None:
        """The gradients on the host, in the masters' dtype."""
        if self.is_received:
            return
        self.is_received = True
        self.link.wait(self.fetched)
        for slot in self.slots:
            slot.master.grad = None
        for slot in self.stepped():
            if slot.box is not None:
                slot.grad.copy_(slot.box)
            slot.master.grad = slot.grad

    def send(self) -> None:
        pairs = []
        for slot in self.stepped():
            if slot.box is not None:
                slot.box.copy_(slot.master)  # rounds to nearest even
            pairs.append((slot.param, slot.master.detach() if slot.box is None else slot.box))
        self.sent = self.link.send(pairs)
        for slot in self.stepped():
            slot.note()

    def forget(self) -> None:
        """The gradients that were fetched early: they must not be kept alive."""
        for slot in self.slots:
            slot.early = None


def split(params: list, bucket_size: int) -> list[list]:
    """Consecutive parameters of one dtype and device, up to `bucket_size` values together, a larger one alone."""
    parts, size = [], 0
    for p in params:
        same = parts and (parts[-1][0].dtype, parts[-1][0].device) == (p.dtype, p.device)
        if same and size + p.numel() <= bucket_size:
            parts[-1].append(p)
            size += p.numel()
        else:
            parts.append([p])
            size = p.numel()
    return parts
