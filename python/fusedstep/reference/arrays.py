"""What arrays the reference accepts: the twin of csrc/bindings/arrays.cpp, for NumPy alone.

Everything is checked before anything is written, and the messages are the compiled module's.
"""

from __future__ import annotations

import numpy as np

FLOATING = ("float32", "float64")
WITH_HALF = ("float16", "bfloat16", *FLOATING)  # bfloat16 is known by its name: it is ml_dtypes', not NumPy's
COUNTS = ("int32", "int64")


def arithmetic_type(dtype) -> type:
    """The type in which arrays of `dtype` are computed: float32 for the half types, else their own."""
    return np.float64 if dtype == np.float64 else np.float32


def own_or_arithmetic(dtype) -> tuple:
    """The dtypes of what is kept beside an array of `dtype`: states of a step, vectors of batch norm."""
    wide = np.dtype(arithmetic_type(dtype))
    return (dtype,) if dtype == wide else (dtype, wide)


def check_array(
    name: str, array, *, accepted: tuple[str, ...] = FLOATING, like=None, allowed=None, writable: bool = False
) -> np.ndarray:
    """An array of an accepted dtype; `like`, (name, dtype), and `allowed` as in `check_dtype`."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"'{name}' must be an array but got {type(array).__name__}")
    if type(array).__name__ in ("MaskedArray", "matrix"):  # values are not what memory holds; * is another product
        raise TypeError(f"'{name}' must be a plain array but got {type(array).__name__}")
    if array.dtype.name not in accepted or not array.dtype.isnative:
        *others, last = accepted
        listed = f"accepted are {', '.join(others)} and {last}" if others else f"accepted is {last}"
        raise TypeError(f"'{name}' has dtype {array.dtype}; {listed}")
    if like is not None:
        check_dtype(name, array, like, allowed)
    if array.size and not array.flags.aligned:
        raise ValueError(f"'{name}' is not aligned in memory; pass numpy.copy({name})")
    if writable:
        check_writable(name, array)
    return array


def check_writable(name: str, array) -> None:
    if not array.flags.writeable:
        raise ValueError(f"'{name}' is read-only and would be written")


def check_dtype(name: str, array, like, allowed=None) -> None:
    """The dtype of `like`, (name, dtype), or one of those that are `allowed` beside it."""
    like_name, dtype = like
    allowed = allowed or (dtype,)
    if array.dtype in allowed:
        return
    rule = "they must be the same" if allowed == (dtype,) else f"it must be {' or '.join(map(str, allowed))}"
    raise TypeError(f"'{name}' has dtype {array.dtype} but '{like_name}' has {dtype}; {rule}")


def check_scalar(name: str, array, accepted: tuple[str, ...], *, writable: bool = False) -> np.ndarray:
    """A 0-dimensional array."""
    check_array(name, array, accepted=accepted, writable=writable)
    if array.ndim:
        raise ValueError(f"'{name}' must be 0-dimensional but has shape {array.shape}")
    return array


def scalar_arrays(**values) -> list[tuple[str, np.ndarray]]:
    """(name, array) of those that are arrays, not numbers or None."""
    return [(name, value) for name, value in values.items() if isinstance(value, np.ndarray)]


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
            f"work on a copy, numpy.ascontiguousarray({name}), and write that back"
        )


def check_same_layout(name: str, array, other_name: str, other) -> None:
    """The same strides, counted in values: the dtypes may differ."""
    if array.size and any(
        array.strides[a] * other.itemsize != other.strides[a] * array.itemsize
        for a in range(other.ndim)
        if other.shape[a] != 1
    ):
        raise ValueError(
            f"'{name}' is laid out in memory otherwise than '{other_name}' "
            f"(strides {array.strides} and {other.strides}); copy it into the same layout: "
            f"copy = numpy.empty_like({other_name}); copy[...] = {name}"
        )


def check_distinct(name: str, array) -> None:
    """Refuse an output two values of which share memory; any strides otherwise."""
    reach = 0
    for axis in sorted(memory_order(array), key=lambda a: abs(array.strides[a])):
        if array.size and abs(array.strides[axis]) <= reach:
            raise ValueError(f"'{name}' has values that share memory (strides {array.strides})")
        reach += abs(array.strides[axis]) * (array.shape[axis] - 1)


def same_memory(a, b) -> bool:
    """Exactly the same memory, walked the same way."""
    return a.ctypes.data == b.ctypes.data and a.shape == b.shape and a.strides == b.strides


def check_overlap(outputs, inputs, in_place=()) -> None:
    """Refuse outputs that share memory with each other or with an input.

    outputs, inputs: lists of (name, array); in_place: pairs (output, input) that may be exactly the same memory.
    """
    written = dict(outputs)
    reused = {i for o, i in in_place if o in written for n, a in inputs if n == i and same_memory(a, written[o])}
    spans = [(*np.lib.array_utils.byte_bounds(a), n, True) for n, a in outputs if a.size]
    spans += [(*np.lib.array_utils.byte_bounds(a), n, False) for n, a in inputs if a.size and n not in reused]
    spans.sort(key=lambda span: span[0])
    last = {True: None, False: None}  # of what began before, the output and the input that reach furthest
    for span in spans:
        begin, end, name, is_output = span
        for other in [last[True], last[False] if is_output else None]:
            if other is not None and other[1] > begin:
                raise ValueError(f"'{other[2]}' and '{name}' overlap in memory")
        if last[is_output] is None or end > last[is_output][1]:
            last[is_output] = span


def as_labelled(name: str, arrays) -> list:
    """One array or a list of them as pairs (label, array)."""
    if not isinstance(arrays, list | tuple):
        return [(name, arrays)]
    return [(f"{name}[{i}]", array) for i, array in enumerate(arrays)]


_OPTIONAL = ("momentum_buffers", "grad_avgs", "max_exp_avg_sqs", "ema_params")


def check_step(params, grads, states, scalars=()):
    """The arrays of a step as rows (param, grad, state, ...); `states`: (name, arrays), None left out if optional.

    scalars: (name, 0-d array) that the step reads.
    """
    kept = [(name, arrays) for name, arrays in states if arrays is not None or name not in _OPTIONAL]
    given = [("params", params), ("grads", grads), *kept]
    columns = [(name, as_labelled(name, arrays)) for name, arrays in given]
    count = len(columns[0][1])
    for name, arrays in columns[1:]:
        if len(arrays) != count:
            raise ValueError(f"'params' has {count} arrays but '{name}' has {len(arrays)}")
    outputs, inputs, param_dtype, state_dtype = [], list(scalars), None, None
    for i in range(count):
        first_name, first = columns[0][1][i]
        for name, arrays in columns:
            label, array = arrays[i]
            check_array(label, array, accepted=WITH_HALF)
            param_dtype = param_dtype or (label, array.dtype)
            if name in ("params", "grads"):
                check_dtype(label, array, param_dtype)
            elif state_dtype is None:
                check_dtype(label, array, param_dtype, own_or_arithmetic(param_dtype[1]))
                state_dtype = (label, array.dtype)
            else:
                check_dtype(label, array, state_dtype)
            if name != "grads":
                check_writable(label, array)
            if name == "params":
                check_dense(label, array)
            else:
                check_shape(label, array, first_name, first.shape)
                check_same_layout(label, array, first_name, first)
            (inputs if name == "grads" else outputs).append((label, array))
    check_overlap(outputs, inputs)
    return [[array for _, array in row] for row in zip(*(arrays for _, arrays in columns), strict=True)]


def _output(name, x, out_name, out, accepted):
    if out is None:
        return np.empty_like(x)
    check_array(out_name, out, accepted=accepted, like=(name, x.dtype), writable=True)
    check_shape(out_name, out, name, x.shape)
    return out


def check_elementwise(name: str, x, out, *, out_name: str = "out", accepted=FLOATING, scalars=()):
    """`x`, and `out` of the same shape and dtype, new or `x` itself."""
    check_array(name, x, accepted=accepted)
    out = _output(name, x, out_name, out, accepted)
    check_overlap([(out_name, out)], [(name, x), *scalars], {(out_name, name)})
    return out


def check_gradient_pair(dy_name, dy, y_name, y, out, *, out_name: str = "out", accepted=FLOATING):
    """`dy`, the array `y` of the forward pass, and `out`, which may be exactly `dy`."""
    check_array(dy_name, dy, accepted=accepted)
    check_array(y_name, y, accepted=accepted, like=(dy_name, dy.dtype))
    check_shape(y_name, y, dy_name, dy.shape)
    out = _output(dy_name, dy, out_name, out, accepted)
    check_overlap([(out_name, out)], [(dy_name, dy), (y_name, y)], {(out_name, dy_name)})
    return out


def check_vector(
    name, array, like_name, like, size, *, accepted=FLOATING, allowed=None, writable=False, axis="channels"
):
    """A contiguous vector of `size` values, of `like`'s dtype or one that is `allowed` beside it; None passes."""
    if array is None:
        return
    check_array(name, array, accepted=accepted, like=(like_name, like.dtype), allowed=allowed, writable=writable)
    if array.shape != (size,):
        raise ValueError(f"'{name}' has shape {array.shape} but '{like_name}' has {size} {axis}")
    check_dense(name, array)
