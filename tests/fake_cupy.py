"""A stand-in for the part of CuPy that fusedstep uses, backed by NumPy, for machines without a GPU.

It is stricter than CuPy: an array is never turned into a NumPy array in silence, each is used on the current device
alone, new memory holds NaN, and whatever waits for the device is counted. Work on the null stream is done at once.
Copies on another stream are done as late as possible, when something waits for them, or (`eager`) as early as possible:
where an event is missing, one of the two gives wrong values.
"""

from __future__ import annotations

import operator
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

DEVICES = 2
FREE = 1 << 30


class State:
    def __init__(self, eager: bool):
        self.eager = eager
        self.devices = [0]  # the current one is the last
        self.waits: list[str] = []  # what waited for a device
        self.capturing = False  # the null stream
        self.copies = 0  # on streams other than the null stream
        self.awaited: list[int] = []  # the positions of the null stream that other streams waited for


state = State(eager=False)


def install(monkeypatch, *, eager: bool = False) -> State:
    """Let `import cupy` give this module, and start to count anew."""
    global state
    state = State(eager)
    monkeypatch.setitem(sys.modules, "cupy", module())
    return state


def module() -> ModuleType:
    cupy = ModuleType("cupy")
    for thing in (ndarray, asarray, ascontiguousarray, asnumpy, empty, empty_like, isfinite, matmul, take, zeros):
        setattr(cupy, thing.__name__, thing)
    cupy.zeros_like = zeros_like
    cupy.get_default_memory_pool = get_default_memory_pool
    runtime = SimpleNamespace(
        getDevice=lambda: state.devices[-1],
        getDeviceCount=lambda: DEVICES,
        memGetInfo=lambda: (FREE, 2 * FREE),
        CUDARuntimeError=CUDARuntimeError,
    )
    cupy.cuda = SimpleNamespace(
        Device=Device,
        Event=Event,
        Stream=Stream,
        alloc_pinned_memory=lambda size: _unset((size,), np.uint8),
        get_current_stream=lambda device_id=-1: _NULL_STREAM,
        runtime=runtime,
    )
    return cupy


class CUDARuntimeError(RuntimeError):
    pass


class Device:
    def __init__(self, index: int):
        self.id = index

    def __enter__(self):
        state.devices.append(self.id)
        return self

    def __exit__(self, *_):
        state.devices.pop()


# -- streams


class Event:
    def __init__(self, *, disable_timing=False):
        self._stream, self._position = _NULL_STREAM, 0

    @property
    def done(self) -> bool:
        return self._stream.done >= self._position

    def synchronize(self):
        state.waits.append("event")
        self._stream.perform(self._position)


class Stream:
    def __init__(self, *, non_blocking=False, null=False):
        self.ptr, self._null = 0, null
        self._queue, self.done = [], 0

    def is_capturing(self) -> bool:
        return self._null and state.capturing

    def submit(self, work):
        self._queue.append(work)
        if self._null or state.eager:
            self.perform(len(self._queue))

    def perform(self, position: int):
        while self.done < position:
            self.done += 1
            self._queue[self.done - 1]()

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        self.submit(lambda: None)
        event._stream, event._position = self, len(self._queue)
        return event

    def wait_event(self, event: Event):
        stream, position = event._stream, event._position
        if stream._null and not self._null:
            state.awaited.append(position)
        self.submit(lambda: stream.perform(position))

    def synchronize(self):
        state.waits.append("stream")
        self.perform(len(self._queue))


_NULL_STREAM = Stream(null=True)


# -- arrays


