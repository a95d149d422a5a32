"""What autograd is told of the kernels."""

REFUSAL = (
    "[{}] has no {}: it is a fused kernel, outside autograd; "
    "fusedstep.torch.replace_modules(model, back=True) gives torch's modules, which have one"
)
