"""Models on disk: safetensors files, with the architecture as JSON in their metadata."""

from __future__ import annotations

import json
import os
import zlib

import numpy as np

from .._files import atomic_write, read_safetensors, safetensors_bytes
from .sequential import Sequential

_FORMAT = "fusedstep.nn.Sequential/1"


def _checksum(architecture: str, state: dict[str, np.ndarray]) -> str:
    """CRC-32 of the architecture and of all values; names, shapes and dtypes follow from the architecture."""
    crc = zlib.crc32(architecture.encode())
    for name in sorted(state):
        crc = zlib.crc32(np.ascontiguousarray(state[name]).reshape(-1).view(np.uint8), crc)
    return f"{crc:08x}"


def save(model: Sequential, path) -> None:
    """Write `model` to `path`; the old file stays until the new one is complete.

    Parameters
    ----------
    model : Sequential
    path : str or path-like
    """
    architecture = json.dumps(model.architecture())
    state = model.state_dict()
    metadata = {"format": _FORMAT, "architecture": architecture, "crc32": _checksum(architecture, state)}
    atomic_write(path, safetensors_bytes(state, metadata))


def load(path) -> Sequential:
    """Read a model that `Sequential.save` wrote.

    Nothing in the file is executed.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Sequential
        With the saved parameters, running statistics, seed and `random_offset`; on the CPU, whatever the saved one's
        device.

    Raises
    ------
    ValueError
        If the file is damaged or is not such a file: with its path and the first thing that is wrong.
    OSError
        If it cannot be opened.
    ImportError
        If safetensors is missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from fusedstep.nn import Dense, Sequential, load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "model.safetensors"
    ...     Sequential(Dense(2, 3)).save(path)
    ...     load(path).layers
    (Dense(in_features=2, out_features=3, init='he', bias=True),)
    """
    try:
        return _rebuild(*read_safetensors(path))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def _rebuild(metadata: dict[str, str], state: dict[str, np.ndarray]) -> Sequential:
    if metadata.get("format") != _FORMAT:
        found = metadata.get("format")
        raise ValueError(
            f"not a model that Sequential.save wrote: the format in its metadata is {found!r}, not {_FORMAT!r}"
        )
    for key in ("architecture", "crc32"):
        if key not in metadata:
            raise ValueError(f"its metadata have no '{key}'")
    if _checksum(metadata["architecture"], state) != metadata["crc32"]:
        raise ValueError("its contents do not match its checksum")
    try:
        architecture = json.loads(metadata["architecture"])
    except json.JSONDecodeError as error:
        raise ValueError(f"its architecture is not JSON: {error}") from None
    model = Sequential.from_architecture(architecture)
    model.load_state_dict(state)
    return model
