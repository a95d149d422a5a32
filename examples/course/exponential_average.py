"""The exponential average of a noisy series: three windows, and what the correction of the bias does to its start."""

import numpy as np
from _figure import LINES, claim, legend_below, new, save

import fusedstep as fs

days = np.arange(1, 366)
climate = 15 - 8 * np.cos(2 * np.pi * (days - 15) / 365)  # of a year, in degrees Celsius
temperature = climate + 3 * np.random.default_rng(0).standard_normal(365)

figure, (year, start) = new(1, 2, width=9.5, height=4.6)
year.plot(days, temperature, ".", color="#aaaaaa", markersize=4, label="each day")
start.plot(days, temperature, "o", color="#aaaaaa", markersize=4, label="each day")
changes, delays = [], []
for beta, (color, dashes) in zip((0.5, 0.9, 0.98), (LINES[2], LINES[0], LINES[1]), strict=True):
    raw, corrected = (fs.ops.ewma(temperature, beta, bias_correction=correct) for correct in (False, True))
    window = round(1 / (1 - beta))
    change, late = np.abs(np.diff(corrected)).mean(), corrected.argmax() - climate.argmax()
    changes.append(change)
    delays.append(late)
    print(
        f"beta {beta}, window {window} days: changes by {change:.2f} degrees a day, warmest {late} days late,", end=" "
    )
    print(f"on the first day {raw[0]:.2f}, corrected {corrected[0]:.2f}")
    width = 1.2 if beta == 0.5 else 2.2
    year.plot(days, corrected, color=color, linestyle=dashes, linewidth=width, label=f"β = {beta}: {window} days")
    if beta > 0.5:
        start.plot(days, corrected, color=color, linestyle=dashes, linewidth=2.2, label=f"β = {beta}, corrected")
        start.plot(days, raw, color=color, linestyle=dashes, linewidth=1, marker="v", markevery=5, markersize=5)
        start.plot([], [], color=color, linestyle=dashes, linewidth=1, marker="v", label=f"β = {beta}, from 0")

year.set(title="A long window is smooth and late", xlim=(0, 366), ylim=(-1, 33), xlabel="day of the year")
start.set(title="Without correction the start is drawn to 0", xlim=(0, 80), ylim=(-1, 19), xlabel="day of the year")
for panel in (year, start):
    panel.set_ylabel("temperature [°C]")
    legend_below(panel, ncols=3 if panel is start else 2, fontsize=8)
claim(
    "A window of 1 / (1 - β) days is the smoother and the later the longer it is",
    changes == sorted(changes, reverse=True) and delays == sorted(delays),
)
claim(f"that of {window} days is warmest five weeks after the climate", round(late / 7) == 5)
claim(
    "The average begins at 0 and needs a window to get away from it, unless it is divided by 1 - βᵗ",
    raw[0] < 0.1 * corrected[0] and raw[window] > 0.5 * corrected[window] and np.isclose(corrected[0], temperature[0]),
)
save(figure)
