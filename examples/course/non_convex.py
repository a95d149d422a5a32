"""Two wells: where descent ends depends on where it began, and a large step jumps out of the narrow one."""

import numpy as np
from _figure import BLACK, GRAY, LINES, MARKS, claim, new, save

import fusedstep as fs

wells = fs.landscape.wells()
x = np.linspace(-4.5, 4.5, 500)
for minimum in wells.minima:
    higher = wells(minimum) - wells(wells.minimum)
    print(f"minimum at {minimum:.2f}, higher by {higher:.2f}: stable below {2 / wells.hessian(minimum):.2f} f'")
ends = {}
figure, panels = new(1, 3, width=9, height=3.8, sharey=True)
runs = ("Small step from the right", 0.1, 4.0), ("Small step from the left", 0.1, -4.0), ("Large step", 1.5, 3.1)
for panel, (title, lr, start), (color, _) in zip(panels, runs, LINES, strict=False):
    run = fs.landscape.trajectory(
        lambda params, lr=lr: fs.optim.SGD(params, lr=lr), wells.f, wells.grad, start, steps=100
    )
    ends[title] = run.final
    print(f"{title}, {lr:g} f': from {start:g} to {run.final:.2f}")
    panel.plot(x, wells.f(x), color=GRAY, linewidth=1)
    panel.plot(run.points, run.values, "o-", color=color, markersize=4, linewidth=1)
    panel.plot(start, run.values[0], "o", color=color, markersize=9, markerfacecolor="white")
    for minimum in wells.minima:
        panel.plot(minimum, wells(minimum), "*", color=BLACK, markersize=11, zorder=4)
    panel.set(title=f"{title}: {lr:g} f'", xlabel="x")
wide, narrow = sorted(wells.minima)
claim(
    "A small step ends in the minimum on whose side it began, be it the higher one",
    np.allclose(list(ends.values())[:2], (narrow, wide), atol=0.05),
)
claim(
    "A step larger than 2 / curvature of the narrow well cannot rest there and jumps out into the wide one",
    lr > 2 / wells.hessian(narrow) and np.isclose(ends["Large step"], wide, atol=0.05),
)
panels[0].set_ylabel("f(x)")
figure.suptitle(f"The start decides between two minima, unless the step is too large for the narrow one\n({MARKS})")
save(figure)
