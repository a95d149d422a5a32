"""Training on a GPU where there is one: the model moves, the data and the loop stay as they are."""

import numpy as np

import fusedstep as fs

rng = np.random.default_rng(0)
X = rng.normal(size=(4000, 32)).astype(np.float32)
y = (X[:, :16].sum(axis=1) > X[:, 16:].sum(axis=1)).astype(np.int64)
layers = [fs.nn.Dense(32, 128), fs.nn.BatchNorm(128), fs.nn.ReLU(), fs.nn.Dropout(0.1), fs.nn.Dense(128, 2)]
model = fs.nn.Sequential(*layers).to("cuda" if fs.info()["cuda"] else "cpu")
optimizer = fs.optim.AdamW(model.parameters(), lr=1e-3, max_norm=1.0)  # made after the move
train, validation = (X[:3000], y[:3000]), (X[3000:], y[3000:])
history = fs.fit(
    model, optimizer, fs.nn.SoftmaxCrossEntropy(), train, validation, epochs=5, metrics=["accuracy"], progress=False
)
print(model.device, history.rows[-1])
