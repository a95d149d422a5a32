"""The range test: raise the step size from batch to batch, and begin where the loss falls most."""

import numpy as np
from _figure import BLACK, GRAY, LINES, claim, legend_below, new, save
from sklearn.datasets import load_digits

import fusedstep as fs

X, y = load_digits(return_X_y=True)
train, loss = ((X / 16).astype(np.float32), y), fs.nn.SoftmaxCrossEntropy()


def network(lr):
    model = fs.nn.Sequential(fs.nn.Dense(64, 64), fs.nn.ReLU(), fs.nn.Dense(64, 10), seed=0)
    return model, fs.optim.Momentum(model.parameters(), lr=lr, momentum=0.9)


test = fs.tune.lr_range_test(*network(0.1), loss, train, start=1e-5, batch_size=64)
print(test)
figure, (ramp, runs) = new(1, 2, width=10, height=4.8)
ramp.plot(test.lrs, test.losses, color=GRAY, linewidth=0.8, label="each batch")
label = f"smoothed, {test.lag} batches late"
ramp.plot(test.lrs, test.smoothed, color=BLACK, linewidth=1.8, label=label)
factors = (("a hundredth", 0.01), ("suggestion", 1), ("30 times", 30))
ends = {}
for (name, factor), (color, dashes) in zip(factors, LINES, strict=False):
    lr = factor * test.suggestion
    history = fs.fit(*network(lr), loss, train, epochs=15, batch_size=64, progress=False)
    losses = history.column("train_loss")
    ramp.axvline(lr, color=color, linestyle=dashes)
    runs.plot(history.column("epoch"), losses, color=color, linestyle=dashes, linewidth=1.8, label=f"{name}: {lr:.2g}")
    ends[factor] = losses[-1]
    print(f"{name}: step size {lr:.2g}, train loss {losses[-1]:.2g} after 15 epochs")
ramp.set(xscale="log", ylim=(0, 6), xlabel="step size", ylabel="train loss (nats, cut at 6)")
ramp.set_title(f"The range test: {len(test.lrs)} batches, one step each")
legend_below(ramp, ncols=2)
runs.set(
    yscale="log", ylim=(0.02, 8), xlabel="epoch", ylabel="train loss (nats)", title="Runs with a constant step size"
)
legend_below(runs, title="step size (upright lines at the left)", ncols=2)
# A batch more or less is 15%, and neighbours are nearly as steep.
claim("the suggestion is where it falls most, at a few hundredths", 0.02 < test.suggestion < 0.08)
claim("Trained with it the network learns in a few epochs, with a hundredth of it it crawls", ends[1] < ends[0.01] / 10)
claim("with 30 times as much it learns nothing", ends[30] > 2)
save(figure)
