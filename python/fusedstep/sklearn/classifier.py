"""The classifier."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from .. import nn
from ..reference.scalars import check_range
from .base import BaseMLP, goes_on
from .objective import Scaled


class MLPClassifier(ClassifierMixin, BaseMLP):
    """Multi-layer perceptron classifier with scikit-learn's parameters and attributes, on fused kernels.

    ``from fusedstep.sklearn import MLPClassifier`` in place of scikit-learn's: with the same `random_state` training
    starts from the same weights, holds out the same samples (two classes), and minimizes the same loss.

    Parameters
    ----------
    hidden_layer_sizes : array_like of int, default=(100,)
        Units of each hidden layer; () is a linear model.
    activation : {"identity", "logistic", "tanh", "relu", "leaky_relu", "gelu"}, default="relu"
        Of the hidden layers.
    solver : {"adam", "sgd"}, default="adam"
        "lbfgs" is refused: it has no kernel.
    alpha : float, default=1e-4
        L2 penalty ``alpha / 2 * ||W||**2`` on the weights, not on biases and batch normalization, divided by the number
        of samples (the sum of their weights) of each batch. With ``optimizer="adamw"`` the same quotient is its
        decoupled decay, and no part of the loss.
    batch_size : int, "auto" or None, default="auto"
        "auto" is ``min(200, n_samples)``, None the full batch.
    learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
        As in scikit-learn: ``learning_rate_init / (t + 1)**power_t`` after t samples; or divided by 5 when training
        would stop, down to 1e-6. Without effect for ``solver="adam"``, unless `optimizer` is given.
    learning_rate_init : float, default=0.001
    power_t : float, default=0.5
    max_iter : int, default=200
        Epochs at most; a ConvergenceWarning tells when they do not suffice.
    shuffle : bool, default=True
        Draw a new order of the samples for each epoch.
    random_state : int, RandomState or None, default=None
        Starting weights, held-out samples, order and dropout.
    tol : float, default=1e-4
        What an epoch must gain.
    verbose : bool, default=False
        Show a progress bar.
    warm_start : bool, default=False
        Let `fit` go on with the parameters of the last fit; the optimizer starts anew.
    momentum : float, default=0.9
        For "sgd" and "momentum".
    nesterovs_momentum : bool, default=True
        For "sgd".
    early_stopping : bool, default=False
        Judge by the score on held-out samples, and go back to the parameters and running statistics of the best epoch.
        `partial_fit` holds out and scores, too, but neither stops nor goes back.
    validation_fraction : float, default=0.1
        Share of the samples that early stopping holds out, with the shares of the classes where y holds one label a
        sample.
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        For "adam", "adamw", "adamax", "nadam" and "radam"; epsilon also for "adagrad" and "rmsprop".
    n_iter_no_change : int or inf, default=10
        Training stops after more than so many epochs in a row that gained less than `tol`.
    max_fun : int, default=15000
        Of "lbfgs" alone: without effect, so that scikit-learn's calls are understood.
    batch_norm : bool, default=False
        Batch normalization before each activation; a remainder joins the batch before it.
    dropout : float, default=0.0
        Probability in [0, 1) with which training switches each hidden unit off.
    optimizer : str, callable or None, default=None
        "sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw", "adamax", "nadam", "radam"; None is `solver`. Or a
        function ``model -> optimizer`` such as
        ``lambda model: fs.optim.RMSprop(model.parameters(), centered=True)``, whose step size, clipping and weight
        decay are its own: `alpha` is then without effect.
    schedule : str, callable or None, default=None
        A function ``step -> step size``, counted from 0; or "constant", "inverse_sqrt", "cosine", "warmup_cosine" (a
        tenth of the steps warms up), "one_cycle", from `learning_rate_init` over `max_iter` epochs.
    class_weight : dict, "balanced" or None, default=None
        ``{class: weight}``, 1 for those that it does not name; "balanced" makes all classes count the same.
    device : str, default="cpu"
        "cpu", "cuda" or "cuda:<index>", where the model is trained and stays; X, y and predictions are NumPy's.
    callbacks : Callback or sequence of fusedstep.callbacks.Callback, default=()
    max_norm : float or None, default=None
        Clip the gradients to this global norm.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels in order; of an indicator y the columns.
    model_ : fusedstep.nn.Sequential
        Gives logits: one for two classes and for each column of an indicator y, otherwise one for each class.
    history_ : fusedstep.History
        All epochs since the model was made; `train_loss` is without the penalty.
    coefs_, intercepts_ : list of ndarray
    loss_, best_loss_ : float
        The last and the smallest of `loss_curve_`; `best_loss_` is None with early stopping.
    loss_curve_ : list of float
        Of each epoch the mean loss over the samples, penalty included, each batch before its step.
    validation_scores_ : list of float or None
        The accuracy after each epoch, where there were validation data; of an indicator y whole rows count.
    best_validation_score_ : float or None
        The best of the last fit.
    n_iter_ : int
        Epochs of the last fit.
    t_ : int
        Samples trained on since the model was made.
    n_layers_, n_outputs_, n_features_in_ : int
    out_activation_ : str
        "logistic" or "softmax".
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.

    Notes
    -----
    What differs from scikit-learn: Adam's epsilon is added after the bias correction (Kingma & Ba 2014, algorithm 1);
    early stopping keeps the shares of more than two classes; `warm_start` judges each fit anew; batches count by their
    weights in the reported loss. Integer weights and repeated samples give the same model where the batch is the full
    one, without batch normalization and dropout. X must be dense.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.sklearn import MLPClassifier
    >>> X = np.linspace(-1, 1, 100, dtype=np.float32)[:, None]
    >>> y = np.where(X[:, 0] > 0.2, "high", "low")
    >>> classifier = MLPClassifier((16,), learning_rate_init=0.05, batch_norm=True, random_state=0).fit(X, y)
    >>> classifier.predict([[-0.5], [0.9]])
    array(['low', 'high'], dtype='<U4')
    >>> classifier.model_.dtype
    dtype('float32')
    """

    _metric_name = "accuracy"
    _y_numeric = False

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        batch_norm=False,
        dropout=0.0,
        optimizer=None,
        schedule=None,
        class_weight=None,
        device="cpu",
        callbacks=(),
        max_norm=None,
    ):
        self._store(locals())

    @available_if(goes_on)
    def partial_fit(self, X, y, sample_weight=None, classes=None, *, validation=None):
        """Go once through (X, y); the optimizer goes on from the last call, also after pickling.

        Parameters
        ----------
        X, y, sample_weight, validation
            As for `fit`.
        classes : array_like of shape (n_classes,), optional
            All labels there will be; needed in the first call, unless y is an indicator matrix.

        Returns
        -------
        self

        Raises
        ------
        AttributeError
            `schedule` is one that spans the whole training, such as "cosine".
        TypeError, ValueError
            As for `fit`; the first call has no `classes`, or a later one has others.
        """
        indicator = type_of_target(y).startswith("multilabel")
        if not hasattr(self, "model_"):
            if classes is None and not indicator:
                raise ValueError("classes must be passed on the first call to partial_fit.")
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"[MLPClassifier] 'classes' must be those of the first call, {self.classes_.tolist()}")
        return self._fit(X, y, sample_weight, validation, incremental=True, classes=None if indicator else classes)

    def predict(self, X) -> np.ndarray:
        """The likeliest class of each sample, (n_samples,); of indicators 0 and 1, (n_samples, n_labels)."""
        decided = self._decide(self._outputs(X), self._kind)
        return decided if self._kind["multilabel"] else self.classes_[decided]

    def predict_proba(self, X) -> np.ndarray:
        """The probability of each class, in the order of `classes_`: (n_samples, n_classes), of X's floating type."""
        output = self._outputs(X)
        if self.out_activation_ == "softmax":
            return softmax(output, axis=1)
        return expit(output) if self._kind["multilabel"] else expit(np.hstack([-output, output]))

    def predict_log_proba(self, X) -> np.ndarray:
        """The logarithms of `predict_proba`, without going through it: finite where that is 0."""
        output = self._outputs(X)
        if self.out_activation_ == "softmax":
            return log_softmax(output, axis=1)
        return log_expit(output) if self._kind["multilabel"] else log_expit(np.hstack([-output, output]))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _learn_targets(self, y, classes):
        check_classification_targets(y)
        multilabel = y.ndim == 2
        if multilabel:
            self._require_indicators(y)
            classes = np.arange(y.shape[1])
        else:
            classes = np.unique(y if classes is None else classes)
        single = multilabel or len(classes) == 2
        return {
            "classes_": classes,
            "multilabel": multilabel,
            "out_activation_": "logistic" if single else "softmax",
            "n_outputs_": 1 if single and not multilabel else len(classes),
        }

    def _require_indicators(self, y) -> None:
        if type_of_target(y) != "multilabel-indicator":
            raise ValueError(f"[MLPClassifier] y with {y.ndim} axes must hold 0 and 1, a column a label")

    def _encode(self, y, kind, dtype):
        if not kind["multilabel"]:
            check_classification_targets(y)
            index = LabelEncoder().fit(kind["classes_"]).transform(y)
            return index[:, None].astype(dtype) if kind["out_activation_"] == "logistic" else index.astype(np.int64)
        self._require_indicators(y)
        if y.shape[1] != len(kind["classes_"]):
            raise ValueError(f"[MLPClassifier] y must have {len(kind['classes_'])} columns but has {y.shape[1]}")
        return y.astype(dtype, order="C")

    def _loss(self, kind):
        if kind["out_activation_"] == "softmax":
            return nn.SoftmaxCrossEntropy()
        return Scaled(nn.SigmoidCrossEntropy(), kind["n_outputs_"], kind["n_outputs_"])

    def _decide(self, output: np.ndarray, kind: dict) -> np.ndarray:
        """Indices of classes, or indicators."""
        if kind["out_activation_"] == "softmax":
            return output.argmax(axis=1)
        positive = (output > 0).astype(np.int64)
        return positive if kind["multilabel"] else positive[:, 0]

    def _score_outputs(self, target, output, weights, kind):
        right = self._decide(output, kind) == (target if kind["multilabel"] else target.reshape(-1))
        return float(np.average(right.all(axis=1) if kind["multilabel"] else right, weights=weights))

    def _strata(self, target, kind):
        return None if kind["multilabel"] else target.reshape(-1)

    def _class_weights(self, target, weights, kind, incremental):
        if self.class_weight is None:
            return weights
        if kind["multilabel"]:
            raise ValueError("[MLPClassifier] 'class_weight' needs one label a sample, but y is an indicator matrix")
        index = target.reshape(-1).astype(np.intp)
        by_class = self._weights_by_class(index, weights, kind["classes_"].tolist(), incremental)
        return by_class[index] if weights is None else by_class[index] * weights

    def _weights_by_class(self, index, weights, labels: list, incremental: bool) -> np.ndarray:
        if isinstance(self.class_weight, dict):
            unknown = [label for label in self.class_weight if label not in labels]
            if unknown:
                raise ValueError(f"[MLPClassifier] 'class_weight' names the class {unknown[0]!r}, which y has not")
            return np.array(
                [check_range("MLPClassifier", "class_weight", self.class_weight.get(k, 1), 0) for k in labels]
            )
        if not isinstance(self.class_weight, str) or self.class_weight != "balanced":
            raise ValueError(
                f"[MLPClassifier] 'class_weight' must be 'balanced' or a dict but got {self.class_weight!r}"
            )
        if incremental:
            raise ValueError(
                "[MLPClassifier] class_weight='balanced' needs all samples at once, not those of one partial_fit: "
                "give a dict"
            )
        counts = np.bincount(index, weights, minlength=len(labels))
        return counts.sum() / (np.count_nonzero(counts) * np.where(counts > 0, counts, 1))
