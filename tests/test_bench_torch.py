"""``bench/torch_drop_ins.py``: the works, the table, the checks ahead of it; and the loops of its ceilings."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fusedstep as fs
from fusedstep._bench.loops import compiled_loops

torch = pytest.importorskip("torch")
if fs.info()["backend"] == "reference":
    pytest.skip("the reference takes no torch tensors", allow_module_level=True)
if shutil.which(os.environ.get("CXX", "c++")) is None:
    pytest.skip("the loops of the same traffic need a C++ compiler", allow_module_level=True)

SCRIPT = Path(__file__).parents[1] / "bench" / "torch_drop_ins.py"
TARGETS = {
    "adamw": 1.0,
    "rmsprop": 5.0,
    "adam-mlp": 4.0,
    "adam-200": 2.0,
    "adamw-clipping": 1.3,
    "batch-norm": 5.0,
    "batch-norm-inplace": None,
    "dropout": 8.0,
}
IN_THE_CACHE = {"adam-mlp", "adam-200"}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("torch_drop_ins", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_works(script):
    assert {work.name: work.targets for work in script.works()} == {
        n: {"ratio": least} if least else {} for n, least in TARGETS.items()
    }
    assert len(script.MLP) == 6 and sum(np.prod(shape) for shape in script.MLP) == 26_122


def test_the_table(tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--repeats", "2", "--json", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    stored = json.loads(path.read_text())
    assert stored["command"] == f"python bench/torch_drop_ins.py --quick --repeats 2 --json {path}"
    assert {"date", "processor", "isa", "num_threads", "torch", "torch's threads"} <= stored["machine"].keys()
    rows = {row["work"]: row for row in stored["rows"]}
    assert list(rows) == list(TARGETS) and "failures" not in stored
    for name, row in rows.items():
        assert row["title"] in result.stdout and row["ratio"] > 0 and "targets" not in row
        assert ("share" in row) == (name not in IN_THE_CACHE)


def test_all_step_the_same_memory_by_the_same_gradients(script, monkeypatch):
    made = []
    for kind in (fs.torch.optim.AdamW, torch.optim.AdamW):
        init = kind.__init__
        monkeypatch.setattr(kind, "__init__", lambda self, *a, i=init, **k: made.append(self) or i(self, *a, **k))
    sides = {work.name: work for work in script.works()}["adamw-clipping"].make(True)
    (p,) = made[0].param_groups[0]["params"]
    assert all(o.state is made[0].state and o.param_groups[0]["params"][0] is p for o in made)
    given = p.grad.clone()
    for function in sides.functions().values():
        function()
        sides.before()
        assert torch.equal(p.grad, given)
    assert sides.bytes_moved == 100_000 * 4 * 8
    assert list(sides.peers) == ["clip_grad_norm_, torch fused"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_side_that_computes_something_else_is_found(name, script, monkeypatch):
    # what each work is given wrong: a step of another size, another p, another epsilon
    for kind in ("AdamW", "RMSprop", "Adam"):
        ours = getattr(fs.torch.optim, kind)
        monkeypatch.setattr(
            fs.torch.optim, kind, lambda params, ours=ours, **options: ours(params, lr=1.1e-3, **options)
        )
    monkeypatch.setattr(script.fs.torch.nn.Dropout, "forward", lambda self, x: torch.nn.functional.dropout(x, 0.3))
    replace = fs.torch.replace_modules
    monkeypatch.setattr(script.fs.torch, "replace_modules", lambda model, fuse_relu: _with_eps(replace(model), 1e-2))
    work = {work.name: work for work in script.works()}[name]
    with pytest.raises(AssertionError):
        work.make(True).check()


def _with_eps(model, eps):
    model[0].eps = eps
    return model


def test_a_work_that_is_not_there(script, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(["--work", "adamw", "sgd"])
    assert "argument --work: there is no 'sgd'; there are adamw, rmsprop, " in capsys.readouterr().err


def test_loops_leave_what_they_update():
    """And copy, and read to the end."""
    loops = compiled_loops()
    rng = np.random.default_rng(0)
    for n in (0, 1, 1001, 1_000_003):
        arrays = [rng.normal(size=n).astype(np.float32) for _ in range(4)]
        before = [a.copy() for a in arrays]
        addresses = [a.ctypes.data for a in arrays]
        loops.update3(*addresses, n)
        loops.update2(*addresses[:3], n)
        for a, b in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(a, b)
        loops.copy(*addresses[:2], n)
        np.testing.assert_array_equal(arrays[1], arrays[0])
        few = max(0, n - 5)
        loops.copy(addresses[0], addresses[2] + 4, few)  # where no vector begins; no further than it should
        np.testing.assert_array_equal(arrays[2][1 : few + 1], arrays[0][:few])
        np.testing.assert_array_equal(arrays[2][few + 1 :], before[2][few + 1 :])
        assert loops.read(addresses[0], n) == arrays[0].view(np.uint32).sum(dtype=np.uint32)
