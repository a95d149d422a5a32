"""Optimizers stepped from several threads at once, and the modules in subinterpreters."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

import fusedstep as fs
from bits import assert_same_bits
from fusedstep import backend
from small_optimizers import VARIANTS

THREADS = 6


def trained(seed: int, start: threading.Barrier | None = None) -> list[np.ndarray]:
    """The parameters after some steps of every optimizer, each on arrays of its own; some large enough for threads."""
    rng = np.random.default_rng(seed)
    results = []
    for method, options in VARIANTS:
        params = [
            fs.nn.Parameter(rng.standard_normal(shape, np.float32), np.zeros(shape, np.float32), str(shape))
            for shape in ((3,), (40, 50), (1_000_000 if method is fs.optim.AdamW else 1000,))
        ]
        optimizer = method(params, **options, max_norm=10.0)
        if start is not None:
            start.wait()
        for _ in range(3):
            for p in params:
                p.grad[...] = rng.standard_normal(p.grad.shape, np.float32)
            optimizer.step()
        results += [p.array for p in params]
    return results


@pytest.mark.skipif(backend.native() is None, reason="FUSEDSTEP_BACKEND=reference")
def test_optimizers_of_several_threads_give_the_bits_of_a_serial_run():
    start = threading.Barrier(THREADS, timeout=60)
    found: dict[int, list[np.ndarray]] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: trained(seed, start)})) for seed in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(THREADS))
    for seed, arrays in found.items():
        for array, expected in zip(arrays, trained(seed), strict=True):
            assert_same_bits(f"thread {seed}", array, expected)


SUBINTERPRETER = """
import importlib.util
spec = importlib.util.spec_from_file_location("_cpu", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
try:
    module.sgd_step(object(), object(), None, None, (0.1, 0.0, False, False, 1.0, 0.0), None, 0.0, 0.0, False)
except TypeError as error:
    assert "must be an array" in str(error), error
else:
    raise AssertionError("an object was taken for an array")
assert module.available_isas()
"""

IN_BOTH = """
import sys, _interpreters
code = sys.argv[1]
exec(code)
for _ in range(3):
    made = _interpreters.create()
    failed = _interpreters.run_string(made, code)
    assert failed is None, failed
    _interpreters.destroy(made)
exec(code)
"""


@pytest.mark.skipif(sys.version_info < (3, 13), reason="needs a module of Python 3.13")
@pytest.mark.skipif(backend.native() is None, reason="FUSEDSTEP_BACKEND=reference")
def test_subinterpreters_have_names_of_their_own():
    """NumPy refuses subinterpreters, so the compiled module goes there alone."""
    code = SUBINTERPRETER.format(path=backend.native().__file__)
    result = subprocess.run([sys.executable, "-c", IN_BOTH, code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
