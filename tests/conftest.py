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
    """Several numbers of threads, and no cut-off: every call of more than one piece is spread over them."""
    module = backend.native()
    if module is None:
        pytest.skip("FUSEDSTEP_BACKEND=reference")
    before, cutoff = module.get_num_threads(), module.get_serial_bytes()
    module.set_num_threads(request.param)
    module.set_serial_bytes(0)
    yield request.param
    module.set_num_threads(before)
    module.set_serial_bytes(cutoff)
