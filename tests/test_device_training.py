"""Models, optimizers and training on a GPU, with a stand-in for CuPy: the same bits as on the CPU, and no wait."""

from __future__ import annotations

import copy
import pickle
import signal
import threading

import numpy as np
import pytest

import fake_cupy
import fusedstep as fs
import small_problem as small
from fusedstep import backend, nn, ops, optim
from fusedstep._device import CPU, get_device
from fusedstep._transfer import _Slot, batches_on
from fusedstep.callbacks import Callback, Checkpoint, EarlyStopping, StopOnNaN
from fusedstep.data import MiniBatches
from fusedstep.data.reading import MemoryReader
from fusedstep.evaluation import evaluate, predict
from fusedstep.nn.inspection import layer_outputs
from fusedstep.reference.losses import check_weights
from fusedstep.training import fit
from small_optimizers import VARIANTS, parameters, set_gradients


@pytest.fixture
def cuda_module(monkeypatch):
    """The kernels that run on arrays of the stand-in: the emulated CUDA ones if there are any, else the CPU's."""
    if backend.native() is None:
        pytest.skip("FUSEDSTEP_BACKEND=reference")
    module = HostKernels(backend.native())
    monkeypatch.setattr(backend, "_active", backend._setup().module)
    for place in (backend, ops._dispatch):
        monkeypatch.setattr(place, "cuda", lambda: module)
    return module


@pytest.fixture(params=["late copies", "early copies"])
def gpu(request, monkeypatch, cuda_module) -> fake_cupy.State:
    """Two devices; the counts of waits and copies."""
    return fake_cupy.install(monkeypatch, eager=request.param == "early copies")


class HostKernels:
    """Kernels in the place of the CUDA module: they take the memory of the stand-in's arrays."""

    device = "cuda"

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        kernel = getattr(self._module, name)

        def call(*args):
            arrays = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else [arg])]
            devices = {a.device.id for a in arrays if isinstance(a, fake_cupy.ndarray)}
            if len(devices) > 1 or any(isinstance(a, np.ndarray) for a in arrays):
                raise TypeError(f"{name}: mixed devices")
            args = [type(a)(map(host, a)) if isinstance(a, list | tuple) else host(a) for a in args]
            losses = ("softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error")
            if self._module.device == "cuda" or name not in losses:
                return kernel(*args)
            x, target, weights, total, out, value = args
            if name == "softmax_cross_entropy" and target.dtype != np.int64:
                raise TypeError(f"'labels' has dtype {target.dtype}; accepted is int64")
            if weights is not None:
                assert weights.dtype == np.float64
                weights, total = check_weights(weights, len(x))
            value[...] = kernel(x, target, weights, total, out, None)

        return call


# -- models


def layers():
    return [
        *(nn.Dense(6, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.3), nn.Dense(8, 8), nn.GELU(), nn.Dense(8, 5)),
        *(nn.BatchNorm(5, momentum=None), nn.Tanh(), nn.Dropout(0.1), nn.Dense(5, 4), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.BatchNorm(4, track_running_stats=False, affine=False), nn.LeakyReLU(), nn.Dense(4, 2)),
    ]


def model(device="cpu", dtype=np.float32, seed=0):
    return nn.Sequential(nn.Flatten(), *layers(), seed=seed, dtype=dtype).to(device)


def samples(n=40, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2, 3)).astype(dtype)
    return X, (X[:, 0, 0] > 0).astype(np.int64)


def on_gpu(array, device=0):
    with fake_cupy.Device(device):
        return fake_cupy.asarray(array)


def host(array):
    return array.host if isinstance(array, fake_cupy.ndarray) else array


def assert_same_state(first, second):
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[name], array, err_msg=name)


