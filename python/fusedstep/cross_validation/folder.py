"""A cross-validation on disk: finished folds, and the checkpoint of each that is under way."""

from __future__ import annotations

import inspect
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import nn
from .._device import as_host, is_cupy
from .._files import atomic_write, read_safetensors, safetensors_bytes
from .._transformers import load_transformer, save_transformer
from ..callbacks import Callback, Checkpoint
from ..data.sources import Samples, Source
from ..history import History

MIN_SECONDS = 5.0
"""Between two checkpoints of a fold: a save takes longer than an epoch of a small table."""
_TRANSFORMERS = ("preprocessor", "target_preprocessor")
_RESULT = "fusedstep_fold"
_REMEDY = "choose another folder, or remove this one"
_STEPS = (0, 1, 10, 100, 1000, 10000)


class FoldOfCrossValidation(Callback):
    """Keeps in a checkpoint which fold it is of and how it is trained, and refuses that of another."""

    def __init__(self, number: int, method: dict):
        self.number, self.method = number, method

    def state_dict(self):
        return {"fold": self.number, "method": json.dumps(self.method)}

    def load_state_dict(self, state):
        if state["fold"] != self.number:
            raise ValueError(f"the checkpoint is of fold {state['fold']}, not of fold {self.number}")
        check_same_method(json.loads(state["method"]), self.method)