def _unset(shape, dtype) -> np.ndarray:
    """New memory: NaN, or -1."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = 255
    return array


def _host(value):
    """The memory of an array that is used on the current device; numbers as they are."""
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if not isinstance(value, ndarray):
        return value
    if value.device.id != state.devices[-1]:
        raise RuntimeError(f"an array of device {value.device.id} is used while {state.devices[-1]} is the current one")
    return value.host


def wrap(host, device: int | None = None) -> ndarray:
    array = object.__new__(ndarray)
    array.host, array.device = np.asarray(host), Device(state.devices[-1] if device is None else device)
    return array


class ndarray:
    __hash__ = None
    __array_ufunc__ = None  # np.isfinite(array) and the like are refused

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __dlpack_device__(self):
        return (2, self.device.id)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return self.host.__dlpack__(max_version=max_version)

    dtype = property(lambda self: self.host.dtype)
    itemsize = property(lambda self: self.host.itemsize)
    ndim = property(lambda self: self.host.ndim)
    nbytes = property(lambda self: self.host.nbytes)
    shape = property(lambda self: self.host.shape)
    size = property(lambda self: self.host.size)
    strides = property(lambda self: self.host.strides)
    T = property(lambda self: wrap(self.host.T, self.device.id))

    @property
    def flags(self):
        flags = self.host.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=self.host.base is None
        )

    def __len__(self):
        return len(self.host)

    def __getitem__(self, key):
        part = self.host[key]
        return wrap(part if isinstance(part, np.ndarray) else self.host[key, ...], self.device.id)

    def __setitem__(self, key, value):
        _host(self)[key] = _host(value)

    def reshape(self, *shape):
        return wrap(self.host.reshape(*shape), self.device.id)

    def copy(self):
        return wrap(_host(self).copy())

    def astype(self, dtype, copy=True):
        return wrap(_host(self).astype(dtype, copy=copy))

    def fill(self, value):
        _host(self).fill(_host(value))

    def all(self):
        return wrap(_host(self).all())

    def sum(self):
        return wrap(_host(self).sum())

    def set(self, array, stream=None):
        host = _host(self)
        if not isinstance(array, np.ndarray) or array.shape != self.shape or array.dtype != self.dtype:
            raise TypeError(f"{type(array)} of another shape or dtype")
        if not (host.flags.c_contiguous and array.flags.c_contiguous):
            raise RuntimeError("not contiguous")
        state.copies += stream is not None
        (stream or _NULL_STREAM).submit(lambda: np.copyto(host, array))

    def get(self):
        state.waits.append("get")
        return _host(self).copy()

    def item(self):
        state.waits.append("item")
        return self.host.item()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __bool__(self):
        return bool(self.item())


ndarray.__module__ = "cupy"


def _operator(function, reflected):
    def operate(self, other):
        a, b = _host(self), _host(other)
        return wrap(function(b, a) if reflected else function(a, b))

    return operate


for _name in ("add", "sub", "mul", "truediv"):
    _function = getattr(operator, _name)
    setattr(ndarray, f"__{_name}__", _operator(_function, False))
    setattr(ndarray, f"__r{_name}__", _operator(_function, True))


# -- functions


def asarray(a, dtype=None, *, blocking=False):
    if isinstance(a, ndarray):
        return wrap(_host(a) if dtype is None else _host(a).astype(dtype, copy=False))
    if blocking:
        state.waits.append("asarray")
    return wrap(np.array(a, dtype))


def ascontiguousarray(a):
    return wrap(np.ascontiguousarray(_host(a)))


def asnumpy(a):
    return a.get()


def empty(shape, dtype=float):
    return wrap(_unset(shape, dtype))


def empty_like(a):
    return wrap(_unset(_host(a).shape, a.dtype))


def get_default_memory_pool():
    return SimpleNamespace(free_bytes=lambda: 0)


def isfinite(a):
    return wrap(np.isfinite(_host(a)))


def matmul(a, b, out=None):
    return wrap(np.matmul(_host(a), _host(b), out=None if out is None else _host(out)))


def take(a, indices, axis=None):
    return wrap(np.take(_host(a), _host(indices), axis=axis))


def zeros(shape, dtype=float):
    return wrap(np.zeros(shape, dtype))


def zeros_like(a):
    return wrap(np.zeros_like(_host(a)))
