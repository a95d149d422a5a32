"""A model: layers one after another, with fused kernels underneath."""

from __future__ import annotations

import numpy as np

from .. import backend
from .._device import CPU, Device, as_host, device_of, get_device, host_copy
from .._random import generator
from ..reference.scalars import check_integer
from .checks import DTYPES, check_array, check_feature_counts, check_layers, register, shapes_through
from .fusion import Placed, make_stages
from .layers import LAYERS, Dropout, Layer
from .parameter import Arena, Parameter


class Sequential:
    """Layers one after another.

    All parameters live in one flat arena and all gradients in another, so that an optimizer steps the
    whole model in one call. Neighbouring layers run as one kernel where there is one (`fusion.py`), and
    training uses its activation buffers again from step to step; what the public methods return is
    always a new array that is never written to afterwards.

    Parameters
    ----------
    *layers : Layer
        At least one; each belongs to one model only.
    seed : int
        In [0, 2**64). With the index of a layer it decides its starting weights, with `random_offset` the masks
        of dropout.
    dtype : {numpy.float32, numpy.float64}
        Of parameters, inputs, outputs and gradients.

    Attributes
    ----------
    layers : tuple of Layer
    seed : int
    dtype : numpy.dtype
    device : str
        "cpu", or "cuda:<index>" after `to`: inputs and outputs are CuPy arrays then.
    random_offset : int
        Where the random numbers of the next training pass start. The k-th Dropout uses
        ``random_offset + k``; each training pass moves it on by the number of Dropout layers.
        Set it to repeat a pass, or to resume training.
    n_parameters : int
        Number of values that training changes.

    Raises
    ------
    ValueError
        If there is no layer, a layer is used twice or in another model, neighbours do not fit, or
        `seed` is out of range.
    TypeError
        If an argument is no layer, `dtype` is not one of the two, or `seed` is no integer.

    Notes
    -----
    After ``forward(x)`` the model keeps a reference to `x` until ``backward``: do not change `x` in
    between. Copying and pickling keep parameters, buffers, `random_offset` and the device, but no gradients and no
    pending backward pass.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.nn import Dense, ReLU, Sequential, SoftmaxCrossEntropy
    >>> model = Sequential(Dense(4, 8), ReLU(), Dense(8, 3))
    >>> x, labels = np.ones((5, 4), np.float32), np.array([0, 1, 2, 1, 0])
    >>> loss, gradient = SoftmaxCrossEntropy()(model.forward(x), labels)
    >>> model.backward(gradient).shape
    (5, 4)
    >>> [parameter.name for parameter in model.parameters()]
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(self, *layers: Layer, seed: int = 0, dtype=np.float32):
        check_layers(layers)
        check_feature_counts(layers)
        self.seed = check_integer("Sequential", "seed", seed, 0, 64)
        self.dtype = np.dtype(dtype)
        if self.dtype not in DTYPES:
            raise TypeError(f"[Sequential] 'dtype' must be float32 or float64 but got {self.dtype}")
        self.layers = layers
        self._n_dropouts = sum(isinstance(layer, Dropout) for layer in layers)
        self._random_offset = 0
        self._place_layers(*self._starting_values(), CPU)
        register(layers, self)

    def _starting_values(self) -> tuple[Arena, dict[str, np.ndarray]]:
        """The arena and the buffers of a new model."""
        arena = Arena(
            {
                f"{index}.{name}": shape
                for index, layer in enumerate(self.layers)
                for name, shape in layer.parameter_shapes().items()
            },
            self.dtype,
        )
        waiting = iter(arena.parameters)
        buffers: dict[str, np.ndarray] = {}
        for index, layer in enumerate(self.layers):
            arrays = {name: next(waiting).array for name in layer.parameter_shapes()}
            layer.start(arrays, generator(self.seed, "weights", index))
            buffers |= {f"{index}.{name}": buffer for name, buffer in layer.buffers(self.dtype).items()}
        return arena, buffers

    def _place_layers(self, arena: Arena, buffers: dict[str, np.ndarray], device: Device) -> None:
        """Hand each layer its arrays, which are on `device`, and make the stages that run on them."""
        self._device, self._arena, self._parameters, self._buffers = device, arena, arena.parameters, buffers
        placed = []
        waiting = iter(arena.parameters)
        dropouts = 0
        for index, layer in enumerate(self.layers):
            parameters = {name: next(waiting) for name in layer.parameter_shapes()}
            own = {name: buffers[f"{index}.{name}"] for name in layer.buffers(self.dtype)}
            placed.append(Placed(index, layer, parameters, own, dropouts))
            dropouts += isinstance(layer, Dropout)
        self._placed = placed
        self._training_stages = make_stages(placed, self.seed, device, training=True)
        self._evaluation_stages = make_stages(placed, self.seed, device, training=False)
        self._evaluation_is_view = not any(stage.output_free for stage in self._evaluation_stages)
        self._split_backward()
        self._planned: tuple[int, ...] | None = None
        self._pending: tuple[int, ...] | None = None

    def _split_backward(self) -> None:
        """Stages in the order of backward: above the lowest one with parameters, that one, and those below."""
        stages = self._training_stages
        lowest = next((i for i, stage in enumerate(stages) if stage.has_parameters), 0)
        self._upper, self._lowest, self._lower = stages[:lowest:-1], stages[lowest], stages[:lowest][::-1]

    # -- what it is made of

    @property
    def device(self) -> str:
        return self._device.name

    def to(self, device: str) -> Sequential:
        """Move parameters, gradients and buffers to another device, in place; a pending backward pass is dropped.

        Optimizers come after this: one that was made before keeps the arrays of the old device, and `fusedstep.fit`
        refuses it. So do lists that `parameters` gave before. Counters of batches stay on the host.

        Parameters
        ----------
        device : str
            "cpu", "cuda" (the current CUDA device) or "cuda:<index>". On a CUDA device the model takes and gives
            CuPy arrays, matrix products are CuPy's, and nothing in a training pass waits for the device.

        Returns
        -------
        Sequential
            The model itself.

        Raises
        ------
        ValueError
            There is no such device.
        ImportError
            CuPy is missing.
        RuntimeError
            CuPy finds no CUDA device, or there are no CUDA kernels: the build has none, or the NumPy reference is in
            use.

        Examples
        --------
        >>> from fusedstep.nn import Dense, Sequential
        >>> Sequential(Dense(2, 3)).to("cpu").device
        'cpu'
        """
        new = get_device(device)
        if new.name != self.device:
            if new is not CPU and backend.cuda() is None:
                raise RuntimeError(f"a model on {new.name} needs the compiled kernels: {backend.why_reference()}")
            # An integer is a count that the host keeps, so that no pass has to wait for it.
            buffers = {name: b if b.dtype.kind == "i" else new.put(b) for name, b in self._buffers.items()}
            self._place_layers(self._arena.copy_to(new), buffers, new)
        return self

    @property
    def random_offset(self) -> int:
        return self._random_offset

    @random_offset.setter
    def random_offset(self, value: int) -> None:
        self._random_offset = check_integer("Sequential", "random_offset", value, 0, 64)

    @property
    def n_parameters(self) -> int:
        return sum(parameter.array.size for parameter in self._parameters)

    def parameters(self) -> list[Parameter]:
        """The parameters in the order of the layers, named ``"<layer index>.<weight or bias>"``."""
        return list(self._parameters)

    def buffers(self) -> dict[str, np.ndarray]:
        """The arrays of the state that have no gradient, by name: running statistics. Not copies."""
        return dict(self._buffers)

    def _state(self) -> dict[str, np.ndarray]:
        return {parameter.name: parameter.array for parameter in self._parameters} | self._buffers

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers, by name: NumPy arrays, wherever the model is.

        Examples
        --------
        >>> from fusedstep.nn import BatchNorm, Sequential
        >>> sorted(Sequential(BatchNorm(3)).state_dict())
        ['0.bias', '0.num_batches_tracked', '0.running_mean', '0.running_var', '0.weight']
        """
        return {name: host_copy(array) for name, array in self._state().items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy the values of `state` into this model's arrays; a pending backward pass is dropped.

        Parameters
        ----------
        state : dict of str to ndarray
            With exactly the names, shapes and dtypes of `state_dict`; of any device.

        Raises
        ------
        ValueError
            Naming the first entry that differs; the model is then unchanged.
        """
        own = self._state()
        arrays = {}
        for name, array in own.items():
            if name not in state:
                raise ValueError(f"the state has no '{name}'")
            new = arrays[name] = as_host(state[name])
            if new.shape != array.shape:
                raise ValueError(f"'{name}' must have shape {array.shape} but the state has {new.shape}")
            if new.dtype != array.dtype:
                raise ValueError(f"'{name}' must be {array.dtype} but the state has {new.dtype}")
        if unknown := [name for name in state if name not in own]:
            raise ValueError(f"the state has {unknown[0]!r}, which this model has not")
        for name, array in own.items():
            device_of(array).write(array, arrays[name])
        self._pending = None

    def architecture(self) -> dict:
        """What `from_architecture` needs to make a model of this kind, as values that JSON can hold."""
        return {
            "layers": [{"layer": type(layer).__name__, **layer.config()} for layer in self.layers],
            "seed": self.seed,
            "dtype": self.dtype.name,
            "random_offset": self.random_offset,
        }

    @classmethod
    def from_architecture(cls, architecture: dict) -> Sequential:
        """A model with starting values from what `architecture` returned.

        Raises
        ------
        ValueError
            If `architecture` does not describe a model; it names the first thing that is wrong.

        Examples
        --------
        >>> from fusedstep.nn import Dense, Sequential
        >>> Sequential.from_architecture(Sequential(Dense(2, 3)).architecture()).n_parameters
        9
        """
        try:
            layers = []
            for index, config in enumerate(architecture["layers"]):
                config = dict(config)
                kind = config.pop("layer")
                if kind not in LAYERS:
                    raise ValueError(f"layer {index} is an unknown {kind!r}")
                layers.append(LAYERS[kind](**config))
            model = cls(*layers, seed=architecture["seed"], dtype=architecture["dtype"])
            model.random_offset = architecture["random_offset"]
        except KeyError as error:
            raise ValueError(f"the architecture has no {error}") from None
        except TypeError as error:
            raise ValueError(f"the architecture is not one of a Sequential: {error}") from None
        return model

    def save(self, path) -> None:
        """Write parameters, buffers and architecture to a safetensors file; see `fusedstep.nn.load`.

        The file at `path` is replaced in one step: after a crash there is the old one or the new one.
        """
        from .serialization import save

        save(self, path)

    # -- running it

    def check_training_shape(self, shape: tuple[int, ...]) -> None:
        """Raise the ValueError of ``forward(x, training=True)`` for an `x` of `shape`, without any `x`."""
        shapes = shapes_through(self.layers, shape)
        for stage in self._training_stages:
            stage.check(shapes[stage.first])

    def forward(self, x: np.ndarray, training: bool = True) -> np.ndarray:
        """Run the model on a batch.

        Parameters
        ----------
        x : ndarray
            ``(N, ...)`` in the model's dtype, on its device, as the first layer takes it.
        training : bool
            If True, BatchNorm uses the batch's moments and updates its running statistics, Dropout is
            active, and `backward` may follow. If False, this is `predict`.

        Returns
        -------
        ndarray
            The output of the last layer; a new array.

        Raises
        ------
        TypeError
            If `x` is no array of the model's dtype on its device.
        ValueError
            If a layer cannot take the shape that reaches it, or BatchNorm gets fewer than two values a channel
            in training. No state has changed then.
        """
        if not training:
            return self.predict(x)
        with self._device.active():
            x = check_array("x", x, self.dtype, self._device)
            self._pending = None
            if x.shape != self._planned:
                self._allocate(x.shape)
            offset = self._random_offset
            for stage in self._training_stages:
                x = stage.forward(x, offset)
            self._random_offset = offset + self._n_dropouts
            self._pending = x.shape
            return x.copy()

    def _allocate(self, shape: tuple[int, ...]) -> None:
        """Get all stages ready to train on inputs of `shape`."""
        self.check_training_shape(shape)
        self._planned = None
        shapes = shapes_through(self.layers, shape)
        for stage in self._training_stages:
            stage.allocate(shapes[stage.first], shapes[stage.stop], self.dtype)
        self._planned = shape

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray | None:
        """Write the gradients of the last training pass into ``parameter.grad``; they are not added up.

        Each training pass can be used once.

        Parameters
        ----------
        dy : ndarray
            Gradient of the loss by the output, of the output's shape and dtype; left as it is.
        input_gradient : bool
            Whether to compute the gradient by the input as well, which training does not need.

        Returns
        -------
        ndarray or None
            The gradient by `x`, a new array; None without `input_gradient`.

        Raises
        ------
        RuntimeError
            If no training pass went before, or it was used already.
        TypeError, ValueError
            If `dy` has another dtype or shape than the output.
        """
        if self._pending is None:
            raise RuntimeError("backward needs a training pass before it: call forward(x, training=True) first")
        with self._device.active():
            dy = check_array("dy", dy, self.dtype, self._device)
            if dy.shape != self._pending:
                raise ValueError(f"'dy' must have the output's shape {self._pending} but got {dy.shape}")
            self._pending = None
            dy = dy.copy()  # the stages write into it
            for stage in self._upper:
                dy = stage.backward(dy)
            dx = self._lowest.backward(dy, input_gradient)
            if not input_gradient:
                return None
            for stage in self._lower:
                dx = stage.backward(dx)
            return dx if dx.flags.owndata else dx.copy()

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Run the model in evaluation mode: running statistics, no dropout.

        Changes nothing, not even a pending backward pass, and may be called from several threads at once.

        Parameters
        ----------
        x : ndarray
            ``(N, ...)`` in the model's dtype.

        Returns
        -------
        ndarray
            The output of the last layer; a new array.

        Raises
        ------
        TypeError, ValueError
            As for `forward`.
        """
        with self._device.active():
            x = check_array("x", x, self.dtype, self._device)
            shapes_through(self.layers, x.shape)
            for stage in self._evaluation_stages:
                x = stage.evaluate(x)
            return x.copy() if self._evaluation_is_view else x

    def __repr__(self):
        lines = [f"  ({index}): {layer!r}\n" for index, layer in enumerate(self.layers)]
        return f"Sequential(\n{''.join(lines)})  # {self.n_parameters:,} parameters, {self.dtype}"

    def __reduce__(self):
        # The arrays of parameters are views of an arena, which copying one by one would tear apart.
        return _restore, (type(self), self.architecture(), self.state_dict(), self.device)


def _restore(cls: type[Sequential], architecture: dict, state: dict[str, np.ndarray], device: str) -> Sequential:
    model = cls.from_architecture(architecture)
    model.load_state_dict(state)
    return model.to(device)
