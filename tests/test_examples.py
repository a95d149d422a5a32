"""The examples run, and the README shows them as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FASHION = ROOT / "examples" / "fashion_mnist.py"
EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {FASHION})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_runs(path, tmp_path):
    pytest.importorskip("sklearn")
    result = run(path, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def run(path, folder, *arguments):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(path), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_fashion_mnist_in_short(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("apt-get install dataset-fashion-mnist")
    result = run(FASHION, tmp_path, "--epochs", "2", "--samples", "6000")
    accuracy = re.search(r"test accuracy (0\.\d+)", result.stdout)
    assert accuracy and float(accuracy[1]) > 0.75, result.stdout + result.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"fashion_mnist.png", "fashion_mnist.safetensors"}


def test_fashion_mnist_without_its_files(tmp_path):
    result = run(FASHION, tmp_path, "--folder", str(tmp_path / "none"))
    assert result.returncode == 0 and "apt-get install dataset-fashion-mnist" in result.stdout


def test_readme_shows_the_examples():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    code = [path.read_text().partition('"""\n\n')[2] for path in EXAMPLES]
    assert sorted(blocks) == sorted(code)
