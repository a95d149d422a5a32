"""The course's scripts run without a warning and write pictures; the README shows all, and says what they measure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COURSE = Path(__file__).parents[1] / "examples" / "course"
SCRIPTS = sorted(set(COURSE.glob("*.py")) - {COURSE / "_figure.py"})


NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?"


@pytest.fixture(scope="module", params=SCRIPTS, ids=lambda path: path.stem)
def run(request, tmp_path_factory):
    """A script's path, the folder it ran in, and what it printed."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp(request.param.stem)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error", str(request.param)]
    options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 300}
    result = subprocess.run(command, cwd=folder, env=environment, **options)
    assert result.returncode == 0, result.stderr
    return request.param, folder, result.stdout


def caption(stem):
    """The sentences of a picture in the README, in one line."""
    text = (COURSE / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"\(figures/{stem}\.png\)(.*?)\[`{stem}\.py`\]", text, re.DOTALL)
    return " ".join(found.split())


def tolerance(quoted):
    """A tenth, or 2 in the last digit behind the point: matrix products differ a little between processors.

    What lies on a grid, as the best epoch does, may then move by more: a script claims a range of it, in words.
    """
    digits = len(quoted.partition(".")[2]) if "." in quoted and "e" not in quoted else None
    return max(0.1 * value(quoted), 2 * 10**-digits if digits else 0)


def value(number):
    return float(number.replace(",", ""))


def unchecked(text, claims):
    """The numbers of a caption that no claim covers; each claim must be found in it, with about the same numbers."""
    for claim in claims:
        words = f"({NUMBER})".join(map(re.escape, re.split(NUMBER, claim)))
        found = re.search(words, text)
        assert found, f"no such words in the caption: {claim}"
        for quoted, measured in zip(found.groups(), re.findall(NUMBER, claim), strict=True):
            assert abs(value(measured) - value(quoted)) <= tolerance(quoted), f"{quoted} in the caption of: {claim}"
        text = text[: found.start()] + "..." + text[found.end() :]
    return re.findall(NUMBER, text)


def test_a_script_writes_its_picture(run):
    path, folder, printed = run
    (picture,) = folder.iterdir()
    assert picture.name == f"{path.stem}.png" and picture.name in printed
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 15_000


def test_a_caption_says_what_its_script_measures(run):
    """Its words hold, and each of its numbers is one that the script prints."""
    path, _, printed = run
    assert "README, but not here:" not in printed, printed
    claims = re.findall("^README: (.*)$", printed, re.MULTILINE)
    assert claims
    assert unchecked(caption(path.stem), claims) == []


def test_a_wrong_number_is_found():
    text = "The loss is 0.57, after 1,160 steps, on 3 of 40."
    assert unchecked(text, ["The loss is 0.59", "after 1100 steps", "on 3 of 40"]) == []
    assert unchecked(text, ["after 1100 steps"]) == ["0.57", "3", "40"]
    for claim in ("The loss is 0.64", "after 900 steps", "on 4 of 40"):
        with pytest.raises(AssertionError, match="in the caption of"):
            unchecked(text, [claim])
    with pytest.raises(AssertionError, match="no such words"):
        unchecked(text, ["The loss was 0.57"])


def test_the_readme_shows_every_picture():
    shown = re.findall(r"!\[[^]]+\]\(figures/(\w+)\.png\)", (COURSE / "README.md").read_text())
    assert sorted(shown) == [path.stem for path in SCRIPTS]
    assert {path.stem for path in (COURSE / "figures").glob("*.png")} == set(shown)


def test_the_readme_names_every_script():
    assert sorted(re.findall(r"\[`(\w+)\.py`\]\(\1\.py\)", (COURSE / "README.md").read_text())) == [
        path.stem for path in SCRIPTS
    ]


@pytest.mark.parametrize("path", [COURSE / "README.md", *SCRIPTS], ids=lambda path: path.stem)
def test_per_cent_is_written_in_one_way(path):
    assert re.findall(r"\d %.*", path.read_text(encoding="utf-8")) == []
