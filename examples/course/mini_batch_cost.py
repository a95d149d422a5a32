"""The cost at each iteration of batch and of mini-batch training, and against the samples that were looked at."""

import numpy as np
from _figure import LINES, claim, new, save
from sklearn.datasets import load_digits

import fusedstep as fs


class Costs(fs.callbacks.Callback):
    def on_train_begin(self, run):
        self.costs = []

    def on_batch_end(self, run):
        self.costs.append(run.batch_loss)


X, y = load_digits(return_X_y=True)
X, epochs = (X / 16).astype(np.float32), 40
loss, batches, wholes = fs.nn.SoftmaxCrossEntropy(), {}, {}
for name, size, lr in (("batch", None, 0.35), ("mini-batch", 64, 0.1)):
    model = fs.nn.Sequential(fs.nn.Dense(64, 32), fs.nn.ReLU(), fs.nn.Dense(32, 10), seed=0)
    kept, before = Costs(), fs.evaluate(model, loss, X, y)["loss"]
    optimizer = fs.optim.SGD(model.parameters(), lr=lr)
    history = fs.fit(  # "validated" on the same samples: the cost of all of them, after each epoch
        model, optimizer, loss, (X, y), (X, y), epochs=epochs, batch_size=size, callbacks=[kept], progress=False
    )
    batches[name], wholes[name] = np.array(kept.costs), np.array([before, *history.column("validation_loss")])
    rises = (np.diff(batches[name]) > 0).mean()
    print(f"{name}: {len(kept.costs)} iterations, of which {rises:.0%} raise the cost, to {wholes[name][-1]:.3f}")

count, mini_count = (len(costs) for costs in batches.values())
claim("The cost of the whole set falls at each iteration", (np.diff(batches["batch"]) < 0).all())
claim("that of the running mini-batch rises in every second one", 0.4 < rises < 0.6)
claim(f"In {epochs} epochs mini-batches take {mini_count} steps in place of {count}")
claim("end at less than a quarter of the cost", wholes["mini-batch"][-1] < wholes["batch"][-1] / 4)

figure, panels = new(1, 3, width=10.5, height=3.8)
titles = "Batch: it falls at each iteration", "Mini-batch: it falls, with noise", "The same samples: more steps"
for panel, title, name, (color, dashes) in zip(panels, titles[:2], batches, LINES, strict=False):
    panel.plot(range(1, len(batches[name]) + 1), batches[name], color=color, linewidth=2.2 if name == "batch" else 0.7)
    panel.set(title=title, xlabel="iteration", ylabel="cost of the batch [nats]", ylim=(0, 2.8))
    panels[2].plot(np.arange(epochs + 1) * len(X) / 1e3, wholes[name], dashes, color=color, linewidth=2.2, label=name)
panels[2].set(title=titles[2], xlabel="samples seen [thousands]", ylabel="cost of all samples [nats]", yscale="log")
panels[2].legend()
save(figure)
