"""Split patients so that class, age and sex are distributed alike, and look whether they are."""

import numpy as np

import fusedstep as fs

rng = np.random.default_rng(0)
n = 600
patient = rng.integers(0, 200, n)  # some were seen several times
sex, age = rng.choice(["f", "m"], 200)[patient], rng.gamma(9, 5, 200)[patient]
diagnosis = rng.choice(["benign", "malignant"], n, p=[0.8, 0.2])
X = rng.normal(size=(n, 5))

table = {"diagnosis": diagnosis, "sex": sex, "age": age}  # or a data frame; ages are binned by quantile
folds = fs.model_selection.RotatingKFold(5, random_state=0)
train, validation, test = next(folds.split(X, groups=patient, stratify=table))
print(fs.model_selection.distribution_report(table, (train, validation, test)))
