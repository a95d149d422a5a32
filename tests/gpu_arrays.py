"""torch's and CuPy's arrays behind one interface, and what may be said of results on the GPU."""

from __future__ import annotations

import contextlib
import warnings

import ml_dtypes
import numpy as np

from bits import as_bits

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Torch:
    """Tensors on CUDA devices."""

    name = "torch"
    device = "cuda"

    def __init__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
        self.torch = torch

    def has(self, dtype) -> bool:
        """Whether there are arrays of that dtype."""
        return True

    def put(self, array, index=None):
        """A copy on the device, C-contiguous."""
        host = np.array(array, order="C")
        half = host.dtype == BFLOAT16
        tensor = self.torch.from_numpy(host.view(np.int16) if half else host)
        tensor = tensor.view(self.torch.bfloat16) if half else tensor
        return tensor.to(self.device if index is None else f"{self.device}:{index}", copy=True)

    def get(self, array) -> np.ndarray:
        """A copy on the host; waits for the current stream."""
        host = array.detach().cpu()
        if host.dtype == self.torch.bfloat16:
            return host.contiguous().view(self.torch.int16).numpy().view(BFLOAT16)
        return host.numpy()

    def permute(self, array, axes):
        return array.permute(*axes)

    def dense(self, array):
        """The same values, C-contiguous."""
        return array.contiguous()

    def copy_into(self, target, source) -> None:
        """In the current stream."""
        target.copy_(source)

    def zeros_like(self, array):
        return self.torch.zeros_like(array)

    def spin(self, seconds: float) -> None:
        """Keep the current stream busy for about so long."""
        self.torch.cuda._sleep(int(seconds * 2e9))

    @contextlib.contextmanager
    def side_stream(self):
        """A stream of its own, current inside; gives a function that says whether all its work is done."""
        stream = self.torch.cuda.Stream()
        self.torch.cuda.synchronize()
        with self.torch.cuda.stream(stream):
            yield stream.query
            stream.synchronize()

    def device_count(self) -> int:
        return self.torch.cuda.device_count()


class CuPy:
    """CuPy's arrays."""

    name = "cupy"

    def __init__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cupy
        self.cupy = cupy
        self._kernel = cupy.RawKernel(
            'extern "C" __global__ void spin(long long n) { long long t = clock64(); while (clock64() - t < n) {} }',
            "spin",
        )

    def has(self, dtype) -> bool:
        if dtype != BFLOAT16:
            return True
        try:
            self.cupy.zeros(1, BFLOAT16).__dlpack__()
        except (TypeError, ValueError, BufferError):
            return False
        return True

    def put(self, array, index=None):
        with self.cupy.cuda.Device(index):
            return self.cupy.array(np.array(array, order="C"))

    def get(self, array) -> np.ndarray:
        return self.cupy.asnumpy(array)

    def permute(self, array, axes):
        return array.transpose(axes)

    def dense(self, array):
        return self.cupy.ascontiguousarray(array)

    def copy_into(self, target, source) -> None:
        target[...] = source

    def zeros_like(self, array):
        return self.cupy.zeros_like(array)

    def spin(self, seconds: float) -> None:
        self._kernel((1,), (1,), (int(seconds * 2e9),))

    @contextlib.contextmanager
    def side_stream(self):
        stream = self.cupy.cuda.Stream(non_blocking=True)
        self.cupy.cuda.runtime.deviceSynchronize()
        with stream:
            yield lambda: stream.done
            stream.synchronize()

    def device_count(self) -> int:
        return self.cupy.cuda.runtime.getDeviceCount()


def put_at_offset(library, values: np.ndarray, offset: int):
    """A copy of a vector on the device that begins `offset` values into a larger array."""
    buffer = np.zeros(values.size + offset + 3, values.dtype)
    buffer[offset : offset + values.size] = values
    return library.put(buffer)[offset : offset + values.size]


# {what was compared: [values whose bits differ, values]}, printed after the tests.
DIFFERENT_BITS: dict[str, list[int]] = {}


def assert_same_bits_or_as_exact(name: str, actual, expected, exact) -> None:
    """The bits of the CPU's kernel; where they are not reached, at most twice its error, as `test_cuda_layers` says."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, name
    different = np.count_nonzero(as_bits(actual) != as_bits(expected))
    if not different:
        return
    counts = DIFFERENT_BITS.setdefault(name, [0, 0])
    counts[0] += different
    counts[1] += actual.size
    assert exact is not None, f"{name}: {different} of {actual.size} values differ, and there is no wider type"
    finite = np.isfinite(exact)
    for values in (actual, expected):
        assert np.array_equal(np.isfinite(values.astype(np.float64)), finite), f"{name}: not finite at other places"
    errors = [np.abs(v.astype(np.float64) - exact)[finite].max(initial=0.0) for v in (actual, expected)]
    unit = float(ml_dtypes.finfo(actual.dtype).eps) * np.abs(exact[finite]).max(initial=0.0)
    assert errors[0] <= 2 * errors[1] + unit, (
        f"{name}: {different} of {actual.size} values differ; the error is {errors[0]:.3g} "
        f"and the CPU's {errors[1]:.3g}, one unit in the last place {unit:.3g}"
    )
