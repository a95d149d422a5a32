"""A smaller step in mid-training: stochastic gradient descent on a linear regression, 30 seeds at once."""

import numpy as np
from _figure import LINES, bands, claim, legend_below, new, save
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

import fusedstep as fs

X, y = load_diabetes(return_X_y=True)
X, y = scale(X), scale(y)
hessian, best = X.T @ X / len(X), np.linalg.lstsq(X, y, rcond=None)[0]
steps, seeds, batch_size, large, small = 4000, 30, 8, 0.1, 0.004
runs = {
    f"{large} to the end": lambda step: large,
    f"{small} from the start": lambda step: small,
    f"{large}, then {small} after {steps // 2} steps": lambda step: large if step < steps // 2 else small,
    f"{large}, then {small} after {steps // 20} steps": lambda step: large if step < steps // 20 else small,
}

ends = []
figure, panel = new(height=5)
for (name, lr), (color, dashes) in zip(runs.items(), LINES, strict=False):
    rng = np.random.default_rng(0)
    w, losses = np.zeros((seeds, X.shape[1])), []
    for step in range(steps + 1):
        error = w - best
        losses.append(0.5 * ((error @ hessian) * error).sum(axis=1))  # the loss less its minimum
        rows = rng.integers(0, len(X), (seeds, batch_size))
        residuals = (X[rows] * w[:, None]).sum(axis=2) - y[rows]
        gradient = (X[rows] * residuals[:, :, None]).mean(axis=1)
        fs.ops.sgd_step(w, gradient, lr=lr(step))
    lower, median, upper = np.quantile(losses[::40], (0.1, 0.5, 0.9), axis=1)
    shown = np.arange(0, steps + 1, 40)
    panel.plot(shown, median, color=color, linestyle=dashes, linewidth=1.8, label=name)
    panel.fill_between(shown, lower, upper, color=color, alpha=0.15, linewidth=0)
    ends.append(median[-1])
    print(f"{name}: median loss {median[-1]:.2g} at the end, {median[len(shown) // 2]:.2g} half-way")
panel.set(yscale="log", xlim=(0, steps), xlabel="step (batches of 8)", ylabel="loss above its minimum")
panel.set_title("A step size that falls late shows what the large one had reached under its noise")
legend_below(panel, title=f"step size ({bands(seeds)})", ncols=2, fontsize=9)
_, from_start, late, early = ends
claim("ends below that of the run which had the small step from the start", late < 0.6 * from_start)
claim("to drop it too early looks better for a while, and then stays behind", early > 1.5 * late)
save(figure)
