import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest

import small_problem as small
from fusedstep import _files, optim
from fusedstep._files import atomic_write
from fusedstep.callbacks import Callback, Checkpoint, EarlyStopping
from fusedstep.callbacks import checkpoint as checkpoint_callback
from fusedstep.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from fusedstep.history import History
from fusedstep.optim import schedules
from fusedstep.training import fit
from small_callbacks import Kill, KillAt

OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.05),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adam": lambda p: optim.Adam(p, lr=schedules.cosine(0.02, 30), amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.02),
    "NAdam": lambda p: optim.NAdam(p, lr=0.02, momentum_decay=0.1),
    "RAdam": lambda p: optim.RAdam(p, lr=0.02),
    "LAMB": lambda p: optim.LAMB(p, lr=0.02, decay_1d=False),
}


def train(epochs, make=OPTIMIZERS["Adam"], callbacks=(), **options):
    X, y = small.data()
    model = small.model()
    optimizer = make(model.parameters())
    options = {"batch_size": 7, "seed": 3} | options
    history = fit(
        model,
        optimizer,
        small.LOSS,
        (X[:40], y[:40]),
        (X[40:], y[40:]),
        epochs=epochs,
        callbacks=callbacks,
        progress=False,
        **options,
    )
    return model, optimizer, history


def losses(history):
    return [(row["train_loss"], row["validation_loss"]) for row in history.rows]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_ends_with_the_same_bits(name, tmp_path):
    path = tmp_path / "run.safetensors"
    make = OPTIMIZERS[name]
    whole, _, history = train(5, make)
    with pytest.raises(Kill):
        train(5, make, [KillAt(4, 3), Checkpoint(path)])
    resumed, _, resumed_history = train(5, make, [KillAt(9, 0), Checkpoint(path)], resume=path)
    assert small.state(resumed) == small.state(whole)
    assert losses(resumed_history) == losses(history)
    assert resumed.random_offset == whole.random_offset


@pytest.mark.parametrize("killed_at", [2, 4, 6])
@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_early_stopping_goes_on_where_it_was(killed_at, order, tmp_path):
    path = tmp_path / "run.safetensors"

    def callbacks(kill):
        pair = [EarlyStopping(2), Checkpoint(path)]
        return [KillAt(kill, 1), *(pair[i] for i in order)]

    def fast(parameters):
        return optim.Adam(parameters, lr=0.05)

    whole, _, history = train(30, fast, callbacks(99))
    assert history.stopped_by and len(history.rows) > killed_at, "the test needs an early stop"
    with pytest.raises(Kill):
        train(30, fast, callbacks(killed_at))
    resumed, _, resumed_history = train(30, fast, callbacks(99), resume=path)
    assert small.state(resumed) == small.state(whole)
    assert losses(resumed_history) == losses(history)
    assert resumed_history.restored_epoch == history.restored_epoch
    # The run had ended, so resuming it again trains no further.
    again, _, again_history = train(30, fast, callbacks(99), resume=path)
    assert small.state(again) == small.state(whole) and losses(again_history) == losses(history)


def test_more_epochs_after_the_end(tmp_path):
    path = tmp_path / "run.safetensors"
    whole, _, _ = train(4)
    train(2, callbacks=[Checkpoint(path)])
    longer, _, history = train(4, callbacks=[Checkpoint(path)], resume=path)
    assert small.state(longer) == small.state(whole) and history.column("epoch") == [1, 2, 3, 4]


def test_every(tmp_path):
    path = tmp_path / "run.safetensors"
    train(5, callbacks=[Checkpoint(path, every=2)])
    model = small.model()
    state = load_checkpoint(path, model, OPTIMIZERS["Adam"](model.parameters()))
    assert len(state.history.rows) == 4


