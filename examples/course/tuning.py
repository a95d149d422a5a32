"""How hard a method is to tune: the final validation loss against the step size, over seeds."""

import numpy as np
from _figure import LINES, new, save
from sklearn.datasets import load_digits

import fusedstep as fs

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
train, validation = (X[:800], y[:800]), (X[800:], y[800:])
optimizers = {
    "SGD": fs.optim.SGD,
    "momentum": lambda params, lr: fs.optim.Momentum(params, lr, momentum=0.9),
    "RMSprop": fs.optim.RMSprop,
    "Adam": fs.optim.Adam,
}
sweep = fs.tune.step_size_sweep(
    lambda seed: fs.nn.Sequential(fs.nn.Dense(64, 32), fs.nn.ReLU(), fs.nn.Dense(32, 10), seed=seed),
    optimizers,
    fs.nn.SoftmaxCrossEntropy(),
    train,
    validation,
    lrs=np.geomspace(1e-4, 10, 11),
    seeds=4,
    epochs=8,
    batch_size=32,
    progress=False,
)
widths, best = sweep.width(tolerance=0.25), sweep.best()

figure, panel = new(height=4.8)
for name, (color, dashes) in zip(optimizers, LINES, strict=False):
    cells = [cell for cell in sweep.summary((0, 0.5, 1)) if cell["optimizer"] == name]
    lrs, lower, median, upper = ([cell[key] for cell in cells] for key in ("lr", "lower", "median", "upper"))
    label = f"{name}: {widths[name]:.2f} decades"
    panel.plot(lrs, median, color=color, linestyle=dashes, linewidth=1.8, marker="o", markersize=4, label=label)
    panel.fill_between(lrs, lower, np.minimum(upper, 1e3), color=color, alpha=0.15, linewidth=0)
    row = best[name]
    print(f"{name}: best {row['median']:.3f} at {row['lr']:.2g}, {widths[name]:.2f} decades within 25% of that")
panel.set(
    xscale="log",
    yscale="log",
    ylim=(0.22, 9),
    xlabel="step size",
    ylabel="validation loss after 8 epochs (nats, cut at 9)",
)
panel.set_yticks([0.3, 0.5, 1, 2, 4], ["0.3", "0.5", "1", "2", "4"])
panel.minorticks_off()
panel.set_title("Final loss against step size: median and range of 4 seeds")
panel.legend(title="width of the valley (loss within 25% of the best)", loc="upper center", ncols=2)
save(figure)
