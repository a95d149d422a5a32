"""What an estimator refuses among its parameters, before it looks at the data."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .. import _checks
from ..callbacks.base import as_callbacks
from ..reference.scalars import check_flag, check_integer, check_range
from .network import ACTIVATIONS, METHODS, SCHEDULES

_FLAGS = ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping", "batch_norm")
_INTEGERS = ("max_iter", "max_fun")
_POSITIVE = ("learning_rate_init", "epsilon")
_NOT_NEGATIVE = ("alpha", "power_t", "tol")
_FRACTIONS = ("validation_fraction", "beta_1", "beta_2", "dropout")  # in [0, 1)


def check_parameters(estimator) -> None:
    """Raise TypeError or ValueError for the first parameter that is wrong, or at odds with another."""
    where = type(estimator).__name__
    given = estimator.get_params(deep=False)
    hidden_layers(where, given["hidden_layer_sizes"])
    _checks.choice(where, "activation", given["activation"], tuple(ACTIVATIONS))
    if given["solver"] == "lbfgs":
        raise ValueError(
            f"[{where}] 'solver' must be 'adam' or 'sgd' but got 'lbfgs': there is no kernel for a line search over "
            "the full batch; sklearn.neural_network has one"
        )
    _checks.choice(where, "solver", given["solver"], ("adam", "sgd"))
    _checks.choice(where, "learning_rate", given["learning_rate"], ("constant", "invscaling", "adaptive"))
    for name in _FLAGS:
        check_flag(where, name, given[name])
    for name in _INTEGERS:
        check_integer(where, name, given[name], 1)
    for name in _POSITIVE:
        _positive(where, name, given[name])
    for name in _NOT_NEGATIVE:
        check_range(where, name, given[name], 0)
    for name in _FRACTIONS:
        check_range(where, name, given[name], 0, 1)
    check_range(where, "momentum", given["momentum"], 0, 1, closed=True)
    check_range(where, "verbose", given["verbose"], 0)
    if given["batch_size"] not in ("auto", None):
        check_integer(where, "batch_size", given["batch_size"], 1)
    if given["n_iter_no_change"] != math.inf:
        check_integer(where, "n_iter_no_change", given["n_iter_no_change"], 1)
    if given["max_norm"] is not None:
        _positive(where, "max_norm", given["max_norm"])
    as_callbacks(where, given["callbacks"])
    _check_method(where, given)


def hidden_layers(where: str, sizes) -> list[int]:
    """The widths of the hidden layers; a number is one layer."""
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        sizes = [sizes]
    return [check_integer(where, "hidden_layer_sizes", size, 1) for size in sizes]


def _positive(where: str, name: str, value) -> None:
    if check_range(where, name, value, 0) == 0:
        raise ValueError(f"[{where}] '{name}' must be greater than 0 but got {value!r}")


def _check_method(where: str, given: dict) -> None:
    optimizer, schedule = given["optimizer"], given["schedule"]
    own = callable(optimizer)
    if not own and optimizer is not None:
        _checks.choice(where, "optimizer", optimizer, tuple(METHODS))
    if not callable(schedule) and schedule is not None:
        _checks.choice(where, "schedule", schedule, tuple(SCHEDULES))
    if schedule is not None and given["learning_rate"] != "constant":
        raise ValueError(
            f"[{where}] 'schedule' and learning_rate={given['learning_rate']!r} both set the step size: give one"
        )
    if own:
        decided = {"schedule": schedule is not None, "max_norm": given["max_norm"] is not None}
        decided["learning_rate"] = given["learning_rate"] != "constant"
        for name, is_given in decided.items():
            if is_given:
                raise ValueError(f"[{where}] '{name}' belongs into the function that is given as 'optimizer'")
