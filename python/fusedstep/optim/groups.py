"""Parameter groups: lists of parameters with the hyper-parameters they share."""

from __future__ import annotations

from collections.abc import Iterable

from ..nn import Parameter


def make_groups(method: str, params: Iterable, defaults: dict) -> list[dict]:
    """What an optimizer got as `params` as complete groups; TypeError and ValueError as `Optimizer` documents."""
    if isinstance(params, Parameter) or not isinstance(params, Iterable):
        hint = "; pass its .parameters()" if hasattr(params, "parameters") else ""
        raise TypeError(
            f"[{method}] 'params' must be a list of Parameter or of dicts but got a {type(params).__name__}{hint}"
        )
    params = list(params)
    if not params:
        raise ValueError(f"[{method}] 'params' is empty")
    groups = [dict(g) for g in params] if isinstance(params[0], dict) else [{"params": params}]
    seen: set[int] = set()
    names: set[str] = set()
    for group in groups:
        unknown = group.keys() - defaults.keys() - {"params"}
        if unknown:
            raise ValueError(f"[{method}] a parameter group has an unknown key {sorted(unknown)[0]!r}")
        if "params" not in group:
            raise ValueError(f"[{method}] a parameter group has no 'params'")
        group["params"] = [group["params"]] if isinstance(group["params"], Parameter) else list(group["params"])
        for p in group["params"]:
            if not isinstance(p, Parameter):
                raise TypeError(f"[{method}] 'params' must hold Parameters but got {type(p).__name__}")
            if id(p) in seen or p.name in names:
                raise ValueError(f"[{method}] parameter {p.name!r} comes twice")
            seen.add(id(p))
            names.add(p.name)
    return [{"params": group["params"], **defaults, **group} for group in groups]


def split_1d(groups: list[dict], decay_1d: bool) -> list[dict]:
    """The groups as they are, or each divided into matrices and, without decay or `adapt`, what has fewer axes."""
    if decay_1d:
        return groups
    parts = []
    for group in groups:
        wide = [p for p in group["params"] if p.array.ndim >= 2]
        narrow = [p for p in group["params"] if p.array.ndim < 2]
        parts += [{**group, "params": wide}] if wide else []
        spared = {"weight_decay": 0.0, **({"adapt": False} if "adapt" in group else {})}
        parts += [{**group, "params": narrow, **spared}] if narrow else []
    return parts
