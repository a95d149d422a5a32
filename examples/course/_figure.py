"""What the scripts of this folder share: a figure and its words, where it is saved, and what its caption says."""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from fusedstep.plot import LINES

__all__ = ["BLACK", "GRAY", "LINES", "MARKS", "bands", "claim", "legend_below", "new", "save"]
GRAY, BLACK = "#777777", "#222222"
MARKS = "ring: start, star: minimum"


def new(rows=1, columns=1, *, width=8.0, height=4.5, **options):
    """A figure and its panels, as `matplotlib.pyplot.subplots` gives them, without pyplot's global state."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, **options)
    for panel in panels.flat if rows * columns > 1 else [panels]:
        panel.grid(alpha=0.25)
        panel.set_axisbelow(True)
    return figure, panels


def bands(seeds, share="10% to 90%"):
    """What lines and bands are, in the same words everywhere."""
    return f"line: median, band: {share} of {seeds} seeds"


def legend_below(panel, **options):
    """A legend beneath the panel, where it hides no data."""
    drop = ScaledTranslation(0, -0.45, panel.figure.dpi_scale_trans)  # inches: the numbers of the axis and its label
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=panel.transAxes + drop, **options)


def claim(words, holds=True):
    """Print words of the README's caption, with their numbers as measured here; the tests compare the two."""
    print("README:" if holds else "README, but not here:", words)


def save(figure):
    """Write the figure to the current folder, under the name of the script that runs."""
    path = Path(f"{Path(sys.argv[0]).stem}.png")
    figure.savefig(path)
    Image.open(path).convert("RGB").quantize(256).save(path)  # a palette: a third of the bytes
    print(path)
