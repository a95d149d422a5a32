"""Batch or stochastic: the test error of a network by updates, and by the passes over the data that these cost."""

import numpy as np
from _figure import BLACK, LINES, bands, claim, new, save
from sklearn.datasets import load_digits

import fusedstep as fs

X, y = load_digits(return_X_y=True)
X, loss = (X / 16).astype(np.float32), fs.nn.SoftmaxCrossEntropy()
train, test = (X[:1200], y[:1200]), (X[1200:], y[1200:])
goal, seeds = 15, 5  # percent
settings = (  # with a step size that is good for each
    ("batch: all 1200", 1200, 150, 0.5),
    ("mini-batch: 32", 32, 15, 0.4),
    ("stochastic: 1", 1, 3, 0.04),
)

figure, (by_updates, by_epochs) = new(1, 2, width=10, height=4.9, sharey=True)
passes = []  # over the data, until the goal
for (name, batch_size, epochs, lr), (color, dashes) in zip(settings, LINES, strict=False):
    errors = []
    for seed in range(seeds):
        model = fs.nn.Sequential(fs.nn.Dense(64, 32), fs.nn.Tanh(), fs.nn.Dense(32, 10), seed=seed)
        optimizer = fs.optim.SGD(model.parameters(), lr=lr)
        batches = fs.data.MiniBatches(*train, batch_size=batch_size, seed=seed)
        updates = np.unique(np.geomspace(1, epochs * len(batches), 40).astype(int))  # after which to test
        errors.append([])
        for _ in range(epochs):
            for x, target in batches:
                _, gradient = loss(model.forward(x), target)
                model.backward(gradient)
                optimizer.step()
                if optimizer.steps in updates:
                    wrong = model.predict(test[0]).argmax(axis=1) != test[1]
                    errors[-1].append(100 * wrong.mean())
    lower, median, upper = np.quantile(errors, (0.1, 0.5, 0.9), axis=0)
    for panel, x in ((by_updates, updates), (by_epochs, updates / len(batches))):
        panel.plot(x, median, color=color, linestyle=dashes, linewidth=1.8, label=name)
        panel.fill_between(x, lower, upper, color=color, alpha=0.15, linewidth=0)
    reached = updates[(median <= goal).argmax()]
    passes.append(reached / len(batches))
    print(f"{name}: {goal}% after {reached} updates, {passes[-1]:.1f} epochs; {median[-1]:.1f}% at the end")
for panel, x in ((by_updates, "updates"), (by_epochs, "epochs: passes over the data")):
    panel.axhline(goal, color=BLACK, linewidth=1, linestyle=":", label=f"{goal}% test error")
    panel.set(xscale="log", ylim=(0, 100), xlabel=x)
by_updates.set(ylabel="test error (%)", title="An update of the whole batch is worth more ...")
by_epochs.set_title("... but costs a whole epoch")
figure.legend(
    *by_epochs.get_legend_handles_labels(),
    title=f"samples an update ({bands(seeds)})",
    loc="outside lower center",
    ncols=4,
)
whole, *few = passes
claim("single examples and small batches are tens of times faster", all(10 < whole / some < 100 for some in few))
claim(f"most of what {len(train[0])} samples say about the direction")
save(figure)
