"""Checkpoints that are damaged, foreign or another run's are refused, and leave the model; so do saves that fail."""

import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import small_problem as small
from fusedstep import nn, optim
from fusedstep.callbacks import Checkpoint
from fusedstep.checkpoint import _crc32, load_checkpoint, save_checkpoint
from fusedstep.data import MiniBatches
from fusedstep.history import History
from test_checkpoint import OPTIMIZERS, train


def untrained():
    model = small.model(seed=9)
    return model, OPTIMIZERS["Adam"](model.parameters())


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    train(2, callbacks=[Checkpoint(path)])
    return path


def refused(path, match, model=None, optimizer=None):
    if model is None:
        model, optimizer = untrained()
    before, offset, steps = small.state(model), model.random_offset, repr(optimizer.state_dict())
    with pytest.raises(ValueError, match=match) as caught:
        load_checkpoint(path, model, optimizer)
    assert str(path) in str(caught.value)
    assert (small.state(model), model.random_offset, repr(optimizer.state_dict())) == (before, offset, steps)


def test_truncated_files_are_refused(checkpoint):
    data = checkpoint.read_bytes()
    for length in (0, 1, 7, 8, 100, len(data) // 2, len(data) - 1):
        checkpoint.write_bytes(data[:length])
        refused(checkpoint, "not a complete safetensors file")


def test_changed_values_are_refused(checkpoint):
    data = bytearray(checkpoint.read_bytes())
    values = len(data) - 8 - int.from_bytes(data[:8], "little")  # behind the header
    for position in (-1, -values // 2, -values):
        changed = bytearray(data)
        changed[position] ^= 1
        checkpoint.write_bytes(changed)
        refused(checkpoint, "damaged checkpoint: the checksum")


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(b"\x80\x04K\x01.")
    refused(path, "not a complete safetensors file")
    save_file({"a": np.zeros(3)}, path)
    refused(path, "not a checkpoint of fusedstep")
    small.model().save(path)
    refused(path, "not a checkpoint of fusedstep")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "missing", *untrained())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.clear(), "version None"),
        (lambda c: c.update(version=99), "version 99 but this fusedstep reads version 2"),
        (lambda c: c.pop("optimizer"), "'optimizer' is missing"),
        (lambda c: c.update(model={"array": "nowhere"}), "KeyError.*nowhere"),
        (lambda c: c.update(model={"pickle": "nowhere"}), "unknown entry 'pickle'"),
        (lambda c: c.update(history={}), "rows"),
        (lambda c: c.update(callbacks=[1]), "damaged checkpoint"),
        (lambda c: c.update(optimizer=3), "does not fit"),
        (lambda c: c.update(random_offset="many"), "damaged checkpoint"),
        (lambda c: c.update(random_offset=-1), "does not fit"),
    ],
)
def test_changed_headers_are_refused(checkpoint, change, message):
    with safe_open(checkpoint, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = json.loads(file.metadata()["fusedstep_checkpoint"])
    change(content)
    text = json.dumps(content)
    save_file(tensors, checkpoint, {"fusedstep_checkpoint": text, "crc32": _crc32(text, tensors)})
    refused(checkpoint, message)


def test_a_changed_number_in_the_header_is_refused(checkpoint):
    data = checkpoint.read_bytes()
    name = b'\\"random_offset\\": '
    assert data.count(name) == 1
    place = data.index(name) + len(name)
    digit = b"1" if data[place : place + 1] != b"1" else b"2"
    checkpoint.write_bytes(data[:place] + digit + data[place + 1 :])
    refused(checkpoint, "damaged checkpoint: the checksum")


def test_any_failure_of_the_optimizer_leaves_the_model(checkpoint):
    class Odd(optim.SGD):
        def load_state_dict(self, state):
            raise AttributeError("no such thing")

    model = small.model(seed=9)
    refused(checkpoint, "does not fit.*no such thing", model, Odd(model.parameters(), lr=0.1))


def test_other_models_are_refused(checkpoint):
    wider = nn.Sequential(nn.Dense(2, 9), nn.BatchNorm(9), nn.ReLU(), nn.Dropout(0.2), nn.Dense(9, 2))
    refused(checkpoint, "does not fit.*0.weight", wider, OPTIMIZERS["Adam"](wider.parameters()))
    model = small.model(seed=9)
    refused(checkpoint, "does not fit", model, OPTIMIZERS["RMSprop"](model.parameters()))


def test_resuming_another_run_is_refused(checkpoint):
    with pytest.raises(ValueError, match="'batch_size' is 8 but the saved order has 7"):
        train(3, callbacks=[Checkpoint(checkpoint)], batch_size=8, resume=checkpoint)
    with pytest.raises(ValueError, match=r"saved with callbacks \['Checkpoint'\] but fit got \[\]"):
        train(3, resume=checkpoint)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_another_number_of_accumulated_batches_is_refused(accumulate, tmp_path):
    path = tmp_path / "run.safetensors"
    train(1, callbacks=[Checkpoint(path)], accumulate=3)
    with pytest.raises(ValueError, match=f"run.safetensors: was saved with accumulate=3 but fit got .*={accumulate}"):
        train(2, callbacks=[Checkpoint(path)], accumulate=accumulate, resume=path)


def test_a_checkpoint_without_progress_is_refused(tmp_path):
    path, (X, y) = tmp_path / "run.safetensors", small.data()
    model = small.model()
    save_checkpoint(path, model, small.adam(model), history=History(), data=MiniBatches(X[:40], y[:40], batch_size=7))
    with pytest.raises(ValueError, match=r"run\.safetensors: does not tell how far its epoch was"):
        train(2, resume=path)


def test_what_cannot_be_saved_is_named(tmp_path):
    class Odd:
        def state_dict(self):
            return {"state": {"rate": open}}

    with pytest.raises(TypeError, match="'optimizer/state/rate'"):
        save_checkpoint(tmp_path / "x", small.model(), Odd(), history=History())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_the_old_file(checkpoint, call, error, monkeypatch):
    before = checkpoint.read_bytes()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(error):
        save_checkpoint(checkpoint, *untrained(), history=History())
    monkeypatch.undo()
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
