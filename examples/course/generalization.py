"""Generalization: train and validation curves of four optimizers, and the parameters at the validation minimum."""

import numpy as np
from _figure import BLACK, LINES, bands, claim, new, save
from sklearn.datasets import load_digits

import fusedstep as fs

X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
order = rng.permutation(len(X))
X, y = (X[order] / 16).astype(np.float32), y[order]
y[:300] = np.where(rng.random(300) < 0.1, rng.integers(0, 10, 300), y[:300])  # some labels are wrong
train, validation, test = ((X[part], y[part]) for part in np.split(np.arange(len(X)), [300, 1000]))
loss, epochs, seeds = fs.nn.SoftmaxCrossEntropy(), 100, 7
optimizers = {
    "SGD": lambda params: fs.optim.SGD(params, lr=0.1),
    "momentum": lambda params: fs.optim.Momentum(params, lr=0.05, momentum=0.9),
    "RMSprop": lambda params: fs.optim.RMSprop(params, lr=2e-3),
    "Adam": lambda params: fs.optim.Adam(params, lr=5e-3),
}

figure, panels = new(1, 2, width=10, height=5.4)
last, kept, wrong = {}, {}, {}  # what the caption says of each
shown = range(1, epochs + 1)
for (name, optimizer), (color, dashes) in zip(optimizers.items(), LINES, strict=False):
    histories, errors, lowest = [], [], []
    for seed in range(seeds):
        model = fs.nn.Sequential(fs.nn.Dense(64, 128), fs.nn.ReLU(), fs.nn.Dense(128, 10), seed=seed)
        keep_best = fs.callbacks.EarlyStopping(patience=epochs)
        options = {"epochs": epochs, "batch_size": 32, "callbacks": [keep_best], "seed": seed, "progress": False}
        histories.append(fs.fit(model, optimizer(model.parameters()), loss, train, validation, **options))
        best = histories[-1].best_epoch
        lowest.append((best, histories[-1].column("validation_loss")[best - 1]))
        errors.append(100 * (1 - fs.evaluate(model, loss, *test, metrics="accuracy")["accuracy"]))
    for panel, column in zip(panels, ("train_loss", "validation_loss"), strict=True):
        lower, median, upper = np.quantile([h.column(column) for h in histories], (0.1, 0.5, 0.9), axis=0)
        label = f"{name}: {np.median(errors):.1f}% test error"
        panel.plot(shown, median, color=color, linestyle=dashes, linewidth=1.8, label=label)
        panel.fill_between(shown, lower, upper, color=color, alpha=0.15, linewidth=0)
        print(f"{name}: {column} {median[-1]:.3f} after {epochs} epochs, smallest {median.min():.3f}")
        last[name, column] = median[-1]
    kept[name], wrong[name] = np.median(lowest, axis=0)[1], np.median(errors)
    print(f"{name}: {kept[name]:.3f} and {wrong[name]:.1f}% of errors on the test set at the validation minimum")
    panels[1].plot(*np.transpose(lowest), "o", color=color, markeredgecolor=BLACK, markersize=5, zorder=3)
for panel in panels:
    panel.set(xlabel="epoch", xlim=(0, epochs))
panels[0].set(yscale="log", ylabel="train loss (nats)", title="Adam and momentum fit the training samples best ...")
panels[1].set(
    ylim=(0.38, 0.9), ylabel="validation loss (nats)", title="... but at their best epochs all generalize alike"
)
figure.legend(
    *panels[1].get_legend_handles_labels(),
    title=f"{bands(seeds)}; dots: the validation minimum of each seed, where it is tested",
    loc="outside lower center",
    ncols=4,
)
ratio = last["SGD", "train_loss"] / last["Adam", "train_loss"]
claim("Adam's train loss is almost twenty times less than that of plain descent", 15 < ratio < 20)
claim(f"after {epochs} epochs")
turned = last["Adam", "validation_loss"] > max(1.2 * kept["Adam"], 1.1 * last["SGD", "validation_loss"])
claim("its validation loss turned long before, and ends higher", turned)
claim(f"a validation loss of {min(kept.values()):.2f} to {max(kept.values()):.2f}")
claim(f"and {min(wrong.values()):.0f} to {max(wrong.values()):.0f}% of errors on the test set")
save(figure)
