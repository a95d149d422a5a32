"""Noisy gradients: the floor of a constant step, steps of 1/t and 1/sqrt(t), and a constant ten times too small."""

import numpy as np
from _figure import LINES, bands, claim, new, save

import fusedstep as fs

schedules = fs.optim.schedules
seeds, dimensions, steps = 100, 10, 10_000
bowl = fs.landscape.quadratic(np.ones(seeds * dimensions))  # curvature 1; each row of 10 is a run with its own noise
choices = {  # t counts from 1
    "constant 0.3": 0.3,
    "constant 0.03": 0.03,
    "1 / t": schedules.inverse_time(1.0, 1.0),
    "1 / √t": schedules.inverse_sqrt(1.0),
    "0.1 / t": schedules.inverse_time(0.1, 1.0),
    "0.1 / √t": schedules.inverse_sqrt(0.1),
}
t = np.arange(1, steps + 1)
ends = {}
figure, panels = new(1, 2, width=9, height=4.2, sharex=True, sharey=True)
for (name, lr), (color, dashes) in zip(choices.items(), LINES, strict=False):
    run = fs.landscape.trajectory(
        lambda params, lr=lr: fs.optim.SGD(params, lr=lr),
        bowl.f,
        fs.landscape.noisy(bowl.grad, scale=1.0, seed=0),
        np.full(seeds * dimensions, 3.0),
        steps,
    )
    values = (run.points.reshape(-1, seeds, dimensions) ** 2).sum(axis=2) / 2
    band = fs.landscape.band(lambda seed, values=values: values[1:, seed], seeds)
    ends[name] = band.median[-1]
    print(f"{name}: f = {band.lower[-1]:.2g} to {band.upper[-1]:.2g} after {steps:,} steps", end="")
    print(f", in theory {dimensions * lr / (2 * (2 - lr)):.2g}" if isinstance(lr, float) else "")
    shown = np.unique(np.geomspace(1, steps, 150).astype(int)) - 1
    for panel, names in zip(panels, (list(choices)[:4], ["1 / t", "0.1 / t", "0.1 / √t"]), strict=True):
        if name in names:
            panel.plot(t[shown], band.median[shown], linestyle=dashes, color=color, linewidth=1.8, label=name)
            panel.fill_between(t[shown], band.lower[shown], band.upper[shown], color=color, alpha=0.2, linewidth=0)
panels[0].set(title="A constant step ends in a floor of noise", ylabel="f - minimum", xscale="log", yscale="log")
panels[1].set(title="Ten times too small: 1/t is lost, 1/√t is not")
for panel in panels:
    panel.set_xlabel("step t")
    panel.legend(title="step size", loc="lower left")
figure.suptitle(f"Descent by noisy gradients ({bands(seeds)})")
claim("1/t goes below any floor, and 1/√t does so more slowly", ends["1 / t"] < ends["1 / √t"] < ends["constant 0.03"])
claim("1/t hardly forgets its start, while 1/√t still does", ends["0.1 / t"] > 1 > 0.1 > ends["0.1 / √t"])
save(figure)
