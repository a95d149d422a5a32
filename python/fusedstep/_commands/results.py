"""What a finished run leaves: models, preprocessing, curves, metrics and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .._transformers import save_transformer
from ..cross_validation import CrossValidationResult
from ..plot import plot_histories
from .problem import Problem
from .run_folder import HISTORY, PREDICTIONS, RunFolder, read_config


def write_results(folder: RunFolder, problem: Problem, result: CrossValidationResult, *, one_model: bool) -> None:
    """Write all files of a run but its configuration, which names them."""
    config = read_config(folder.path)
    for name, model in zip(config["models"], result.models, strict=True):
        model.save(folder.path / name)
    for name, preprocessor in zip(config["preprocessors"], result.preprocessors, strict=False):
        save_transformer(folder.path / name, preprocessor.columns_)
    for name, scaler in zip(config["target_preprocessors"], result.target_preprocessors, strict=False):
        save_transformer(folder.path / name, scaler)
    rows = np.sort(np.concatenate([test for _, _, test in result.folds]))
    target = np.array(problem.classes)[problem.y] if problem.classes else problem.y[:, 0]
    header, predicted = prediction_columns(problem.classes, probabilities(result.predictions[rows], problem.classes))
    fold = np.zeros(len(problem.y), np.int64)
    for number, (_, _, test) in enumerate(result.folds, start=1):
        fold[test] = number
    columns = zip(rows, fold[rows], target[rows], predicted, strict=True)
    numbered = ([row + 1, k, value, *cells] for row, k, value, cells in columns)
    folder.write_csv(PREDICTIONS, ["row", "fold", "target", *header], numbered)
    folder.write_json(
        HISTORY,
        {
            "histories": [history.to_dict() for history in result.histories],
            "test_indices": [test.tolist() for _, _, test in result.folds],
        },
    )
    try:
        titles = [] if one_model else [f"fold {row['fold']}" for row in result.rows]
        plot_histories(result.histories, titles, path=folder.path / "curves.png")
    except ImportError as error:
        print(f"no curves.png: {error}")
    folder.finish({"rows": result.rows, "mean": result.mean, "std": result.std})


def probabilities(outputs: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """The softmax of logits; the outputs of a regression as they are. In float64."""
    from scipy.special import softmax

    return softmax(np.float64(outputs), axis=1) if classes else np.float64(outputs)


def prediction_columns(classes: Sequence[str], outputs: np.ndarray) -> tuple[list[str], Iterator[list]]:
    """Header and rows of the predictions: classes with their probabilities, or numbers."""
    if not classes:
        return ["prediction"], ([f"{value:.9g}"] for value in outputs[:, 0].tolist())
    names = [classes[i] for i in outputs.argmax(axis=1)]
    cells = ([name, *(f"{p:.9g}" for p in row)] for name, row in zip(names, outputs.tolist(), strict=True))
    return ["prediction", *(f"probability_{name}" for name in classes)], cells
