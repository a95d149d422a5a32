"""Saved models: round trips, damage, and interrupted saves."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from fusedstep import nn
from fusedstep.nn import serialization


def every_layer(dtype=np.float32):
    model = nn.Sequential(
        *(nn.Flatten(), nn.Dense(6, 5, init="lecun"), nn.BatchNorm(5, eps=1e-4, momentum=None), nn.ReLU()),
        *(nn.Dropout(0.25), nn.Dense(5, 4, bias=False), nn.LeakyReLU(0.3), nn.Dense(4, 4), nn.Tanh()),
        *(nn.BatchNorm(4, affine=False, unbiased_running_var=False), nn.Sigmoid(), nn.GELU()),
        nn.BatchNorm(4, track_running_stats=False),
        seed=2**63 + 1,
        dtype=dtype,
    )
    model.forward(batch(dtype))
    return model


def batch(dtype=np.float32):
    return np.random.default_rng(0).normal(size=(7, 3, 2)).astype(dtype)


def assert_same_state(model, state):
    actual = model.state_dict()
    assert actual.keys() == state.keys()
    for name, array in state.items():
        assert actual[name].dtype == array.dtype
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip(path, dtype):
    model = every_layer(dtype)
    model.save(path)
    loaded = nn.load(path)
    assert repr(loaded) == repr(model)
    assert (loaded.seed, loaded.random_offset, loaded.dtype) == (model.seed, model.random_offset, model.dtype)
    assert_same_state(loaded, model.state_dict())
    x = batch(dtype)
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    # and training goes on with the same bits
    dy = np.ones((7, 4), dtype)
    np.testing.assert_array_equal(loaded.forward(x), model.forward(x))
    np.testing.assert_array_equal(loaded.backward(dy), model.backward(dy))
    assert_same_state(loaded, model.state_dict())


def test_path_as_text(path):
    every_layer().save(str(path))
    assert_same_state(nn.load(str(path)), every_layer().state_dict())


def test_any_safetensors_reader_can_read_it(path):
    model = every_layer()
    model.save(path)
    state = safetensors.numpy.load_file(path)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(state[name], array)


def test_values_that_are_not_finite_survive(path):
    model = nn.Sequential(nn.Dense(2, 2))
    model.parameters()[0].array[...] = [[np.nan, np.inf], [-np.inf, -0.0]]
    model.save(path)
    loaded = nn.load(path).parameters()[0].array
    np.testing.assert_array_equal(loaded.view(np.uint32), model.parameters()[0].array.view(np.uint32))


def test_numpy_arguments_can_be_saved(path):
    model = nn.Sequential(
        nn.Dense(np.int64(2), np.int32(3), bias=np.True_), nn.Dropout(np.float32(0.5)), seed=np.uint8(3)
    )
    model.save(path)
    assert repr(nn.load(path)) == repr(model)


# -- damage


def test_every_truncation_is_noticed(path):
    every_layer().save(path)
    data = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors: not a complete safetensors file"):
            nn.load(path)


def test_every_changed_byte_is_noticed(path):
    model = nn.Sequential(nn.Dense(2, 1), nn.BatchNorm(1), nn.LeakyReLU(0.1))
    model.save(path)
    data = path.read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x01
        path.write_bytes(damaged)
        try:
            loaded = nn.load(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:  # nothing but white space and the order of tensors may change without effect
            assert repr(loaded) == repr(model)
            assert_same_state(loaded, model.state_dict())


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x04\x95pickle", bytes(1000), b"\xff" * 1000])
def test_foreign_file(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: not a complete safetensors file"):
        nn.load(path)


def write(path, state, **metadata):
    path.write_bytes(safetensors.numpy.save(state, metadata or None))


def write_as_model(path, architecture, state):
    text = json.dumps(architecture)
    write(path, state, format=serialization._FORMAT, architecture=text, crc32=serialization._checksum(text, state))


def test_foreign_safetensors(path):
    state = {"0.weight": np.zeros((2, 2), np.float32)}
    write(path, state)
    with pytest.raises(
        ValueError, match=r"not a model that Sequential\.save wrote: the format in its metadata is None"
    ):
        nn.load(path)
    write(path, state, format="pt")
    with pytest.raises(ValueError, match="metadata is 'pt'"):
        nn.load(path)
    write(path, state, format=serialization._FORMAT, architecture="{}")
    with pytest.raises(ValueError, match="have no 'crc32'"):
        nn.load(path)


def test_changed_tensor(path):
    model = every_layer()
    model.save(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    state = model.state_dict()
    state["1.weight"][0, 0] += 1
    write(path, state, **metadata)
    with pytest.raises(ValueError, match="do not match its checksum"):
        nn.load(path)


def changed(architecture, index=None, **entries):
    if index is None:
        return architecture | entries
    layers = [dict(config) for config in architecture["layers"]]
    layers[index] |= entries
    return architecture | {"layers": layers}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: changed(a, 0, layer="Conv"), "layer 0 is an unknown 'Conv'"),
        (lambda a: changed(a, 0, layer=["Dense"]), "not one of a Sequential"),
        (lambda a: changed(a, 0, in_features=-1), r"\[Dense\] 'in_features' must be"),
        (lambda a: changed(a, 0, stride=2), "not one of a Sequential: .*unexpected keyword argument 'stride'"),
        (lambda a: changed(a, 0, out_features=4), r"takes 3 features but layer 0, Dense\(.*gives 4"),
        (lambda a: changed(a, 1, track_running_stats=False), r"the state has '1\.\w+', which this model has not"),
        (lambda a: changed(a, dtype="float64"), "'0.weight' must be float64 but the state has float32"),
        (lambda a: changed(a, dtype="complex"), "float32 or float64"),
        (lambda a: changed(a, dtype="nonsense"), "not one of a Sequential"),
        (lambda a: changed(a, seed=-1), "'seed' must be"),
        (lambda a: changed(a, random_offset="7"), "'random_offset' must be"),
        (lambda a: changed(a, layers=[]), "at least one layer"),
        (lambda a: changed(a, layers=3), "not one of a Sequential"),
        (lambda a: {key: a[key] for key in ("layers", "seed", "dtype")}, "the architecture has no 'random_offset'"),
        (lambda a: [], "not one of a Sequential"),
        (lambda a: None, "not one of a Sequential"),
    ],
)
def test_wrong_architecture(path, change, message):
    model = nn.Sequential(nn.Dense(2, 3), nn.BatchNorm(3))
    write_as_model(path, change(model.architecture()), model.state_dict())
    with pytest.raises(ValueError, match=r"model\.safetensors: .*" + message):
        nn.load(path)


def test_architecture_that_is_no_json(path):
    state = nn.Sequential(nn.ReLU()).state_dict()
    crc32 = serialization._checksum("{", state)
    write(path, state, format=serialization._FORMAT, architecture="{", crc32=crc32)
    with pytest.raises(ValueError, match=r"model\.safetensors: its architecture is not JSON"):
        nn.load(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        nn.load(path)
    with pytest.raises(OSError, match=str(path.parent)):
        nn.load(path.parent)
    with pytest.raises(FileNotFoundError):
        every_layer().save(path.parent / "missing" / "model")


# -- interrupted saves


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_save_leaves_the_old_file(path, monkeypatch, function, error):
    old = every_layer()
    old.save(path)
    other = every_layer()
    other.parameters()[0].array[...] = 0

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        other.save(path)
    monkeypatch.undo()
    assert_same_state(nn.load(path), old.state_dict())
    assert os.listdir(path.parent) == [path.name]


def test_every_byte_of_a_file_follows_from_its_content(tmp_path):
    code = "import sys; from fusedstep import nn; nn.Sequential(nn.Dense(3, 4), nn.BatchNorm(4)).save(sys.argv[1])"
    for name in "abcd":
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


def test_without_safetensors_all_but_saving_and_loading_works(tmp_path):
    """It has no wheel for Python without the GIL."""
    code = """
