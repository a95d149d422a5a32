"""Fitted scikit-learn transformers on disk, through skops: reading one executes nothing that was not allowed by name."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ._extras import require
from ._files import atomic_write


def save_transformer(path: str | os.PathLike, transformer) -> None:
    """Write a fitted transformer to a .skops file, replacing an old one only when all is written.

    Raises
    ------
    ImportError
        skops is missing.
    TypeError
        skops cannot keep something in it, a lambda, say.
    """
    require("skops", extra="sklearn")
    from skops.io import dumps

    try:
        data = dumps(transformer)
    except Exception as error:
        raise TypeError(f"[save_transformer] {transformer!r} cannot be kept by skops: {error}") from error
    atomic_write(path, data)


def load_transformer(path: str | os.PathLike, trusted: Sequence[str] = ()):
    """Read what `save_transformer` wrote.

    Parameters
    ----------
    path : str or path
    trusted : sequence of str
        Types beyond those of NumPy, SciPy and scikit-learn that the file may make, such as "my_module.MyTransformer".

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, or makes a type that is not trusted; names the path.
    """
    require("skops", extra="sklearn")
    from skops.io import get_untrusted_types, loads

    with open(path, "rb") as file:
        data = file.read()
    try:
        unknown = [name for name in get_untrusted_types(data=data) if name not in trusted]
        if not unknown:
            return loads(data, trusted=list(trusted))
    except Exception as error:  # a damaged archive fails in many ways
        raise ValueError(f"{os.fspath(path)}: not a transformer that skops wrote, or damaged: {error!r}") from error
    raise ValueError(f"{os.fspath(path)}: makes {unknown[0]}, a type that is not trusted")
