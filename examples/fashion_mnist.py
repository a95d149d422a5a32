"""Train on Fashion-MNIST: 70,000 images of clothes, validated after every epoch, early stopping, the curves drawn.

    python examples/fashion_mnist.py                            # half a minute on two cores: 0.90
    python examples/fashion_mnist.py --epochs 2 --samples 6000  # a shortened form

The four files (Xiao, Rasul & Vollgraf 2017) are looked for where Debian's package dataset-fashion-mnist puts them;
--folder names another place.
"""

import argparse
import gzip
import time
from pathlib import Path

import numpy as np

import fusedstep as fs

FOLDER = Path("/usr/share/datasets/fashion-mnist")


def read(folder, part):
    """Images as float32 in 0 ... 1, one a row, and their labels."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return np.float32(images) / 255, labels.astype(np.int64)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--samples", type=int, default=60_000, help="how many of the 60,000 images to train on")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if not options.folder.is_dir():
        print(f"{options.folder} is missing: apt-get install dataset-fashion-mnist, or give --folder")
        return

    X, y = read(options.folder, "train")
    X_test, y_test = read(options.folder, "t10k")
    X, y = X[: options.samples], y[: options.samples]
    # The test set is a set of its own, so one fold of six validates, and the others train.
    train, validation, rest = next(fs.model_selection.RotatingKFold(6, random_state=0).split(X, y))
    train = np.sort(np.concatenate([train, rest]))

    layers = []
    for inputs, outputs in ((784, 512), (512, 256)):
        layers += [fs.nn.Dense(inputs, outputs), fs.nn.BatchNorm(outputs), fs.nn.ReLU(), fs.nn.Dropout(0.3)]
    model = fs.nn.Sequential(*layers, fs.nn.Dense(256, 10), seed=0).to(options.device)
    batch_size = 256
    steps = options.epochs * -(-len(train) // batch_size)
    optimizer = fs.optim.AdamW(
        model.parameters(), lr=fs.optim.schedules.one_cycle(3e-3, steps), weight_decay=0.02, decay_1d=False
    )
    start = time.perf_counter()
    history = fs.fit(
        model,
        optimizer,
        fs.nn.SoftmaxCrossEntropy(),
        (X[train], y[train]),
        (X[validation], y[validation]),
        epochs=options.epochs,
        batch_size=batch_size,
        metrics=["accuracy", "f1_macro"],
        callbacks=[fs.callbacks.EarlyStopping(patience=8)],
    )
    seconds = time.perf_counter() - start
    test = fs.evaluate(model, fs.nn.SoftmaxCrossEntropy(), X_test, y_test, metrics=["accuracy"])
    print(f"best epoch {history.best_epoch} of {len(history.rows)}, {seconds:.0f} seconds")
    print(f"test loss {test['loss']:.4f}, test accuracy {test['accuracy']:.4f}")
    history.plot("fashion_mnist.png")
    model.save("fashion_mnist.safetensors")


if __name__ == "__main__":
    main()
