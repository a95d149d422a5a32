"""The course's scripts: each runs without a warning and writes its picture, and the README shows all in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COURSE = Path(__file__).parents[1] / "examples" / "course"
SCRIPTS = sorted(set(COURSE.glob("*.py")) - {COURSE / "_figure.py"})


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_a_script_writes_its_picture(path, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(path)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (picture,) = tmp_path.iterdir()
    assert picture.name == f"{path.stem}.png" and picture.name in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 15_000


def test_the_readme_shows_every_picture():
    shown = re.findall(r"!\[[^]]+\]\(figures/(\w+)\.png\)", (COURSE / "README.md").read_text())
    assert sorted(shown) == [path.stem for path in SCRIPTS]
    assert {path.stem for path in (COURSE / "figures").glob("*.png")} == set(shown)


def test_the_readme_names_every_script():
    assert sorted(re.findall(r"\[`(\w+)\.py`\]\(\1\.py\)", (COURSE / "README.md").read_text())) == [
        path.stem for path in SCRIPTS
    ]
