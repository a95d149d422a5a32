"""Training on a GPU, with a stand-in for CuPy: the same bits as on the CPU, and no wait."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

import fake_cupy
import fusedstep as fs
import small_problem as small
from fusedstep import nn, optim
from fusedstep._device import CPU, get_device
from fusedstep._transfer import _Slot, batches_on
from fusedstep.callbacks import Callback, Checkpoint, EarlyStopping, StopOnNaN
from fusedstep.data import MiniBatches
from fusedstep.data.reading import MemoryReader
from fusedstep.evaluation import evaluate, predict
from fusedstep.nn.inspection import layer_outputs
from fusedstep.training import fit
from small_gpu import assert_same_state, host, model, on_gpu, samples


class Waits(Callback):
    """How often the host had waited at each step."""

    def __init__(self, state):
        self.state = state
        self.counts = {}

    def before_step(self, run):
        self.counts.setdefault(run.epoch, []).append(len(self.state.waits))


def train(device, *, data=None, loss=small.LOSS, method=optim.Adam, epochs=3, net=None, **options):
    """(the model, its optimizer, the history), with options of the optimizer and of `fit`."""
    net = net or model(device)
    names = ("lr", "max_norm", "ema_decay", "skip_nonfinite", "decay_1d", "weight_decay", "capturable")
    optimizer = method(net.parameters(), **{name: options.pop(name) for name in names if name in options})
    train, validation = data or (samples(43), samples(9, seed=1))
    options = {"batch_size": 8, "progress": False, "metrics": ["accuracy"]} | options
    return net, optimizer, fit(net, optimizer, loss, train, validation, epochs=epochs, **options)


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]


RUNS = {
    "plain": {},
    "clipped": {"max_norm": 0.5, "ema_decay": 0.9, "weight_decay": 0.1, "decay_1d": False, "method": optim.AdamW},
    "skipping": {"skip_nonfinite": True, "method": optim.SGD},
    "counted there": {"capturable": True, "lr": 0.01},
    "schedule": {"lr": optim.schedules.cosine(0.1, 12)},
    "in order": {"shuffle": False, "last": "merge"},
    "dropped rest": {"last": "drop", "seed": 3},
    "full batch": {"batch_size": None},
    "prefetched": {"prefetch": 2, "batch_size": 3, "last": "merge"},
}


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_training_gives_the_bits_of_the_cpu_and_waits_for_nothing(gpu, options, device):
    waits = Waits(gpu)
    ours, optimizer, history = train(device, callbacks=[waits], **options)
    theirs, plain, expected = train("cpu", **{k: v for k, v in options.items() if k != "capturable"})
    assert without_seconds(history) == without_seconds(expected)
    assert_same_state(ours, theirs)
    assert ours.random_offset == theirs.random_offset
    assert (optimizer.steps, optimizer.skipped) == (plain.steps, plain.skipped)
    assert all(len(set(counts)) == 1 for counts in waits.counts.values())
    assert gpu.copies and gpu.devices == [0]


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint16])
@pytest.mark.parametrize("weights", [np.float64, np.float32, np.int64])
def test_weights_and_labels_of_any_type(gpu, kind, weights):
    X, y = samples(43)
    w = (np.random.default_rng(1).integers(0, 3, 43) * np.linspace(1, 2, 43)).astype(weights)
    w[8:16] = 0  # a whole batch
    data = (X, y.astype(kind), w), (X[:9], y[:9].astype(kind), w[:9])
    runs = [train(device, data=data, shuffle=False) for device in ("cuda", "cpu")]
    assert without_seconds(runs[0][2]) == without_seconds(runs[1][2])
    assert_same_state(runs[0][0], runs[1][0])


@pytest.mark.parametrize("loss", [nn.MeanSquaredError(), nn.SigmoidCrossEntropy()])
def test_other_losses(gpu, loss):
    X, y = samples(43)
    data = (X, np.stack([y, 1 - y], 1).astype(np.float32)), (X[:9], np.zeros((9, 2), np.float32))
    runs = [train(device, data=data, loss=loss) for device in ("cuda", "cpu")]
    assert without_seconds(runs[0][2]) == without_seconds(runs[1][2])
    assert_same_state(runs[0][0], runs[1][0])


def test_a_loss_of_the_user_s_own(gpu):
    def halved(output, target, weights=None):
        value, gradient = small.LOSS(output, target, weights)
        return (value * 0.5).astype(np.float32) if isinstance(value, fake_cupy.ndarray) else np.float32(
            value * 0.5
        ), gradient

    runs = [train(device, loss=halved, metrics=()) for device in ("cuda", "cpu")]
    assert without_seconds(runs[0][2]) == without_seconds(runs[1][2])


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_data_that_is_on_the_device_stays_there(gpu, weighted, device):
    X, y = samples(43)
    arrays = (X, y, np.linspace(0, 1, 43)) if weighted else (X, y)
    data = arrays, tuple(a[:9] for a in arrays)
    there = tuple(tuple(on_gpu(a, device) for a in part) for part in data)
    waits = Waits(gpu)
    ours, _, history = train(f"cuda:{device}", data=there, callbacks=[waits], prefetch=2)
    theirs, _, expected = train("cpu", data=data)
    assert without_seconds(history) == without_seconds(expected)
    assert_same_state(ours, theirs)
    assert gpu.copies == 0 and all(len(set(counts)) == 1 for counts in waits.counts.values())
    batches = MiniBatches(*there[0], batch_size=8)
    assert sum(len(batch[0]) for batch in batches) == 43 and isinstance(batches.arrays[0], fake_cupy.ndarray)


def test_evaluation_and_prediction_give_host_arrays(gpu):
    X, y = samples(43)
    ours, theirs = model("cuda:1"), model()
    for x, target in ((X, y), (on_gpu(X, 1), on_gpu(y, 1))):
        for size in (5, None):
            assert evaluate(ours, small.LOSS, x, target, metrics=["accuracy"], batch_size=size) == evaluate(
                theirs, small.LOSS, X, y, metrics=["accuracy"], batch_size=size
            )
            outputs = predict(ours, x, batch_size=size)
            assert type(outputs) is np.ndarray
            np.testing.assert_array_equal(outputs, predict(theirs, X, batch_size=size))


@pytest.mark.parametrize("method", ["wait_event", "record"])
def test_the_stand_in_finds_a_missing_event(cuda_module, monkeypatch, method):
    fake_cupy.install(monkeypatch)
    event = fake_cupy.Event()
    monkeypatch.setattr(fake_cupy.Stream, method, lambda self, event=event: event)
    with pytest.raises((AssertionError, ValueError)):
        assert_same_state(train("cuda", epochs=1)[0], train("cpu", epochs=1)[0])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_copy_waits_for_the_work_that_read_the_memory_it_writes(gpu, prefetch):
    batches = MiniBatches(np.arange(40), batch_size=4, prefetch=prefetch)
    drawn = [x.host.copy() for (x,) in batches_on(get_device("cuda"), batches)]
    batches.set_epoch(0)
    assert [x.tolist() for x in drawn] == [x.tolist() for (x,) in batches]
    slots = 3 + prefetch
    assert len(gpu.awaited) == len(drawn) == 10
    assert np.diff(gpu.awaited)[slots - 1 :].min() > 0 and gpu.awaited[slots] > max(gpu.awaited[:slots])


def test_pinned_memory_is_not_overwritten_before_it_was_copied(cuda_module, monkeypatch):
    state = fake_cupy.install(monkeypatch)
    X = np.arange(8)
    slot = _Slot(get_device("cuda"), MiniBatches(X, batch_size=4))
    side = fake_cupy.Stream(non_blocking=True)
    slot.fill(MemoryReader([X], X[::-1].copy(), CPU), (0, 4)).send(side)
    (copied,) = next(slot.lend())
    assert copied.host.tolist() == [7, 6, 5, 4] and not state.waits
    slot.send(side)
    slot.fill(MemoryReader([X], None, CPU), (0, 4))
    assert state.waits == ["event"] and copied.host.tolist() == [7, 6, 5, 4]


def test_breaking_off_an_epoch_waits_for_its_copies(gpu):
    batches = MiniBatches(np.arange(40), batch_size=4, prefetch=1)
    drawn = batches_on(get_device("cuda"), batches)
    next(drawn)
    drawn.close()
    assert gpu.waits == ["stream"] and batches.epoch == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("fusedstep-prefetch")]


@pytest.mark.parametrize(("before", "after"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda:1", "cuda:0")])
def test_resuming_on_another_device(gpu, tmp_path, before, after):
    options = {"lr": optim.schedules.cosine(0.1, 24), "max_norm": 0.5, "skip_nonfinite": True, "ema_decay": 0.5}

    def callbacks():
        return [EarlyStopping(patience=9), Checkpoint(tmp_path / "run")]

    train(before, epochs=2, callbacks=callbacks(), **options)
    ours, optimizer, history = train(after, epochs=4, callbacks=callbacks(), resume=tmp_path / "run", **options)
    theirs, plain, expected = train("cpu", epochs=4, callbacks=[EarlyStopping(patience=9)], **options)
    assert without_seconds(history) == without_seconds(expected) and history.best_epoch == expected.best_epoch
    assert_same_state(ours, theirs)
    for name, average in plain.averages().items():
        np.testing.assert_array_equal(host(optimizer.averages()[name]), average)


def test_ctrl_c(gpu):
    class Press(Callback):
        def before_step(self, run):
            if (run.epoch, run.batch_index) == (2, 1):
                signal.raise_signal(signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        _, optimizer, history = train("cuda:1", callbacks=[Press()], epochs=9)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert history.interrupted and len(history.rows) == 1 and optimizer.steps == 6 + 2
    assert gpu.devices == [0]


def test_stop_on_nan(gpu):
    class Poison(Callback):
        def before_step(self, run):
            if run.batch_index == 2:
                run.model.parameters()[3].array.fill(np.nan)

    _, _, history = train("cuda", callbacks=[Poison(), StopOnNaN()])
    assert history.stopped_by.startswith("StopOnNaN: the loss of batch 4 of epoch 1 is nan")
    assert history.stopped_by.endswith("parameter 2.bias")


def test_outputs_of_layers(gpu):
    ours, theirs = model("cuda:1"), model()
    X, _ = samples(9)
    x = on_gpu(X, 1)
    ours.forward(x), theirs.forward(X)
    before = ours.state_dict()
    for output, expected in zip(layer_outputs(ours, x), layer_outputs(theirs, X), strict=True):
        assert isinstance(output, fake_cupy.ndarray) and output.device.id == 1
        np.testing.assert_array_equal(host(output), expected)
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert gpu.devices == [0]


def test_cross_validation(gpu):
    X, y = samples(50)
    results = []
    for device in ("cuda:1", "cpu"):
        results.append(
            fs.model_selection.cross_validate(
                lambda seed, device=device: model(device, seed=seed),
                lambda net: optim.Adam(net.parameters()),
                small.LOSS,
                *(X, y),
                metrics=["accuracy"],
                random_state=0,
                blas_threads=None,
                callbacks=[EarlyStopping(2)],
                epochs=3,
                batch_size=8,
                progress=False,
                last="merge",
            )
        )
    assert results[0].rows == results[1].rows
    np.testing.assert_array_equal(results[0].predictions, results[1].predictions)


X, Y = samples(8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train": (X.astype(np.float64), Y)}, TypeError, "must be float32"),
        ({"train": (X, np.where(np.arange(8) == 5, 2, Y))}, ValueError, "'train y' has the label 2 at index 5"),
        ({"validation": (X, np.where(np.arange(8) == 5, -1, Y))}, ValueError, "'validation y' has the label -1"),
        ({"train": (X, Y.astype(float))}, TypeError, "'labels' has dtype float64"),
        ({"train": (X * np.inf, Y)}, ValueError, "'train X' holds NaN or infinity, first in sample 0"),
    ],
)
@pytest.mark.parametrize("resident", [False, True])
def test_wrong_data(gpu, options, error, message, resident):
    net = model("cuda")
    before = net.state_dict()
    data = {"train": (X, Y), "validation": (X, Y)} | options
    if resident:
        data = {name: tuple(map(on_gpu, arrays)) for name, arrays in data.items()}
    with pytest.raises(error, match=message):
        fit(net, optim.Adam(net.parameters()), small.LOSS, epochs=1, batch_size=4, progress=False, **data)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_data_and_optimizers_of_another_device(gpu):
    net = model("cuda")
    for data, message in [
        ((on_gpu(X, 1), on_gpu(Y, 1)), "must be a CuPy array on cuda:0 but got a CuPy array on cuda:1"),
        ((on_gpu(X), Y), r"'arrays\[0\]' is a CuPy array on cuda:0 but 'arrays\[1\]' is ndarray"),
        ((X, on_gpu(Y)), r"'arrays\[0\]' is a NumPy array but 'arrays\[1\]' is a CuPy array on cuda:0"),
    ]:
        with pytest.raises(TypeError, match=message):
            train("cuda", data=(data, None), metrics=())
    with pytest.raises(TypeError, match="must be a NumPy array but got a CuPy array on cuda:0"):
        train("cpu", data=((on_gpu(X), on_gpu(Y)), None), metrics=())
    optimizer = optim.Adam(net.parameters())
    net.to("cpu")
    with pytest.raises(
        ValueError, match=r"before model\.to\(\) moved this one: make it for this model\.parameters\(\)"
    ):
        fit(net, optimizer, small.LOSS, (X, Y), epochs=1, progress=False)


# -- the stand-in and CuPy


def test_cupy_has_what_the_stand_in_has():
    cupy = pytest.importorskip("cupy")
    pretended = fake_cupy.module()
    for here, there in ((pretended, cupy), (pretended.cuda, cupy.cuda), (pretended.cuda.runtime, cupy.cuda.runtime)):
        missing = [name for name in vars(here) if not name.startswith("__") and not hasattr(there, name)]
        assert not missing
    for name in ("ndarray", "Event", "Stream"):
        here, there = getattr(fake_cupy, name), getattr(cupy if name == "ndarray" else cupy.cuda, name)
        own = [member for member in vars(here) if not member.startswith("_")]
        assert not [member for member in own if not hasattr(there, member) and member not in ("submit", "perform")]
