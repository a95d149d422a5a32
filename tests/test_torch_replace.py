"""fs.torch.replace_modules: the modules of an existing model become ours, and torch's again."""

from __future__ import annotations

import copy

import pytest

import fusedstep as fs
from fusedstep import backend

torch = pytest.importorskip("torch")
if backend.native() is None:
    pytest.skip("the reference takes NumPy arrays alone", allow_module_level=True)

NAMES = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout")


class Network(torch.nn.Module):
    """Convolutions, each kind of layer, one module under two names."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        )
        self.head = nn.ModuleDict({"norm": nn.BatchNorm1d(64), "drop": nn.Dropout(0.0), "last": nn.Linear(64, 3)})
        self.alias = self.head["norm"]

    def forward(self, x):
        x = self.features(x).relu().flatten(1)
        return self.head["last"](self.head["drop"](self.alias(self.head["norm"](x))))


def kinds(model):
    return [type(module) for module in model.modules()]


def train(model, optimizer, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 1, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Network()


@pytest.mark.parametrize("fuse_relu", [False, True])
def test_there_and_back(model, fuse_relu):
    twin = copy.deepcopy(model)
    before, keys = kinds(model), list(model.state_dict())
    tensors = {name: id(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    modules = [m for name, m in model.named_modules() if name != "features.2"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    calls = []
    model.alias.register_forward_hook(lambda *_: calls.append(1))
    model.features[1].eval()

    assert fs.torch.replace_modules(model, fuse_relu=fuse_relu) is model
    ours = [m for m in model.modules() if type(m).__module__.startswith("fusedstep.torch.nn")]
    assert [type(m).__name__ for m in ours] == ["BatchNorm2d", "BatchNorm2d", "BatchNorm1d", "Dropout"]
    assert [m.training for m in ours] == [False, True, True, True] and not any(m.relu for m in ours[1:3])
    assert ours[0].relu == fuse_relu == (type(model.features[2]) is not torch.nn.ReLU)
    assert list(model.state_dict()) == keys and model.alias is model.head["norm"]
    assert [m for name, m in model.named_modules() if name != "features.2"] == modules
    model.features[1].train()
    train(model, optimizer, 2)
    assert len(calls) == 4

    assert fs.torch.replace_modules(model, back=True) is model
    assert kinds(model) == before and model.features[2].inplace
    assert all("relu" not in vars(m) for m in model.modules())
    assert {name: id(t) for name, t in [*model.named_parameters(), *model.named_buffers()]} == tensors
    twin.load_state_dict(model.state_dict())
    x = torch.randn(8, 1, 8, 8)
    torch.testing.assert_close(twin.eval()(x), fs.torch.replace_modules(model, fuse_relu=fuse_relu).eval()(x))


@pytest.mark.parametrize("fuse_relu", [False, True])
def test_trains_as_before(model, fuse_relu):
    twin = fs.torch.replace_modules(copy.deepcopy(model).double(), fuse_relu=fuse_relu)
    torch.set_default_dtype(torch.float64)
    try:
        for network in (model.double(), twin):
            train(network, torch.optim.SGD(network.parameters(), lr=0.1))
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, rtol=1e-9, atol=1e-9)
    model.load_state_dict(twin.state_dict())
    twin.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_the_model_itself(name):
    module = getattr(torch.nn, name)(3 if name != "Dropout" else 0.5)
    assert fs.torch.replace_modules(module) is module and type(module) is getattr(fs.torch.nn, name)
    assert copy.deepcopy(module).train().training
    fs.torch.replace_modules(fs.torch.replace_modules(module))  # twice is as good as once
    assert fs.torch.replace_modules(module, back=True) is module and type(module) is getattr(torch.nn, name)


def test_other_classes_are_left_alone():
    class Mine(torch.nn.BatchNorm2d):
        pass

    nn = torch.nn
    layers = [Mine(3), nn.SyncBatchNorm(3), nn.LazyBatchNorm2d(), nn.Dropout2d(), nn.AlphaDropout(), nn.LayerNorm(3)]
    layers += [nn.InstanceNorm2d(3), nn.utils.parametrizations.weight_norm(nn.BatchNorm1d(3).double(), dim=None)]
    model = nn.ModuleList(layers)
    before = kinds(model)
    assert kinds(fs.torch.replace_modules(model, fuse_relu=True)) == before
    assert kinds(fs.torch.replace_modules(model, back=True)) == before


def test_a_lazy_module_that_has_woken():
    model = torch.nn.Sequential(torch.nn.LazyBatchNorm1d())
    model(torch.randn(4, 3))
    assert type(fs.torch.replace_modules(model)[0]) is fs.torch.nn.BatchNorm1d


def test_fusing_leaves_out():
    nn = torch.nn

    class Mine(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + self[0](x)

    norm, hooked, relu = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    watched = nn.ReLU()
    watched.register_forward_pre_hook(lambda *_: None)
    model = nn.ModuleList(
        [
            nn.Sequential(norm, relu),  # twice in the model
            nn.Sequential(nn.Linear(3, 3), norm),
            nn.Sequential(hooked, relu),
            nn.Sequential(nn.BatchNorm1d(3), watched),
            Mine(nn.BatchNorm1d(3), nn.ReLU()),
            nn.Sequential(nn.BatchNorm1d(3), nn.ReLU6()),
            nn.Sequential(nn.BatchNorm1d(3), nn.Identity(), nn.ReLU()),
            nn.Sequential(nn.BatchNorm1d(3), relu, relu),
        ]
    )
    x = torch.randn(5, 3)
    before, expected = kinds(model), [layer(x) for layer in model]
    fs.torch.replace_modules(model, fuse_relu=True)
    assert [n for n, m in model.named_modules() if getattr(m, "relu", False)] == ["7.0"]
    assert model[0][1] is model[2][1] is model[7][2] is relu and model[7][1] is not relu
    for layer, y in zip(model, expected, strict=True):
        torch.testing.assert_close(layer(x), y)
    fs.torch.replace_modules(model, fuse_relu=True)
    assert fs.torch.replace_modules(model, back=True) is model
    assert [kind for kind in kinds(model) if kind is not torch.nn.ReLU] == [k for k in before if k is not torch.nn.ReLU]
    for layer, y in zip(model, expected, strict=True):
        torch.testing.assert_close(layer(x), y)


def test_a_relu_of_our_own_is_not_lost():
    model = torch.nn.Sequential(fs.torch.nn.Dropout(), fs.torch.nn.BatchNorm1d(3, relu=True))
    with pytest.raises(ValueError, match=r"'1' is a BatchNorm1d with relu=True"):
        fs.torch.replace_modules(model, back=True)
    assert kinds(model)[1:] == [fs.torch.nn.Dropout, fs.torch.nn.BatchNorm1d] and model[1].relu
    with pytest.raises(ValueError, match="the model is a BatchNorm1d"):
        fs.torch.replace_modules(model[1], back=True)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"'model' must be a torch.nn.Module but got list"):
        fs.torch.replace_modules([torch.nn.Dropout()])
    with pytest.raises(ValueError, match="'fuse_relu'"):
        fs.torch.replace_modules(torch.nn.Dropout(), back=True, fuse_relu=True)


def test_with_our_optimizer_and_a_copy(model):
    fs.torch.replace_modules(model)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, fs.torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True) if q.abs().max() > 0)
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(twin.eval()(x), model.eval()(x))


def convolution_and_norm():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
    model(torch.randn(8, 2, 6, 6))
    model[1].bias.data.fill_(0.1)
    return model.eval()


def by_hand(model):
    norm = torch.nn.BatchNorm2d(4)
    norm.load_state_dict(model[1].state_dict())
    model[1] = norm.eval()
    return model


def with_a_convolution(model):
    model[0], model[1] = torch.nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1]), torch.nn.Identity()
    return model


def with_a_hook(model):
    def change(module, given, y):
        y.sub_(0.1)

    model[1].register_forward_hook(change)
    return model


CHANGED = [torch.nn.SyncBatchNorm.convert_sync_batchnorm, by_hand, with_a_convolution, with_a_hook]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", CHANGED)
def test_a_fused_relu_is_not_lost_with_its_norm(change, mode):
    """Where something else takes the batch norm's place, or its result changes, the stand-in is a ReLU again."""
    x, plain = torch.randn(3, 2, 6, 6), change(convolution_and_norm())
    if change is with_a_hook and mode is torch.inference_mode:
        pytest.skip("without version counters nobody sees a change in place")
    fused = change(fs.torch.replace_modules(convolution_and_norm(), fuse_relu=True))
    with mode():
        torch.testing.assert_close(fused(x), plain(x))
    if change in (by_hand, with_a_convolution):
        fs.torch.replace_modules(fused, back=True)
        assert type(fused[2]) is torch.nn.ReLU
        torch.testing.assert_close(fused(x), plain(x))