def test_the_curvature_is_computed_on_the_host(gpu):
    X, labels = samples()
    ours, theirs = model("cuda"), model()
    assert fs.curvature.extremes(
        ours, nn.SoftmaxCrossEntropy(), on_gpu(X), on_gpu(labels), weights=on_gpu(np.ones(40)), max_products=5
    ) == fs.curvature.extremes(theirs, nn.SoftmaxCrossEntropy(), X, labels, max_products=5, weights=np.ones(40))
    for training in (True, False):
        found, expected = (
            fs.curvature.Hessian(*arguments, training=training).gradient()
            for arguments in (
                (ours, nn.SoftmaxCrossEntropy(), on_gpu(X), on_gpu(labels)),
                (theirs, nn.SoftmaxCrossEntropy(), X, labels),
            )
        )
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="takes parameters on the CPU but got some on cuda:0"):
        optim.GaussNewton(ours.parameters())


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_passes_give_the_bits_of_the_cpu(gpu, device, dtype):
    ours, theirs = model(device, dtype), model(dtype=dtype)
    assert ours.device == {"cuda": "cuda:0"}.get(device, device)
    index = int(ours.device[-1])
    for seed, n in enumerate((7, 9, 4)):
        X, _ = samples(n, dtype, seed)
        output, expected = ours.forward(on_gpu(X, index)), theirs.forward(X)
        dx, expected_dx = ours.backward(output), theirs.backward(expected)
        evaluated = ours.predict(on_gpu(X, index))
        for actual, wanted in ((output, expected), (dx, expected_dx), (evaluated, theirs.predict(X))):
            assert isinstance(actual, fake_cupy.ndarray) and actual.device.id == index
            np.testing.assert_array_equal(host(actual), wanted)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_array_equal(host(p.grad), q.grad, err_msg=p.name)
    assert_same_state(ours, theirs)
    assert gpu.devices == [0]


def test_passes_do_not_wait(gpu):
    net, loss = model("cuda"), nn.SoftmaxCrossEntropy()
    X, y = map(on_gpu, samples())
    gpu.waits.clear()
    value, gradient = loss(net.forward(X), y)
    net.backward(gradient)
    net.predict(X)
    assert not gpu.waits
    assert (value.shape, value.dtype, type(value)) == ((), np.float64, fake_cupy.ndarray)


def test_there_and_back(gpu):
    net = model()
    X, _ = samples()
    net.backward(net.forward(X))
    state, gradients = net.state_dict(), [p.grad.copy() for p in net.parameters()]
    assert net.to("cpu") is net and net.to("cuda:1") is net and net.to("cuda:0").device == "cuda:0"
    assert net.buffers()["2.num_batches_tracked"] == 1 and isinstance(
        net.buffers()["2.num_batches_tracked"], np.ndarray
    )
    arena = net.parameters()[0].segment[0]
    assert all(np.shares_memory(p.array.host, arena.array.host) for p in net.parameters())
    assert all(type(a) is np.ndarray for a in net.state_dict().values())
    net.to("cpu")
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    for p, gradient in zip(net.parameters(), gradients, strict=True):
        np.testing.assert_array_equal(p.grad, gradient)
    with pytest.raises(RuntimeError, match="training pass"):
        net.backward(net.predict(X))


def test_copies_and_files(gpu, tmp_path):
    net = model("cuda:1")
    net.forward(on_gpu(samples()[0], 1))
    net.save(tmp_path / "model")
    loaded = nn.load(tmp_path / "model")
    assert loaded.device == "cpu"
    for twin in (loaded, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_same_state(twin, net)
    assert copy.deepcopy(net).device == "cuda:1"
    other = model("cuda", seed=1)
    other.load_state_dict({name: on_gpu(array) for name, array in net.state_dict().items()})
    assert_same_state(other, net)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:2", None, 0])
def test_unknown_devices(gpu, device):
    with pytest.raises(ValueError, match="'device' "):
        model().to(device)


def test_a_driver_is_missing(gpu, monkeypatch):
    def fail():
        raise fake_cupy.CUDARuntimeError("no driver")

    monkeypatch.setattr(fake_cupy, "DEVICES", 0)
    with pytest.raises(ValueError, match="there are 0 CUDA devices"):
        model().to("cuda")
    import cupy

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", fail)
    with pytest.raises(RuntimeError, match="CuPy finds no CUDA device: no driver"):
        model().to("cuda")


def test_there_are_no_kernels(gpu, monkeypatch):
    def fail():
        raise RuntimeError("there are no kernels for CUDA arrays")

    for cuda in (lambda: None, fail):
        monkeypatch.setattr(backend, "cuda", cuda)
        with pytest.raises(RuntimeError, match=r"there are no kernels|FUSEDSTEP_BACKEND=reference"):
            model().to("cuda")


@pytest.mark.parametrize(
    ("device", "x", "message"),
    [
        (
            "cuda",
            lambda X: X,
            r"'x' must be a CuPy array on cuda:0 but got ndarray: pass cupy.asarray\(x\).*to\('cpu'\)",
        ),
        ("cuda", lambda X: on_gpu(X, 1), r"on cuda:0 but got a CuPy array on cuda:1: .*to\('cuda:1'\)"),
        ("cuda", lambda X: X.tolist(), "on cuda:0 but got list"),
        ("cuda", lambda X: on_gpu(X.astype(np.float64)), "must be float32, the model's dtype, but got float64"),
        ("cpu", on_gpu, r"a NumPy array but got a CuPy array on cuda:0: pass cupy.asnumpy\(x\).*to\('cuda:0'\)"),
    ],
)
def test_wrong_inputs(gpu, device, x, message):
    net = model(device)
    for method in (net.forward, net.predict):
        with pytest.raises(TypeError, match=message):
            method(x(samples()[0]))


# -- optimizers


def pair(method, device=0, **options):
    """The same parameters on the GPU and on the CPU, with an optimizer each."""
    theirs = parameters()
    ours = [nn.Parameter(on_gpu(p.array, device), on_gpu(p.grad, device), p.name) for p in parameters()]
    lr = options.pop("lr", 0.1)
    theirs_lr = float(lr.host) if isinstance(lr, fake_cupy.ndarray) else lr
    only_gpu = {"capturable": options.pop("capturable", False)}
    return ours, theirs, method(ours, lr=lr, **options, **only_gpu), method(theirs, lr=theirs_lr, **options)


def step_both(ours, theirs, optimizer, plain, steps, *, spoil=(), multiplier=1.0):
    for t in steps:
        set_gradients(theirs, t)
        if t in spoil:
            theirs[1].grad[0] = np.inf
        for p, q in zip(ours, theirs, strict=True):
            p.grad.host[...] = q.grad
        device = ours[0].array.device.id
        optimizer.step(grad_multiplier=on_gpu(np.float64(multiplier), device) if multiplier != 1 else 1.0)
        plain.step(grad_multiplier=multiplier)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p.array.host, q.array, err_msg=p.name)


