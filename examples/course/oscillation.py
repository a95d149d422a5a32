"""A narrow valley: plain descent at a large step goes to and fro, momentum, RMSprop and Adam go along."""

import numpy as np
from _figure import BLACK, GRAY, LINES, MARKS, claim, new, save

import fusedstep as fs

valley = fs.landscape.quadratic([0.02, 1.0])
optimizers = {
    "Plain descent": lambda params: fs.optim.SGD(params, lr=1.9),
    "Momentum": lambda params: fs.optim.Momentum(params, lr=0.5, momentum=0.85),
    "RMSprop": lambda params: fs.optim.RMSprop(params, lr=0.12, alpha=0.9),
    "Adam": lambda params: fs.optim.Adam(params, lr=0.15),
}
x, y = np.linspace(-1, 4.5, 120), np.linspace(-2.6, 2.6, 120)
heights = 0.01 * x**2 + 0.5 * y[:, None] ** 2
crossings = {}
figure, panels = new(2, 2, width=8.5, height=5.2, sharex=True, sharey=True)
for panel, (name, optimizer), (color, _) in zip(panels.flat, optimizers.items(), LINES, strict=False):
    run = fs.landscape.trajectory(optimizer, valley.f, valley.grad, valley.start, steps=40)
    turns = crossings[name] = int((np.diff(np.sign(run.points[:, 1])) != 0).sum())
    print(f"{name}: crosses the valley {turns} times, f = {run.values[-1]:.2g} after {run.steps} steps")
    panel.contour(x, y, heights, levels=np.geomspace(0.003, 3, 7), colors=GRAY, linewidths=0.6)
    panel.plot(*run.points.T, "o-", color=color, markersize=3.5, linewidth=1.3)
    panel.plot(*run.points[0], "o", color=color, markersize=9, markerfacecolor="white")
    panel.plot(0, 0, "*", color=BLACK, markersize=13, zorder=4)
    panel.grid(False)
    panel.set_title(f"{name}: crosses {turns} times, f = {run.values[-1]:.1g}", fontsize=11)
for panel in panels[:, 0]:
    panel.set_ylabel("y, curvature 1")
for panel in panels[1]:
    panel.set_xlabel("x, curvature 1/50")
claim("plain descent with a large step overshoots each time", crossings["Plain descent"] == run.steps)
along, across = valley.hessian(valley.start).diagonal()
claim(f"one step size serves curvatures of {across:g} and 1/{across / along:.0f}")
figure.suptitle(f"{run.steps} steps in a narrow valley: plain descent goes to and fro, the others go along\n({MARKS})")
save(figure)
