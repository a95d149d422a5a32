"""The stubs of the compiled modules say what these have: functions, with the types of what they take and give, and
attributes.

They are not generated: pybind11 knows no names of arguments here, and writes `object` where the stubs tell arrays from
numbers. What it does know, it wrote into the docstrings.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fusedstep as fs
from fusedstep import backend

PACKAGE = Path(fs.__file__).parent
# In signatures of pybind11 3 and of stubs.
KINDS = {
    "typing.SupportsFloat | typing.SupportsIndex": "float",
    "typing.SupportsInt | typing.SupportsIndex": "int",
    "collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]": "tuple",
    "_Common": "tuple",
    "Any": "object",
    "_Array": "object",
    "_Arrays": "object",
    "_Number": "object",
    "_Counter": "object",
    "_Dropout": "object",
}


def kind(annotation: str) -> str:
    """What pybind11 can tell of it: an argument that may be None is an object to it, and it names no items."""
    if annotation in KINDS:
        return KINDS[annotation]
    return "object" if annotation.endswith("| None") else annotation.partition("[")[0]


def in_stub(name: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """(the kinds that each function and method takes and gives, the types of the other names)"""
    functions: dict[str, list[str]] = {}
    others: dict[str, str] = {}
    for node in ast.parse((PACKAGE / f"{name}.pyi").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = _kinds(node)
        elif isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
            functions |= {f"{node.name}.{method.name}": _kinds(method) for method in methods}
        elif isinstance(node, ast.AnnAssign):
            others[node.target.id] = ast.unparse(node.annotation)
        elif isinstance(node, ast.ImportFrom) and node.module == "_cpu":
            all_functions, _ = in_stub("_cpu")
            for alias in node.names:
                functions |= {n: v for n, v in all_functions.items() if n.partition(".")[0] == alias.name}
    return functions, others


def _kinds(node: ast.FunctionDef) -> list[str]:
    arguments = [a.annotation for a in (*node.args.posonlyargs, *node.args.args) if a.arg != "self"]
    return [kind(ast.unparse(annotation)) for annotation in (*arguments, node.returns)]


def in_module(module) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The same of what pybind11 wrote into the docstrings."""
    functions: dict[str, list[str]] = {}
    others: dict[str, str] = {}
    for name, value in vars(module).items():
        if name.startswith("__"):
            continue
        if isinstance(value, type):
            for method, function in vars(value).items():
                if method == "__init__" or not method.startswith("_"):
                    functions[f"{name}.{method}"] = _documented(method, function)
        elif callable(value):
            functions[name] = _documented(name, value)
        else:
            others[name] = type(value).__name__
    return functions, others


def _documented(name: str, function) -> list[str]:
    arguments, result = re.match(rf"{name}\((.*)\) -> (.*)", function.__doc__).groups()
    return [kind(each) for each in (*re.findall(r"arg\d+: (.*?)(?:, |$)", arguments), result)]


@pytest.mark.skipif(backend.native() is None, reason="FUSEDSTEP_BACKEND=reference")
def test_the_stub_of_the_processor():
    assert in_module(backend.native()) == in_stub("_cpu")


def test_the_stub_of_cuda():
    pytest.importorskip("fusedstep._cuda")
    from fusedstep import _cuda

    assert in_module(_cuda) == in_stub("_cuda")
