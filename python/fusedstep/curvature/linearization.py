"""A model at one batch, ready for exact derivatives along directions of its parameters."""

from __future__ import annotations

import numpy as np

from .._device import as_host, get_device
from ..nn import Dropout, Sequential
from ..nn.checks import check_array
from .nodes import make_node


class Linearization:
    """The function that a training pass computes, or an evaluation pass, in float64, by NumPy wherever the model is.

    Parameters
    ----------
    model : Sequential
        Not changed; its parameters are copied.
    x : ndarray
        ``(N, ...)``, in the model's dtype, on its device.
    training : bool
        Whether BatchNorm takes the batch's moments and Dropout drops.
    offset : int, optional
        The `random_offset` of the pass whose masks of dropout are taken; by default the model's, that of its next pass.
    shift : ndarray, optional
        A flat vector that is added to the parameters.

    Attributes
    ----------
    output : ndarray
        Of the last layer, float64.
    placed : list of Placed
        The layers that run, in order.
    nodes : list
        A node for each of them.
    n_parameters : int
        Length of the flat vectors: the parameters in the order of `Sequential.parameters`, each in C order.
    """

    def __init__(self, model: Sequential, x, *, training: bool = True, offset: int | None = None, shift=None):
        check_array("x", x, model.dtype, get_device(model.device))
        if training:
            model.check_training_shape(x.shape)
        self.n_parameters = model.n_parameters
        self.placed = [p for p in model._placed if training or not isinstance(p.layer, Dropout)]
        self._shapes = [p.layer.parameter_shapes() for p in self.placed]
        self.lowest = next((i for i, shapes in enumerate(self._shapes) if shapes), len(self.placed))
        values = [{n: as_host(q.array).astype(np.float64) for n, q in p.parameters.items()} for p in self.placed]
        if shift is not None:
            for own, part in zip(values, self.split(shift), strict=True):
                for name in own:
                    own[name] += part[name]
        offset = model.random_offset if offset is None else offset
        options = {"training": training, "seed": model.seed, "offset": offset}
        self.nodes = [make_node(p, v, **options) for p, v in zip(self.placed, values, strict=True)]
        for node in self.nodes[self.lowest : self.lowest + 1]:
            node.below = False
        x = as_host(x).astype(np.float64, order="C")
        for node in self.nodes:
            x = node.forward(x)
        self.output = x

    def split(self, vector) -> list[dict]:
        """The parts of a flat vector that belong to each node's parameters, as views."""
        parts, start = [], 0
        for shapes in self._shapes:
            part = {}
            for name, shape in shapes.items():
                size = int(np.prod(shape))
                part[name] = vector[start : start + size].reshape(shape)
                start += size
            parts.append(part)
        return parts

    def join(self, parts: list[dict]):
        """The flat vector of `parts`, which `split` takes apart."""
        flat = [part[name].ravel() for part, shapes in zip(parts, self._shapes, strict=True) for name in shapes]
        return np.concatenate(flat)

    def tangents(self, vector) -> tuple[list, list[dict]]:
        """R{x} of each node and last R{output}, along `vector`; and `vector`, split. None is 0."""
        parts, rx = self.split(vector), None
        inputs = []
        for node, part in zip(self.nodes, parts, strict=True):
            inputs.append(rx)
            rx = node.tangent(rx, part)
        return [*inputs, rx], parts

    def jacobian_product(self, vector):
        """``J v``: how the output changes along `vector`, of the output's shape."""
        return self.tangents(vector)[0][-1]

    def backward(self, dy) -> tuple[list, list[dict]]:
        """The gradient by each node's output, and those by each node's parameters, from that by the model's output."""
        dys = [None] * len(self.nodes)

        def one(i, dy):
            dys[i] = dy
            return self.nodes[i].backward(dy)

        return dys, self._down(one, dy)

    def _down(self, one, dy) -> list[dict]:
        """What ``one(i, dy)`` gives for the parameters of each node i, from the last to the lowest that has any.

        It also gives the `dy` of the node below.
        """
        gradients: list[dict] = [{} for _ in self.nodes]
        for i in range(len(self.nodes) - 1, self.lowest - 1, -1):
            dy, gradients[i] = one(i, dy)
        return gradients

    def gradient(self, dy):
        """``J' dy`` as a flat vector."""
        return self.join(self.backward(dy)[1])

    def second(self, rxs: list, parts: list[dict], dys: list, rdy):
        """R{} of the flat gradient: what `tangents` and `backward` gave, and R{} of the gradient by the output."""
        return self.join(self._down(lambda i, rdy: self.nodes[i].second(rxs[i], parts[i], dys[i], rdy), rdy))

    def diagonal(self, h):
        """Second derivatives by each parameter, from those by the output, diagonals alone (LeCun et al. 1998)."""
        return self.join(self._down(lambda i, h: self.nodes[i].diagonal(h), h))
