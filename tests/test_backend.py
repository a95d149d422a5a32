"""How the backend, the instruction set and the threads are chosen, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import SimpleNamespace

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import backend

BUILT = bool(fs.available_isas())
built = pytest.mark.skipif(not BUILT, reason="no compiled module is in use")
threaded = pytest.mark.skipif(not (BUILT and backend._setup().module.openmp), reason="built without OpenMP")

OURS = ("FUSEDSTEP_BACKEND", "FUSEDSTEP_ISA", "FUSEDSTEP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
BLOCK = "import sys; sys.modules['fusedstep._cpu'] = None\n"
INFO = "import json, fusedstep as fs; print(json.dumps(fs.info()))\n"
KERNEL = """
import numpy as np, fusedstep as fs
p = np.ones(3)
try:
    fs.ops.sgd_step(p, np.ones(3), lr=0.5)
    print("stepped", p.tolist())
except Exception as error:
    print(type(error).__name__, error)
"""
# Tells of every attempt to load something compiled.
ATTEMPTS = """
import sys
class Attempts:
    def find_spec(self, name, path=None, target=None):
        if name in ("fusedstep._cpu", "fusedstep._cuda"):
            print("loads", name)
sys.meta_path.insert(0, Attempts())
"""
TRAIN = """
import hashlib, numpy as np, fusedstep as fs
rng = np.random.default_rng(0)
X = rng.standard_normal((96, 10), dtype=np.float32)
y = np.digitize(X[:, 0], [-0.5, 0.5])
model = fs.nn.Sequential(
    fs.nn.Dense(10, 16), fs.nn.BatchNorm(16), fs.nn.ReLU(), fs.nn.Dropout(0.25), fs.nn.Dense(16, 8), fs.nn.GELU(),
    fs.nn.Dense(8, 8), fs.nn.Tanh(), fs.nn.Dense(8, 3), seed=1,
)
optimizer = fs.optim.AdamW(model.parameters(), lr=0.01, max_norm=1.0, ema_decay=0.9)
loss = fs.nn.SoftmaxCrossEntropy()
values = []
for epoch in range(3):
    for i in range(0, 96, 32):
        value, gradient = loss(model.forward(X[i : i + 32]), y[i : i + 32])
        model.backward(gradient)
        optimizer.step()
        values.append(value)
bits = hashlib.sha256(b"".join(a.tobytes() for a in model.state_dict().values()))
bits.update(b"".join(a.tobytes() for a in optimizer.averages().values()))
bits.update(model.predict(X).tobytes() + np.array(values).tobytes())
print(fs.info()["backend"], bits.hexdigest(), values[-1] < values[0])
"""


def run(code: str, *options: str, **environment: str) -> list[str]:
    """The lines that `code` prints in a fresh interpreter with these environment variables."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    clean |= {"OPENBLAS_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "error", *options, "-c", code]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def info(*options: str, code: str = INFO, **environment: str) -> dict:
    return json.loads(run(code, *options, **environment)[-1])


@built
def test_the_reference_trains_to_the_same_bits_without_the_module():
    blocked = run(BLOCK + TRAIN, FUSEDSTEP_BACKEND="reference")[0].split()
    chosen = run(TRAIN, FUSEDSTEP_BACKEND="reference")[0].split()
    compiled = run(TRAIN)[0].split()
    assert [blocked[0], chosen[0], compiled[0]] == ["reference", "reference", "cpu"]
    assert blocked[1] == chosen[1] == compiled[1]
    assert compiled[2] == "True"


@built
def test_training_has_the_same_bits_on_every_instruction_set():
    assert len({run(TRAIN, FUSEDSTEP_ISA=isa)[0] for isa in fs.available_isas()}) == 1


def test_without_the_module_one_warning():
    code = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import numpy as np, fusedstep as fs
    imported = len(caught)
    for _ in range(2):
        fs.ops.sgd_step(np.ones(3), np.ones(3), lr=0.5)
        fs.ops.global_norm(np.ones(3))
