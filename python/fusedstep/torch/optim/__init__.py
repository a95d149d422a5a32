"""torch.optim's optimizers, each step of which is one pass over the memory."""

__all__ = []
