"""Rotating cross-validation of five folds: who trains, validates and tests in each round, and what it gives."""

import numpy as np
from _figure import BLACK, LINES, claim, new, save
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

import fusedstep as fs

X, y = load_wine(return_X_y=True)
result = fs.model_selection.cross_validate(
    lambda seed: fs.nn.Sequential(fs.nn.Dense(13, 16), fs.nn.ReLU(), fs.nn.Dense(16, 3), seed=seed),
    lambda model: fs.optim.Adam(model.parameters(), lr=1e-2),
    fs.nn.SoftmaxCrossEntropy(),
    X.astype(np.float32),
    y,
    preprocess=StandardScaler(),
    metrics="accuracy",
    epochs=100,
    batch_size=32,
    callbacks=lambda fold: [fs.callbacks.EarlyStopping(patience=10, min_delta=1e-3)],
    progress=False,
    random_state=0,
)
print(result)
tested = np.concatenate([test for _, _, test in result.folds])
claim("every sample is tested exactly once", sorted(tested) == list(range(len(X))))

looks = {"train": ("#e8e8e8", "", BLACK), "validate": ("#f6b27a", "//", BLACK), "test": (LINES[0][0], "", "white")}
figure, panel = new(width=9, height=4)
panel.grid(False)
for row, (_, validation, test) in enumerate(result.folds):
    for column, (_, _, fold) in enumerate(result.folds):  # fold k is the one that tests in round k
        part = "test" if fold is test else "validate" if np.array_equal(fold, validation) else "train"
        color, hatch, ink = looks[part]
        panel.barh(row, 0.94, left=column + 0.03, height=0.84, color=color, hatch=hatch, edgecolor="white", linewidth=0)
        box = {"facecolor": color, "edgecolor": "none", "pad": 1.5}  # no hatch behind the word
        panel.text(column + 0.5, row, part, color=ink, ha="center", va="center", bbox=box)
    scores = result.rows[row]
    words = (f"{scores['best_epoch']}", f"{scores['validation_accuracy']:.1%}", f"{scores['test_accuracy']:.1%}")
    for place, word in zip((5.4, 6.1, 6.9), words, strict=True):
        panel.text(place, row, word, ha="center", va="center")
for place, head in ((5.4, "best\nepoch"), (6.1, "validation\naccuracy"), (6.9, "test\naccuracy")):
    panel.text(place, -0.6, head, ha="center", va="bottom")
mean, std = result.mean["test_accuracy"], result.std["test_accuracy"]
panel.text(
    7.25,
    4.8,
    f"test accuracy, mean \u00b1 standard deviation: {mean:.1%} \u00b1 {std:.1%}",
    ha="right",
    va="center",
    fontweight="bold",
)
panel.set_xticks(
    np.arange(5) + 0.5, [f"fold {k + 1}\n{len(fold)} samples" for k, (*_, fold) in enumerate(result.folds)]
)
panel.set_yticks(range(5), [f"round {k + 1}" for k in range(5)])
panel.set(xlim=(0, 7.3), ylim=(5.1, -0.5))
panel.tick_params(length=0)
panel.tick_params(axis="x", labeltop=True, labelbottom=False)
for side in panel.spines.values():
    side.set_visible(False)
figure.suptitle("Each fold tests once and validates once: every sample is tested exactly once")
save(figure)
