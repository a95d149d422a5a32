"""The repaired wheel: its OpenMP runtime is its own, beside those of torch and scikit-learn, in any order of import."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fusedstep as fs

LIBRARIES = Path(fs.__file__).parent.parent / "fusedstep.libs"
pytestmark = pytest.mark.skipif(not LIBRARIES.is_dir(), reason="not installed from a repaired wheel")

USE = {
    "fusedstep": "import fusedstep as fs; p = np.ones(5_000_000, np.float32); fs.ops.sgd_step(p, p.copy(), lr=0.5); "
    "assert (p == 0.5).all()",
    "torch": "import torch; assert float((torch.ones(5_000_000) * 2).sum()) == 1e7",
    "sklearn": "from sklearn.ensemble import HistGradientBoostingClassifier as H; X = np.arange(400.0).reshape(-1, 1); "
    "assert H(max_iter=5).fit(X, X[:, 0] > 200).score(X, X[:, 0] > 200) > 0.9",
}
REPORT = """
import json, threadpoolctl
print(json.dumps([i["filepath"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "openmp"]))
"""


@pytest.mark.parametrize("order", list(itertools.permutations(USE)), ids=" ".join)
def test_openmp_runtimes_stay_apart(order):
    for package in order:
        pytest.importorskip(package)
    code = "\n".join(["import numpy as np", *(USE[package] for package in order), *(USE[p] for p in order), REPORT])
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "FUSEDSTEP_BACKEND")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    runtimes = json.loads(result.stdout)
    (ours,) = (Path(path) for path in runtimes if Path(path).parent.name == LIBRARIES.name)
    assert ours.name.startswith("libgomp-")
    assert len(runtimes) >= 2


def test_the_wheel_names_a_platform_that_pip_takes_anywhere():
    (tags,) = Path(fs.__file__).parent.parent.glob(f"fusedstep-{fs.__version__}.dist-info/WHEEL")
    assert "manylinux" in tags.read_text()
