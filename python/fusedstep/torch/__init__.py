"""Drop-ins for PyTorch (>= 2.4): optimizers and modules that swap in by their import.

Built without torch's headers: tensors come in through DLPack, so one wheel fits every torch.
"""

from .._extras import require

_torch = require("torch", extra="torch")

_OLDEST = (2, 4)
if tuple(int(part) for part in _torch.__version__.split(".")[:2]) < _OLDEST:
    raise ImportError(f"fusedstep.torch needs torch >= 2.4 but finds {_torch.__version__}")

from . import nn, optim  # noqa: E402  (after the check of the version)
from ._replace import replace_modules  # noqa: E402
from .offload import OffloadedOptimizer  # noqa: E402

__all__ = ["OffloadedOptimizer", "nn", "optim", "replace_modules"]
