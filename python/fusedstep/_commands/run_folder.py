"""The folder of a run: its configuration first, its results at the end, each file whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from .._files import atomic_write, remove_leftovers

_FORMAT = "fusedstep run/1"
CONFIG, METRICS, HISTORY, PREDICTIONS = "config.json", "metrics.json", "history.json", "predictions.csv"


def _texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


# What predict and --resume rely on.
_CHECKS: dict[str, Callable] = {
    "data": lambda value: isinstance(value, str),
    "fingerprint": lambda value: isinstance(value, str),
    "options": lambda value: isinstance(value, dict),
    "target": lambda value: isinstance(value, str),
    "classes": _texts,
    "numbers": _texts,
    "categories": lambda value: isinstance(value, dict) and all(map(_texts, value.values())),
    "divide_by": lambda value: value is None or isinstance(value, int),
    "metrics": _texts,
    "models": lambda value: _texts(value) and value,
    "preprocessors": _texts,
    "target_preprocessors": _texts,
}


class RunFolder:
    """A folder to write a run to.

    `metrics.json` is written last: with it a run is finished. `folds` holds what is needed to go on until then.
    """

    def __init__(self, path: Path, *, created: bool = False, resumed: bool = False):
        self.path = path
        self.folds = path / "folds"
        self._created = created
        self._resumed = resumed

    @classmethod
    def new(cls, path: Path | None, name: str) -> RunFolder:
        """Make the folder, or take one that is empty; raises ValueError where it cannot be written to."""
        created = path is None or not path.exists()
        try:
            if path is None:
                path = _new_path(name)
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                resume = (path / CONFIG).exists() and not (path / METRICS).exists()
                hint = f", or go on with --resume {path}" if resume else ""
                raise ValueError(f"{path} is not empty: choose another folder with --out{hint}")
            with tempfile.TemporaryFile(dir=path):
                pass  # better known before the training than after it
        except OSError as error:
            raise ValueError(f"cannot write to {path or 'runs'}: {error.strerror}") from error
        return cls(path, created=created)

    @property
    def finished(self) -> bool:
        return (self.path / METRICS).exists()

    @property
    def useful(self) -> bool:
        """Whether there is something to go on from."""
        return self._resumed or any(self.folds.glob("fold-*"))

    def write_json(self, name: str, content: dict) -> None:
        atomic_write(self.path / name, json.dumps(_finite(content), indent=1, default=str).encode())

    def write_config(self, content: dict) -> None:
        self.write_json(CONFIG, {"format": _FORMAT, **content})

    def write_csv(self, name: str, header: Iterable, rows: Iterable[Iterable]) -> None:
        atomic_write(self.path / name, csv_text(header, rows).encode())

    def finish(self, metrics: dict) -> None:
        self.write_json(METRICS, metrics)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a finished run needs no longer, and what a kill during a save left."""
        shutil.rmtree(self.folds, ignore_errors=True)
        for path in list(self.path.iterdir()):
            remove_leftovers(path)

    def forget(self) -> None:
        """After a failure: leave nothing of the run."""
        shutil.rmtree(self.folds, ignore_errors=True)
        (self.path / CONFIG).unlink(missing_ok=True)
        if self._created:
            with suppress(OSError):
                self.path.rmdir()


def read_config(path: Path) -> dict:
    """The configuration of a run.

    Raises
    ------
    ValueError
        The folder is not that of a run, or its configuration is damaged; names the file.
    """
    file = path / CONFIG
    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: not the folder of a run: there is no {CONFIG} in it") from None
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{file}: not the configuration of a run: its 'format' is not {_FORMAT!r}")
    for key, check in _CHECKS.items():
        if key not in content or not check(content[key]):
            found = f"is {json.dumps(content[key])[:40]}" if key in content else "is missing"
            raise ValueError(f"{file}: damaged: {key!r} {found}")
    return content


def _finite(value):
    """The same with null for NaN and infinities, which JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_text(header: Iterable, rows: Iterable[Iterable]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _new_path(name: str) -> Path:
    """A folder that no other run has, not even one that starts in the same second."""
    name = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in ("", *(f"-{k}" for k in range(2, 1000))):
        with suppress(FileExistsError):
            folder = Path("runs", name + suffix)
            folder.mkdir(parents=True)
            return folder
    raise FileExistsError(errno.EEXIST, "too many runs in one second")
