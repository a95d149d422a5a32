"""Regression with a step size that falls over the steps: targets are (samples, 1), in the model's dtype."""

import numpy as np

import fusedstep as fs

rng = np.random.default_rng(0)
X = rng.uniform(-2, 2, size=(2000, 2)).astype(np.float32)
y = np.sin(X[:, 0] * X[:, 1]).reshape(-1, 1)
model = fs.nn.Sequential(fs.nn.Dense(2, 64), fs.nn.GELU(), fs.nn.Dense(64, 64), fs.nn.GELU(), fs.nn.Dense(64, 1))
epochs, batch_size = 30, 50
steps = epochs * len(X[:1500]) // batch_size  # schedules count steps, not epochs
optimizer = fs.optim.Adam(model.parameters(), lr=fs.optim.schedules.cosine(3e-3, steps), max_norm=1.0)
train, validation = (X[:1500], y[:1500]), (X[1500:], y[1500:])
history = fs.fit(
    model, optimizer, fs.nn.MeanSquaredError(), train, validation, epochs=epochs, batch_size=batch_size, progress=False
)
print("validation loss", history.rows[-1]["validation_loss"])
