"""Optimizers stepped from several threads at once, and the modules in subinterpreters."""

from __future__ import annotations

import os
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
import sys
code = sys.argv[1]
if sys.version_info >= (3, 13):
    import _interpreters
    own_lock, same_lock = (("isolated",), {}), (("legacy",), {})
else:
    import _xxsubinterpreters as _interpreters
    own_lock, same_lock = ((), {"isolated": True}), ((), {"isolated": False})
exec(code)
for args, options in 3 * [own_lock, same_lock]:
    made = _interpreters.create(*args, **options)
    failed = _interpreters.run_string(made, code)
    assert failed is None, failed
    _interpreters.destroy(made)
exec(code)
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="pybind11's modules run in subinterpreters from Python 3.12 on")
@pytest.mark.skipif(backend.native() is None, reason="FUSEDSTEP_BACKEND=reference")
def test_subinterpreters_have_names_of_their_own():
    """With a lock of their own or the main one's. NumPy refuses the former, so the compiled module goes there alone."""
    code = SUBINTERPRETER.format(path=backend.native().__file__)
    result = subprocess.run([sys.executable, "-c", IN_BOTH, code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the compiled modules run there")
def test_a_subinterpreter_that_cannot_load_the_modules_has_the_reference():
    """Rather than wait for ever for a lock that its own thread holds."""
    code = """
import warnings
warnings.simplefilter("ignore", UserWarning)  # NumPy's own, of subinterpreters
import numpy as np, fusedstep as fs
told = fs.info()
assert told["backend"] == "reference" and "from Python 3.12 on" in told["problem"], told
assert "from Python 3.12 on" in told["cuda_reason"], told
warnings.simplefilter("ignore", RuntimeWarning)
p = np.ones(3)
fs.ops.sgd_step(p, p.copy(), lr=0.5)
print(p.tolist())
"""
    run = "import sys, _xxsubinterpreters as i; i.run_string(i.create(isolated=False), sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if name != "FUSEDSTEP_BACKEND"}
    result = subprocess.run(
        [sys.executable, "-c", run, code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (0, "[0.5, 0.5, 0.5]\n"), result.stderr
