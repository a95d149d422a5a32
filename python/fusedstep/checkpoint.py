"""Checkpoints: everything that the rest of a run depends on, in one safetensors file. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._files import atomic_write, read_safetensors, safetensors_bytes
from .history import History

if TYPE_CHECKING:
    from .callbacks import Callback
    from .data import MiniBatches
    from .training import Run

_KEY = "fusedstep_checkpoint"
_VERSION = 2
_FIELDS = {"version", "random_offset", "model", "optimizer", "history", "data", "callbacks", "progress"}


@dataclass
class TrainingState:
    """The content of a checkpoint.

    Attributes
    ----------
    path : str
        Where it was read.
    model, optimizer : dict
        Their state dicts.
    random_offset : int
        The model's dropout counter.
    history : History
        Of the epochs so far.
    data : dict or None
        State of the `MiniBatches`.
    callbacks : list of (str, dict)
        Class name and state of each callback.
    progress : dict or None
        What an epoch that was under way had gathered: sums of losses and of gradients.
    """

    path: str
    model: dict
    optimizer: dict
    random_offset: int
    history: History
    data: dict | None
    callbacks: list[tuple[str, dict]]
    progress: dict | None

    @classmethod
    def read(cls, path: str | os.PathLike) -> TrainingState:
        """Read a checkpoint without putting it anywhere; raises as `load_checkpoint` does."""
        path = os.fspath(path)
        content, tensors = _read(path)
        try:
            return cls(
                path,
                _unpack(content["model"], tensors),
                _unpack(content["optimizer"], tensors),
                int(content["random_offset"]),
                History.from_dict(content["history"]),
                content["data"],
                [(name, _unpack(state, tensors)) for name, state in content["callbacks"]],
                _unpack(content["progress"], tensors),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: damaged checkpoint: {error!r}") from error

    def restore(self, model, optimizer) -> None:
        """Put the state into a model and its optimizer, or leave both as they were; raises as `load_checkpoint`."""
        old_model, old_offset = model.state_dict(), model.random_offset
        try:
            model.load_state_dict(self.model)
            model.random_offset = self.random_offset
            optimizer.load_state_dict(self.optimizer)  # the last, as it changes nothing when it fails
        except Exception as error:
            model.load_state_dict(old_model)
            model.random_offset = old_offset
            raise ValueError(f"{self.path}: does not fit the model and its optimizer: {error}") from error


def save_checkpoint(
    path: str | os.PathLike,
    model,
    optimizer,
    *,
    history: History,
    data: MiniBatches | None = None,
    position: int | None = None,
    callbacks: Sequence[Callback] = (),
    progress: dict | None = None,
) -> None:
    """Write a checkpoint, replacing an old one only when all is on the disk.

    Parameters
    ----------
    path : str or path
    model : Sequential
        Parameters, buffers and the dropout counter are kept.
    optimizer
        Its ``state_dict()`` is kept.
    history : History
    data : MiniBatches, optional
        Its place in the order of the data is kept.
    position : int, optional
        How many batches of its epoch are done, where that is not the number of those it yielded.
    callbacks : sequence of Callback
        Their states are kept.
    progress : dict, optional
        Of an epoch that is under way.

    Raises
    ------
    TypeError
        A state holds something that is neither an array of numbers, a number, a string, None, nor a dict or list of
        these.
    OSError
        The file cannot be written.
    """
    tensors: dict[str, np.ndarray] = {}
    content = {
        "model": _pack(model.state_dict(), "model", tensors),
        "optimizer": _pack(optimizer.state_dict(), "optimizer", tensors),
        "callbacks": [
            [type(callback).__name__, _pack(callback.state_dict(), f"callback {i}", tensors)]
            for i, callback in enumerate(callbacks)
        ],
        "data": None if data is None else data.state_dict(position),
        "progress": _pack(progress, "progress", tensors),
        "history": history.to_dict(),
        "random_offset": int(model.random_offset),
        "version": _VERSION,
    }
    text = json.dumps(content)
    atomic_write(path, safetensors_bytes(tensors, {_KEY: text, "crc32": _crc32(text, tensors)}))


def save_run(path: str | os.PathLike, run: Run) -> None:
    """Write the checkpoint of a training run, between its epochs or batches; raises as `save_checkpoint` does."""
    save_checkpoint(
        path,
        run.model,
        run.optimizer,
        history=run.history,
        data=run.batches,
        position=run.progress.position,
        callbacks=run.callbacks,
        progress=run.progress.state_dict(),
    )


def load_checkpoint(path: str | os.PathLike, model, optimizer) -> TrainingState:
    """Read a checkpoint into a model and its optimizer, or leave both as they were.

    Parameters
    ----------
    path : str or path
    model, optimizer
        Of the same architecture and kind as those saved.

    Returns
    -------
    TrainingState

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, is not a checkpoint, or is one of another model; names the path and the first
        thing that is wrong.
    """
    state = TrainingState.read(path)
    state.restore(model, optimizer)
    return state


def _read(path: str) -> tuple[dict, dict[str, np.ndarray]]:
    try:
        metadata, tensors = read_safetensors(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if _KEY not in metadata:
        raise ValueError(f"{path}: not a checkpoint of fusedstep: its metadata has no entry {_KEY!r}")
    try:
        content = json.loads(metadata[_KEY])
    except ValueError as error:
        raise ValueError(f"{path}: damaged checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise ValueError(f"{path}: checkpoint of version {version} but this fusedstep reads version {_VERSION}")
    missing = sorted(_FIELDS - content.keys())
    if missing:
        raise ValueError(f"{path}: damaged checkpoint: {missing[0]!r} is missing")
    if metadata.get("crc32") != _crc32(metadata[_KEY], tensors):
        raise ValueError(f"{path}: damaged checkpoint: the checksum differs")
    return content, tensors


def _crc32(content: str, tensors: dict[str, np.ndarray]) -> str:
    """safetensors checks the form of its header alone; this finds changed values, too."""
    checksum = zlib.crc32(content.encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].tobytes(), zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def _pack(value, name: str, tensors: dict[str, np.ndarray]):
    """`value` as JSON, with its arrays moved to `tensors` and replaced by their names there."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" and value.dtype.itemsize <= 8:
        while name in tensors:  # the keys 1 and "1" make one name
            name += "'"
        tensors[name] = np.array(value, value.dtype.newbyteorder("="), order="C")
        return {"array": name}
    if isinstance(value, dict):
        odd = [key for key in value if key is not None and not isinstance(key, (bool, int, float, str))]
        if odd:
            raise TypeError(f"[save_checkpoint] cannot keep {name!r}: a dict with the key {odd[0]!r}")
        return {"dict": [[key, _pack(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    kind = f"{type(value).__name__}{f' of {value.dtype}' if isinstance(value, np.ndarray) else ''}"
    raise TypeError(f"[save_checkpoint] cannot keep {name!r}: {kind}")


def _unpack(value, tensors: dict[str, np.ndarray]):
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_unpack(item, tensors) for item in content)
    raise ValueError(f"unknown entry {kind!r}")