@dataclass(frozen=True)
class FoldFolder:
    """The files of a cross-validation: of each finished fold its result, its model and its fitted transformers."""

    path: Path
    trusted: Sequence[str] = ()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others out of the folder, which is made where there is none; a kill lets go of it, too.

        Raises
        ------
        RuntimeError
            Another cross-validation is under way in it.
        FileNotFoundError
            The folder above it does not exist.
        """
        self.path.mkdir(exist_ok=True)
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"{self.path}: another cross-validation is under way in this folder") from None
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(descriptor)

    def random_state(self) -> int | None:
        """What the random numbers of the cross-validation in the folder follow from; None in a new folder."""
        saved = self._description()
        return None if saved is None else saved.get("random_state")

    def begin(self, seeds: np.random.SeedSequence, folds, X: Samples, y: Samples, options: dict) -> None:
        """Describe the cross-validation in a new folder, or compare it with what an old one says.

        Raises
        ------
        ValueError
            The folder is of another cross-validation: names the first thing that differs.
        """
        now = {
            "random_state": seeds.entropy,
            "X": _fingerprint(X),
            "y": _fingerprint(y),
            "folds": [[_fingerprint(part) for part in fold] for fold in folds],
            **{name: _described(value) for name, value in options.items()},
        }
        now, saved = json.loads(json.dumps(now)), self._description()
        if saved is None:
            atomic_write(self._json, json.dumps(now, indent=1).encode())
            return
        for name in [*now, *(name for name in saved if name not in now)]:
            if now.get(name) != saved.get(name):
                there, here = saved.get(name), now.get(name)
                told = "" if isinstance(here, list) else f": {there!r} there, {here!r} here"
                raise ValueError(f"{self.path}: is of a cross-validation with another {name!r}{told}; {_REMEDY}")
        for leftover in (*self.path.glob(".fold-*.tmp"), *self.path.glob(f".{self._json.name}.*.tmp")):
            leftover.unlink()
        for number in range(1, len(folds) + 1):
            if self.is_done(number):  # a kill may have come between the two
                self._file(number, "checkpoint.safetensors").unlink(missing_ok=True)

    @property
    def _json(self) -> Path:
        return self.path / "cross_validation.json"

    def _description(self) -> dict | None:
        """What the folder says of itself; None where it says nothing yet."""
        if not self._json.exists():
            return None
        try:
            saved = json.loads(self._json.read_bytes())
            if isinstance(saved, dict):
                return saved
        except ValueError:
            pass
        raise ValueError(f"{self._json}: not the description of a cross-validation, or damaged")

    def is_done(self, number: int) -> bool:
        return self._file(number, "result.safetensors").exists()

    def checkpoint_of(self, number: int) -> Path | None:
        """The checkpoint to go on from, if there is one."""
        path = self._file(number, "checkpoint.safetensors")
        return path if path.exists() else None

    def callbacks(self, number: int, method: dict) -> list[Callback]:
        path = self._file(number, "checkpoint.safetensors")
        return [FoldOfCrossValidation(number, method), Checkpoint(path, min_seconds=MIN_SECONDS)]

    def write(
        self, number: int, *, row: dict, outputs: np.ndarray, history: History, model, method: dict, **transformers
    ) -> None:
        """Keep what a round gave; the result comes last, so where it is the rest is, too."""
        for name in _TRANSFORMERS:
            if transformers[name] is not None:
                save_transformer(self._file(number, f"{name}.skops"), transformers[name])
        model.save(self._file(number, "model.safetensors"))
        content = {"row": row, "history": history.to_dict(), "device": model.device, "method": method}
        content = json.dumps(content)
        data = safetensors_bytes({"outputs": np.ascontiguousarray(outputs)}, {_RESULT: content})
        atomic_write(self._file(number, "result.safetensors"), data)
        self._file(number, "checkpoint.safetensors").unlink(missing_ok=True)

    def read(self, number: int) -> dict:
        """What `write` kept.

        Raises
        ------
        ValueError
            A file is damaged; names it.
        """
        path = self._file(number, "result.safetensors")
        try:
            metadata, tensors = read_safetensors(path)
            content, outputs = json.loads(metadata[_RESULT]), tensors["outputs"]
            row, history, device = content["row"], History.from_dict(content["history"]), content["device"]
            method = content["method"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not the result of a fold, or damaged: {error!r}") from error
        model = nn.load(self._file(number, "model.safetensors")).to(device)
        transformers = {name: self._file(number, f"{name}.skops") for name in _TRANSFORMERS}
        read = {name: load_transformer(p, self.trusted) if p.exists() else None for name, p in transformers.items()}
        return {"row": row, "outputs": outputs, "history": history, "model": model, "method": method, **read}

    def _file(self, number: int, name: str) -> Path:
        return self.path / f"fold-{number}-{name}"


def describe_method(model, optimizer, sample_shape: tuple[int, ...]) -> dict:
    """What decides a training beside data and options, as JSON keeps it: layers, optimizer, hyper-parameters."""
    model = {name: v for name, v in model.architecture().items() if name not in ("seed", "random_offset")}
    settings = {name: _setting(getattr(optimizer, name, None)) for name in ("max_norm", "ema_decay", "skip_nonfinite")}
    groups = [
        {name: [p.name for p in value] if name == "params" else _setting(value) for name, value in group.items()}
        for group in getattr(optimizer, "param_groups", ())
    ]
    optimizer = {"name": type(optimizer).__qualname__, **settings, "groups": groups}
    return json.loads(json.dumps({"sample_shape": sample_shape, "model": model, "optimizer": optimizer}))


def check_same_method(there: dict, here: dict) -> None:
    """Raise ValueError if what a folder keeps was trained in another way, naming the first thing that differs."""
    found = _difference(there, here, "")
    if found is not None:
        raise ValueError("was trained with {} {!r}, which is {!r} here; {}".format(*found, _REMEDY))


def _difference(there, here, name: str) -> tuple | None:
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = [(f"{name}.{key}".lstrip("."), there.get(key), here.get(key)) for key in {**there, **here}]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(f"{name}[{i}]", *both) for i, both in enumerate(zip(there, here, strict=True))]
    else:
        return None if there == here else (name, there, here)
    return next(filter(None, (_difference(a, b, key) for key, a, b in pairs)), None)


def _setting(value):
    """A hyper-parameter; a schedule by what it gives."""
    if callable(value):
        return [float(value(step)) for step in _STEPS]
    return float(as_host(value)) if is_cupy(value) else _described(value)


def _fingerprint(samples: Samples) -> str:
    """Shape, dtype and a checksum of all values in memory; of samples on disk, of the first, middle and last block."""
    crc = 0
    for part in _parts(samples):
        part = part.astype(str) if part.dtype.kind == "O" else part
        crc = zlib.crc32(np.ascontiguousarray(part).view(np.uint8).data if part.size else b"", crc)
    return f"{samples.dtype}{tuple(samples.shape)} crc32 {crc:08x}"


def _parts(samples: Samples):
    if not isinstance(samples, Source):
        return [samples]
    n = len(samples)
    return [samples[start : start + 64] for start in (0, n // 2, max(0, n - 64))]


def _described(value):
    """A value of an option as JSON keeps it: plain ones as they are, others by what they are called."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_described(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "get_params"):  # a transformer shows its arguments
        return repr(value)
    kind = type(value)
    if kind.__module__.startswith("fusedstep."):  # callbacks and losses of ours show their arguments, too
        shown = {name: getattr(value, name, None) for name in inspect.signature(kind).parameters}
        arguments = ", ".join(f"{name}={v!r}" for name, v in shown.items() if isinstance(v, (bool, int, float, str)))
        return f"{kind.__qualname__}({arguments})"
    return getattr(value, "__qualname__", kind.__qualname__)
