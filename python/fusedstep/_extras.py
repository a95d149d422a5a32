"""Packages that may be missing: imported where they are needed, with an ImportError that says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, *, extra: str | None = None) -> ModuleType:
    """Import `module`, or say which extra brings it; without an extra, that pip does.

    >>> require("no_such_module", extra="plot")
    Traceback (most recent call last):
        ...
    ImportError: no_such_module is missing: pip install 'fusedstep[plot]'
    """
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or package != error.name.split(".")[0]:
            raise
        wanted = package if extra is None else f"'fusedstep[{extra}]'"
        raise ImportError(f"{package} is missing: pip install {wanted}") from error
