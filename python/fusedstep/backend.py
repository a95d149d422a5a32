"""Which backend and instruction set is in use. Importing this never fails; a problem is told at the first kernel.

The compiled module is loaded, and the environment read, by the first call that needs it, once: FUSEDSTEP_BACKEND=
auto|reference, FUSEDSTEP_ISA=baseline|avx2|avx512, FUSEDSTEP_NUM_THREADS; an empty value is as good as none. With
`reference` nothing compiled is loaded. The other two are settings of the compiled module: without it nobody reads them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import os
import sys
import threading
import warnings
from types import ModuleType
from typing import NamedTuple, TypedDict

_BACKENDS = ("auto", "reference")
_MOST_THREADS = 1 << 20
# libgomp's threads spin after a parallel region unless told otherwise when it is loaded; on few cores they
# then take the cores from NumPy's BLAS: an epoch at batch 32 took 16 times as long.
_PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
_MEND = "(pip install --force-reinstall fusedstep)"
_PACKAGE = os.path.dirname(__file__) + os.sep


class SlowReferenceWarning(RuntimeWarning):
    """The kernels run on the slow NumPy reference, which nobody chose: the compiled module cannot be loaded."""


class _Setup(NamedTuple):
    module: ModuleType | None
    missing: str | None  # why there is no compiled module, where one was asked for
    problem: str | None  # what is wrong with the environment


_setup_done: _Setup | None = None
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a fork waits for a load that is under way: the child could never end it
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _setup() -> _Setup:
    global _setup_done
    if _setup_done is None:
        with _lock:
            if _setup_done is None:
                _setup_done = _set_up()
    return _setup_done


def _set_up() -> _Setup:
    requested = os.environ.get("FUSEDSTEP_BACKEND") or "auto"
    module, missing = (None, None) if requested == "reference" else _load()
    return _Setup(module, missing, _configure(requested, module))


def _load() -> tuple[ModuleType | None, str | None]:
    """(the compiled module or None, why there is none)

    torch's wheels bring a libgomp. Where it has the name of ours (libgomp.so.1), the process keeps the one that is
    loaded first: torch's, with torch's policy, if torch was imported before this call; else ours, with which torch's
    own operations take up to 8 times as long. Hence no load at the import. A runtime of another name stays apart.
    """
    if (refused := _no_subinterpreter()) is not None:
        return None, refused
    borrowed = {} if _PASSIVE.keys() & os.environ.keys() else _PASSIVE
    os.environ.update(borrowed)
    try:
        return importlib.import_module("fusedstep._cpu"), None
    except ModuleNotFoundError:
        return None, f"this installation has no compiled module for {_interpreter()} {_MEND}"
    except ImportError as error:  # in the loader's own words
        return None, f"the compiled module cannot be loaded: {error} {_MEND}"
    finally:
        for name in borrowed:
            del os.environ[name]


def _interpreter() -> str:
    """What a compiled module is built for, and the file that it is expected in."""
    import platform

    version = ".".join(platform.python_version_tuple()[:2])
    file = f"fusedstep/_cpu{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    return f"{platform.python_implementation()} {version} on {platform.machine()}, {file}"


def _no_subinterpreter() -> str | None:
    """Why the compiled modules cannot be used in this interpreter, where pybind11 would wait for its lock for ever."""
    if sys.version_info >= (3, 12):
        return None
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        return None
    if interpreters.get_current() == interpreters.get_main():
        return None
    return (
        "the compiled modules run in subinterpreters from Python 3.12 on: use that, or the main interpreter "
        "(of mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
    )


def _configure(requested: str, module: ModuleType | None) -> str | None:
    """Apply the environment's thread count and instruction set; the message of what is wrong with them."""
    if requested not in _BACKENDS:
        return f"FUSEDSTEP_BACKEND must be one of {', '.join(_BACKENDS)} but is {requested!r}"
    if module is None:
        return None
    threads = os.environ.get("FUSEDSTEP_NUM_THREADS")
    if threads:
        if not threads.isdecimal() or int(threads) < 1:
            return f"FUSEDSTEP_NUM_THREADS must be a positive integer but is {threads!r}"
        module.set_num_threads(min(int(threads), _MOST_THREADS))
    isa = os.environ.get("FUSEDSTEP_ISA")
    if isa:
        try:
            module.set_isa(isa)
        except ValueError as error:
            return f"FUSEDSTEP_ISA: {error}"
    return None


