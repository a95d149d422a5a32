"""Schedules: falling steps and restarts on a noisy regression, and a warm-up before large steps of Adam."""

import numpy as np
from _figure import LINES, bands, claim, legend_below, new, save
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import scale

import fusedstep as fs
from fusedstep.optim import schedules

ends = {}
figure, panels = new(2, 2, width=9, height=6.5, sharex="col")
steps, lr = 2100, 0.1
falling = {
    "constant": schedules.constant(lr),
    "a fifth every 700": schedules.step_decay(lr, every=700, factor=0.2),
    "cosine": schedules.cosine(lr, steps),
    "restarts": schedules.cosine_restarts(lr, period=300, growth=2),
}
X, y = (scale(array) for array in load_diabetes(return_X_y=True))
hessian, best = X.T @ X / len(X), np.linalg.lstsq(X, y, rcond=None)[0]
for (name, schedule), (color, dashes) in zip(falling.items(), LINES, strict=False):
    rng, w, losses = np.random.default_rng(0), np.zeros((30, X.shape[1])), []
    for step in range(steps):
        rows = rng.integers(0, len(X), (30, 8))  # 30 seeds at once, a batch of 8 each
        residuals = (X[rows] * w[:, None]).sum(axis=2) - y[rows]
        fs.ops.sgd_step(w, (X[rows] * residuals[:, :, None]).mean(axis=1), lr=schedule(step))
        losses.append(0.5 * (((w - best) @ hessian) * (w - best)).sum(axis=1))  # above the minimum
    looks = {"color": color, "linestyle": dashes, "label": name}
    shown = np.arange(0, steps, 15)
    panels[0, 0].plot([schedule(step) for step in range(steps)], **looks)
    panels[1, 0].plot(shown, np.median(losses, axis=1)[shown], **looks)
    ends[name] = np.median(losses[-1])
    print(f"{name}: {np.median(losses[-1]):.2g} above the minimum after {steps} steps")

noisy, *quiet = ends.values()
claim("With a constant step the loss stays on a floor of noise", all(noisy > 10 * end for end in quiet))

epochs, lr, seeds, recovered = 10, 0.06, 10, {}
steps = epochs * 38
warm = {
    "cosine": schedules.cosine(lr, steps),
    "warm-up, then cosine": schedules.warmup_cosine(lr, steps, warmup_steps=steps // 10),
    "one cycle": schedules.one_cycle(lr, steps),
}
X, y = load_digits(return_X_y=True)
X, y, loss = (X[:1200] / 16).astype(np.float32), y[:1200], fs.nn.SoftmaxCrossEntropy()
for (name, schedule), (color, dashes) in zip(warm.items(), LINES, strict=False):
    losses = []
    for seed in range(seeds):
        hidden = [layer for _ in range(3) for layer in (fs.nn.Dense(64, 64), fs.nn.Tanh())]
        model = fs.nn.Sequential(*hidden, fs.nn.Dense(64, 10), seed=seed)
        optimizer = fs.optim.Adam(model.parameters(), lr=schedule)
        losses.append([])
        batches = fs.data.MiniBatches(X, y, batch_size=32, seed=seed)
        for _ in range(epochs):
            for x, target in batches:
                value, gradient = loss(model.forward(x), target)
                model.backward(gradient)
                optimizer.step()
                losses[-1].append(value)
    smooth = [fs.ops.ewma(series, 0.9, bias_correction=True)[::5] for series in losses]
    lower, median, upper = np.quantile(smooth, (0.1, 0.5, 0.9), axis=0)
    looks, shown = {"color": color, "linestyle": dashes, "label": name}, range(0, steps, 5)
    panels[0, 1].plot([schedule(step) for step in range(steps)], **looks)
    panels[1, 1].plot(shown, median, **looks)
    panels[1, 1].fill_between(shown, lower, upper, color=color, alpha=0.15, linewidth=0)
    recovered[name] = upper[-1] < 0.5
    print(f"{name}: {median[-1]:.2g} after {epochs} epochs")

claim("some seeds never recover", not recovered["cosine"])
claim("a warm-up of a tenth of the steps makes the same step size usable", recovered["warm-up, then cosine"])
panels[0, 0].set(ylabel="step size", ylim=(0, 0.11), title="Falling steps take the noise away")
panels[0, 1].set(ylim=(0, 0.066), title="A warm-up makes a large step usable")
panels[1, 0].set(yscale="log", ylim=(7e-4, 0.3), xlabel="step", ylabel="loss above its minimum")
panels[1, 1].set(yscale="log", ylim=(7e-3, 5), xlabel="step", ylabel="train loss (nats, smoothed)")
legend_below(panels[1, 0], title="line: median of 30 seeds", ncols=2, fontsize=9)
legend_below(panels[1, 1], title=bands(seeds), ncols=2, fontsize=9)
panels[1, 0].set_title("SGD on a regression, batches of 8", fontsize=10)
panels[1, 1].set_title("Adam on digits", fontsize=10)
save(figure)
