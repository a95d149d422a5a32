"""Overfitting: a network that is too large for 200 images, some of them with a wrong label, and when to stop it."""

import numpy as np
from _figure import BLACK, GRAY, LINES, claim, new, save
from sklearn.datasets import load_digits

import fusedstep as fs

X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
order = rng.permutation(len(X))
X, y = (X[order] / 16).astype(np.float32), y[order]
y[:200] = np.where(rng.random(200) < 0.15, rng.integers(0, 10, 200), y[:200])
train, validation, test = ((X[part], y[part]) for part in np.split(np.arange(len(X)), [200, 800]))

loss, histories, tested = fs.nn.SoftmaxCrossEntropy(), {}, {}
for name, callbacks in (("to the end", []), ("stopped", [fs.callbacks.EarlyStopping(patience=20)])):
    model = fs.nn.Sequential(fs.nn.Dense(64, 256), fs.nn.ReLU(), fs.nn.Dense(256, 10), seed=0)
    optimizer = fs.optim.Adam(model.parameters(), lr=2e-3)
    histories[name] = fs.fit(
        model, optimizer, loss, train, validation, epochs=150, batch_size=20, callbacks=callbacks, progress=False
    )
    tested[name] = fs.evaluate(model, loss, *test)["loss"]
    print(f"{name}: {histories[name]}, test loss {tested[name]:.3f}")

history, best = histories["to the end"], histories["stopped"].best_epoch
epochs, losses = history.column("epoch"), {name: history.column(f"{name}_loss") for name in ("train", "validation")}
claim(f"A network that is too large for {len(train[0])} images")
claim("the train loss falls to nothing", losses["train"][-1] < 0.05)
# Several epochs of these are almost as good as the best one.
claim("the validation loss turns between epochs 15 and 30", 15 <= best <= 30)
claim(f"on samples that neither part has seen their loss is {tested['stopped']:.2f}")
claim(f"against {tested['to the end']:.2f} at the end")

figure, panel = new()
for name, (color, dashes) in zip(losses, LINES, strict=False):
    panel.plot(epochs, losses[name], color=color, linestyle=dashes, linewidth=2, label=f"{name} loss")
after = slice(best - 1, None)
panel.fill_between(
    epochs[after], losses["train"][after], losses["validation"][after], color=GRAY, alpha=0.15, linewidth=0
)
panel.text(100, 0.35, "overfitting", color=BLACK, ha="center")
panel.axvline(best, color=BLACK, linewidth=1, linestyle=":")
panel.plot(best, losses["validation"][best - 1], "o", color=BLACK, label="best epoch: its parameters are kept")
for epoch, place, words in ((best, 32, f"epoch {best}, kept"), (epochs[-1], 116, f"epoch {epochs[-1]}")):
    name = "stopped" if epoch == best else "to the end"
    panel.annotate(
        f"{words}:\ntest loss {tested[name]:.2f}",
        (epoch, losses["validation"][epoch - 1]),
        (place, 1.05),
        arrowprops={"arrowstyle": "->", "shrinkB": 4},
    )
panel.set(xlim=(0, epochs[-1] + 3), ylim=(0, 2), xlabel="epoch", ylabel="loss (nats, mean over samples)")
panel.set_title("The train loss falls on, the validation loss turns")
panel.legend(loc="upper right")
save(figure)