print(imported, len(caught), caught[0].category.__name__, caught[0].filename)
print(caught[0].message)
"""
    first, message = run(BLOCK + code)
    assert first == "0 1 SlowReferenceWarning <string>"  # "<string>": it points at the user's line
    assert "slow NumPy reference: this installation has no compiled module for" in message
    assert "FUSEDSTEP_BACKEND=reference chooses the reference without this warning" in message


@pytest.mark.parametrize(
    "call",
    [
        "fs.fit(model, fs.optim.SGD(model.parameters(), 0.1), loss, (X, X), epochs=1, progress=False)",
        "fs.evaluate(model, loss, X, X)",
        "fs.landscape.trajectory(fs.optim.SGD, np.sum, np.ones_like, np.ones(2), 3)",
    ],
)
def test_the_warning_names_the_user_s_line(call):
    code = f"""
import warnings
import numpy as np, fusedstep as fs
X, loss = np.ones((8, 3), np.float32), fs.nn.MeanSquaredError()
model = fs.nn.Sequential(fs.nn.Dense(3, 3), fs.nn.Tanh())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {call}
(warning,) = caught
print(issubclass(warning.category, RuntimeWarning), warning.filename, warning.lineno)
"""
    assert run(BLOCK + code) == ["True <string> 9"]


def test_a_file_that_cannot_be_loaded_is_told_from_one_that_is_missing(tmp_path):
    """In the loader's words; the reference needs no such file."""
    (tmp_path / f"_cpu{EXTENSION_SUFFIXES[0]}").write_bytes(b"short")
    code = f"import fusedstep as fs; fs.__path__.insert(0, {str(tmp_path)!r})\n"
    told = info(code=code + INFO)
    assert told["backend"] == "reference"
    assert re.fullmatch(
        r"the compiled module cannot be loaded: .+ \(pip install --force-reinstall fusedstep\)", told["problem"]
    )
    missing = info(code=BLOCK + INFO)["problem"]
    version = ".".join(map(str, sys.version_info[:2]))
    assert missing.startswith("this installation has no compiled module for ")
    assert f" {version} on " in missing and f"fusedstep/_cpu{EXTENSION_SUFFIXES[0]}" in missing
    assert missing.endswith(" (pip install --force-reinstall fusedstep)")
    assert run(code + KERNEL, FUSEDSTEP_BACKEND="reference") == ["stepped [0.5, 0.5, 0.5]"]


def test_without_the_module_info_says_why():
    told = info(code=BLOCK + INFO)
    assert (told["backend"], told["isa"], told["available_isas"]) == ("reference", None, [])
    assert "this installation has no compiled module" in told["problem"]
    assert told["num_threads"] == 1 and told["openmp"] is None
    assert told["cuda"] is False and told["problem"] in told["cuda_reason"]


@built
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FUSEDSTEP_ISA", "nonsense", ["unknown instruction set 'nonsense'", *fs.available_isas()]),
        ("FUSEDSTEP_NUM_THREADS", "0", ["must be a positive integer but is '0'"]),
        ("FUSEDSTEP_NUM_THREADS", "abc", ["must be a positive integer but is 'abc'"]),
        ("FUSEDSTEP_NUM_THREADS", "-1", ["must be a positive integer but is '-1'"]),
        ("FUSEDSTEP_NUM_THREADS", "1.5", ["must be a positive integer but is '1.5'"]),
        ("FUSEDSTEP_BACKEND", "foo", ["must be one of auto, reference but is 'foo'"]),
    ],
)
def test_wrong_settings_are_told_at_the_first_kernel(name, value, words):
    """Importing never fails; every kernel does, with RuntimeError."""
    (line,) = run(KERNEL, **{name: value})
    told = info(**{name: value})
    for word in [name, *words]:
        assert word in line and word in told["problem"]
    assert line.startswith("RuntimeError ") and told["backend"] is None


@built
def test_an_instruction_set_that_the_machine_lacks():
    lacking = [isa for isa in ("avx2", "avx512") if isa not in fs.available_isas()]
    if not lacking:
        pytest.skip("this processor has them all")
    (line,) = run(KERNEL, FUSEDSTEP_ISA=lacking[0])
    assert line.startswith("RuntimeError FUSEDSTEP_ISA: ")
    assert f"'{lacking[0]}'" in line and "baseline" in line


