"""Optional packages: imported where they are needed, with an ImportError that names the extra."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    >>> require("no_such_module", extra="plot")
    Traceback (most recent call last):
        ...
    ImportError: no_such_module is missing: pip install 'fusedstep[plot]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ImportError(f"{error.name} is missing: pip install 'fusedstep[{extra}]'") from error
