"""Gradient descent on quadratics of condition 1 to 1e4, in two and in a million dimensions, and the rates of theory."""

import numpy as np
from _figure import LINES, claim, new, save

import fusedstep as fs

figure, (two, million, counts) = new(1, 3, width=10.5, height=3.9)
rates, powers = [], []
for panel, dimensions, steps in ((two, 2, 200), (million, 1_000_000, 60)):
    for condition, (color, dashes) in zip((1, 10, 100, 10_000), LINES, strict=False):
        valley = fs.landscape.ill_conditioned(condition, dimensions)
        run = fs.landscape.trajectory(
            lambda params, lr=valley.best_step: fs.optim.SGD(params, lr=lr),
            valley.f,
            valley.grad,
            np.ones(dimensions),
            min(steps, 6 * condition),
            keep_points=False,
        )
        shrinks = np.abs(run.final).max() ** (1 / run.steps)
        rates.append((shrinks, valley.best_rate))
        print(f"{valley.name}: the error shrinks by {shrinks:.6f} a step, {valley.best_rate:.6f} in theory")
        left = np.maximum(run.values / run.values[0], 1e-9)
        panel.plot(left, linestyle=dashes, color=color, linewidth=2.2, label=f"{condition:,}")
        panel.plot(valley.best_rate ** (2.0 * np.arange(steps + 1)), color=color, linewidth=0.7)
    panel.set(xlabel="step", ylabel="f / f at the start", yscale="log", xlim=(-steps / 40, steps), ylim=(1e-8, 2))
two.set_title("Two dimensions", fontsize=11)
million.set_title("A million dimensions: faster at first", fontsize=11)
two.legend(title="condition κ (thin: theory)", loc="lower right", fontsize=9)

conditions = np.array([3, 10, 30, 100, 300, 1000, 3000, 10_000])
for (color, dashes), name, root in zip(LINES, ("plain descent", "momentum"), (False, True), strict=False):
    needed = []
    for condition in conditions:
        valley = fs.landscape.ill_conditioned(condition)
        lr, momentum = valley.heavy_ball if root else (valley.best_step, 0.0)
        run = fs.landscape.trajectory(
            lambda params, lr=lr, momentum=momentum: fs.optim.Momentum(params, lr=lr, momentum=momentum),
            valley.f,
            valley.grad,
            np.ones(2),
            4 * condition + 20,
        )
        needed.append(int(np.argmax(run.values < 1e-6 * run.values[0])))
    powers.append(np.polyfit(np.log(conditions[3:]), np.log(needed[3:]), 1)[0])
    print(f"{name}, steps to a millionth, by condition: {dict(zip(conditions.tolist(), needed, strict=True))}")
    counts.loglog(conditions, needed, "o", linestyle=dashes, color=color, linewidth=1.5, label=name)
counts.set(xlabel="condition κ", ylabel="steps")
counts.set_title("Steps to a millionth", fontsize=11)
counts.text(600, 4200, "∝ κ", ha="right", color=LINES[0][0])
counts.text(400, 60, "∝ √κ", color=LINES[1][0])
counts.legend()
claim("descent shrinks the error by (κ - 1) / (κ + 1) a step", np.allclose(*np.transpose(rates), atol=1e-6))
claim("The steps needed grow as the condition κ, with momentum as its root", np.allclose(powers, (1, 0.5), atol=0.1))
save(figure)
