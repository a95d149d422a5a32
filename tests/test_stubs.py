"""The stubs of the compiled modules name what these have: functions, how many arguments, attributes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fusedstep as fs
from fusedstep import backend

PACKAGE = Path(fs.__file__).parent


def in_stub(name: str) -> tuple[dict[str, set[int]], set[str]]:
    """(the numbers of arguments that each function and method takes, the other names)"""
    functions: dict[str, set[int]] = {}
    others = set()
    for node in ast.parse((PACKAGE / f"{name}.pyi").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, set()).add(_count(node))
        elif isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
            functions |= {f"{node.name}.{method.name}": {_count(method)} for method in methods}
        elif isinstance(node, ast.AnnAssign):
            others.add(node.target.id)
        elif isinstance(node, ast.ImportFrom) and node.module == "_cpu":
            all_functions, _ = in_stub("_cpu")
            for alias in node.names:
                functions |= {n: v for n, v in all_functions.items() if n.partition(".")[0] == alias.name}
    return functions, others


def _count(node: ast.FunctionDef) -> int:
    return len([*node.args.posonlyargs, *node.args.args])


def in_module(module) -> tuple[dict[str, set[int]], set[str]]:
    """The same of what pybind11 wrote into the docstrings."""
    functions: dict[str, set[int]] = {}
    others = set()
    for name, value in vars(module).items():
        if name.startswith("__"):
            continue
        if isinstance(value, type):
            for method, function in vars(value).items():
                if method == "__init__" or not method.startswith("_"):
                    functions[f"{name}.{method}"] = _counts(method, function)
        elif callable(value):
            functions[name] = _counts(name, value)
        else:
            others.add(name)
    return functions, others


def _counts(name: str, function) -> set[int]:
    signatures = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> ", function.__doc__, flags=re.MULTILINE)
    return {len(re.findall(r"\w+: ", signature)) for signature in signatures}


@pytest.mark.skipif(backend.native() is None, reason="FUSEDSTEP_BACKEND=reference")
def test_the_stub_of_the_processor():
    assert in_module(backend.native()) == in_stub("_cpu")


def test_the_stub_of_cuda():
    pytest.importorskip("fusedstep._cuda")
    from fusedstep import _cuda

    assert in_module(_cuda) == in_stub("_cuda")
