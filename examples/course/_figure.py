"""What the scripts of this folder share: lines that survive printing, a figure, and where it is saved."""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

LINES = [  # colours that differ in brightness too, and dashes for those who print in black
    ("#00539c", "-"),
    ("#d95f02", "--"),
    ("#2f7d4f", "-."),
    ("#8c1c6a", ":"),
    ("#6b6b6b", (0, (6, 1, 1, 1, 1, 1))),
    ("#c9a200", (0, (3, 1))),
]
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
