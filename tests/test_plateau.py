import itertools
import math

import numpy as np
import pytest

import fake_cupy
import small_problem as small
from fusedstep import nn, optim
from fusedstep.callbacks import Callback, Checkpoint, EarlyStopping, EpochSchedule, ReduceOnPlateau
from fusedstep.optim import schedules
from fusedstep.training import fit
from small_callbacks import Kill, KillAt, Script


def train(callbacks, epochs, make=lambda p: optim.SGD(p, lr=0.1), **options):
    X, y = small.data()
    model = small.model()
    optimizer = make(model.parameters())
    options = {"batch_size": 8, "progress": False} | options
    history = fit(
        model,
        optimizer,
        small.LOSS,
        (X[:40], y[:40]),
        (X[40:], y[40:]),
        epochs=epochs,
        callbacks=callbacks,
        **options,
    )
    return model, optimizer, history


def groups(parameters):
    return optim.SGD([{"params": parameters[:3], "lr": 0.4}, {"params": parameters[3:]}], lr=0.1)


def lrs(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


SERIES = {
    "falling": [5.0, 4, 3, 2, 1, 0.5, 0.4, 0.3, 0.2, 0.1],
    "flat": [1.0] * 10,
    "one step": [5.0, 4, 4, 4, 3, 4, 4, 4, 4, 4],
    "nan": [np.nan, 3, np.nan, np.nan, np.nan, 2, 2, np.nan, np.nan, 1],
    "gains at the threshold": [0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15, 1.3, 1.45],
    "small gains": [5.0, 4.9, 4.8, 4.7, 4.6, 4.5, 4.4, 4.3, 4.2, 4.1],
}


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 0, "factor": 0.5},
        {"patience": 2, "factor": 0.1},
        {"patience": 1, "factor": 0.3, "cooldown": 2},
        {"patience": 0, "factor": 0.5, "min_lr": 0.03},
        {"patience": 1, "factor": 0.5, "min_delta": 0.15},
    ],
)
def test_the_step_sizes_are_those_of_torch(series, mode, options):
    torch = pytest.importorskip("torch")
    values = SERIES[series]
    callbacks = [Script(values), ReduceOnPlateau(monitor="scripted", mode=mode, **options)]
    _, optimizer, history = train(callbacks, len(values), groups)
    parameters = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    twin = torch.optim.SGD([{"params": parameters[:1], "lr": 0.4}, {"params": parameters[1:]}], lr=0.1)
    options = {"threshold": options.get("min_delta", 0.0)} | {k: v for k, v in options.items() if k != "min_delta"}
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(twin, mode, threshold_mode="abs", eps=0.0, **options)
    used = []
    for value in values:
        used.append(lrs(twin)[0])
        scheduler.step(value)
    assert history.column("lr") == used and lrs(optimizer) == lrs(twin)


def test_a_step_size_below_the_limit_is_not_raised():
    callbacks = [Script([1] * 4), ReduceOnPlateau(patience=0, monitor="scripted", mode="min", min_lr=0.2)]
    _, optimizer, _ = train(callbacks, 4, groups)
    assert lrs(optimizer) == [0.2, 0.1]


def test_it_can_be_used_again():
    plateau = ReduceOnPlateau(factor=0.5, patience=1, monitor="scripted", mode="min", cooldown=3)
    for _ in range(2):
        _, optimizer, history = train([Script([1, 2, 3]), plateau], 3)
        assert history.column("lr") == [0.1] * 3 and lrs(optimizer) == [0.05]


def test_beside_early_stopping():
    values = [3, 2, 2, 2, 2, 2]
    callbacks = [
        Script(values),
        ReduceOnPlateau(0.5, 1, "scripted", "min"),
        EarlyStopping(3, monitor="scripted", mode="min"),
    ]
    _, _, history = train(callbacks, 6)
    assert history.column("lr") == [0.1, 0.1, 0.1, 0.1, 0.05] and history.stopped_by.startswith("EarlyStopping")


