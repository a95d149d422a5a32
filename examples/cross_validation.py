"""Rotating cross-validation with a preprocessing step that is fitted inside each fold."""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

import fusedstep as fs


def make_model(seed):
    layers = [fs.nn.Dense(13, 32), fs.nn.BatchNorm(32), fs.nn.ReLU(), fs.nn.Dense(32, 3)]
    return fs.nn.Sequential(*layers, seed=seed)


def make_optimizer(model):
    return fs.optim.AdamW(model.parameters(), lr=1e-2, decay_1d=False)


X, y = load_wine(return_X_y=True)
result = fs.model_selection.cross_validate(
    make_model,
    make_optimizer,
    fs.nn.SoftmaxCrossEntropy(),
    X.astype(np.float32),
    y,
    preprocess=StandardScaler(),
    metrics=["accuracy"],
    epochs=30,
    batch_size=32,
    callbacks=lambda fold: [fs.callbacks.EarlyStopping(patience=5)],
    random_state=0,
)
print(result)  # a row a fold, then mean and standard deviation
print(result.predictions.shape)  # of every sample, by the model that never saw it
