"""The plot of ``fusedstep bench --plot``: GB/s by size, a panel for each kernel."""

from __future__ import annotations

import io
import math
from pathlib import Path

from .._extras import require
from .._files import atomic_write
from .table import CEILING, OURS

_COLUMNS = 4


def unknown_type(path: Path) -> str | None:
    """Why no picture can be drawn at `path`, as its ending names no type of picture; None if it does."""
    require("matplotlib", extra="plot")
    from matplotlib.backend_bases import FigureCanvasBase

    types = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() in {"", *types}:
        return None
    return f"argument --plot: '{path}' has none of the endings {', '.join(f'.{kind}' for kind in types)}"


def throughput(rows: list[dict], path: Path, machine: dict) -> None:
    """Draw the rows that know their kernel and size; the type of the picture is the path's ending."""
    require("matplotlib", extra="plot")
    from matplotlib.figure import Figure

    panels: dict[str, list[dict]] = {}
    for row in rows:
        if "kernel" in row and "GB/s" in row:
            panels.setdefault(row["kernel"], []).append(row)
    columns = max(1, min(_COLUMNS, len(panels)))
    height = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(4.2 * columns, 3.2 * height + 0.8), layout="constrained")
    figure.suptitle(f"{machine.get('processor', '')}, {machine.get('num_threads')} threads: GB/s by number of values")
    styles: dict[str, dict] = {}
    for place, (kernel, of_kernel) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(height, columns, place)
        axes.set(title=kernel, xscale="log", yscale="log")
        for name, points in _series(of_kernel).items():
            style = styles.setdefault(name, _style(name, len(styles)))
            axes.plot(*zip(*sorted(points), strict=True), label=name, **style)
        axes.grid(alpha=0.3)
    figure.supylabel("GB/s")
    handles: dict = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(handles)))
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.lstrip(".") or "png", dpi=110)
    atomic_write(path, picture.getvalue())


def _series(rows: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """{line: its points}; the ceiling and the peers belong to the rows of the usual setting."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        usual = row.get("setting") is None
        name = OURS if usual else f"{OURS}, {row['setting']}"
        series.setdefault(name, []).append((row["size"], row["GB/s"]))
        if not usual:
            continue
        if CEILING in row:
            series.setdefault(CEILING, []).append((row["size"], row[CEILING]["GB/s"]))
        for peer, times in row.get("peers", {}).items():
            series.setdefault(peer, []).append((row["size"], row["bytes"] / times["median"] / 1e9))
    return series


def _style(name: str, place: int) -> dict:
    if name == CEILING:
        return {"color": "black", "linestyle": "--"}
    ours = name.startswith(OURS)
    return {
        "color": f"C{place % 10}",
        "linestyle": "-" if ours else ":",
        "marker": "o" if ours else "s",
        "markersize": 3,
    }
