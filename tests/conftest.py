from __future__ import annotations

import pytest

import fusedstep as fs
from fusedstep import backend

ISAS = fs.available_isas()


@pytest.fixture(params=ISAS)
def isa(request):
    """Every instruction set of this processor in turn."""
    module = backend.native()
    if module is None:
        pytest.skip("FUSEDSTEP_BACKEND=reference")
    before = module.get_isa()
    module.set_isa(request.param)
    yield request.param
    module.set_isa(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = fs.get_num_threads()
    fs.set_num_threads(request.param)
    yield request.param
    fs.set_num_threads(before)
