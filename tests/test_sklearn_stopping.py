"""When the training of the estimators ends, and what they then keep: the best epoch, the last one, or the old model."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.exceptions import ConvergenceWarning

import fusedstep as fs
from fusedstep.sklearn import MLPClassifier, MLPRegressor
from fusedstep.sklearn.convergence import Convergence
from test_sklearn_training import KINDS, TARGETS, WEIGHTS, X

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("kind", KINDS)
def test_early_stopping_goes_back_to_the_parameters_and_buffers_of_the_best_epoch(kind):
    y = TARGETS["three classes" if kind == "MLPClassifier" else "one number"]
    held_out = X[60:], y[60:], WEIGHTS[60:]
    model = getattr(fs.sklearn, kind)(
        early_stopping=True, batch_norm=True, dropout=0.1, random_state=1, n_iter_no_change=4, learning_rate_init=0.02
    )
    model.fit(X[:60], y[:60], sample_weight=WEIGHTS[:60], validation=held_out)
    assert model.t_ == 60 * model.n_iter_  # nothing of the training data was held out
    best = int(np.argmax(model.validation_scores_))
    assert best < model.n_iter_ - 1 and model.history_.restored_epoch == model.history_.best_epoch == best + 1
    assert model.score(X[60:], y[60:], WEIGHTS[60:]) == pytest.approx(model.best_validation_score_, abs=1e-12)
    assert model.model_.buffers()["1.num_batches_tracked"] == best + 1
    assert "did not improve" in model.history_.stopped_by


def test_validation_data_without_early_stopping_are_scored_alone():
    y = TARGETS["two classes"]
    plain = MLPClassifier(random_state=0, max_iter=8).fit(X, y)
    model = MLPClassifier(random_state=0, max_iter=8).fit(X, y, validation=(X, y))
    assert len(model.validation_scores_) == 8 and model.best_validation_score_ == max(model.validation_scores_)
    assert model.loss_curve_ == plain.loss_curve_ and plain.validation_scores_ is plain.best_validation_score_ is None
    assert model.validation_scores_[-1] == model.score(X, y) == model.history_.rows[-1]["validation_accuracy"]


def test_early_stopping_keeps_the_shares_of_classes_and_carries_the_weights():
    y = np.array([0] * 60 + [1] * 20 + [2] * 10)
    seen = {}

    class Look(fs.callbacks.Callback):
        def on_train_begin(self, run):
            seen["y"], seen["w"] = run.batches.arrays[1:]

    weights = 1.0 + y
    MLPClassifier(early_stopping=True, max_iter=1, callbacks=[Look()]).fit(X, y, sample_weight=weights)
    assert np.bincount(seen["y"]).tolist() == [54, 18, 9]
    assert np.array_equal(seen["w"], 1.0 + seen["y"])


def test_too_few_members_to_stratify_are_told():
    y = np.array([0] * 88 + [1, 2])
    with pytest.warns(UserWarning, match="too few samples to hold out 9 with each of 3 classes"):
        MLPClassifier(early_stopping=True, max_iter=1).fit(X, y)


def test_it_tells_when_max_iter_is_too_small_and_when_it_converged():
    y = TARGETS["two classes"]
    with pytest.warns(ConvergenceWarning, match="max_iter=2 epochs are over"):
        MLPClassifier(max_iter=2).fit(X, y)
    model = MLPClassifier(max_iter=50, tol=10.0, n_iter_no_change=3).fit(X, y)
    assert model.n_iter_ == 5 and model.best_loss_ == min(model.loss_curve_)
    assert model.history_.stopped_by == "training loss did not improve by tol=10.0 for 3 epochs"
    assert MLPClassifier(max_iter=12, tol=10.0, n_iter_no_change=np.inf).fit(X, y).n_iter_ == 12


class Interrupt(fs.callbacks.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_end(self, run):
        if run.epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [1, 4])
def test_ctrl_c_keeps_what_was_trained(epoch):
    y = TARGETS["two classes"]
    model = MLPClassifier(callbacks=[Interrupt(epoch)], early_stopping=True, random_state=0)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, y)
    assert model.n_iter_ == epoch - 1 and model.history_.interrupted and model.predict(X).shape == (90,)
    assert math.isnan(model.loss_) == (epoch == 1)


def test_a_progress_bar_only_when_asked_for(capsys):
    for verbose in (False, True):
        MLPRegressor(verbose=verbose, max_iter=1).fit(X, TARGETS["one number"])
        assert ("batch" in capsys.readouterr().err) is verbose


def test_diverging_training_is_refused_and_leaves_the_old_model():
    model = MLPRegressor(solver="sgd", learning_rate_init=1e-3, max_iter=3).fit(X, TARGETS["one number"])
    before = model.predict(X)
    model.set_params(learning_rate_init=1e30, max_iter=20)
    for warm in (False, True):
        model.set_params(warm_start=warm)
        with np.errstate(all="ignore"), pytest.raises(ValueError, match="NaN or infinite: standardize X"):
            model.fit(X, TARGETS["one number"])
        assert np.array_equal(model.predict(X), before)


def test_an_error_amid_the_training_leaves_the_old_model():
    class Fail(fs.callbacks.Callback):
        def on_epoch_end(self, run):
            raise RuntimeError("no disk")

    model = MLPRegressor(max_iter=3, warm_start=True).fit(X, TARGETS["one number"])
    before = model.predict(X)
    model.set_params(callbacks=[Fail()])
    for train in (model.fit, model.partial_fit):
        with pytest.raises(RuntimeError, match="no disk"):
            train(X, TARGETS["one number"])
        assert np.array_equal(model.predict(X), before) and len(model.loss_curve_) == 3


def test_a_stop_at_nan_is_told():
    model = MLPRegressor(solver="sgd", learning_rate_init=1e200, callbacks=[fs.callbacks.StopOnNaN()])
    with np.errstate(all="ignore"), pytest.warns(ConvergenceWarning, match=r"\[MLPRegressor\] StopOnNaN: the loss of"):
        model.fit(X, TARGETS["one number"])


def test_nan_is_no_gain():
    judge = Convergence(tol=0.1, n_iter_no_change=2, score=None, by_score=False, adaptive=False, penalty=None)
    run = type("Run", (), {"history": fs.History(), "stop": False})()
    for loss, stop in ((1.0, False), (0.95, False), (math.nan, False), (0.8, False), (math.nan, False), (0.75, False)):
        run.history.rows.append({"train_loss": loss})
        judge.on_epoch_end(run)
        assert run.stop is stop
    run.history.rows.append({"train_loss": 0.74})
    judge.on_epoch_end(run)
    assert run.stop
