"""Peers that may not be installed."""

from __future__ import annotations

import os
from types import ModuleType

from .._extras import require


def bring(module: str, peer: str) -> tuple[ModuleType | None, dict[str, str]]:
    """(the module, {}), or (None, {peer: why it is not there}) for `Sides.missing`."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        return require(module, extra="bench"), {}
    except ImportError as error:
        return None, {peer: str(error)}