def test_wrong_backend_without_the_module():
    (line,) = run(BLOCK + KERNEL, FUSEDSTEP_BACKEND="foo")
    assert line.startswith("RuntimeError FUSEDSTEP_BACKEND must be one of auto, reference")


@threaded
@pytest.mark.parametrize("isa", fs.available_isas())
def test_right_settings(isa):
    told = info(FUSEDSTEP_ISA=isa, FUSEDSTEP_NUM_THREADS="3", FUSEDSTEP_BACKEND="auto")
    assert (told["isa"], told["num_threads"], told["backend"], told["problem"]) == (isa, 3, "cpu", None)
    assert run(KERNEL, FUSEDSTEP_ISA=isa) == ["stepped [0.5, 0.5, 0.5]"]


@pytest.mark.parametrize(
    "settings", [{}, {"FUSEDSTEP_ISA": "nonsense"}, {"FUSEDSTEP_NUM_THREADS": "-1"}, {"FUSEDSTEP_ISA": "baseline"}]
)
def test_the_reference_chosen(settings):
    """Nothing compiled is loaded, and nobody reads its settings."""
    code = "fs.set_num_threads(2); print(fs.get_num_threads(), fs.available_isas())\n"
    stepped, threads, told = run(ATTEMPTS + KERNEL + code + INFO, FUSEDSTEP_BACKEND="reference", **settings)
    assert (stepped, threads) == ("stepped [0.5, 0.5, 0.5]", "1 ()")
    told = json.loads(told)
    assert (told["backend"], told["problem"], told["isa"], told["available_isas"]) == ("reference", None, None, [])
    assert told["cuda"] is False and "FUSEDSTEP_BACKEND=reference leaves them out" in told["cuda_reason"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"OMP_WAIT_POLICY": "active"},
        {"GOMP_SPINCOUNT": "7"},
        {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
    ],
)
def test_the_environment_is_left_as_it_was(given):
    code = """
import os
before = dict(os.environ)
import fusedstep
fusedstep.available_isas()
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
import ctypes
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
for name in (b"OMP_WAIT_POLICY", b"GOMP_SPINCOUNT"):
    assert getenv(name) == os.environb.get(name)
"""
    assert run(code, **given) == []


# Tells of every import of the compiled module which policy it finds; a subclass may do more at that moment.
WATCH = """
import importlib.machinery, os, sys
import fusedstep as fs
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "fusedstep._cpu":
            print("loads", os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
            self.meanwhile()
    def meanwhile(self):
        pass
sys.meta_path.insert(0, Watch())
"""


@built
@pytest.mark.parametrize(
    "call",
    [
        "fs.ops.sgd_step(np.ones(3), np.ones(3), lr=0.5)",
        "fs.ops.dropout_mask(3, 0.5, seed=0)",
        "fs.info()",
        "fs.available_isas()",
        "fs.get_num_threads()",
        "fs.set_num_threads(1)",
    ],
)
def test_the_module_is_loaded_by_the_first_call_that_needs_it(call):
    """Not by the import: a runtime that is loaded before torch is torch's, too, and its policy does not suit it."""
    code = f"""
import numpy as np
fs.nn.Sequential(fs.nn.Dense(2, 3), fs.nn.ReLU())
print("fusedstep._cpu" in sys.modules)
for _ in range(2):
    {call}
print("fusedstep._cpu" in sys.modules)
"""
    assert run(WATCH + code) == ["False", "loads passive 0", "True"]


@built
@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_a_policy_that_was_given_stays(given):
    told = (given.get("OMP_WAIT_POLICY"), given.get("GOMP_SPINCOUNT"))
    assert run(WATCH + "fs.available_isas()", **given) == [f"loads {told[0]} {told[1]}"]


