"""scikit-learn's own checks of estimators, on ours."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.utils.estimator_checks import parametrize_with_checks

import fusedstep as fs

KINDS = [fs.sklearn.MLPClassifier, fs.sklearn.MLPRegressor]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([kind() for kind in KINDS])
def test_the_defaults_pass(estimator, check):
    check(estimator)


def without_equivalence(estimator):
    """Batch moments count samples, not weights, and so does a mask of dropout."""
    return {"check_sample_weight_equivalence_on_dense_data": "repeated samples are other batches"}


@parametrize_with_checks(
    [kind(**more) for kind in KINDS for more in ({"batch_norm": True}, {"dropout": 0.2})],
    expected_failed_checks=without_equivalence,
)
def test_batch_norm_and_dropout_pass_but_for_the_equivalence_of_weights_and_repetition(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [
        kind(optimizer=optimizer, schedule="cosine", activation="gelu", alpha=0.0)
        for kind, optimizer in zip(KINDS, ("rmsprop", "adamw"), strict=True)
    ]
)
def test_our_own_parameters_pass(estimator, check):
    check(estimator)
