"""How large a batch the memory holds."""

import tracemalloc

import numpy as np
import pytest

import fake_cupy
from fusedstep import backend, fit, nn, optim
from fusedstep.data import MiniBatches, largest_batch_size, memory
from fusedstep.evaluation import evaluate
from fusedstep.nn.accounting import evaluation_bytes, parameter_bytes, training_bytes

MODELS = {
    "dense": lambda: nn.Sequential(nn.Dense(300, 200), nn.ReLU(), nn.Dense(200, 10)),
    "norm": lambda: nn.Sequential(
        nn.Dense(300, 200), nn.BatchNorm(200), nn.ReLU(), nn.Dropout(0.3), nn.Dense(200, 100), nn.GELU(), nn.Tanh()
    ),
    "double": lambda: nn.Sequential(nn.Dense(300, 50), nn.ReLU(), nn.Dropout(0.1), nn.Dense(50, 400), dtype=np.float64),
    "flat": lambda: nn.Sequential(nn.BatchNorm(3), nn.Flatten(), nn.Dense(300, 4), nn.Sigmoid()),
}
kernels_only = pytest.mark.skipif(
    backend.info()["backend"] == "reference", reason="NumPy makes temporaries that kernels do not"
)
SHAPES = {"flat": (3, 100)}


@kernels_only
@pytest.mark.parametrize("name", MODELS)
def test_the_accounting_is_what_a_step_takes(name):
    model, shape = MODELS[name](), (4096, *SHAPES.get(name, (300,)))
    source = np.ones(shape, model.dtype)

    def step():
        x = source.copy()
        output = model.forward(x)
        model.backward(output.copy(), input_gradient=False)

    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The batch that is gathered ahead is counted, and not taken here.
    assert peak <= training_bytes(model, shape) <= peak + source.nbytes + (1 << 20)


def test_the_largest_power_of_two():
    model = MODELS["dense"]()
    fixed = 4 * parameter_bytes(model) + (32 << 20)
    for size in (1, 64, 1024):
        need = fixed + training_bytes(model, (size, 300))
        assert largest_batch_size(model, (300,), need) == size
        assert largest_batch_size(model, (300,), need - 1) == size // 2 if size > 1 else True
    sgd, adam = optim.SGD(model.parameters()), optim.Adam(model.parameters(), ema_decay=0.9)
    need = 2 * parameter_bytes(model) + (32 << 20) + training_bytes(model, (64, 300))
    assert largest_batch_size(model, (300,), need, optimizer=sgd) == 64
    assert largest_batch_size(model, (300,), need + 3 * parameter_bytes(model), optimizer=adam) == 64
    assert largest_batch_size(model, [300]) >= 1024


def test_a_model_on_a_gpu_asks_the_gpu(monkeypatch):
    fake_cupy.install(monkeypatch)
    assert memory.free_memory("cuda:1") == fake_cupy.FREE


