"""Files that are either the old version or the new one, never a half."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path

import numpy as np

from ._extras import require


def atomic_write(path: str | os.PathLike, data: bytes) -> None:
    """Replace the file at `path` by `data`, or leave it as it was.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and the file is then
    renamed: whoever is killed in between leaves the old file.

    Parameters
    ----------
    path : str or path
        Where to write. The folder must exist.
    data : bytes
        The whole content.

    Raises
    ------
    OSError
        The folder is missing or not writable, or the disk is full; no temporary file is left behind.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of '{path}' does not exist")
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        # "x" and not tempfile, whose files nobody else may read: the result has the permissions of any other file.
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def safetensors_bytes(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """A safetensors file of which every byte follows from its content: the library's own order of metadata does not.

    Raises ImportError where safetensors is missing.
    """
    data = require("safetensors.numpy").save(tensors, metadata)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays stay aligned
    return len(text).to_bytes(8, "little") + text + data[start:]


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the tensors of a safetensors file.

    Raises
    ------
    OSError
        It cannot be opened.
    ValueError
        It is damaged, or no such file; the message leaves the path to the caller.
    ImportError
        safetensors is missing.
    """
    safetensors = require("safetensors")
    with open(path, "rb"):  # a missing file or a folder: the usual OSError
        pass
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (safetensors.SafetensorError, TypeError, AttributeError) as error:
        raise ValueError(f"not a complete safetensors file of NumPy's types ({error})") from None


def remove_leftovers(path: str | os.PathLike) -> None:
    """Remove the temporary files that runs which were killed during a save of `path` left beside it."""
    path = Path(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flush the rename itself, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