@built
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize("imports", ["import fusedstep as fs, torch", "import torch, fusedstep as fs"])
def test_torch_keeps_its_own_runtime(imports):
    pytest.importorskip("torch")
    code = f"""
import os
{imports}
import numpy as np
def runtimes():
    return {{os.path.realpath(line.split()[-1]) for line in open("/proc/self/maps") if "libgomp" in line}}
before = runtimes()
fs.ops.sgd_step(np.ones(3), np.ones(3), lr=0.5)
print(before <= runtimes(), all(path.startswith(os.path.dirname(torch.__path__[0])) for path in before))
"""
    assert run(code, "-W", "ignore") == ["True True"]


@built
def test_threads_that_come_first_at_once_load_it_once():
    code = """
import threading, time
import numpy as np
Watch.meanwhile = lambda self: time.sleep(0.1)
before = dict(os.environ)
barrier = threading.Barrier(8)
def work():
    barrier.wait()
    p = np.ones(3)
    fs.ops.sgd_step(p, np.ones(3), lr=0.5)
    done.append(p.tolist() == [0.5] * 3)
done = []
workers = [threading.Thread(target=work) for _ in range(8)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(done == [True] * 8, dict(os.environ) == before)
"""
    assert run(WATCH + code) == ["loads passive 0", "True True"]


@built
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_waits_for_a_load_that_is_under_way():
    code = """
import threading, time
import numpy as np
loading = threading.Event()
def meanwhile(self):
    loading.set()
    time.sleep(0.3)
Watch.meanwhile = meanwhile
worker = threading.Thread(target=fs.available_isas)
worker.start()
loading.wait()
child = os.fork()
if child == 0:
    fs.ops.sgd_step(np.ones(3), np.ones(3), lr=0.5)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
worker.join()
"""
    assert run(WATCH + code, "-W", "ignore") == ["loads passive 0", "7"]


@threaded
def test_the_environment_is_read_at_the_first_call_and_never_again():
    code = """
import os, fusedstep as fs
os.environ["FUSEDSTEP_NUM_THREADS"] = "3"
first = fs.get_num_threads()
os.environ["FUSEDSTEP_NUM_THREADS"], os.environ["FUSEDSTEP_BACKEND"] = "2", "foo"
print(first, fs.get_num_threads(), fs.info()["problem"])
"""
    assert run(code) == ["3 3 None"]


def test_info():
    told = fs.info()
    assert json.loads(json.dumps(told)) == told
    assert told["version"] == fs.__version__ and told["numpy"] == np.__version__
    assert told["num_threads"] == fs.get_num_threads()
    keys = "version python numpy backend problem isa available_isas num_threads openmp cuda cuda_devices cuda_reason"
    assert set(told) == set(keys.split())


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", None, True])
def test_wrong_number_of_threads(n):
    before = fs.get_num_threads()
    with pytest.raises(ValueError, match="'n' must be a positive integer but got"):
        fs.set_num_threads(n)
    assert fs.get_num_threads() == before


@threaded
def test_number_of_threads():
    before = fs.get_num_threads()
    try:
        for n in (1, 2, np.int64(3)):
            fs.set_num_threads(n)
            assert fs.get_num_threads() == n
        fs.set_num_threads(10**9)  # capped: the runtime would end the process when it cannot start them
        assert 64 <= fs.get_num_threads() <= max(64, 2 * os.cpu_count())
        fs.set_num_threads(1000)
        fs.ops.sgd_step(np.ones(3), np.ones(3), lr=0.1)
    finally:
        fs.set_num_threads(before)


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (0, "this machine has no CUDA driver"),
        (12040, "the CUDA driver is too old: it has CUDA 12.4, and this build needs 13.0; update the NVIDIA driver"),
        (13000, "cudaErrorSystemDriverMismatch"),
    ],
)
def test_the_driver_is_named_where_it_is_the_reason(monkeypatch, driver, reason):
    def devices():
        raise RuntimeError("cudaErrorSystemDriverMismatch")

    module = SimpleNamespace(devices=devices, driver_version=lambda: driver, runtime_version=13000)
    monkeypatch.setattr(backend, "_load_cuda", lambda: (module, None))
    monkeypatch.setattr(backend, "_setup_done", backend._Setup(module, None, None))
    assert backend._cuda_devices() == ([], reason)