def test_the_limits_of_the_system_are_read(tmp_path, monkeypatch):
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.max").write_text("5000\n")
    (group / "memory.current").write_text("4000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 300\n")
    monkeypatch.setattr(memory, "_GROUPS", group)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "none")
    assert memory._control_group() == [1300]
    (group / "memory.max").write_text("max\n")
    assert memory._control_group() == []
    old = group / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("900")
    (old / "memory.usage_in_bytes").write_text("1000")
    assert memory._control_group() == [-100]
    assert memory.free_memory("cpu") == 0
    (tmp_path / "status").write_text("Name:\tpython\nVmData:\t  12 kB\nempty:\n")
    assert memory._fields(tmp_path / "status") == {"VmData": 12288}
    assert memory._fields(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("line", "mounted", "limit", "used"),
    [
        ("0::/user/job", "", "memory.max", "memory.current"),
        ("4:memory,cpu:/user/job", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_the_limits_of_the_own_group_and_those_above_it(line, mounted, limit, used, tmp_path, monkeypatch):
    inside = tmp_path / mounted / "user" / "job"
    inside.mkdir(parents=True)
    (tmp_path / "own").write_text(f"9:cpuset:/other\n{line}\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    for folder, free in ((inside, 70), (inside.parent, 50), (tmp_path.parent, 1)):
        (folder / limit).write_text(str(100 + free))
        (folder / used).write_text("100")
    assert memory._control_group() == [70, 50]
    (tmp_path / "own").write_text(line.replace("/user/job", "/../job"))
    assert memory._control_group() == []


def test_what_the_model_and_the_optimizer_hold_is_not_counted_twice(monkeypatch):
    model = MODELS["dense"]()
    adam = optim.Adam(model.parameters())
    free = training_bytes(model, (64, 300)) + (32 << 20)
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    assert largest_batch_size(model, (300,), optimizer=adam) == 64
    x = np.zeros((64, 300), np.float32)
    buffers = training_bytes(model, x.shape) - 4 * (2 * x.size + 3 * 64 * 10)
    model.forward(x)
    free -= buffers
    assert largest_batch_size(model, (300,), optimizer=adam) == 64
    memory.check_batch_fits(model, (300,), 64)
    assert len(train(model, 64, batch_size=64).rows) == 1


@kernels_only
@pytest.mark.parametrize("prefetch", [0, 2])
def test_reading_from_disk_is_counted(prefetch, monkeypatch):
    class OnDisk:
        shape, dtype = (8192, 300), np.dtype(np.float32)

        def __len__(self):
            return 8192

        def __getitem__(self, samples):
            return np.ones((samples.stop - samples.start, 300), np.float32)

    asked = []
    check = memory.check_batch_fits
    monkeypatch.setattr("fusedstep.training.check_batch_fits", lambda *arguments: asked.append(arguments))
    batches = MiniBatches(OnDisk(), np.arange(8192) % 10, batch_size=1024, shuffle_window=2048, prefetch=prefetch)
    model = MODELS["dense"]()
    optimizer, loss = optim.SGD(model.parameters()), nn.SoftmaxCrossEntropy()
    tracemalloc.start()
    fit(model, optimizer, loss, batches, epochs=1, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ((model, shape, size, ahead, windows),) = asked
    assert ahead == prefetch and windows >= 2048 * 1200
    need = training_bytes(model, (size, *shape), ahead) + windows
    assert peak <= need + (2 << 20) and need <= peak + 1024 * 1200 + (1 << 20)
    monkeypatch.setattr(memory, "free_memory", lambda device: need - 1)
    fresh = MODELS["dense"]()
    with pytest.raises(ValueError, match=r"a batch of 1024 samples needs .* are free"):
        check(fresh, shape, size, ahead, windows)
    monkeypatch.setattr(memory, "free_memory", lambda device: need)
    check(fresh, shape, size, ahead, windows)


def test_a_system_that_tells_nothing(monkeypatch):
    for name in ("_system", "_control_group", "_process"):
        monkeypatch.setattr(memory, name, lambda: [])
    with pytest.raises(RuntimeError, match="give 'memory'"):
        largest_batch_size(MODELS["dense"](), (300,))
    memory.check_batch_fits(MODELS["dense"](), (300,), 1 << 40)


def train(model, n, **options):
    x, y = np.zeros((n, 300), np.float32), np.arange(n) % 10
    return fit(
        model, optim.SGD(model.parameters()), nn.SoftmaxCrossEntropy(), (x, y), epochs=1, progress=False, **options
    )


def test_a_batch_that_cannot_fit_is_refused_before_training(monkeypatch):
    model = MODELS["dense"]()
    before = model.state_dict()
    free = training_bytes(model, (100, 300)) + (32 << 20)
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    with pytest.raises(ValueError, match=r"a batch of 20000 samples needs .* are free: batches of 64 fit"):
        train(model, 20000, batch_size=None)
    assert all((before[name] == array).all() for name, array in model.state_dict().items())
    assert len(train(model, 200, batch_size=64).rows) == 1
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="not even one sample fits"):
        train(MODELS["dense"](), 8, batch_size=1)


def test_full_batch_and_one_example_are_ordinary():
    for batch_size in (None, 1):
        assert len(train(MODELS["dense"](), 20, batch_size=batch_size).rows) == 1


def test_large_samples_are_judged_fewer_at_a_time(monkeypatch):
    from fusedstep import evaluation

    model = MODELS["dense"]()
    x, y = np.ones((40, 300), np.float32), np.arange(40) % 10
    expected = evaluate(model, nn.SoftmaxCrossEntropy(), x, y)
    sizes = []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda batch: sizes.append(len(batch)) or predict(batch), raising=False)
    monkeypatch.setattr(evaluation, "_EVALUATION_BYTES", 7 * evaluation_bytes(model, (300,)))
    result = evaluate(model, nn.SoftmaxCrossEntropy(), x, y)
    assert max(sizes) < 14 and sum(sizes) == 40
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ((300,), 1 << 20),
            ValueError,
            "not even one sample fits: parameters, gradients and optimizer states take 972 KiB",
        ),
        (((299,), 1 << 30), ValueError, r"takes x of shape \(N, 300\) but got \(1, 299\)"),
        (((0,), 1 << 30), ValueError, "'sample_shape'"),
        ((300, 1 << 30), TypeError, r"'sample_shape' must be a sequence such as \(784,\) but got 300"),
        (((300,), 1.5), TypeError, "'memory'"),
        (((300,), 0), ValueError, "'memory'"),
    ],
)
def test_wrong_input(arguments, error, message):
    with pytest.raises(error, match=message):
        largest_batch_size(MODELS["dense"](), *arguments)
