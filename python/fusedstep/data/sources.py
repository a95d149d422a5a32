"""Samples that are read when they are needed: of memory maps, HDF5 and Zarr datasets, anything with slices."""

from __future__ import annotations

import mmap

import numpy as np

from .._device import is_cupy

_GAP_BYTES = 1 << 18  # between two samples of a subset; reading over a smaller gap costs less than a second read
_READ_BYTES = 1 << 23  # of a subset at a time, its gaps included: they may be many times what is wanted


class Source:
    """Samples that are not in memory: slices of something that has a length.

    `MiniBatches`, `fusedstep.fit` and the splits make one by themselves of HDF5 and Zarr datasets and of objects that
    have a length and slices but are neither arrays nor lists. A class of one's own can so decode or scale its samples.

    Parameters
    ----------
    data : object
        ``len(data)``, or ``data.shape[0]``, counts the samples and ``data[start:stop]`` gives an array of them, of one
        dtype. Slices may be read in a background thread.
    indices : array_like of int, optional
        Only these samples, in rising order: a split of a set that is never in memory as a whole.

    Attributes
    ----------
    shape : tuple of int
        The number of samples, then the shape of one.
    dtype : numpy.dtype
    chunk : int
        How many samples the data keep together on disk; 1 where they do not say.

    Raises
    ------
    TypeError
        There is no length, or no slices.
    ValueError
        There is no sample, or `indices` do not rise or are out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.data import MiniBatches, Source
    >>> class Squares:
    ...     def __len__(self):
    ...         return 5
    ...     def __getitem__(self, samples):
    ...         return np.arange(samples.start, samples.stop, dtype=np.float32)[:, None] ** 2
    >>> batches = MiniBatches(Squares(), batch_size=3, shuffle=False)
    >>> [x.ravel().tolist() for (x,) in batches]
    [[0.0, 1.0, 4.0], [9.0, 16.0]]
    >>> Source(Squares(), indices=[1, 4])[0:2].ravel().tolist()
    [1.0, 16.0]
    """

    def __init__(self, data, indices=None):
        if isinstance(data, Source):
            data, indices = data._data, _compose(data._indices, indices, data.shape[0])
        elif indices is not None:
            indices = _compose(None, indices, _length(data))
        self._data, self._indices = data, indices
        n_samples = _length(data)
        if not n_samples or (indices is not None and not len(indices)):
            raise ValueError("[Source] there is no sample")
        if not (hasattr(data, "shape") and hasattr(data, "dtype")):
            try:
                first = np.asarray(data[0:1])
            except Exception as error:
                raise TypeError(
                    f"[Source] {type(data).__name__} gives no slices: data[0:1] raised {error!r}"
                ) from error
            shape, dtype = first.shape, first.dtype
        else:
            shape, dtype = tuple(data.shape), np.dtype(data.dtype)
        self.shape = (n_samples if indices is None else len(indices), *shape[1:])
        self.dtype = dtype
        chunks = getattr(data, "chunks", None)
        self.chunk = chunks[0] if chunks and isinstance(chunks[0], int) else 1
        self._sample_bytes = max(1, int(np.prod(self.shape[1:])) * dtype.itemsize)
        self._longest = self.chunk * max(1, _READ_BYTES // (self.chunk * self._sample_bytes))

    @property
    def ndim(self) -> int:
        """The number of axes, that of the samples included."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, samples: slice) -> np.ndarray:
        """The samples of a slice without a step, as a NumPy array.

        Raises
        ------
        TypeError
            For anything but such a slice.
        ValueError
            The data gave an array of another shape or dtype than they said.
        """
        if not isinstance(samples, slice) or samples.step not in (None, 1):
            raise TypeError(
                f"[Source] gives slices without a step but was asked for {samples!r}: "
                "Source(source, indices) is a part of it, np.asarray(source) all of it in memory"
            )
        start, stop, _ = samples.indices(len(self))
        stop = max(start, stop)
        if self._indices is None:
            return self._read(start, stop)
        wanted = self._indices[start:stop]
        far = (np.diff(wanted) * self._sample_bytes > _GAP_BYTES) & (np.diff(wanted // self.chunk) > 0)
        cuts = np.flatnonzero(far | (np.diff(wanted // self._longest) > 0)) + 1
        runs = [run for run in np.split(wanted, cuts) if len(run)]
        parts = [self._read(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in runs]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *parts])

    def __array__(self, dtype=None, copy=None):
        """All of it, in memory."""
        return np.asarray(self[:], dtype)

    def __repr__(self):
        return f"Source({type(self._data).__name__}, shape={self.shape}, dtype={self.dtype})"

    def _read(self, start: int, stop: int) -> np.ndarray:
        got = np.asarray(self._data[start:stop])
        if got.shape != (stop - start, *self.shape[1:]) or got.dtype != self.dtype:
            raise ValueError(
                f"[Source] data[{start}:{stop}] of {type(self._data).__name__} is {got.dtype}{got.shape} "
                f"but should be {self.dtype}{(stop - start, *self.shape[1:])}"
            )
        return got


Samples = np.ndarray | Source
"""What data sets are made of; or a CuPy array."""


def as_samples(value) -> Samples:
    """NumPy and CuPy arrays as they are; what is on disk as a `Source`; everything else as a NumPy array.

    A source of one number a sample is read: it takes no more memory than the order of the samples.
    """
    if is_cupy(value):
        return value
    source = value if isinstance(value, Source) else Source(value) if _is_foreign_source(value) else None
    if source is None:
        return np.asarray(value)
    return source[:] if source.ndim == 1 else source


def is_on_disk(samples: Samples) -> bool:
    """Whether reading a sample may go to the disk: a `Source`, or an array whose memory is a file's."""
    if isinstance(samples, Source):
        return True
    while isinstance(samples, (np.ndarray, memoryview)):
        samples = samples.base if isinstance(samples, np.ndarray) else samples.obj
    return isinstance(samples, mmap.mmap)


def select(samples: Samples, indices: np.ndarray) -> Samples:
    """The samples of rising `indices`: a copy where they are in memory or few bytes each, else a `Source`."""
    return Source(samples, indices) if samples.ndim > 1 and is_on_disk(samples) else samples[indices]


def _is_foreign_source(value) -> bool:
    if isinstance(value, (np.ndarray, list, tuple, range, str, bytes, dict, memoryview)):
        return False
    if not (hasattr(value, "__getitem__") and (hasattr(value, "__len__") or hasattr(value, "shape"))):
        return False
    # Datasets of h5py, Zarr and dask have chunks; the other things that NumPy can convert are in memory.
    in_memory = ("__array__", "__array_interface__", "__dlpack__", "__buffer__")
    return hasattr(value, "chunks") or not any(hasattr(value, name) for name in in_memory)


def _length(data) -> int:
    try:
        return len(data) if hasattr(data, "__len__") else int(data.shape[0])  # Zarr's arrays have a shape alone
    except (TypeError, AttributeError, IndexError) as error:
        raise TypeError(f"[Source] {type(data).__name__} has no length: {error}") from error


def _compose(outer: np.ndarray | None, indices, length: int) -> np.ndarray | None:
    if indices is None:
        return outer
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise TypeError(f"[Source] 'indices' must be integers, shape (n,), but is {indices.dtype}{indices.shape}")
    indices = indices.astype(np.int64)
    if indices.size and (indices[0] < 0 or indices[-1] >= length or (np.diff(indices) <= 0).any()):
        raise ValueError(f"[Source] 'indices' must rise and be in 0 ... {length - 1}")
    return indices if outer is None else outer[indices]
