"""What ``import fusedstep`` loads, and that every name is there from the first moment on, in any order."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import fusedstep as fs

ECOSYSTEMS = {"torch", "sklearn", "scipy", "matplotlib", "joblib", "pandas", "cupy", "threadpoolctl", "pyarrow"}
LATE = {"tqdm", "safetensors", "importlib.metadata", "concurrent.futures", "logging"}
MISSING = {name for name in ("sklearn", "torch") if importlib.util.find_spec(name) is None}
NAMES = sorted({*fs.__all__, *fs._MORE} - MISSING - {"torch"})  # fs.torch takes seconds; its own tests begin with it

FORGET = f"""
import sys, numpy
def fresh():
    for name in [name for name in sys.modules if name.partition(".")[0] == "fusedstep"]:
        del sys.modules[name]
    import fusedstep
    return fusedstep
names = {NAMES}
"""


def python(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def printed(code: str) -> str:
    done = python(code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def brought(statement: str) -> set[str]:
    """The modules that a fresh interpreter loads for `statement` beyond those of NumPy."""
    code = f"import sys, numpy; had = set(sys.modules)\n{statement}\nprint(*sorted(set(sys.modules) - had))"
    return set(printed(code).split())


def test_import_loads_the_kernels_alone():
    new = brought("import fusedstep")
    parts = {name.split(".")[1] for name in new if name.startswith("fusedstep.")}
    assert parts == {"_arena", "_result_memory", "backend", "ops", "reference"}
    assert not new & {*ECOSYSTEMS, *LATE, "json", "pathlib", "numpy.random", "fusedstep._cpu"}


@pytest.mark.parametrize("statement", ["from fusedstep import *", "from fusedstep import nn, optim, data; nn.ReLU()"])
def test_nothing_heavy_is_loaded_before_it_is_used(statement):
    new = brought(statement)
    assert "fusedstep.nn.layers" in new and not new & (ECOSYSTEMS | LATE)


def test_any_name_may_be_the_first():
    """No cycle of imports that only another order would close."""
    code = """
for name in names:
    fusedstep = fresh()
    assert name in dir(fusedstep) or name in fusedstep._MORE, name
    assert getattr(fusedstep, name) is getattr(fusedstep, name), name
print(len(names))
"""
    assert printed(FORGET + code) == str(len(NAMES))


def test_threads_may_ask_at_once():
    code = """
import threading
sys.setswitchinterval(1e-5)
for turn in range(8):
    fusedstep, found = fresh(), {}
    barrier = threading.Barrier(len(names))
    def ask(name):
        barrier.wait()
        found[name] = getattr(fusedstep, name)
    order = names[turn:] + names[:turn]
    workers = [threading.Thread(target=ask, args=(name,)) for name in order]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    assert found == {name: getattr(fusedstep, name) for name in names}
    assert fusedstep.training.History is fusedstep.History
print("done")
"""
    assert printed(FORGET + code) == "done"


def test_a_thread_never_looks_for_a_package_that_another_moves():
    """The interpreter takes a module that it has loaded out of sys.modules for a moment, to put it at the end.

    One thread loads `nn`, and each of the others asks for something else. Whoever is about to look `nn` up for a module
    of it stops there until it is out, and the first thread keeps it out until then.
    """
    code = """
import importlib, threading, time
bootstrap = importlib._bootstrap
with open(bootstrap.__file__) as file:
    source = [line.strip() for line in file]
lines = {text: {i for i, line in enumerate(source, 1) if line == text} for text in (
    "parent_module = sys.modules[parent]", "module = sys.modules.pop(spec.name)", "sys.modules[spec.name] = module"
)}
assert all(lines.values())
looks, takes_out, puts_back = lines.values()
package, first, looking = "fusedstep.nn", None, threading.Event()

def traced(frame, event, arg):
    return step if frame.f_code.co_filename == bootstrap._load_unlocked.__code__.co_filename else None

def step(frame, event, arg):
    line, seen = frame.f_lineno if event == "line" else None, frame.f_locals
    if line in looks and seen["parent"] == package and under_way() and threading.current_thread() is not first:
        looking.set()
        end = time.monotonic() + 1
        while package in sys.modules and time.monotonic() < end: time.sleep(1e-3)
    elif line in takes_out and seen["spec"].name == package:
        looking.wait(1)
    elif line in puts_back and seen["spec"].name == package and "module" in seen:
        time.sleep(0.05)
    return step

def under_way():
    module = sys.modules.get(package)
    return module is None or module.__spec__._initializing

