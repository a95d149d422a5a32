"""fs.torch.nn's batch norm against torch's: values, gradients, statistics, layouts, dtypes, and what autograd asks."""

from __future__ import annotations

import copy
import pickle

import pytest

import fusedstep as fs
from fusedstep import backend

torch = pytest.importorskip("torch")
if backend.native() is None:
    pytest.skip("the reference takes NumPy arrays alone", allow_module_level=True)

SHAPES = {1: [(6, 3), (4, 3, 5)], 2: [(4, 3, 5, 2)], 3: [(2, 3, 2, 3, 2)]}
CASES = [(dims, shape) for dims, shapes in SHAPES.items() for shape in shapes]


def pair(dims=2, *, dtype=torch.float64, relu=False, seed=0, **arguments):
    """(ours, torch's) with the same random parameters and statistics; torch's with a ReLU behind it where asked."""
    torch.manual_seed(seed)
    ours = getattr(fs.torch.nn, f"BatchNorm{dims}d")(3, dtype=dtype, relu=relu, **arguments)
    theirs = getattr(torch.nn, f"BatchNorm{dims}d")(3, dtype=dtype, **arguments)
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if name != "num_batches_tracked":
                value.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    return ours, (torch.nn.Sequential(theirs, torch.nn.ReLU()) if relu else theirs)


def normal(*shape, dtype=torch.float64, seed=1, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)


def outcome(module, x, dy=None):
    """Result, gradients and buffers after a forward and backward pass."""
    x = x.detach().requires_grad_()
    y = module(x)
    y.backward(normal(*y.shape, dtype=y.dtype, seed=2) if dy is None else dy)
    gradients = [p.grad for p in module.parameters()]
    return [y.detach(), x.grad, *gradients, *module.buffers()]


