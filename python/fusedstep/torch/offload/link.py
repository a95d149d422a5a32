"""The way between the memory of a device and the host's: what is copied when, and who waits for whom."""

from __future__ import annotations

import torch


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """On a GPU in the current stream, without waiting."""
    target.copy_(source, non_blocking=True)


class HostLink:
    """Of parameters on the CPU: each copy is over when the call returns."""

    def begin(self) -> None: ...

    def fetch(self, pairs, after=None) -> None:
        """Copy (host, device) tensors to the host, after what `send` gave as ticket `after`; a ticket for `wait`."""
        for host, device in pairs:
            copy(host, device)

    def wait(self, ticket) -> None:
        """Until the host may read what was fetched."""

    def send(self, pairs) -> None:
        """Copy (device, host) tensors to the device; a ticket, whose end the host must not forestall by a write."""
        for device, host in pairs:
            copy(device, host)

    def finish(self) -> None: ...


class CudaLink:
    """Of parameters on a GPU: one stream down and one up, as the bus carries both at once."""

    def __init__(self, device: torch.device):
        self.device = device
        self.down, self.up = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def begin(self) -> None:
        """What comes after the work that the current stream has so far: gradients made, parameters read."""
        current = torch.cuda.current_stream(self.device)
        self.down.wait_stream(current)
        self.up.wait_stream(current)

    def fetch(self, pairs, after=None):
        if after is not None:
            self.down.wait_event(after)  # the host's buffer is still being read
        with torch.cuda.stream(self.down):
            for host, device in pairs:
                device.record_stream(self.down)  # zero_grad() may free it before it is read
                if device.stride() != host.stride():  # torch would put it in order on the host, before it has come
                    ordered = torch.empty_strided(host.shape, host.stride(), dtype=device.dtype, device=device.device)
                    copy(ordered, device)
                    device = ordered
                copy(host, device)
        return self.down.record_event()

    def wait(self, ticket) -> None:
        ticket.synchronize()

    def send(self, pairs):
        with torch.cuda.stream(self.up):
            for device, host in pairs:
                copy(device, host)
                device.record_stream(self.up)
        return self.up.record_event()

    def finish(self) -> None:
        """Later work of the current stream sees the parameters that were sent."""
        torch.cuda.current_stream(self.device).wait_stream(self.up)


def link_of(device: torch.device) -> HostLink | CudaLink:
    return CudaLink(device) if device.type == "cuda" else HostLink()