def ask(name):
    try: getattr(fusedstep, name)
    except BaseException as error: failures.append((name, error))

fusedstep, failures = fresh(), []
threading.settrace(traced)
first = threading.Thread(target=ask, args=("nn",))
others = [threading.Thread(target=ask, args=(name,)) for name in names if name != "nn"]
first.start()
while package not in sys.modules: time.sleep(1e-4)
for thread in others: thread.start()
for thread in (first, *others): thread.join()
print(looking.is_set(), failures)
"""
    assert printed(FORGET + code) == "False []"


def test_no_module_is_imported_ahead_of_its_package():
    """What threads that ask at once rely on; see python/fusedstep/__init__.py."""
    code = """
import builtins, importlib.util
original, imported, ahead = builtins.__import__, set(), set()
def watch(name, globals=None, locals=None, fromlist=(), level=0):
    full = importlib.util.resolve_name("." * level + name, globals["__package__"]) if level else name
    imported.add(full)
    if full.startswith("fusedstep.") and full.rpartition(".")[0] not in sys.modules:
        ahead.add((globals["__name__"], full))
    return original(name, globals, locals, fromlist, level)
builtins.__import__ = watch
for name in names:
    getattr(fresh(), name)
builtins.__import__ = original
assert "fusedstep.nn.inspection" in imported
print(*sorted(ahead))
"""
    assert printed(FORGET + code) == ""


def test_dir_lists_what_is_public():
    listed = printed("import fusedstep; print(*dir(fusedstep))").split()
    assert {*fs.__all__, "__version__", "__path__"} <= set(listed)
    assert listed == sorted(set(listed))
    assert not {"sklearn", "torch", "importlib", "TYPE_CHECKING"} & set(listed)


def test_checkers_see_the_same_names():
    """The imports for static type checkers agree with the lazy ones."""
    tree = ast.parse(Path(inspect.getfile(fs)).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    at_once = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: fs._HOMES.get(name) for name in fs.__all__ if name not in at_once}
    assert fs._HOMES.keys() <= seen.keys()
    for name in fs.__all__:
        thing = getattr(fs, name)
        assert thing.__name__ == (f"fusedstep.{name}" if inspect.ismodule(thing) else name)


@pytest.mark.parametrize("statement", ["import fusedstep.nn", "from fusedstep import nn", "import fusedstep.optim"])
def test_modules_are_imported_as_ever(statement):
    assert printed(f"{statement}\nimport fusedstep as fs\nprint(fs.nn.Dense(2, 3).in_features)") == "2"


def test_a_pickle_needs_no_import():
    history = pickle.dumps(fs.History([{"epoch": 1, "train_loss": 0.5}]))
    assert printed(f"import pickle; print(pickle.loads({history!r}).rows[0]['train_loss'])") == "0.5"
    assert pickle.loads(pickle.dumps(fs.fit)) is fs.fit


@pytest.mark.parametrize("patched", ["fusedstep.training.fit", "fusedstep.fit"])
def test_what_is_put_in_the_place_of_a_name_goes_again(patched):
    code = f"""
from unittest import mock
with mock.patch({patched!r}) as other:
    import fusedstep
    assert fusedstep.fit is other
from fusedstep.training import fit
assert fusedstep.fit is fit and fit is not other
"""
    assert printed(code) == ""


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'fusedstep' has no attribute 'optin'"):
        fs.optin  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'optin' from 'fusedstep'"):
        from fusedstep import optin  # noqa: F401
    assert not hasattr(fs, "_loop_")
    assert "Did you mean: 'optim'?" in python("import fusedstep; fusedstep.optin").stderr


def test_every_module_can_do_without_docstrings():
    code = f"""
import importlib, pkgutil, fusedstep
for module in pkgutil.walk_packages(fusedstep.__path__, "fusedstep."):
    if module.name.split(".")[1] not in {{"__main__", "_cpu", "_cuda", *{MISSING}}}:
        importlib.import_module(module.name)
print(fusedstep.fit.__doc__)
"""
    command = [sys.executable, "-OO", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


@pytest.mark.parametrize("package", ["sklearn", "torch"])
def test_a_missing_package_is_named(package):
    code = f"""
import sys, fusedstep as fs
sys.modules[{package!r}] = None
for _ in range(2):
    try: getattr(fs, {package!r})
    except ImportError as error: print(error)
"""
    lines = printed(code).splitlines()
    assert len(lines) == 2 and all(f"pip install 'fusedstep[{package}]'" in line for line in lines)
