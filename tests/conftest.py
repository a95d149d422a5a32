"""Fixtures, and two ways to run the tests of kernels on other modules than the CPU's.

``pytest --cuda-on-cpu`` sends the ops' calls on NumPy arrays to the CUDA kernels, run on the CPU by the emulator in
tests/cuda_on_cpu; build.py there builds the module and starts pytest with it.
"""

from __future__ import annotations

import importlib

import pytest

import fusedstep as fs
from fusedstep import backend
from small_gpu import cuda_module, gpu  # noqa: F401  # fixtures

SEEDS = [1]
"""Schedules of the emulator."""


def pytest_addoption(parser):
    parser.addoption("--cuda-on-cpu", action="store_true", help="run the CUDA kernels on the CPU in place of the CPU's")


def pytest_configure(config):
    if not config.getoption("--cuda-on-cpu"):
        return
    emulated = importlib.import_module("_cuda_on_cpu")
    backend._active, backend._ready = emulated, True
    backend._load_cuda = lambda: (emulated, None)
    backend.current_stream = lambda array, device: 0


def pytest_generate_tests(metafunc):
    emulated = metafunc.config.getoption("--cuda-on-cpu")
    own = [marker.args[0] for marker in metafunc.definition.iter_markers("parametrize")]
    if "isa" in metafunc.fixturenames and "isa" not in own:
        metafunc.parametrize("isa", ["cuda"] if emulated else fs.available_isas(), indirect=True)
    if "threads" in metafunc.fixturenames and "threads" not in own:
        metafunc.parametrize("threads", SEEDS if emulated else [1, 2, 3], indirect=True)


@pytest.fixture
def isa(request):
    """Every instruction set of this processor in turn."""
    module = backend.native()
    if module is None:
        pytest.skip("FUSEDSTEP_BACKEND=reference")
    if module.device == "cuda":
        yield request.param
        return
    before = module.get_isa()
    module.set_isa(request.param)
    yield request.param
    module.set_isa(before)


@pytest.fixture
def threads(request):
    """Several numbers of threads, and no cut-off: every call of more than one piece is spread over them.

    Of the emulated CUDA kernels: another order in which their threads run; and nothing may be left allocated.
    """
    module = backend.native()
    if module is None:
        pytest.skip("FUSEDSTEP_BACKEND=reference")
    if module.device == "cuda":
        module.emulator.set_seed(request.param)
        yield request.param
        assert module.emulator.outstanding_allocations() == 0
        return
    before, cutoff = module.get_num_threads(), module.get_serial_bytes()
    module.set_num_threads(request.param)
    module.set_serial_bytes(0)
    yield request.param
    module.set_num_threads(before)
    module.set_serial_bytes(cutoff)