OPTIONS = [
    {},
    {"max_norm": 0.5, "ema_decay": 0.9},
    {"skip_nonfinite": True},
    {"skip_nonfinite": True, "max_norm": 2.0, "weight_decay": 0.1, "decay_1d": False},
    {"capturable": True},
    {"capturable": True, "max_norm": 0.5, "skip_nonfinite": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("method", "arguments"), VARIANTS)
def test_optimizers_give_the_bits_of_the_cpu_without_waiting(gpu, method, arguments, options):
    four = pair(method, 1, **arguments, **options)
    gpu.waits.clear()
    spoil = (1, 3) if "skip_nonfinite" in options else ()
    step_both(*four, range(6), spoil=spoil)
    step_both(*four, range(6, 8), multiplier=-0.25)
    assert not gpu.waits and gpu.devices == [0]
    ours, theirs, optimizer, plain = four
    assert (optimizer.steps, optimizer.skipped) == (plain.steps, plain.skipped) == (8 - len(spoil), len(spoil))
    assert bool(gpu.waits) == ("skip_nonfinite" in options or "capturable" in options)
    state, expected = optimizer.state_dict(), plain.state_dict()
    for name, states in expected["state"].items():
        for key, array in states.items():
            np.testing.assert_array_equal(state["state"][name][key], array)
    assert state["param_groups"] == expected["param_groups"]

    resumed = pair(method, **arguments, **options)
    for p, q in zip((*resumed[0], *resumed[1]), (*theirs, *theirs), strict=True):
        host(p.array)[...] = q.array
    resumed[2].load_state_dict(expected)  # across devices
    resumed[3].load_state_dict(state)
    step_both(*resumed, range(8, 10))
    step_both(ours, theirs, optimizer, plain, range(8, 10))
    np.testing.assert_array_equal(resumed[1][0].array, theirs[0].array)


@pytest.mark.parametrize("skip_nonfinite", [False, True])
def test_schedules_know_the_true_count(gpu, skip_nonfinite):
    schedules = {"lr": optim.schedules.inverse_time(0.1, 1.0), "ema_decay": optim.schedules.uniform_average(1)}
    four = pair(optim.Adam, **schedules, skip_nonfinite=skip_nonfinite)
    gpu.waits.clear()
    step_both(*four, range(5), spoil=(2,) if skip_nonfinite else ())
    assert bool(gpu.waits) == skip_nonfinite
    for name, average in four[3].averages().items():
        np.testing.assert_array_equal(host(four[2].averages()[name]), average)
    assert four[2].lr == four[3].lr == 0.1 / (5 if skip_nonfinite else 6)


def test_the_first_step_with_dampening(gpu):
    four = pair(optim.SGD, momentum=0.9, dampening=0.5, skip_nonfinite=True)
    step_both(*four, range(6), spoil=(0, 1))
    gpu.waits.clear()
    step_both(*four, range(6, 9))
    assert not gpu.waits
    with pytest.raises(ValueError, match=r"\[SGD\] 'capturable' needs a 'dampening' of 0"):
        pair(optim.SGD, momentum=0.9, dampening=0.5, capturable=True)


def test_skipping_can_be_switched_on_later(gpu):
    four = pair(optim.Adam)
    step_both(*four, range(2))
    for optimizer in four[2:]:
        optimizer.skip_nonfinite = True
    step_both(*four, range(2, 6), spoil=(3,))
    for optimizer in four[2:]:
        optimizer.skip_nonfinite = False
    step_both(*four, range(6, 8))
    assert [(optimizer.steps, optimizer.skipped) for optimizer in four[2:]] == [(7, 1)] * 2


def test_numbers_are_not_frozen_in_a_captured_graph(gpu):
    ours, _, optimizer, _ = pair(optim.SGD, lr=optim.schedules.constant(0.1))
    captured = optim.Adam(ours, capturable=True)
    net = nn.Sequential(nn.BatchNorm(6, momentum=None)).to("cuda")
    gpu.capturing = True
    captured.step()
    with pytest.raises(RuntimeError, match=r"\[SGD\] a step is captured only by .* capturable=True"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="momentum=None counts batches"):
        net.forward(on_gpu(np.ones((4, 6), np.float32)))
    assert optimizer.steps == 0 and net.buffers()["0.num_batches_tracked"] == 0


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_size_on_the_device(gpu, dtype, capturable):
    lr = on_gpu(dtype(0.1))
    ours, theirs, optimizer, plain = pair(optim.AdamW, lr=lr, capturable=capturable)
    gpu.waits.clear()
    step_both(ours, theirs, optimizer, plain, range(3))
    lr.fill(0.025)
    plain.param_groups[0]["lr"] = float(dtype(0.025))
    step_both(ours, theirs, optimizer, plain, range(3, 5))
    assert not gpu.waits
    state = optimizer.state_dict()
    assert state["param_groups"][0]["lr"] == float(dtype(0.025)) and type(state["param_groups"][0]["lr"]) is float
    state["param_groups"][0]["lr"] = 0.5
    optimizer.load_state_dict(state)
    assert optimizer.lr is lr and lr.host == dtype(0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lr": lambda step: 0.1, "capturable": True}, ValueError, r"\[Adam\] 'lr' is a function, which a captured"),
        ({"lr": np.zeros(2)}, TypeError, r"'lr' must be a 0-d array of float32 or float64 but got float64\(2,\)"),
        ({"lr": np.int64(1)}, TypeError, "'lr' must be a 0-d array of float32 or float64 but got int64"),
        ({"lr": np.float32(1), "device": 1}, TypeError, "'lr' is on cuda:0 but the parameters are on cuda:1"),
        ({"weight_decay": -1}, ValueError, "'weight_decay' must be"),
    ],
)
def test_wrong_arguments(gpu, arguments, error, words):
    if isinstance(arguments.get("lr"), np.ndarray | np.generic):
        arguments = arguments | {"lr": on_gpu(arguments["lr"])}
    device = arguments.get("device", 0)
    ours = [nn.Parameter(on_gpu(p.array, device), on_gpu(p.grad, device), p.name) for p in parameters()]
    with pytest.raises(error, match=words):
        optim.Adam(ours, **{name: value for name, value in arguments.items() if name != "device"})


def test_wrong_parameters(gpu):
    p, q = parameters()[:2]
    first = nn.Parameter(on_gpu(p.array), on_gpu(p.grad), p.name)
    for array, grad, error, words in [
        (q.array, q.grad, TypeError, "the array of '0.bias' is ndarray but '0.weight' is on cuda:0"),
        (on_gpu(q.array), on_gpu(q.grad, 1), TypeError, "the grad of '0.bias' is a CuPy array on cuda:1"),
        (on_gpu(q.array), on_gpu(q.grad.astype(np.float64)), TypeError, "has dtype float64 and '0.weight' has float32"),
        (on_gpu(q.array), on_gpu(q.grad[:3]), ValueError, r"shape \(7,\) but its gradient has \(3,\)"),
    ]:
        with pytest.raises(error, match=words):
            optim.Adam([first, nn.Parameter(array, grad, q.name)])
    with pytest.raises(ValueError, match=r"\[Adam\] 'capturable' needs parameters on a GPU"):
        optim.Adam(parameters(), capturable=True)
    with pytest.raises(TypeError, match="'lr' is on cuda:0 but the parameters are on cpu"):
        optim.Adam(parameters(), lr=on_gpu(np.float32(0.1)))


# -- training


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
