"""What classifier and regressor share: from (X, y, weights) through `fusedstep.fit` to the fitted attributes."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .._device import as_host
from ..callbacks import StopOnNaN
from ..callbacks.base import as_callbacks
from ..data import MiniBatches
from ..evaluation import predict
from ..history import History
from ..training import fit
from .convergence import Convergence, InverseScaling
from .network import WHOLE_RUN, dense_parameters, make_layers, make_model, make_optimizer, starting_values
from .objective import L2Penalty
from .parameters import check_parameters, hidden_layers


def goes_on(estimator) -> bool:
    """Whether `partial_fit` is there; an AttributeError, by which `hasattr` knows, says why not."""
    if isinstance(estimator.schedule, str) and estimator.schedule in WHOLE_RUN:
        raise AttributeError(
            f"partial_fit cannot know the number of steps that schedule={estimator.schedule!r} spans: "
            "give a function step -> step size"
        )
    return True


class BaseMLP(BaseEstimator, ABC):
    """A multi-layer perceptron trained by `fusedstep.fit`."""

    _metric_name: str
    _y_numeric: bool

    def _store(self, arguments: dict) -> None:
        """Keep the arguments of the constructor, its `locals()`, as they are; `fit` checks them."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    # -- what classifier and regressor differ in

    @abstractmethod
    def _learn_targets(self, y: np.ndarray, classes) -> dict:
        """What y holds, for a model that is new: fitted attributes by name, and what else `_encode` needs to know."""

    @abstractmethod
    def _encode(self, y: np.ndarray, kind: dict, dtype) -> np.ndarray:
        """y as the loss takes it, for targets of that kind."""

    @abstractmethod
    def _loss(self, kind: dict):
        """The loss, on the model's output and encoded targets."""

    @abstractmethod
    def _score_outputs(self, target: np.ndarray, output: np.ndarray, weights, kind: dict) -> float:
        """The score that early stopping watches."""

    def _strata(self, target: np.ndarray, kind: dict) -> np.ndarray | None:
        """Labels whose shares the held-out samples keep."""
        return None

    def _class_weights(self, target: np.ndarray, weights, kind: dict, incremental: bool) -> np.ndarray | None:
        """The weights of the samples, times those of their classes."""
        return weights

    # -- training

    def fit(self, X, y, sample_weight=None, *, validation=None):
        """Train on (X, y), a new model unless `warm_start` goes on with the last.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            float32 is trained in float32, everything else in float64.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array_like of shape (n_samples,), optional
            What each sample counts in the loss and in the score of early stopping. Samples of weight 0 are left out,
            as if they were not there; so are classes that have no others.
        validation : tuple, optional
            ``(X, y)`` or ``(X, y, sample_weight)`` to validate on after each epoch; early stopping then holds out
            nothing of the training data.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            A parameter or an array is wrong, or the training diverged.
        """
        return self._fit(X, y, sample_weight, validation, incremental=False)

    def _fit(self, X, y, sample_weight, validation, *, incremental: bool, classes=None):
        check_parameters(self)
        where = type(self).__name__
        first = not hasattr(self, "model_") or not (self.warm_start or incremental)
        X, y = self._checked(X, y, (np.float64, np.float32) if first else self.model_.dtype, reset=first)
        X, y, weights = _without_zeros((X, y, self._sample_weights(sample_weight, X)))
        kind = self._learn_targets(y, classes) if first else self._kind
        data = X, self._encode(y, kind, X.dtype), weights
        units = [X.shape[1], *hidden_layers(where, self.hidden_layer_sizes), kind["n_outputs_"]]
        layers = make_layers(units, self.activation, self.batch_norm, self.dropout)

        random_state = check_random_state(self.random_state)
        if first:
            values = starting_values(units, self.activation, random_state)
        else:
            self._require_same(layers)
        train, held_out = self._held_out(data, kind, random_state, validation)
        train = _without_zeros((*train[:2], self._class_weights(train[1], train[2], kind, incremental)))
        if not len(train[0]):
            raise ValueError(f"[{where}] the classes of all samples to train on have the weight 0 in 'class_weight'")
        if first:
            seed = int(random_state.randint(2**31 - 1))
            model = make_model(layers, values, seed=seed, dtype=X.dtype, device=self.device)
            before = None
        else:
            model = self.model_.to(self.device)
            before = model.state_dict()
        if self.batch_norm and len(train[0]) < 2:
            raise ValueError(f"[{where}] batch normalization needs more than 1 sample to train on, but n_samples = 1")

        batches = self._batches(train, model.seed, 0 if first else len(self.loss_curve_))
        optimizer, penalty, callbacks = self._method(model, len(batches), first, incremental)
        convergence = Convergence(
            tol=self.tol,
            n_iter_no_change=math.inf if incremental else self.n_iter_no_change,
            score=None if held_out is None else f"validation_{self._metric_name}",
            by_score=self.early_stopping and not incremental,
            adaptive=self.learning_rate == "adaptive" and self._sets_rate,
            penalty=penalty,
        )
        try:
            history = fit(
                model,
                optimizer,
                self._loss(kind),
                batches,
                None if held_out is None else _given(held_out),
                epochs=1 if incremental else self.max_iter,
                metrics=() if held_out is None else (self._metric(held_out, kind),),
                callbacks=[*callbacks, convergence, *as_callbacks(where, self.callbacks)],
                progress=bool(self.verbose),
            )
            if not all(np.isfinite(values).all() for values in model.state_dict().values()):
                raise ValueError(
                    f"[{where}] training gave parameters that are NaN or infinite: "
                    "standardize X, or lower 'learning_rate_init'"
                )
        except BaseException:
            if before is not None:
                model.load_state_dict(before)
            raise
        self._keep(first, kind, model, optimizer, batches, convergence, history)
        self._warn(history, incremental)
        return self

    def _keep(self, first, kind, model, optimizer, batches, convergence, history) -> None:
        """Set the fitted attributes."""
        if first:
            self._kind = kind
            for name, value in kind.items():
                if name.endswith("_"):
                    setattr(self, name, value)
            self.loss_curve_, self.validation_scores_, self.history_, self.t_ = [], None, History(), 0
            self.n_layers_ = len(dense_parameters(model)) + 1
        self.model_, self._optimizer_state = model, optimizer.state_dict()
        before = len(self.loss_curve_)
        rows = self.history_.rows + [{**row, "epoch": row["epoch"] + before} for row in history.rows]
        restored = history.restored_epoch
        restored = None if restored is None else restored + before
        self.history_ = History(rows, history.stopped_by, history.interrupted, restored)
        self.n_iter_ = len(history.rows)
        self.t_ += self.n_iter_ * batches.n_samples
        self.loss_curve_ = self.loss_curve_ + convergence.losses
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else math.nan
        self.best_loss_ = None if convergence.by_score else min(self.loss_curve_, default=math.nan)
        if convergence.score is None:
            self.best_validation_score_ = None
        else:
            self.validation_scores_ = (self.validation_scores_ or []) + convergence.scores
            self.best_validation_score_ = convergence.best_score

    def _warn(self, history: History, incremental: bool) -> None:
        if history.interrupted:
            warnings.warn("Training interrupted by user.", UserWarning, stacklevel=4)
        elif (history.stopped_by or "").startswith(StopOnNaN.__name__):
            warnings.warn(f"[{type(self).__name__}] {history.stopped_by}", ConvergenceWarning, stacklevel=4)
        elif history.stopped_by is None and not incremental and self.n_iter_ == self.max_iter:
            warnings.warn(
                f"[{type(self).__name__}] max_iter={self.max_iter} epochs are over and training has not converged yet",
                ConvergenceWarning,
                stacklevel=4,
            )

    # -- its parts

    def _checked(self, X, y, dtype, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(
            self, X, y, dtype=dtype, order="C", multi_output=True, y_numeric=self._y_numeric, reset=reset
        )
        y = y.toarray() if hasattr(y, "toarray") else y
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _sample_weights(self, sample_weight, X) -> np.ndarray | None:
        if sample_weight is None:
            return None
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if (weights < 0).any():
            raise ValueError(f"[{type(self).__name__}] 'sample_weight' must not be negative")
        if not weights.any():
            raise ValueError(f"[{type(self).__name__}] 'sample_weight' must contain at least one non-zero number")
        return weights

    def _require_same(self, layers) -> None:
        new, old = ([(type(layer), layer.config()) for layer in part] for part in (layers, self.model_.layers))
        if new != old:
            raise ValueError(
                f"[{type(self).__name__}] hidden_layer_sizes, activation, batch_norm, dropout or the number of outputs "
                "are not those of the model to go on with: call fit with warm_start=False"
            )

    def _held_out(self, data: tuple, kind: dict, random_state, validation) -> tuple:
        """(training data, validation data or None)"""
        X, target, _ = data
        if validation is not None:
            if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
                raise TypeError(
                    f"[{type(self).__name__}] 'validation' must be (X, y) or (X, y, sample_weight) "
                    f"but got {type(validation).__name__}"
                )
            X_val, y_val = self._checked(*validation[:2], X.dtype, reset=False)
            w_val = self._sample_weights(validation[2] if len(validation) == 3 else None, X_val)
            return data, _without_zeros((X_val, self._encode(y_val, kind, X.dtype), w_val))
        if not self.early_stopping:
            return data, None
        index = np.arange(len(X))
        n_val = math.ceil(self.validation_fraction * len(X))
        if n_val < 2 or n_val >= len(X):
            raise ValueError(
                f"[{type(self).__name__}] 'validation_fraction' of {len(X)} samples holds out {n_val}, "
                "but there must be 2 or more to validate on, and some to train on"
            )
        strata = self._strata(target, kind)
        if strata is not None:
            members = np.unique(strata, return_counts=True)[1]
            if members.min() < 2 or min(n_val, len(X) - n_val) < len(members):
                warnings.warn(
                    f"[{type(self).__name__}] too few samples to hold out {n_val} with each of {len(members)} classes "
                    "in both parts: they are drawn from all at once",
                    UserWarning,
                    stacklevel=4,
                )
                strata = None
        train, held_out = train_test_split(
            index, test_size=self.validation_fraction, random_state=random_state, stratify=strata
        )
        part = lambda rows: tuple(None if array is None else array[rows] for array in data)  # noqa: E731
        return part(train), part(held_out)

    def _batches(self, train: tuple, seed: int, epoch: int) -> MiniBatches:
        n_samples = len(train[0])
        size = n_samples if self.batch_size is None else 200 if self.batch_size == "auto" else self.batch_size
        batches = MiniBatches(
            *_given(train),
            batch_size=min(size, n_samples),
            shuffle=self.shuffle and size < n_samples,  # within a full batch the order is of no account
            seed=seed,
            last="merge" if self.batch_norm else "keep",
            # joblib hands large arrays over as memory maps: the order must be that of the same arrays in memory.
            shuffle_window=n_samples,
            prefetch=0,
        )
        batches.set_epoch(epoch)
        return batches

    @property
    def _sets_rate(self) -> bool:
        """Whether `learning_rate` counts: as scikit-learn has it, not for solver='adam'."""
        return self.optimizer is not None or self.solver == "sgd"

    def _method(self, model, n_batches: int, first: bool, incremental: bool) -> tuple:
        """(optimizer, penalty in the loss or None, callbacks)"""
        optimizer = make_optimizer(self.get_params(deep=False), model, self.max_iter * n_batches)
        if incremental and not first:
            optimizer.load_state_dict(self._optimizer_state)
        penalty, callbacks = None, []
        if self.alpha and not callable(self.optimizer):
            weights = [weight for weight, _ in dense_parameters(model)]
            callbacks.append(L2Penalty(self.alpha, weights, optimizer.param_groups[0]))
            penalty = None if self.optimizer == "adamw" else callbacks[0]
        if self.learning_rate == "invscaling" and self._sets_rate:
            callbacks.append(InverseScaling(self.learning_rate_init, self.power_t, 0 if first else self.t_))
        return optimizer, penalty, callbacks

    def _metric(self, held_out: tuple, kind: dict):
        def score(target, output):
            finite = np.isfinite(output).all()
            return self._score_outputs(target, output, held_out[2], kind) if finite else math.nan

        score.__name__ = self._metric_name
        return score

    # -- after training

    def _outputs(self, X) -> np.ndarray:
        """What the model gives for each sample: logits, or predictions; (n_samples, n_outputs)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=self.model_.dtype, order="C", reset=False)
        return predict(self.model_, X)

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The weight of each layer, (n_in, n_out): on the CPU the model's own memory, otherwise copies."""
        return [as_host(weight.array) for weight, _ in dense_parameters(self._fitted_model())]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The bias of each layer, likewise; zeros where batch normalization takes its place."""
        return [
            np.zeros(weight.array.shape[1], weight.array.dtype) if bias is None else as_host(bias.array)
            for weight, bias in dense_parameters(self._fitted_model())
        ]

    def _fitted_model(self):
        if "model_" not in vars(self):  # an AttributeError, by which hasattr knows
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        return self.model_


def _given(data: tuple) -> tuple:
    """(X, target, weights), or (X, target) where there are no weights."""
    return data if data[2] is not None else data[:2]


def _without_zeros(data: tuple) -> tuple:
    """(X, target, weights) without the samples that count nothing."""
    weights = data[2]
    if weights is None or weights.all():
        return data
    return tuple(array[weights > 0] for array in data)
