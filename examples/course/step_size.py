"""Three steps, 1/2, 3/2 and 6 times the derivative, on three parabolas: which is good depends on the curvature."""

from fractions import Fraction

import numpy as np
from _figure import BLACK, GRAY, LINES, MARKS, claim, new, save

import fusedstep as fs

x = np.linspace(-5, 5, 200)
curvatures, lrs = {Fraction(1, 2): "x²/4", Fraction(3): "3x²/2", Fraction(1, 8): "x²/16"}, (1 / 2, 3 / 2, 6)
verdicts = {}
figure, panels = new(3, 3, width=8.5, height=6.8, sharex=True, sharey="row")
for row, (curvature, formula) in zip(panels, curvatures.items(), strict=True):
    bowl = fs.landscape.parabola(float(curvature))
    print(f"curvature {curvature}: stable below a step size of {bowl.stable_step:.3g}")
    for panel, lr, (color, _) in zip(row, lrs, LINES, strict=False):
        run = fs.landscape.trajectory(
            lambda params, lr=lr: fs.optim.SGD(params, lr=lr), bowl.f, bowl.grad, start=4.0, steps=8
        )
        factor = abs(run.final / 4) ** (1 / run.steps)  # by which each step multiplies the error
        verdict = "diverges" if factor > 1 else "converges" if factor < 0.51 else "converges slowly"
        verdicts.setdefault(curvature, []).append(verdict)
        print(f"    step size {lr:g}: {verdict}, x = {run.final:.3g} after {run.steps} steps")
        panel.plot(x, bowl(x), color=GRAY, linewidth=1)
        panel.plot(run.points, run.values, "o-", color=color, markersize=4, linewidth=1)
        panel.plot(run.points[0], run.values[0], "o", color=color, markersize=8, markerfacecolor="white")
        panel.plot(0, 0, "*", color=BLACK, markersize=11, zorder=4)
        if verdict == "diverges":
            panel.text(0, 0.6 * bowl(5.0), f"next: x = {run.points[1]:g}", ha="center")
        panel.set_title(f"{Fraction(lr)} f': {verdict}", fontsize=11)
    row[0].set(ylabel=f"curvature {curvature}:\nf(x) = {formula}", ylim=np.array([-0.08, 1.08]) * bowl(5.0))
    row[0].set_xlim(-5, 5)
for panel in panels[2]:
    panel.set_xlabel("x")
figure.suptitle(f"The step that is good for one curvature diverges on another (and leaves its panel)\n({MARKS})")
(half, first), (three, second), (eighth, third) = verdicts.items()
claim(f"With a curvature of {half}, a step of 1/2 times the derivative {first[0]}, 3/2 {first[1]}, and 6 {first[2]}")
claim(
    f"On curvature {three} the first is the good one and the others diverge", second == ["converges", *["diverges"] * 2]
)
claim(f"on {eighth} the last is good", third == [*["converges slowly"] * 2, "converges"])
claim(
    "below 2 / curvature it converges, fastest at 1 / curvature",
    all(
        ("diverges" not in verdict) == (lr < 2 / curvature)
        for curvature, row in verdicts.items()
        for lr, verdict in zip(lrs, row, strict=True)
    ),
)
save(figure)
