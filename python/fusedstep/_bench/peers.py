"""Peers that may not be installed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from .. import backend
from .._extras import require

_DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # as pip calls them


def bring(module: str, peer: str) -> tuple[ModuleType | None, dict[str, str]]:
    """(the module, {}), or (None, {peer: why it is not there}) for `Sides.missing`."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # whatever the user has set: these are the tables of the CPU
    package = module.partition(".")[0]
    try:
        require(package, extra="bench")
        return require(module, extra="bench"), {}
    except ImportError as error:
        return None, {peer: str(error).replace(package, _DISTRIBUTIONS.get(package, package), 1)}


def same_threads() -> None:
    """Give torch, where it is imported, as many threads as ours have."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != backend.get_num_threads():
        torch.set_num_threads(backend.get_num_threads())


def peers_about() -> dict:
    """The versions of the peers that are installed, and how many threads torch has where it is imported."""
    versions = {}
    for name in ("torch", "jax", "optax", "scikit-learn"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    torch = sys.modules.get("torch")
    return versions if torch is None else {**versions, "torch's threads": torch.get_num_threads()}