import sys
sys.modules["safetensors"] = None
import numpy as np, fusedstep as fs
X, y = np.eye(8, dtype=np.float32), np.arange(8) % 2
loss, cv = fs.nn.SoftmaxCrossEntropy(), fs.model_selection.RotatingKFold(3)
def model(seed=0): return fs.nn.Sequential(fs.nn.Dense(8, 2), seed=seed)
def optimizer(model): return fs.optim.Adam(model.parameters(), lr=0.1)
def fit(**options):
    trained = model()
    history = fs.fit(trained, optimizer(trained), loss, (X, y), epochs=9, progress=False, **options)
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
    return trained
def validate(**options):
    return fs.model_selection.cross_validate(
        model, optimizer, loss, X, y, cv=cv, blas_threads=None, epochs=2, progress=False, **options)
trained = fit()
validate()
for refused in (
    lambda: trained.save("model"),
    lambda: fs.nn.load("model"),
    lambda: fs.checkpoint.load_checkpoint("run", trained, optimizer(trained)),
    lambda: fit(callbacks=fs.callbacks.Checkpoint("run")),
    lambda: fit(resume="run"),
    lambda: validate(folder="folds"),
):
    try: refused()
    except ImportError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["safetensors is missing: pip install safetensors"] * 6
    assert not list(tmp_path.iterdir())
