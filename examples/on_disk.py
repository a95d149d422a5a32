"""Train on samples that stay on the disk, and find the largest batch that fits."""

import numpy as np

import fusedstep as fs

rng = np.random.default_rng(0)
X = np.lib.format.open_memmap("samples.npy", "w+", np.float32, (20_000, 64))
for start in range(0, len(X), 1000):  # as large as the disk allows; never in memory as a whole
    X[start : start + 1000] = rng.normal(size=(1000, 64))
y = (X[:, 0] * X[:, 1] > 0).astype(np.int64)

X = np.load("samples.npy", mmap_mode="r")  # an HDF5 or Zarr dataset would do as well
X_train, X_val, X_test, y_train, y_val, y_test = fs.model_selection.train_val_test_split(
    X, y, stratify=y, random_state=0
)
model = fs.nn.Sequential(fs.nn.Dense(64, 128), fs.nn.GELU(), fs.nn.Dense(128, 2))
print("largest batch in 1 GiB:", fs.data.largest_batch_size(model, X.shape[1:], memory=2**30))
optimizer = fs.optim.Adam(model.parameters(), lr=2e-3)
batches = fs.data.MiniBatches(X_train, y_train, batch_size=128, block_size=256, shuffle_window=4096)
loss = fs.nn.SoftmaxCrossEntropy()
history = fs.fit(model, optimizer, loss, batches, (X_val, y_val), epochs=10, metrics="roc_auc")
print(fs.evaluate(model, loss, X_test, y_test, metrics=["accuracy", "roc_auc"]))
