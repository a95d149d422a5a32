"""Train on scikit-learn's digits: split, fit with early stopping, test, save."""

import numpy as np
from sklearn.datasets import load_digits

import fusedstep as fs

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_train, X_val, X_test, y_train, y_val, y_test = fs.model_selection.train_val_test_split(
    X, y, stratify=y, random_state=0
)
layers = [fs.nn.Dense(64, 128), fs.nn.BatchNorm(128), fs.nn.ReLU(), fs.nn.Dropout(0.2), fs.nn.Dense(128, 10)]
model = fs.nn.Sequential(*layers, seed=0)
optimizer = fs.optim.Adam(model.parameters(), lr=2e-3)
stop = fs.callbacks.EarlyStopping(patience=10)
loss = fs.nn.SoftmaxCrossEntropy()
history = fs.fit(model, optimizer, loss, (X_train, y_train), (X_val, y_val), epochs=50, batch_size=64, callbacks=[stop])
print("best epoch", history.best_epoch, "test accuracy", (model.predict(X_test).argmax(axis=1) == y_test).mean())
model.save("digits.safetensors")
