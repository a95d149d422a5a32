"""Where training begins: how fast a deep network learns from it, and in which minimum a small one ends."""

import numpy as np
from _figure import GRAY, LINES, bands, claim, legend_below, new, save
from sklearn.datasets import load_digits

import fusedstep as fs

seeds = 5
figure, (curves, ends) = new(1, 2, width=10.5, height=5.2)
X, y = load_digits(return_X_y=True)
train = ((X[:1200] / 16).astype(np.float32), y[:1200])
inits = {"He": ("he", 1), "Glorot": ("glorot", 1), "LeCun": ("lecun", 1)}
inits |= {"He, times 3": ("he", 3), "zeros": ("zeros", 1)}
train_options = {"epochs": 8, "batch_size": 32, "progress": False}
trained = {}
for (name, (init, factor)), (color, dashes) in zip(inits.items(), LINES, strict=False):
    losses = []
    for seed in range(seeds):
        hidden = [layer for _ in range(4) for layer in (fs.nn.Dense(64, 64, init=init), fs.nn.ReLU())]
        model = fs.nn.Sequential(*hidden, fs.nn.Dense(64, 10, init=init), seed=seed)
        for p in model.parameters():
            p.array *= factor
        optimizer = fs.optim.Adam(model.parameters(), lr=2e-3)
        history = fs.fit(model, optimizer, fs.nn.SoftmaxCrossEntropy(), train, **train_options)
        losses.append(history.column("train_loss"))
    lower, median, upper = trained[name] = np.quantile(losses, (0, 0.5, 1), axis=0)
    curves.plot(range(1, 9), median, color=color, linestyle=dashes, linewidth=1.8, label=name)
    curves.fill_between(range(1, 9), lower, upper, color=color, alpha=0.15, linewidth=0)
    print(f"{name}: train loss {median[-1]:.3g} after 8 epochs")
claim("with He's for ReLU the loss falls at once", all(trained["He"][1][-1] <= t[1][-1] for t in trained.values()))
claim("weights three times as large have to be undone first", trained["He, times 3"][1][0] > 10)
claim("from zeros no gradient reaches the hidden units", (trained["zeros"][0] > 2.2).all())  # what chance gives is 2.3

X, y = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]), np.array([[0.0], [1], [1], [0]])  # exclusive or
loss, shift = fs.nn.MeanSquaredError(), np.linspace(-0.35, 0.35, 16)
optimizers = {"SGD": lambda params: fs.optim.SGD(params, lr=0.3), "Adam": lambda params: fs.optim.Adam(params, lr=0.03)}
starts = {"LeCun": ("lecun", 1), "LeCun, times 4": ("lecun", 4), "zeros": ("zeros", 1)}
for place, (name, (init, factor)) in enumerate(starts.items()):
    found = []
    for optimizer in optimizers.values():
        found.append([])
        for seed in range(len(shift)):
            layers = (fs.nn.Dense(2, 2, init=init), fs.nn.Tanh(), fs.nn.Dense(2, 1, init=init))
            model = fs.nn.Sequential(*layers, seed=seed, dtype=np.float64)
            for p in model.parameters():
                p.array *= factor
            method = optimizer(model.parameters())
            for _ in range(1000):
                value, gradient = loss(model.forward(X), y)
                model.backward(gradient)
                method.step()
            found[-1].append(value)
    x = 3 * place + np.array([shift, 1 + shift])
    ends.plot(x, found, color=GRAY, linewidth=0.5)
    for which, (method, marker) in enumerate(zip(optimizers, "os", strict=True)):
        label = method if place == 0 else None
        ends.plot(x[which], found[which], marker, color=LINES[which][0], markersize=5, label=label)
        share = np.mean(np.array(found[which]) < 0.01)
        print(f"{name}, {method}: {share:.0%} of the seeds solve exclusive or")
curves.set(yscale="log", xlabel="epoch", ylabel="train loss (nats)", ylim=(0.01, 100))
curves.set_title("Four hidden layers on digits, Adam", fontsize=10)
legend_below(curves, ncols=3, title=f"the weights start as ({bands(seeds, 'range')})")
ends.set(xticks=[0.5, 3.5, 6.5], xticklabels=starts, ylim=(-0.02, 0.27), xlabel="the weights start as")
ends.set_ylabel("squared error after 1000 steps")
ends.set_title(f"Two hidden units on exclusive or: where {len(shift)} seeds end", fontsize=10)
legend_below(ends, ncols=2)
save(figure)
