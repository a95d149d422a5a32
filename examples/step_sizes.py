"""Where a step size is good, and how wide that valley is for two optimizers."""

import numpy as np
from sklearn.datasets import load_digits

import fusedstep as fs


def make_model(seed):
    return fs.nn.Sequential(fs.nn.Dense(64, 64), fs.nn.ReLU(), fs.nn.Dense(64, 10), seed=seed)


X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
train, validation = (X[:1200], y[:1200]), (X[1200:], y[1200:])
loss = fs.nn.SoftmaxCrossEntropy()
model = make_model(seed=0)
optimizer = fs.optim.Adam(model.parameters())
print(fs.tune.lr_range_test(model, optimizer, loss, train, batch_size=64))  # both are then as before

optimizers = {"momentum": lambda params, lr: fs.optim.Momentum(params, lr, momentum=0.9), "Adam": fs.optim.Adam}
sweep = fs.tune.step_size_sweep(make_model, optimizers, loss, train, validation, seeds=3, epochs=4, batch_size=64)
print(sweep)  # the validation loss by optimizer and step size: quantiles over the seeds
print("width of the valley in decades:", sweep.width(tolerance=0.5))
