"""Averages of the iterates of noisy descent: the mean (Polyak-Ruppert) and the exponential one lower the floor."""

import numpy as np
from _figure import LINES, bands, claim, new, save

import fusedstep as fs

schedules = fs.optim.schedules
seeds, dimensions, steps, burn_in = 100, 10, 10_000, 30
bowl = fs.landscape.quadratic(np.ones(seeds * dimensions))  # curvature 1; each row of 10 is a run with its own noise
decays = {
    "exponential, 0.9": 0.9,
    "exponential, 0.99": 0.99,
    f"mean after step {burn_in}": schedules.uniform_average(burn_in),
}
steppers = {"Step size 0.3": 0.3, "Step size 1 / √t": schedules.inverse_sqrt(1.0)}
shown = np.unique(np.geomspace(1, steps, 150).astype(int))
figure, panels = new(1, 2, width=9, height=4.3, sharex=True, sharey=True)
lower, powers = [], []
for panel, (title, lr) in zip(panels, steppers.items(), strict=True):
    drawn, ends = {}, []
    for name, decay in decays.items():
        run = fs.landscape.trajectory(
            lambda params, lr=lr, decay=decay: fs.optim.SGD(params, lr=lr, ema_decay=decay),
            bowl.f,
            fs.landscape.noisy(bowl.grad, scale=1.0, seed=0),  # the same noise, hence the same iterates
            np.full(seeds * dimensions, 3.0),
            steps,
        )
        drawn |= {"the iterates": run.points, name: run.averages}
    for (name, points), (color, dashes) in zip(drawn.items(), LINES, strict=False):
        values = (points[shown].reshape(-1, seeds, dimensions) ** 2).sum(axis=2) / 2
        band = fs.landscape.band(lambda seed, values=values: values[:, seed], seeds)
        ends.append(band.median[-1])
        print(f"{title}, {name}: f = {band.lower[-1]:.2g} to {band.upper[-1]:.2g} after {steps:,} steps")
        panel.plot(shown, band.median, linestyle=dashes, color=color, linewidth=1.8, label=name)
        panel.fill_between(shown, band.lower, band.upper, color=color, alpha=0.2, linewidth=0)
    panel.set(title=title, xlabel="step t", xscale="log", yscale="log")
    lower.append(ends == sorted(ends, reverse=True))
    late = shown > steps // 10
    powers.append(np.polyfit(np.log(shown[late]), np.log(band.median[late]), 1)[0])  # of the mean, which is the last
panels[0].set_ylabel("f - minimum")
panels[0].legend(loc="lower left")
figure.suptitle(f"Averages of noisy iterates ({bands(seeds)})")
claim("the exponential one lowers the floor, the longer its window the more", all(lower))
claim(
    "The mean of all iterates after a burn-in falls as 1/t even at a constant step, as with the best schedule",
    np.allclose(powers, -1, atol=0.1),
)
save(figure)