def test_at_most_so_often(tmp_path, monkeypatch):
    now, saves = [0], []
    monkeypatch.setattr(checkpoint_callback, "save_run", lambda path, run: saves.append(run.epoch))
    monkeypatch.setattr(checkpoint_callback, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Second(Callback):
        def on_epoch_end(self, run):
            now[0] += 1

    def run(*callbacks, min_seconds):
        saves.clear()
        train(7, callbacks=[Second(), *callbacks, Checkpoint(tmp_path / "run", min_seconds=min_seconds)])
        return saves

    assert run(min_seconds=3) == [3, 6]
    assert run(min_seconds=99) == []
    assert run(EarlyStopping(2, monitor="epoch", mode="min"), min_seconds=99) == [3]  # what a callback ends is saved


EXACT = {
    "ema": lambda p: optim.Adam(p, lr=schedules.cosine(0.02, 30), max_norm=0.5, ema_decay=0.9),
    "Adam": OPTIMIZERS["Adam"],
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("batch", [0, 2, 5])
def test_in_the_midst_of_an_epoch(tmp_path, name, accumulate, batch):
    options = {"accumulate": accumulate, "class_weight": {0: 0.5}}
    path = tmp_path / "run.safetensors"

    def callbacks():
        return [EarlyStopping(3), Checkpoint(path, every_batches=1)]

    whole, optimizer, history = train(5, EXACT[name], [EarlyStopping(3)], **options)
    with pytest.raises(Kill):
        train(5, EXACT[name], [KillAt(3, batch), *callbacks()], **options)
    kept = (path.read_bytes(), load_checkpoint(path, (m := small.model()), EXACT[name](m.parameters())))
    assert kept[1].data["position"] == batch and len(kept[1].history.rows) == 2
    path.write_bytes(kept[0])
    state = [[type(KillAt(9, 9)).__name__, {}]]  # the killed run had one callback more
    assert [entry[0] for entry in kept[1].callbacks][:1] == [state[0][0]]
    resumed, again, resumed_history = train(5, EXACT[name], [KillAt(9, 9), *callbacks()], resume=path, **options)
    assert small.state(resumed) == small.state(whole)
    assert repr(again.state_dict()) == repr(optimizer.state_dict())
    assert losses(resumed_history) == losses(history)


def test_ctrl_c_saves_what_the_epoch_had(tmp_path):
    path = tmp_path / "run.safetensors"

    class Interrupt(Callback):
        def before_step(self, run):
            run.history.interrupted = run.epoch == 2 and run.batch_index == 1

    whole, _, history = train(4, accumulate=3)
    _, _, broken = train(4, callbacks=[Interrupt(), Checkpoint(path, every=9)], accumulate=3)
    assert broken.interrupted and len(broken.rows) == 1
    state = load_checkpoint(path, (m := small.model()), OPTIMIZERS["Adam"](m.parameters()))
    assert state.data["position"] == 2 and state.progress["gradients"]["batches"] == 2
    resumed, _, resumed_history = train(
        4, callbacks=[type("Interrupt", (Callback,), {})(), Checkpoint(path)], accumulate=3, resume=path
    )
    assert small.state(resumed) == small.state(whole) and losses(resumed_history) == losses(history)


def test_leftovers_of_a_killed_save_go(tmp_path):
    path = tmp_path / "run.safetensors"
    (tmp_path / ".run.safetensors.0123.tmp").write_bytes(b"half")
    (tmp_path / ".other.safetensors.0123.tmp").write_bytes(b"half")
    train(1, callbacks=[Checkpoint(path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.safetensors.0123.tmp", "run.safetensors"]


def test_other_hyper_parameters_on_resume_are_told(tmp_path):
    path = tmp_path / "run.safetensors"
    train(1, OPTIMIZERS["AdamW"], [Checkpoint(path)])
    with pytest.warns(UserWarning, match=r"lr=0\.02, which goes on; the optimizer's lr=0\.5 is left aside"):
        train(2, lambda p: optim.AdamW(p, lr=0.5), [Checkpoint(path)], resume=path)


def test_atomic_write(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")
    atomic_write(str(path), b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "no" / "file", b"")
    order = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(_files.os, name, lambda *a, f=original, n=name: (order.append(n), f(*a))[1])
    atomic_write(path, b"newer")
    assert order[:2] == ["fsync", "replace"]


class Keeps(Callback):
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


def keep(path, state):
    model = small.model()
    save_checkpoint(path, model, small.adam(model), history=History(), callbacks=[Keeps(state)])
    return TrainingState.read(path).callbacks[0][1]


@pytest.mark.parametrize(
    "state",
    [
        {"big-endian": np.arange(3, dtype=">f4"), "complex": np.array([1j], np.complex64)},
        {1: np.arange(2), "1": np.arange(3), "a/b": np.arange(4), "a": {"b": np.arange(5)}},
        {"empty": np.zeros((0, 3)), "0-d": np.array(5.0), "half": np.ones(2, np.float16)},
        {"columns": np.asfortranarray(np.arange(6).reshape(2, 3)), "bool": np.array([True])},
        {None: float("inf"), 1.5: 2**100, True: ("\ud800", [np.float32(0.1), np.True_])},
        np.random.default_rng(0).bit_generator.state,
    ],
    ids=str,
)
def test_states_of_callbacks_come_back(state, tmp_path):
    np.testing.assert_equal(keep(tmp_path / "run", state), state)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": np.array(["x"])}, "cannot keep 'callback 0/a': ndarray of <U1"),
        ({"a": [np.array([None])]}, "cannot keep 'callback 0/a/0': ndarray of object"),
        ({"a": np.longdouble(1)}, "cannot keep 'callback 0/a': longdouble"),
        ({"a": np.datetime64("2020-01-01")}, "cannot keep 'callback 0/a': date"),
        ({"a": {1}}, "cannot keep 'callback 0/a': set"),
        ({(1, 2): 3}, r"cannot keep 'callback 0': a dict with the key \(1, 2\)"),
    ],
)
def test_states_that_cannot_be_kept(state, message, tmp_path):
    with pytest.raises(TypeError, match=rf"\[save_checkpoint\] .*({message})"):
        keep(tmp_path / "run", state)
    assert not (tmp_path / "run").exists()
