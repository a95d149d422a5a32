"""torch.nn's batch norm and dropout on the fused kernels."""

__all__ = []
