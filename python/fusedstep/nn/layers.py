"""Layers as plain descriptions: their arguments, the shapes of their arrays, and how these start.

A layer holds no numbers and no formulas. `Sequential` makes its arrays and runs it, fused with its
neighbours where a kernel exists for that (`fusion.py`); the formulas are in `fusedstep.ops`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from ..reference.scalars import check_flag, check_integer, check_range


def _set(layer: Layer, name: str, value) -> None:
    """Store an argument as the plain Python value that JSON can hold; the layer is frozen by then."""
    object.__setattr__(layer, name, value)


def _set_flag(layer: Layer, name: str) -> None:
    _set(layer, name, check_flag(type(layer).__name__, name, getattr(layer, name)))


@dataclass(frozen=True, eq=False)
class Layer:
    """Base of all layers: immutable, and part of one model at most.

    Changing a layer after its model was built could have no effect, so it is refused
    (``dataclasses.FrozenInstanceError``).
    """

    def config(self) -> dict:
        """The arguments that make an equal layer, as values that JSON can hold."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def feature_counts(self) -> tuple[int | None, int | None]:
        """Features taken and given; None where any number goes through unchanged."""
        return None, None

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each array that training changes."""
        return {}

    def start(self, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Write the starting values into `parameters`, which are zero."""

    def buffers(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Arrays that belong to the state but have no gradient, at their starting values."""
        return {}

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the output for an input of `shape`; ValueError if it cannot be taken."""
        return shape


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    """Fully connected layer: ``y = x @ W + b``.

    Parameters
    ----------
    in_features, out_features : int
        `x` is ``(N, in_features)``, `y` is ``(N, out_features)``. The weight is
        ``(in_features, out_features)``, the bias ``(out_features,)``.
    init : {"he", "glorot", "lecun", "zeros"}
        Standard deviation of the normal distribution the weights are drawn from:
        ``sqrt(2 / in)`` (He et al. 2015, eq. 10), ``sqrt(2 / (in + out))``
        (Glorot & Bengio 2010, eq. 12), ``sqrt(1 / in)`` (LeCun et al. 1998, eq. 16), or 0.
        The bias starts at zero.
    bias : bool
        Whether there is a bias. A BatchNorm that follows takes its effect away.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.

    Examples
    --------
    >>> Dense(64, 128).parameter_shapes()
    {'weight': (64, 128), 'bias': (128,)}
    """

    in_features: int
    out_features: int
    init: str = "he"
    bias: bool = True

    _VARIANCES: ClassVar = {
        "he": lambda n_in, n_out: 2.0 / n_in,
        "glorot": lambda n_in, n_out: 2.0 / (n_in + n_out),
        "lecun": lambda n_in, n_out: 1.0 / n_in,
        "zeros": lambda n_in, n_out: 0.0,
    }

    def __post_init__(self):
        _set(self, "in_features", check_integer("Dense", "in_features", self.in_features, 1))
        _set(self, "out_features", check_integer("Dense", "out_features", self.out_features, 1))
        if not isinstance(self.init, str) or self.init not in self._VARIANCES:
            accepted = ", ".join(map(repr, self._VARIANCES))
            raise ValueError(f"[Dense] 'init' must be one of {accepted} but got {self.init!r}")
        _set_flag(self, "bias")

    @property
    def feature_counts(self):
        return self.in_features, self.out_features

    def parameter_shapes(self):
        shapes = {"weight": (self.in_features, self.out_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        return shapes

    def start(self, parameters, rng):
        scale = math.sqrt(self._VARIANCES[self.init](self.in_features, self.out_features))
        # Drawn in float64 for both types: a float32 model starts at the rounded values of its float64 twin.
        parameters["weight"][...] = rng.standard_normal((self.in_features, self.out_features)) * scale

    def output_shape(self, shape):
        if len(shape) != 2 or shape[1] != self.in_features:
            hint = "; put a Flatten() before it" if len(shape) > 2 else ""
            raise ValueError(f"takes x of shape (N, {self.in_features}) but got {shape}{hint}")
        return (shape[0], self.out_features)


@dataclass(frozen=True, eq=False)
class BatchNorm(Layer):
    """Batch normalization over every axis but the channels (Ioffe & Szegedy 2015, algorithms 1 and 2).

    ``y = weight * xhat + bias`` with ``xhat = (x - mean) * invstd`` and ``invstd = 1 / sqrt(var + eps)``; `mean` and
    `var` are the batch's in training and the running ones in evaluation. A ReLU and a Dropout that follow run in the
    same kernel.

    Parameters
    ----------
    features : int
        Number of channels; `x` is ``(N, features)`` or ``(N, features, ...)``.
    eps : float
        Added to the variance; finite and not negative.
    momentum : float or None
        ``running = (1 - momentum) * running + momentum * batch``, in [0, 1];
        None keeps the mean over all batches seen.
    affine : bool
        Whether there are a weight (from 1) and a bias (from 0), each ``(features,)``.
    track_running_stats : bool
        If False, evaluation uses the moments of the batch too.
    unbiased_running_var : bool
        Whether the running variance averages the variances with ``n - 1`` (as in torch) or with ``n``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range; in training, if a batch holds fewer than
        two values a channel.

    Examples
    --------
    >>> BatchNorm(128).parameter_shapes()
    {'weight': (128,), 'bias': (128,)}
    """

    features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True
    unbiased_running_var: bool = True

    def __post_init__(self):
        _set(self, "features", check_integer("BatchNorm", "features", self.features, 1))
        _set(self, "eps", check_range("BatchNorm", "eps", self.eps, 0))
        if self.momentum is not None:
            _set(self, "momentum", check_range("BatchNorm", "momentum", self.momentum, 0, 1, closed=True))
        for name in ("affine", "track_running_stats", "unbiased_running_var"):
            _set_flag(self, name)

    @property
    def feature_counts(self):
        return self.features, self.features

    def parameter_shapes(self):
        return {"weight": (self.features,), "bias": (self.features,)} if self.affine else {}

    def start(self, parameters, rng):
        if self.affine:
            parameters["weight"][...] = 1

    def buffers(self, dtype):
        if not self.track_running_stats:
            return {}
        return {
            "running_mean": np.zeros(self.features, dtype),
            "running_var": np.ones(self.features, dtype),
            "num_batches_tracked": np.zeros((), np.int64),
        }

    def output_shape(self, shape):
        if len(shape) < 2 or shape[1] != self.features:
            raise ValueError(f"takes x of shape (N, {self.features}) or (N, {self.features}, ...) but got {shape}")
        return shape


@dataclass(frozen=True, eq=False)
class Dropout(Layer):
    """Switches each unit off with probability `p` in training and scales the others up (Srivastava et al. 2014).

    Evaluation changes nothing. The mask depends on the model's seed and `random_offset` alone.

    Parameters
    ----------
    p : float
        In [0, 1]; realized to within 2**-17.

    Raises
    ------
    TypeError, ValueError
        If `p` is no number or out of range.

    Examples
    --------
    >>> Dropout(0.5)
    Dropout(p=0.5)
    """

    p: float

    def __post_init__(self):
        _set(self, "p", check_range("Dropout", "p", self.p, 0, 1, closed=True))


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """Joins all axes but the first: ``(N, C, L)`` becomes ``(N, C * L)``.

    Examples
    --------
    >>> Flatten().output_shape((32, 8, 8))
    (32, 64)
    """

    def output_shape(self, shape):
        if len(shape) < 2:
            raise ValueError(f"takes x of shape (N, ...) but got {shape}")
        return (shape[0], math.prod(shape[1:]))


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """Base of the layers that apply one function to each value."""

    function: ClassVar[str]
    """What `fusedstep.ops.bias_activation` calls it."""
    negative_slope: ClassVar[float] = 0.0


@dataclass(frozen=True, eq=False)
class ReLU(Activation):
    """``max(x, 0)``; NaN goes through (Nair & Hinton 2010).

    Examples
    --------
    >>> ReLU()
    ReLU()
    """

    function: ClassVar[str] = "relu"


@dataclass(frozen=True, eq=False)
class LeakyReLU(Activation):
    """``x`` where ``x > 0``, ``negative_slope * x`` elsewhere (Maas et al. 2013).

    Parameters
    ----------
    negative_slope : float
        Finite and not negative: the backward pass reads the sign of `x` from the output.

    Raises
    ------
    TypeError, ValueError
        If `negative_slope` is no number or out of range.

    Examples
    --------
    >>> LeakyReLU(0.1)
    LeakyReLU(negative_slope=0.1)
    """

    negative_slope: float = 0.01
    function: ClassVar[str] = "leaky_relu"

    def __post_init__(self):
        _set(self, "negative_slope", check_range("LeakyReLU", "negative_slope", self.negative_slope, 0))


@dataclass(frozen=True, eq=False)
class Tanh(Activation):
    """Hyperbolic tangent.

    Examples
    --------
    >>> Tanh()
    Tanh()
    """

    function: ClassVar[str] = "tanh"


@dataclass(frozen=True, eq=False)
class Sigmoid(Activation):
    """Logistic function ``1 / (1 + exp(-x))``.

    As the last layer of a classifier, leave it out: `SigmoidCrossEntropy` takes logits.

    Examples
    --------
    >>> Sigmoid()
    Sigmoid()
    """

    function: ClassVar[str] = "sigmoid"


@dataclass(frozen=True, eq=False)
class GELU(Activation):
    """``x * Phi(x)`` with the exact normal distribution function, by erf (Hendrycks & Gimpel 2016).

    Examples
    --------
    >>> GELU()
    GELU()
    """

    function: ClassVar[str] = "gelu"


LAYERS = {kind.__name__: kind for kind in (Dense, BatchNorm, Dropout, Flatten, ReLU, LeakyReLU, Tanh, Sigmoid, GELU)}
"""The layers that a saved model can name."""
