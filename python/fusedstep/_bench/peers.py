"""Peers that may not be installed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from .._extras import require


def bring(module: str, peer: str) -> tuple[ModuleType | None, dict[str, str]]:
    """(the module, {}), or (None, {peer: why it is not there}) for `Sides.missing`."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        return require(module, extra="bench"), {}
    except ImportError as error:
        return None, {peer: str(error)}


def peers_about() -> dict:
    """The versions of the peers that are installed, and how many threads torch has where it is imported."""
    versions = {}
    for name in ("torch", "jax", "optax", "scikit-learn"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    torch = sys.modules.get("torch")
    return versions if torch is None else {**versions, "torch's threads": torch.get_num_threads()}
