"""How much a loss bends, for inputs as they are, standardized and whitened."""

import numpy as np
from sklearn.datasets import load_breast_cancer

import fusedstep as fs

X, y = load_breast_cancer(return_X_y=True)
y, loss = y.reshape(-1, 1).astype(np.float64), fs.nn.SigmoidCrossEntropy()
model = fs.nn.Sequential(fs.nn.Dense(30, 1, init="zeros"), dtype=np.float64)
for inputs in (X, (X - X.mean(axis=0)) / X.std(axis=0), fs.sklearn.ZCA().fit_transform(X)):
    print(fs.curvature.extremes(model, loss, inputs, y))
