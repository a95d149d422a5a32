"""What arrays the reference accepts: the twin of csrc/bindings/arrays.cpp, for NumPy alone.

Everything is checked before anything is written, and the messages are the compiled module's.
"""

from __future__ import annotations

import numpy as np


def check_array(name: str, array, *, dtype=None, writable: bool = False) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"'{name}' must be an array but got {type(array).__name__}")
    if array.dtype not in (np.float32, np.float64) or not array.dtype.isnative:
        raise TypeError(f"'{name}' has dtype {array.dtype}; accepted are float32 and float64")
    if dtype is not None and array.dtype != dtype[1]:
        raise TypeError(f"'{name}' has dtype {array.dtype} but '{dtype[0]}' has {dtype[1]}; they must be the same")
    if writable and not array.flags.writeable:
        raise ValueError(f"'{name}' is read-only and would be written")
    return array


def check_shape(name: str, array, other_name: str, shape) -> None:
    if array.shape != tuple(shape):
        raise ValueError(f"'{name}' has shape {array.shape} but '{other_name}' has shape {tuple(shape)}")


def memory_order(array) -> list[int]:
    """Axes from the outermost in memory to the innermost; axes of length 1 are left out."""
    return sorted((a for a in range(array.ndim) if array.shape[a] != 1), key=lambda a: -array.strides[a])


def is_dense(array) -> bool:
    """Whether the values fill their memory without gap or overlap, in any order of the axes."""
    expected = array.itemsize
    for axis in reversed(memory_order(array)):
        if array.strides[axis] != expected:
            return False
        expected *= array.shape[axis]
    return True


def check_dense(name: str, array) -> None:
    if array.size and not is_dense(array):
        raise ValueError(
            f"'{name}' has gaps in memory (strides {array.strides}) and cannot be walked in place; "
            f"pass a contiguous array: numpy.ascontiguousarray({name})"
        )


def check_same_layout(name: str, array, other_name: str, other) -> None:
    if array.size and any(array.strides[a] != other.strides[a] for a in range(other.ndim) if other.shape[a] != 1):
        raise ValueError(
            f"'{name}' is laid out in memory otherwise than '{other_name}' "
            f"(strides {array.strides} and {other.strides}); copy it into the same layout: "
            f"numpy.copyto(numpy.empty_like({other_name}), {name})"
        )


def check_overlap(outputs, inputs, in_place=()) -> None:
    """Refuse outputs that share memory with each other or with an input.

    outputs, inputs: lists of (name, array); in_place: pairs of names that may be exactly the same memory.
    """
    spans = [(*np.lib.array_utils.byte_bounds(a), n, True, a) for n, a in outputs if a.size]
    spans += [(*np.lib.array_utils.byte_bounds(a), n, False, a) for n, a in inputs if a.size]
    spans.sort(key=lambda s: s[:2])
    live = []
    for span in spans:
        live = [other for other in live if other[1] > span[0]]
        for other in live:
            if not (span[3] or other[3]):
                continue
            exact = span[:2] == other[:2] and span[4].strides == other[4].strides
            if exact and ((span[2], other[2]) in in_place or (other[2], span[2]) in in_place):
                continue
            raise ValueError(f"'{other[2]}' and '{span[2]}' overlap in memory")
        live.append(span)


def as_list(arrays) -> list:
    return list(arrays) if isinstance(arrays, list | tuple) else [arrays]


def check_step(params, grads, states):
    """The arrays of a step as rows (param, grad, state, ...); `states` is a list of (name, arrays), None left out."""
    single = not isinstance(params, list | tuple)
    columns = [("params", as_list(params)), ("grads", as_list(grads))]
    columns += [(name, as_list(arrays)) for name, arrays in states if arrays is not None]
    count = len(columns[0][1])
    for name, arrays in columns[1:]:
        if len(arrays) != count:
            raise ValueError(f"'params' has {count} arrays but '{name}' has {len(arrays)}")
    outputs, inputs, dtype = [], [], None
    for i in range(count):
        first = columns[0][1][i]
        first_name = "params" if single else f"params[{i}]"
        for name, arrays in columns:
            label = name if single else f"{name}[{i}]"
            array = check_array(label, arrays[i], dtype=dtype, writable=name != "grads")
            dtype = dtype or (label, array.dtype)
            if name == "params":
                check_dense(label, array)
            else:
                check_shape(label, array, first_name, first.shape)
                check_same_layout(label, array, first_name, first)
            (inputs if name == "grads" else outputs).append((label, array))
    check_overlap(outputs, inputs)
    return list(zip(*(arrays for _, arrays in columns), strict=True))


def _output(name, x, out_name, out):
    if out is None:
        return np.empty_like(x)
    check_array(out_name, out, dtype=(name, x.dtype), writable=True)
    check_shape(out_name, out, name, x.shape)
    return out


def check_elementwise(name: str, x, out, *, out_name: str = "out"):
    """`x`, and `out` of the same shape and dtype, new or `x` itself; any strides, but for `out` no shared memory."""
    check_array(name, x)
    out = _output(name, x, out_name, out)
    if out.size and 0 in [s for s, n in zip(out.strides, out.shape, strict=True) if n > 1]:
        raise ValueError(f"'{out_name}' has values that share memory (strides {out.strides})")
    check_overlap([(out_name, out)], [(name, x)], {(out_name, name)})
    return out


def check_gradient_pair(dy_name, dy, y_name, y, out, *, out_name: str = "out"):
    """`dy`, the array `y` of the forward pass, and `out`, which may be exactly `dy`."""
    check_array(dy_name, dy)
    check_array(y_name, y, dtype=(dy_name, dy.dtype))
    check_shape(y_name, y, dy_name, dy.shape)
    out = _output(dy_name, dy, out_name, out)
    check_overlap([(out_name, out)], [(dy_name, dy), (y_name, y)], {(out_name, dy_name)})
    return out


def check_vector(name, array, like_name, like, size, *, writable=False, axis="channels"):
    """A contiguous vector of `size` values of `like`'s dtype; None passes."""
    if array is None:
        return
    check_array(name, array, dtype=(like_name, like.dtype), writable=writable)
    if array.shape != (size,):
        raise ValueError(f"'{name}' has shape {array.shape} but '{like_name}' has {size} {axis}")
    check_dense(name, array)
