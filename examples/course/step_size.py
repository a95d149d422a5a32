"""Three steps, 1/2, 3/2 and 6 times the derivative, on three parabolas: which is good depends on the curvature."""

import numpy as np
from _figure import BLACK, GRAY, LINES, new, save

import fusedstep as fs

x = np.linspace(-5, 5, 200)
figure, panels = new(3, 3, width=8.5, height=6.2, sharex=True, sharey="row")
for row, curvature in zip(panels, (1 / 2, 3, 1 / 8), strict=True):
    bowl = fs.landscape.parabola(curvature)
    print(f"{bowl.name}: stable below a step size of {bowl.stable_step:.3g}")
    for panel, lr, (color, _) in zip(row, (1 / 2, 3 / 2, 6), LINES, strict=False):
        run = fs.landscape.trajectory(
            lambda params, lr=lr: fs.optim.SGD(params, lr=lr), bowl.f, bowl.grad, start=4.0, steps=8
        )
        factor = 1 - lr * curvature  # by which each step multiplies the error
        verdict = "diverges" if abs(factor) > 1 else "converges" if abs(factor) <= 0.5 else "converges slowly"
        print(f"    step size {lr:g}: {verdict}, x = {run.final:.3g} after {run.steps} steps")
        panel.plot(x, curvature / 2 * x**2, color=GRAY, linewidth=1)
        panel.plot(run.points, run.values, "o-", color=color, markersize=4, linewidth=1)
        panel.plot(run.points[0], run.values[0], "o", color=color, markersize=8, markerfacecolor="white")
        panel.plot(0, 0, "*", color=BLACK, markersize=11, zorder=4)
        if verdict == "diverges":
            panel.text(0, 0.6 * bowl(5.0), f"next: x = {run.points[1]:g}", ha="center")
        panel.set_title(f"{lr:g} f': {verdict}", fontsize=11)
    row[0].set(ylabel=f"f(x) = {bowl.name}", xlim=(-5, 5), ylim=np.array([-0.08, 1.08]) * bowl(5.0))
for panel in panels[2]:
    panel.set_xlabel("x")
figure.suptitle("The step that is good for one curvature diverges on another (and leaves its panel)")
save(figure)
