"""Tests that need a CUDA device: skipped, with the reason, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

import fusedstep as fs
from gpu_arrays import DIFFERENT_BITS, CuPy, Torch


def pytest_collection_modifyitems(items):
    """Marks the tests of this folder to be skipped where there is no device."""
    about = fs.info()
    if not about["cuda"]:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"no CUDA device: {about['cuda_reason']}"))


@pytest.fixture(scope="session", params=[Torch, CuPy], ids=lambda kind: kind.name)
def library(request):
    """torch's and CuPy's arrays in turn."""
    pytest.importorskip(request.param.name)
    return request.param()


@pytest.fixture
def torch():
    """The module, for what CuPy has no like of."""
    return pytest.importorskip("torch")


def pytest_terminal_summary(terminalreporter):
    """What is as exact as on the CPU but has other bits."""
    if DIFFERENT_BITS:
        terminalreporter.section("results on the GPU with other bits than on the CPU, within the stated bound")
        for name, (different, values) in DIFFERENT_BITS.items():
            terminalreporter.write_line(f"{name}: {different} of {values} values")