def test_epoch_schedule():
    seen = []

    def schedule(epoch):
        seen.append(epoch)
        return [0.3, 0.0, 0.1][epoch]

    _, optimizer, history = train(EpochSchedule(schedule), 3, groups)
    assert history.column("lr") == [0.3, 0.0, 0.1] and seen == [0, 1, 2] and lrs(optimizer) == [0.1, 0.1]


def test_an_epoch_schedule_sets_the_steps():
    """The bits of a step size that is set by hand, epoch by epoch."""

    class ByHand(Callback):
        def on_epoch_begin(self, run):
            run.optimizer.param_groups[0]["lr"] = 0.3 / run.epoch

    model, _, _ = train(EpochSchedule(schedules.inverse_time(0.3, 1.0)), 3)
    twin, _, _ = train(ByHand(), 3)
    assert small.state(model) == small.state(twin)


# -- a resumed run ends with the same bits

MAKE = {
    "plateau": lambda: ReduceOnPlateau(factor=0.5, patience=1, monitor="train_loss", min_delta=0.4, cooldown=1),
    "schedule": lambda: EpochSchedule(schedules.cosine(0.3, 8)),
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("killed_at", [(2, 0), (4, 3), (6, 1), (7, 4)])
@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
@pytest.mark.parametrize("every_batches", [None, 1])
def test_resuming(kind, killed_at, order, every_batches, tmp_path):
    path = tmp_path / "run.safetensors"

    def callbacks(kill):
        pair = [MAKE[kind](), Checkpoint(path, every_batches=every_batches)]
        return [KillAt(*kill), *(pair[i] for i in order)]

    whole, optimizer, history = train(callbacks((99, 0)), 8, groups)
    assert len(set(history.column("lr"))) > 2, "the test needs reductions"
    with pytest.raises(Kill):
        train(callbacks(killed_at), 8, groups)
    resumed, again, resumed_history = train(callbacks((99, 0)), 8, groups, resume=path)
    assert small.state(resumed) == small.state(whole) and lrs(again) == lrs(optimizer)
    for name in ("lr", "train_loss", "validation_loss"):
        assert resumed_history.column(name) == history.column(name)


# -- on a GPU a step size may be an array, which captured steps read


@pytest.fixture
def gpu(monkeypatch):
    return fake_cupy.install(monkeypatch)


class Run:
    """As much of a run as the callbacks need."""

    columns = ("scripted",)

    def __init__(self, optimizer, callbacks):
        self.optimizer, self.callbacks, self.epoch = optimizer, callbacks, 1
        self.history = type("History", (), {"rows": [{"scripted": 1.0}]})()


class Optimizer:
    def __init__(self, *lrs):
        self.param_groups = [{"lr": lr} for lr in lrs]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("device", [0, 1])
def test_arrays_are_written_into(gpu, dtype, device):
    with fake_cupy.Device(device):
        shared, other = fake_cupy.asarray(0.5, dtype), fake_cupy.asarray(0.25, dtype)
    optimizer = Optimizer(shared, other, shared, 1.0)

    def values():
        held = lrs(optimizer)
        assert held[0] is shared and held[1] is other and held[2] is shared
        return [float(shared), float(other), held[3]]

    plateau = ReduceOnPlateau(factor=0.5, patience=0, monitor="scripted", mode="min")
    run = Run(optimizer, [plateau])
    plateau.on_train_begin(run)
    plateau.on_epoch_end(run)
    assert values() == [0.5, 0.25, 1.0]
    gpu.waits.clear()
    plateau.on_epoch_end(run)
    assert values() == [0.25, 0.125, 0.5]  # what two groups share is lowered once
    schedule = EpochSchedule(lambda epoch: 0.75)
    run.callbacks = [schedule]
    schedule.on_train_begin(run)
    schedule.on_epoch_begin(run)
    assert values() == [0.75] * 3
    assert gpu.devices == [0]


# -- wrong input


def scheduled(parameters):
    first = {"params": parameters[:1]}
    return optim.SGD([first, {"params": parameters[1:], "lr": schedules.constant(0.1)}], lr=0.1)


class Own(Callback):
    changes_lr = True


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ReduceOnPlateau(1.0), ValueError, r"\[ReduceOnPlateau\] 'factor' must be in \[0, 1\)"),
        (lambda: ReduceOnPlateau(0), ValueError, r"'factor' must be greater than 0 but got 0"),
        (lambda: ReduceOnPlateau(math.nan), ValueError, "'factor' must be"),
        (lambda: ReduceOnPlateau("half"), TypeError, "'factor' must be a number"),
        (lambda: ReduceOnPlateau(patience=-1), ValueError, "'patience' must be"),
        (lambda: ReduceOnPlateau(patience=1.5), TypeError, "'patience' must be an integer"),
        (lambda: ReduceOnPlateau(mode="best"), ValueError, r"\[ReduceOnPlateau\] 'mode' must be one of 'min', 'max'"),
        (lambda: ReduceOnPlateau(min_delta=-1), ValueError, r"\[ReduceOnPlateau\] 'min_delta' must be"),
        (lambda: ReduceOnPlateau(cooldown=-1), ValueError, "'cooldown' must be"),
        (lambda: ReduceOnPlateau(min_lr=-1), ValueError, "'min_lr' must be"),
        (lambda: ReduceOnPlateau(min_lr=math.inf), ValueError, "'min_lr' must be"),
        (lambda: EpochSchedule(0.1), TypeError, r"\[EpochSchedule\] 'schedule' must be a function of the epoch"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("callbacks", "make", "message"),
    [
        ([ReduceOnPlateau()], scheduled, r"\[ReduceOnPlateau\] 'lr' of the optimizer must be a number or an array"),
        ([EpochSchedule(len)], scheduled, r"\[EpochSchedule\] 'lr' of the optimizer must be .* but is a function"),
        (
            [ReduceOnPlateau(monitor="f1")],
            groups,
            r"\[ReduceOnPlateau\] 'monitor' must be one of 'epoch', 'train_loss'",
        ),
        ([ReduceOnPlateau(), EpochSchedule(len)], groups, "one callback alone .* got ReduceOnPlateau, EpochSchedule"),
        ([Own(), ReduceOnPlateau()], groups, "one callback alone .* got Own, ReduceOnPlateau"),
        ([EpochSchedule(lambda epoch: -1.0)], groups, r"\[EpochSchedule\] 'schedule\(0\)' must be in \[0, inf\)"),
        ([EpochSchedule(lambda epoch: math.nan)], groups, r"'schedule\(0\)' must be"),
        ([EpochSchedule(lambda epoch: math.inf)], groups, r"'schedule\(0\)' must be"),
    ],
)
def test_wrong_runs_are_refused_before_the_model_is_changed(callbacks, make, message):
    model = small.model()
    before = small.state(model)
    X, y = small.data()
    optimizer = make(model.parameters())
    with pytest.raises(ValueError, match=message):
        fit(model, optimizer, small.LOSS, (X, y), (X, y), epochs=2, callbacks=callbacks, progress=False)
    assert small.state(model) == before and optimizer.param_groups[0]["lr"] in (0.1, 0.4)


def test_validation_data_are_missing():
    model = nn.Sequential(nn.Dense(2, 2))
    with pytest.raises(ValueError, match=r"\[ReduceOnPlateau\].*give fit validation data"):
        fit(model, small.adam(model), small.LOSS, small.data(), epochs=1, callbacks=ReduceOnPlateau(), progress=False)


def test_an_optimizer_without_groups():
    plateau = ReduceOnPlateau(monitor="scripted", mode="min")
    with pytest.raises(TypeError, match=r"\[ReduceOnPlateau\] 'optimizer' must have param_groups"):
        plateau.on_train_begin(Run(Optimizer(), [plateau]))


def test_a_schedule_that_goes_wrong_later_names_the_epoch():
    with pytest.raises(ValueError, match=r"'schedule\(2\)' must be in \[0, inf\) but got -1"):
        train(EpochSchedule(lambda epoch: 1 - epoch), 4)