def assert_same(ours, theirs, rtol=1e-12):
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracking", [True, False])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("dims", "shape"), CASES)
def test_as_torch_and_gradcheck(dims, shape, relu, tracking, affine, training):
    ours, theirs = pair(dims, relu=relu, track_running_stats=tracking, affine=affine)
    ours.train(training), theirs.train(training)
    x = normal(*shape)
    assert_same(outcome(ours, x), outcome(theirs, x))
    x.requires_grad_()

    def apply(x, *parameters):
        named = dict(zip(dict(ours.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(ours, named, (x,))

    torch.autograd.gradcheck(apply, (x, *ours.parameters()))


@pytest.mark.parametrize("momentum", [None, 0.0, 0.3, 1.0])
def test_running_statistics(momentum):
    ours, theirs = pair(momentum=momentum)
    ours.reset_running_stats(), theirs.reset_running_stats()
    for seed in range(4):
        x = normal(4, 3, 5, 2, seed=seed)
        assert_same(outcome(ours, x), outcome(theirs, x))
    assert ours.num_batches_tracked == 4
    assert_same(outcome(ours.eval(), x), outcome(theirs.eval(), x))
    assert ours.num_batches_tracked == 4
    ours.train(), theirs.train()
    ours.num_batches_tracked = theirs.num_batches_tracked = None
    assert_same(outcome(ours, x), outcome(theirs, x))


@pytest.mark.parametrize("training", [True, False])
def test_layouts(training):
    last, last3 = torch.channels_last, torch.channels_last_3d
    inputs = {
        "channels last": (2, normal(4, 3, 5, 2).contiguous(memory_format=last)),
        "channels last, 3d": (3, normal(4, 3, 5, 2, 3).contiguous(memory_format=last3)),
        "channels of channels last": (2, normal(4, 6, 5, 2).contiguous(memory_format=last)[:, ::2]),
        "every other channel": (2, normal(4, 6, 5, 2)[:, ::2]),
        "expanded": (2, normal(1, 3, 5, 1).expand(4, 3, 5, 2)),
        "all expanded": (2, normal(1, 1, 1, 1).expand(4, 3, 5, 2)),
        "permuted": (2, normal(5, 4, 3, 2).permute(1, 2, 3, 0)),
        "one pixel": (2, normal(4, 3, 1, 1).contiguous(memory_format=last)),
        "rows": (1, normal(3, 8).t()),
        "sequences": (1, normal(4, 5, 3).transpose(1, 2)),
    }
    for name, (dims, x) in inputs.items():
        ours, theirs = pair(dims)
        ours.train(training), theirs.train(training)
        before = x.clone()
        shape = ours(x).shape
        gradients = {
            "new": normal(*shape, seed=3),
            "expanded": normal(1, *shape[1:-1], 1, seed=3).expand(shape),
            "one number": torch.ones(()).double().expand(shape),
            "transposed": normal(*shape[::-1], seed=3).permute(*range(len(shape))[::-1]),
        }
        for kind, dy in gradients.items():
            results = outcome(ours, x, dy), outcome(theirs, x, dy)
            for a, b in zip(*(r[:4] for r in results), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=f"{name}, {kind}")
                ours.zero_grad(), theirs.zero_grad()
            assert results[0][0].stride() == results[1][0].stride(), name
        assert torch.equal(x, before)


def error(value, truth):
    return float((value.double() - truth).norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_half(dtype, mixed, training):
    ours, theirs = pair(dtype=torch.float32 if mixed else dtype)
    x = normal(64, 3, 5, 2, dtype=dtype)
    given, expected = (outcome(m.train(training), x) for m in (ours, theirs))
    _, exact = pair()
    exact.load_state_dict(pair(dtype=torch.float32 if mixed else dtype)[1].state_dict())
    truth = outcome(exact.train(training), x.double())
    for a, b, c in zip(given, expected, truth, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert error(a, c) <= 2 * error(b, c) + 1e-6


def test_autocast():
    ours, theirs = pair(dtype=torch.float32)
    convolution = torch.nn.Conv2d(3, 3, 1)
    x = normal(4, 3, 5, 2, dtype=torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            given, expected = (m(convolution(x)) for m in (ours, theirs))
        assert given.dtype == expected.dtype == dtype
        torch.testing.assert_close(given, expected)
        for y in (given, expected):
            y.float().square().sum().backward()
        assert ours.weight.grad.dtype == torch.float32
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("wanted", range(8))
def test_gradients_of_some(wanted, relu):
    ours, theirs = pair(relu=relu)
    x = normal(4, 3, 5, 2)
    found = []
    for module in (ours, theirs):
        leaf = x.clone()
        for bit, tensor in enumerate([leaf, *module.parameters()]):
            tensor.requires_grad_(bool(wanted >> bit & 1))
        y = module(leaf)
        assert y.requires_grad == bool(wanted)
        if wanted:
            y.square().sum().backward()
        found.append([t.grad for t in (leaf, *module.parameters())])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-10)


def test_bias_left_out():
    ours, theirs = pair()
    ours.bias = theirs.bias = None
    x = normal(4, 3, 5, 2)
    assert_same(outcome(ours, x), outcome(theirs, x))


def test_used_twice_in_a_graph():
    ours, theirs = pair()
    x, z = normal(4, 3, 5, 2), normal(7, 3, 2, 2, seed=9)
    for module in (ours, theirs):
        (module(module(x)).square().sum() + module(z).pow(3).sum()).backward()
    assert_same([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()], rtol=1e-9)
    assert_same(ours.buffers(), theirs.buffers())
    assert ours.num_batches_tracked == 3


def test_relu_lets_nan_pass():
    ours, theirs = pair(relu=True)
    x = normal(4, 3, 5, 2)
    with torch.no_grad():
        x[1, 1, 1, 1] = float("nan")
    for a, b in zip(outcome(ours, x), outcome(theirs, x), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    assert ours(x).isnan().any()


@pytest.mark.parametrize("relu", [False, True])
def test_change_between_forward_and_backward(relu):
    ours, _ = pair(relu=relu)
    for changed in ("input", "weight", "bias", "running_mean", "result"):
        x = normal(4, 3, 5, 2, requires_grad=True) * 1
        y = ours(x)
        tensor = {"input": x, "result": y}.get(changed)
        with torch.no_grad():
            (getattr(ours, changed) if tensor is None else tensor).add_(1)
        if changed in ("input", "weight") or (changed == "bias" and relu):  # a mask is made again from the bias
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
        else:
            y.sum().backward()


def test_inplace_behind_it():
    x = normal(64, 3, 5, 2, requires_grad=True)
    ours, theirs = pair()
    for a, b in zip(*(outcome(torch.nn.Sequential(m, torch.nn.ReLU(True)), x) for m in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_large_result_is_a_tensor_of_its_own():
    norm = fs.torch.nn.BatchNorm1d(8)
    for x in (torch.randn(2**20 + 3, 8), torch.randn(8, 2**20 + 3).t()):
        y = norm(x.requires_grad_())
        assert y.is_contiguous() and not y._is_view() and y.data_ptr() % 64 == 0 and y.storage_offset() == 0
        torch.testing.assert_close(y, torch.nn.BatchNorm1d(8)(x), rtol=1e-4, atol=1e-5)
        y.relu_().sum().backward()
        assert x.grad is not None and copy.deepcopy(y.detach()).equal(y)


@pytest.mark.parametrize("relu", [False, True])
def test_no_second_derivative(relu):
    ours, _ = pair(relu=relu)
    x = normal(4, 3, 5, 2, requires_grad=True)
    (dx,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    (plain,) = torch.autograd.grad(ours(x).square().sum(), x)
    assert torch.equal(dx.detach(), plain)
    with pytest.raises(RuntimeError, match=r"\[BatchNorm\] has no double backward.*replace_modules"):
        dx.square().sum().backward()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own
def test_transforms_are_refused():
    ours, _ = pair()
    x, before = normal(4, 3, 5, 2), copy.deepcopy(dict(ours.named_buffers()))
    for transform in (torch.func.vmap, lambda f: torch.func.grad(lambda x: f(x).sum())):
        with pytest.raises(RuntimeError, match="setup_context"):
            transform(ours)(x.expand(2, *x.shape) if transform is torch.func.vmap else x)
    assert all(torch.equal(b, before[name]) for name, b in ours.named_buffers())
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(RuntimeError, match=r"\[BatchNorm\] has no forward-mode derivative"),
    ):
        ours.eval()(torch.autograd.forward_ad.make_dual(x, x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
def test_without_a_graph(mode, training):
    ours, theirs = pair()
    with mode():
        x = normal(4, 3, 5, 2).clone()
        given, expected = ours.train(training)(x), theirs.train(training)(x)
    assert not given.requires_grad and given.is_inference() == expected.is_inference()
    assert_same([given, *ours.buffers()], [expected, *theirs.buffers()])
    ours.train()(normal(4, 3, 5, 2, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_and_saved_tensor_hooks(reentrant):
    from torch.utils.checkpoint import checkpoint

    ours, theirs = pair()
    x = normal(4, 3, 5, 2, requires_grad=True)
    for module in (ours, theirs):
        checkpoint(module, x, use_reentrant=reentrant).pow(3).sum().backward()
    assert_same([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()], rtol=1e-9)
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 2
    ours.zero_grad(), theirs.zero_grad()
    with torch.autograd.graph.save_on_cpu():
        losses = [module(x).pow(3).sum() for module in (ours, theirs)]
    for loss in losses:
        loss.backward()
    assert_same([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()], rtol=1e-9)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_empty(shape, training, relu):
    ours, theirs = pair(relu=relu)
    x = torch.empty(shape, dtype=torch.float64)
    assert_same(outcome(ours.train(training), x), outcome(theirs.train(training), x))


def test_meta():
    norm = fs.torch.nn.BatchNorm2d(3, relu=True, device="meta")
    assert norm(torch.empty(2, 3, 4, 4, device="meta")).shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.ones(1, 3, 1, 1), ValueError, r"Expected more than 1 value per channel .* torch.Size\(\[1, 3, 1, 1\]\)"),
        (torch.ones(3, 4, 4), ValueError, r"expected 4D input \(got 3D input\)"),
        (torch.ones(2, 4, 4, 4), ValueError, "has shape .3,. but 'x' has 4 channels"),
        (torch.ones(2, 3, 4, 4).double(), TypeError, "float64"),
        (torch.ones(2, 3, 4, 4).int(), TypeError, "'x' has dtype int32"),
        (torch.ones(2, 3, 4, 4).cfloat(), TypeError, "complex64"),
        (None, AttributeError, "dim"),
    ],
)
def test_refused(x, error, message):
    ours, _ = pair(dtype=torch.float32)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(error, match=message):
        ours(x)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_refused_numbers():
    x = torch.ones(2, 3, 4, 4)
    for arguments, name in (({"momentum": 1.5}, "momentum"), ({"eps": -1.0}, "eps")):
        with pytest.raises(ValueError, match=name):
            fs.torch.nn.BatchNorm2d(3, **arguments)(x)
    norm = fs.torch.nn.BatchNorm2d(3)
    norm.running_var = None
    with pytest.raises(ValueError, match="must be given together"):
        norm(x)
    with pytest.raises(TypeError):
        fs.torch.nn.BatchNorm2d()
    with pytest.raises(ValueError, match="more than 1 value"):  # also where only the batch has statistics
        fs.torch.nn.BatchNorm1d(3, track_running_stats=False).eval()(torch.ones(1, 3))


def test_is_torchs_module():
    ours, theirs = pair(eps=1e-3, momentum=0.2)
    assert isinstance(ours, torch.nn.BatchNorm2d) and repr(ours) == repr(theirs)
    assert repr(fs.torch.nn.BatchNorm1d(2, relu=True)).endswith(", relu=True)")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    sync = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(ours))[0]
    assert type(sync) is torch.nn.SyncBatchNorm and sync.weight is ours.weight
    fused = pair(relu=True)[0].eval()
    x = normal(4, 3, 5, 2)
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert type(twin) is fs.torch.nn.BatchNorm2d and torch.equal(twin(x), fused(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, at any graph break
def test_compile():
    layers = [torch.nn.Conv2d(3, 4, 3), fs.torch.nn.BatchNorm2d(4, relu=True), fs.torch.nn.Dropout(0.3)]
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(144, 2))
    twin = copy.deepcopy(model)
    x = normal(5, 3, 8, 8, dtype=torch.float32)
    for module in (torch.compile(model, backend="aot_eager"), twin):
        torch.manual_seed(0)
        for _ in range(2):
            module(x).square().sum().backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert_same(model.buffers(), twin.buffers(), rtol=1e-6)