_active: ModuleType | None = None
_ready = False


def native() -> ModuleType | None:
    """The compiled module, or None for the reference; RuntimeError where the environment asks for the impossible."""
    if _ready:
        return _active
    return _first_use()


def _first_use() -> ModuleType | None:
    global _ready, _active
    module, missing, problem = _setup()
    if problem is not None:
        raise RuntimeError(problem)
    if missing is not None:
        warnings.warn(
            f"fusedstep runs on its slow NumPy reference: {missing}; "
            "FUSEDSTEP_BACKEND=reference chooses the reference without this warning",
            SlowReferenceWarning,
            stacklevel=_level_of_the_user(),
        )
    _active = module
    _ready = True
    return _active


def _level_of_the_user() -> int:
    """The caller's `stacklevel` for the innermost frame outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level


def why_reference() -> str:
    """Why there are no compiled kernels, to follow a colon, where `native` gives None."""
    return _setup().missing or "FUSEDSTEP_BACKEND=reference leaves them out"


def cuda() -> ModuleType | None:
    """The CUDA module, or None for the reference; RuntimeError where this build or machine has none."""
    if native() is None:
        return None
    module, reason = _load_cuda()
    if module is None:
        raise RuntimeError(f"there are no kernels for CUDA arrays: {reason}")
    return module


@functools.cache
def _load_cuda() -> tuple[ModuleType | None, str | None]:
    """(the CUDA module or None, why there is none); touches no device, which would break a child forked later."""
    try:
        return importlib.import_module("fusedstep._cuda"), None
    except ModuleNotFoundError:
        return None, "this build has no CUDA module"
    except ImportError as error:
        return None, f"the CUDA module cannot be loaded: {error} {_MEND}"


def _cuda_devices() -> tuple[list[dict], str | None]:
    """(what each CUDA device is, why there is none)"""
    if _setup().module is None:
        return [], f"no compiled kernels are in use: {why_reference()}"
    module, reason = _load_cuda()
    if module is None:
        return [], reason
    try:
        devices = module.devices()
    except RuntimeError as error:
        return [], _driver_problem(module.driver_version(), module.runtime_version) or str(error)
    return devices, None if devices else "the driver reports no CUDA device"


def _driver_problem(driver: int, runtime: int) -> str | None:
    """What is wrong with a driver for CUDA `driver` beside kernels for `runtime`, 12040 being 12.4; None if nothing."""
    if driver == 0:
        return "this machine has no CUDA driver"
    if driver // 1000 >= runtime // 1000:  # within a major version older drivers run newer kernels
        return None
    has, needs = (f"{version // 1000}.{version % 1000 // 10}" for version in (driver, runtime))
    return f"the CUDA driver is too old: it has CUDA {has}, and this build needs {needs}; update the NVIDIA driver"


def current_stream(array, device: int) -> int:
    """The stream on which the library of a CUDA array works at present; called by the CUDA module."""
    library = namespace(array)
    if library.__name__ == "torch":
        return library.cuda.current_stream(device).cuda_stream
    return library.cuda.get_current_stream(device).ptr


def set_num_threads(n: int) -> None:
    """Let kernels use up to `n` threads; small work stays on the calling one. The bits are the same for every n.

    More than 64, or than twice the processors where that is more, count as so many: `get_num_threads` tells. A module
    built without OpenMP, as the wheels for macOS have it, and the reference stay on one thread.

    Raises ValueError unless n is a positive integer.

    >>> import fusedstep as fs
    >>> before = fs.get_num_threads()
    >>> fs.set_num_threads(1); fs.get_num_threads()
    1
    >>> fs.set_num_threads(before)
    """
    if isinstance(n, bool) or not hasattr(n, "__index__") or n.__index__() < 1:
        raise ValueError(f"'n' must be a positive integer but got {n!r}")
    module = _setup().module
    if module is not None:
        module.set_num_threads(min(n.__index__(), _MOST_THREADS))


def get_num_threads() -> int:
    """The number of threads that kernels may use; 1 without the compiled module.

    >>> import fusedstep as fs
    >>> fs.get_num_threads() >= 1
    True
    """
    module = _setup().module
    return 1 if module is None else module.get_num_threads()


def available_isas() -> tuple[str, ...]:
    """The instruction sets of the compiled module that this processor has, slowest first.

    >>> import fusedstep as fs
    >>> set(fs.available_isas()) <= {"baseline", "avx2", "avx512"}
    True
    """
    module = _setup().module
    return () if module is None else tuple(module.available_isas())


class Info(TypedDict):
    """What `info` gives."""

    version: str
    python: str
    numpy: str
    backend: str | None
    problem: str | None
    isa: str | None
    available_isas: list[str]
    num_threads: int
    openmp: bool | None
    cuda: bool
    cuda_devices: list[dict]
    cuda_reason: str | None


def info() -> Info:
    """What is installed and in use, as a dict that JSON can hold.

    Keys: version, python, numpy, backend ("cpu" or "reference"; None where the environment's settings are wrong, so
    that no kernel runs), problem (None, or what is wrong with those settings or the compiled module), isa,
    available_isas, num_threads, openmp (False where the module was built without it: kernels then run on one thread, to
    the same bits), cuda (bool), cuda_devices (list of dicts with name, capability, and memory in bytes), cuda_reason
    (None, or why there is no CUDA). Asking for it initializes CUDA, unless there are no compiled kernels:
    FUSEDSTEP_BACKEND=reference loads none.

    >>> import fusedstep as fs
    >>> fs.info()["backend"] in ("cpu", "reference")
    True
    """
    import platform

    import numpy

    from . import __version__

    module, missing, problem = _setup()
    backend = "reference" if module is None else "cpu"
    devices, reason = _cuda_devices()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "backend": backend if problem is None else None,
        "problem": problem or missing,
        "isa": None if module is None else module.get_isa(),
        "available_isas": list(available_isas()),
        "num_threads": get_num_threads(),
        "openmp": None if module is None else module.openmp,
        "cuda": bool(devices),
        "cuda_devices": devices,
        "cuda_reason": reason,
    }


def library_of(array) -> str | None:
    """The name of the library that an array, or the class it derives from, belongs to; None for any other thing."""
    for kind in type(array).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in ("numpy", "torch", "cupy"):
            return library
    return None


def namespace(array) -> ModuleType:
    """The library that an array, or the class it derives from, belongs to: numpy, torch or cupy."""
    library = library_of(array)
    if library is None:
        name = type(array).__name__
        raise TypeError(f"a {name} is of no library that is known here: pass NumPy, CuPy or torch arrays")
    return sys.modules[library]


def why_unreadable(array) -> str | None:
    """Why a tensor has no plain memory, to be read behind its name; None if no reason is known."""
    if library_of(array) != "torch":
        return None
    torch = sys.modules["torch"]
    if type(array).__name__ == "MaskedTensor":
        return "is masked; pass the .get_data() of it and of its gradient"
    if array.is_nested:
        return "is a nested tensor; pass the tensors that .unbind() gives"
    if torch._C._functorch.is_functorch_wrapped_tensor(array):
        return "is wrapped by torch.func (vmap, grad, jvp, ...), which the kernels stand outside of"
    if array.device.type == "meta":
        return "is on the meta device, where there are no values"
    if array.layout is torch.strided:
        return None
    name = str(array.layout).removeprefix("torch.").lstrip("_")
    return f"has the layout {name}; accepted is a dense tensor, as .to_dense() gives it"
