"""Linear regression in a loop of one's own: fs.ops on plain NumPy arrays, changed in place."""

import numpy as np

import fusedstep as fs

rng = np.random.default_rng(0)
X = rng.normal(size=(1000, 20)).astype(np.float32)
y = X @ rng.normal(size=(20, 1)).astype(np.float32)
w, m, v = (np.zeros((20, 1), np.float32) for _ in range(3))
for step in range(1, 301):
    loss, gradient = fs.ops.mean_squared_error(X @ w, y)
    fs.ops.adam_step(w, X.T @ gradient, m, v, lr=0.1, step=step)
print("loss", loss)
