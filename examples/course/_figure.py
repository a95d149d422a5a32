"""What the scripts of this folder share: lines that survive printing, a figure, and where it is saved."""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from fusedstep.plot import LINES

__all__ = ["BLACK", "GRAY", "LINES", "new", "save"]
GRAY, BLACK = "#777777", "#222222"


def new(rows=1, columns=1, *, width=8.0, height=4.5, **options):
    """A figure and its panels, as `matplotlib.pyplot.subplots` gives them, without pyplot's global state."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, **options)
    for panel in panels.flat if rows * columns > 1 else [panels]:
        panel.grid(alpha=0.25)
    return figure, panels


def save(figure):
    """Write the figure to the current folder, under the name of the script that runs."""
    path = Path(f"{Path(sys.argv[0]).stem}.png")
    figure.savefig(path)
    Image.open(path).convert("RGB").quantize(256).save(path)  # a palette: a third of the bytes
    print(path)
