"""How hard a method is to tune: the final validation loss against the step size, over seeds."""

import numpy as np
from _figure import LINES, bands, claim, legend_below, new, save
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
seeds = 4
sweep = fs.tune.step_size_sweep(
    lambda seed: fs.nn.Sequential(fs.nn.Dense(64, 32), fs.nn.ReLU(), fs.nn.Dense(32, 10), seed=seed),
    optimizers,
    fs.nn.SoftmaxCrossEntropy(),
    train,
    validation,
    lrs=np.geomspace(1e-4, 10, 11),
    seeds=seeds,
    epochs=8,
    batch_size=32,
    progress=False,
)
widths, best = sweep.width(tolerance=0.25), sweep.best()

costs = []  # of a factor of ten too large or too small, in best losses
figure, panel = new(height=5.2)
for name, (color, dashes) in zip(optimizers, LINES, strict=False):
    cells = [cell for cell in sweep.summary((0, 0.5, 1)) if cell["optimizer"] == name]
    lrs, lower, median, upper = ([cell[key] for cell in cells] for key in ("lr", "lower", "median", "upper"))
    label = f"{name}: {widths[name]:.2f} decades"
    panel.plot(lrs, median, color=color, linestyle=dashes, linewidth=1.8, marker="o", markersize=4, label=label)
    panel.fill_between(lrs, lower, np.minimum(upper, 1e3), color=color, alpha=0.15, linewidth=0)
    row = best[name]
    place = lrs.index(row["lr"])
    # Two steps of the grid are a factor of ten; one of the two may lie beyond its end.
    costs += [median[i] / row["median"] for i in (place - 2, place + 2) if 0 <= i < len(lrs)]
    print(f"{name}: best {row['median']:.3f} at {row['lr']:.2g}, {widths[name]:.2f} decades within 25% of that")
panel.set(
    xscale="log",
    yscale="log",
    ylim=(0.22, 5),
    xlabel="step size",
    ylabel="validation loss after 8 epochs (nats, cut at 5)",
)
panel.set_yticks([0.3, 0.5, 1, 2, 4], ["0.3", "0.5", "1", "2", "4"])
panel.minorticks_off()
panel.set_title(f"Final loss against step size ({bands(seeds, 'range')})")
legend_below(panel, title="width of the valley (loss within 25% of the best)", ncols=2)
lowest, rates = ([row[key] for row in best.values()] for key in ("median", "lr"))
claim("the best values of four methods differ by a tenth", max(lowest) < 1.15 * min(lowest))
# A best step size lies on the grid, and its neighbour is often as good: these hold for either.
claim("they lie at step sizes from hundredths to tenths", 0.009 < min(rates) < 0.09 < max(rates) < 1.1)
claim("SGD's best step size is ten times Adam's or more", best["SGD"]["lr"] / best["Adam"]["lr"] > 9)
claim(
    "a factor of ten too large or too small raises the loss by a third at least, and up to severalfold",
    min(costs) > 4 / 3 and 3 < max(costs) < 15,
)
claim(
    "The valleys are from two thirds of a decade to a whole one wide",
    0.6 < min(widths.values()) < max(widths.values()) < 1.15,
)
save(figure)
