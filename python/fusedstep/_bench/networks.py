"""One network in every library: Dense layers with, on request, batch norm, ReLU and dropout between them, and Adam.

All begin with the weights of ours, scikit-learn's once it was told to `begin`, and are written as the users of their
library write them. `step(x, y)` trains on a batch of NumPy arrays and gives its loss, `weights()` copies (weight, bias)
of each Dense, the weight as (inputs, outputs), and `variances()` the running ones of each batch norm; `epochs(x, y,
batch_size)` is a function that trains for an epoch at each call, in a new order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .. import fit, nn, optim
from ..data import MiniBatches
from .batch_norm import jax_batch_norm

LR, EPS, MOMENTUM = 1e-3, 1e-5, 0.1


@dataclass(frozen=True)
class Network:
    """widths: features, of the input first. p: of dropout behind each hidden layer, with batch norm; None: neither."""

    widths: tuple[int, ...]
    p: float | None

    def hidden(self) -> list[tuple[int, int]]:
        return list(zip(self.widths[:-2], self.widths[1:-1], strict=True))


class Ours:
    """`fit`, and a step through the model's own methods."""

    def __init__(self, network: Network, seed: int = 0):
        layers = []
        for inputs, outputs in network.hidden():
            norm = [] if network.p is None else [nn.BatchNorm(outputs, eps=EPS, momentum=MOMENTUM)]
            dropout = [nn.Dropout(network.p)] if network.p else []
            layers += [nn.Dense(inputs, outputs), *norm, nn.ReLU(), *dropout]
        self.model = nn.Sequential(*layers, nn.Dense(*network.widths[-2:]), seed=seed)
        self.optimizer = optim.Adam(self.model.parameters(), lr=LR)
        self.loss = nn.SoftmaxCrossEntropy()

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Copies of (weight, bias) of each Dense."""
        arrays = {p.name: p.array.copy() for p in self.model.parameters()}
        dense = [i for i, layer in enumerate(self.model.layers) if isinstance(layer, nn.Dense)]
        return [(arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in dense]

    def variances(self) -> list[np.ndarray]:
        """Copies of the running variance of each BatchNorm."""
        return [a.copy() for name, a in self.model.buffers().items() if name.endswith("running_var")]

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        value, gradient = self.loss(self.model.forward(x), y)
        self.model.backward(gradient, input_gradient=False)
        self.optimizer.step()
        return value

    def epochs(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> Callable[[], object]:
        """An epoch a call, each in a new order."""
        batches = MiniBatches(x, y, batch_size=batch_size)

        def epoch():
            history = fit(self.model, self.optimizer, self.loss, batches, epochs=1, progress=False)
            if history.interrupted:  # after part of its batches: no time of an epoch
                raise KeyboardInterrupt
            return history

        return epoch


class Torch:
    """Eager, with the fused Adam."""

    def __init__(self, torch, network: Network, weights):
        self.torch = torch
        layers = []
        for inputs, outputs in network.hidden():
            norm = [] if network.p is None else [torch.nn.BatchNorm1d(outputs, eps=EPS, momentum=MOMENTUM)]
            dropout = [torch.nn.Dropout(network.p)] if network.p else []
            layers += [torch.nn.Linear(inputs, outputs), *norm, torch.nn.ReLU(), *dropout]
        self.model = torch.nn.Sequential(*layers, torch.nn.Linear(*network.widths[-2:]))
        with torch.no_grad():
            for layer, (weight, bias) in zip(self._linear(), weights, strict=True):
                layer.weight.copy_(torch.from_numpy(weight.T))
                layer.bias.copy_(torch.from_numpy(bias))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LR, fused=True)
        self.loss = torch.nn.CrossEntropyLoss()

    def _linear(self):
        return [layer for layer in self.model if isinstance(layer, self.torch.nn.Linear)]

    def weights(self):
        arrays = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in self._linear()]
        return [(weight.T.copy(), bias.copy()) for weight, bias in arrays]

    def variances(self):
        return [a.numpy().copy() for name, a in self.model.named_buffers() if name.endswith("running_var")]

    def tensor_step(self, x, y):
        self.optimizer.zero_grad()
        loss = self.loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        return self.tensor_step(self.torch.from_numpy(x), self.torch.from_numpy(y)).item()

    def epochs(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> Callable[[], object]:
        x, y = self.torch.from_numpy(x), self.torch.from_numpy(y)

        def epoch():
            for indices in self.torch.randperm(len(x)).split(batch_size):
                self.tensor_step(x[indices], y[indices])

        return epoch


class Jax:
    """One jitted step that gives its state away, with optax."""

    def __init__(self, jax, optax, network: Network, weights):
        jnp = jax.numpy
        params = [{"weight": jnp.array(weight), "bias": jnp.array(bias)} for weight, bias in weights]
        running = []
        if network.p is not None:
            for layer, (_, outputs) in zip(params, network.hidden(), strict=False):
                layer |= {"gamma": jnp.ones(outputs), "beta": jnp.zeros(outputs)}
                running.append((jnp.zeros(outputs), jnp.ones(outputs)))
        transform = optax.adam(LR)

        def forward(params, running, x, key):
            after = []
            for index, layer in enumerate(params):
                x = x @ layer["weight"] + layer["bias"]
                if index + 1 == len(params):
                    return x, after
                if network.p is not None:
                    affine = layer["gamma"], layer["beta"]
                    x, kept = jax_batch_norm(jax, x, *affine, running[index], eps=EPS, momentum=MOMENTUM)
                    after.append(kept)
                x = jax.nn.relu(x)
                if network.p:
                    key, own = jax.random.split(key)
                    x = jnp.where(jax.random.bernoulli(own, 1 - network.p, x.shape), x / (1 - network.p), 0)
            return x, after

        def loss(params, running, x, y, key):
            logits, after = forward(params, running, x, key)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), after

        @partial(jax.jit, donate_argnums=(0, 1, 2, 3))
        def step(params, running, state, key, x, y):
            key, own = jax.random.split(key)
            (value, running), gradient = jax.value_and_grad(loss, has_aux=True)(params, running, x, y, own)
            updates, state = transform.update(gradient, state, params)
            return (optax.apply_updates(params, updates), running, state, key), value

        self._now = (params, running, transform.init(params), jax.random.key(0))
        self._step = step

    def weights(self):
        return [(np.array(layer["weight"]), np.array(layer["bias"])) for layer in self._now[0]]

    def variances(self):
        return [np.array(variance) for _, variance in self._now[1]]

    def queued_step(self, x, y):
        self._now, value = self._step(*self._now, x, y)
        return value

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        return float(self.queued_step(x, y))

    def epochs(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> Callable[[], object]:
        rng = np.random.default_rng(0)

        def epoch():
            order = rng.permutation(len(x))
            for start in range(0, len(x), batch_size):
                indices = order[start : start + batch_size]
                value = self.queued_step(x[indices], y[indices])
            value.block_until_ready()

        return epoch


class ScikitLearn:
    """MLPClassifier, which has neither batch norm nor dropout; without its penalty on the weights."""

    def __init__(self, neural_network, network: Network, weights, batch_size: int):
        self._model = neural_network.MLPClassifier(
            network.widths[1:-1], batch_size=batch_size, learning_rate_init=LR, alpha=0.0, random_state=0
        )
        self._weights = weights
        self._classes = np.arange(network.widths[-1])

    def begin(self, x: np.ndarray, y: np.ndarray) -> None:
        """Its arrays exist only after a first call; it then forgets that step."""
        self._model.partial_fit(x, y, classes=self._classes)
        for index, (weight, bias) in enumerate(self._weights):
            self._model.coefs_[index][...] = weight
            self._model.intercepts_[index][...] = bias
        optimizer = self._model._optimizer
        optimizer.t = 0
        for moment in (*optimizer.ms, *optimizer.vs):
            moment[...] = 0

    def weights(self):
        return [(w.copy(), b.copy()) for w, b in zip(self._model.coefs_, self._model.intercepts_, strict=True)]

    def variances(self):
        return []

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        self._model.partial_fit(x, y)
        return self._model.loss_

    def epochs(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> Callable[[], object]:
        self._model.partial_fit(x, y, classes=self._classes)
        return lambda: self._model.partial_fit(x, y)
