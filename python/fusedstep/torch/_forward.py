"""Modules that stand in for torch's: a script changes its import alone."""

from __future__ import annotations


def forward_names(ours: dict, theirs):
    """(`__getattr__`, `__dir__`) of a module with the globals `ours`; names that it has not are those of `theirs`."""

    def get(name: str):
        if name.startswith("__"):
            raise AttributeError(f"module {ours['__name__']!r} has no attribute {name!r}")
        return getattr(theirs, name)

    return get, lambda: sorted({*ours, *dir(theirs)})
