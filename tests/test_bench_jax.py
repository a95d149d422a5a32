"""The benchmark beside JAX, in a process of its own: see jax_peers.py."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import fusedstep

MISSING = [name for name in ("jax", "optax", "torch", "sklearn") if find_spec(name) is None]


@pytest.mark.skipif(fusedstep.info()["backend"] == "reference", reason="the compiled kernels are measured")
@pytest.mark.skipif(bool(MISSING), reason=f"without {MISSING}")
def test_beside_jax():
    tests = Path(__file__).with_name("jax_peers.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tests.parents[1])
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
