"""The version has one place and an entry in the changelog; workflows are YAML, pinned, and need no secret."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fusedstep as fs

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))  # none in an sdist
by_name = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def test_newest_version_of_the_changelog_is_the_packages():
    entries = re.findall(r"^## \[(.+)\] - (unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert entries[0][0] == fs.__version__
    assert all(date != "unreleased" for _, date in entries[1:])


def test_version_has_one_place():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in settings["project"] and settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["scikit-build"]["metadata"]["version"]["input"] == "python/fusedstep/__init__.py"


def test_wheels_carry_the_licenses_of_what_is_in_them():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    files = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license-files"]
    assert files == ["LICENSE", "THIRD_PARTY_NOTICES.txt"]
    notices = (ROOT / files[1]).read_text()
    assert "Copyright (c) 2016 Wenzel Jakob" in notices and "THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT" in notices
    for word in ("BSD-3-Clause", "libgomp", "GCC Runtime Library Exception", "libcudart_static", "vcomp140.dll"):
        assert word in notices
    readme = (ROOT / "README.md").read_text()
    assert files[1] in readme and readme.index("No version has been released yet") < readme.index("pip install")


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in BLOCKED: raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_tests_of_the_wheels_do_with_the_packages_that_they_get():
    """Without the GIL that is less than the package depends on."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    python, *command = shlex.split(settings["test-command"].format(project=ROOT.as_posix()))
    assert python == "python" and command[:2] == ["-m", "pytest"]
    (required,) = [o["test-requires"] for o in settings["overrides"] if "PIP_NO_DEPS" in o.get("test-environment", ())]
    given = {re.match(r"[\w.-]+", text)[0].lower() for text in required} | {"fusedstep"}
    installed = importlib.metadata.packages_distributions()
    blocked = {module for module, names in installed.items() if not given & {name.lower() for name in names}}
    assert "safetensors" in blocked and "numpy" not in blocked
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.replace("BLOCKED:", f"{blocked}:"), "--collect-only", *command[2:]],
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout


@by_name
def test_workflow_has_jobs_and_few_permissions(path):
    workflow = pytest.importorskip("yaml").safe_load(path.read_text())
    assert workflow["jobs"] and workflow["permissions"] in ({}, {"contents": "read"})


@by_name
def test_workflow_needs_no_secret(path):
    assert not re.search(r"\bsecrets\b", path.read_text())


@by_name
def test_actions_are_pinned(path):
    used = re.findall(r"uses: (\S+)", path.read_text())
    assert used and all(re.fullmatch(r"\./\S+|\S+@[0-9a-f]{40}", action) for action in used)
