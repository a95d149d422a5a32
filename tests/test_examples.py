"""The examples run, and the README shows them as they are."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fusedstep as fs

ROOT = Path(__file__).parents[1]
FASHION = ROOT / "examples" / "fashion_mnist.py"
TORCH, TORCH_FUSED = (ROOT / "examples" / f"torch_training{end}.py" for end in ("", "_fused"))
EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {FASHION, TORCH_FUSED})


@pytest.mark.parametrize("path", sorted(set(EXAMPLES) - {TORCH}), ids=lambda p: p.name)
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


def test_torch_scripts_go_on_from_the_checkpoint_of_the_other(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    if fs.info()["backend"] == "reference":
        pytest.skip("the reference takes no torch tensors")
    epochs = []
    for path in (TORCH, TORCH_FUSED, TORCH):
        result = run(path, tmp_path)
        assert result.returncode == 0, result.stderr
        epochs += re.findall(r"epoch (\d+): loss .* accuracy (0\.\d+)", result.stdout)
    assert [int(epoch) for epoch, _ in epochs] == list(range(1, 16))
    assert all(float(accuracy) > 0.9 for _, accuracy in epochs[4:]), epochs


def readme_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def code_of(path):
    return path.read_text().partition('"""\n\n')[2]


def test_readme_shows_the_examples():
    assert sorted(readme_blocks("python")) == sorted(map(code_of, EXAMPLES))


def test_readme_shows_what_changes_in_a_torch_script():
    before, after = (code_of(path).splitlines(keepends=True) for path in (TORCH, TORCH_FUSED))
    changes = [line for line in difflib.unified_diff(before, after, n=0) if not line.startswith(("---", "+++", "@@"))]
    assert readme_blocks("diff") == ["".join(changes)]
