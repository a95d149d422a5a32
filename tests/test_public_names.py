"""The public names and their arguments, as the design lists them; docstrings; doctests of the whole package."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import pkgutil
import sys

import numpy as np
import pytest

import fusedstep as fs

REQUIRED = object()
STEP = {"weight_decay": 0.0, "decoupled_weight_decay": False, "maximize": False, "grad_multiplier": 1.0}
MOMENTS = {"step": REQUIRED, "betas": (0.9, 0.999), "eps": 1e-8}

OPS = {
    "sgd_step": ("params grads", {"momentum_buffers": None}, {"momentum": 0.0, "dampening": 0.0, "nesterov": False}),
    "adagrad_step": ("params grads state_sums", {}, {"step": 1, "lr_decay": 0.0, "eps": 1e-10}),
    "rmsprop_step": (
        "params grads square_avgs",
        {"momentum_buffers": None, "grad_avgs": None},
        {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
    ),
    "adam_step": (
        "params grads exp_avgs exp_avg_sqs",
        {"max_exp_avg_sqs": None},
        MOMENTS | {"amsgrad": False, "bias_correction": True, "eps_mode": "outside"},
    ),
    "adadelta_step": ("params grads square_avgs acc_deltas", {}, {"rho": 0.9, "eps": 1e-6}),
    "adamax_step": ("params grads exp_avgs exp_infs", {}, MOMENTS),
    "lion_step": ("params grads exp_avgs", {}, {"betas": (0.9, 0.99)}),
    "nadam_step": ("params grads exp_avgs exp_avg_sqs", {}, MOMENTS | {"momentum_decay": 4e-3}),
    "radam_step": ("params grads exp_avgs exp_avg_sqs", {}, MOMENTS),
    "lars_step": (
        "params grads momentum_buffers",
        {},
        {"momentum": 0.9, "trust_coefficient": 1e-3, "eps": 1e-8, "adapt": True},
    ),
    "lamb_step": (
        "params grads exp_avgs exp_avg_sqs",
        {},
        MOMENTS | {"eps": 1e-6, "bias_correction": True, "adapt": True},
    ),
    "global_norm": ("grads", {}, {"out": None}),
    "batch_norm": (
        "x",
        {"weight": None, "bias": None, "running_mean": None, "running_var": None},
        {
            "training": True,
            "momentum": 0.1,
            "eps": 1e-5,
            "channel_axis": 1,
            "relu": False,
            "unbiased_running_var": True,
            "num_batches": None,
            "out": None,
        },
    ),
    "batch_norm_backward": ("dy x saved", {}, {"dx": None}),
    "dropout": ("x p", {}, {"seed": REQUIRED, "offset": 0, "out": None}),
    "dropout_backward": ("dy p", {}, {"seed": REQUIRED, "offset": 0, "out": None}),
    "dropout_mask": ("shape p", {}, {"seed": REQUIRED, "offset": 0, "packed": False}),
    "ewma": ("values beta", {}, {"bias_correction": False}),
}

ADDED = "batch_norm=False dropout=0.0 optimizer=None schedule=None device='cpu' callbacks=() max_norm=None"

# name: the positional arguments, "name" or "name=default"; then those by name alone
SIGNATURES = {
    "set_num_threads": ("n", ""),
    "get_num_threads": ("", ""),
    "available_isas": ("", ""),
    "info": ("", ""),
    "nn.load": ("path", ""),
    "nn.Dense": ("in_features out_features init='he'", ""),
    "nn.BatchNorm": ("features", ""),
    "nn.Dropout": ("p", ""),
    **{f"nn.{name}": ("", "") for name in ("ReLU", "LeakyReLU", "Tanh", "Sigmoid", "GELU", "Flatten")},
    "nn.Sequential": ("*layers", "seed=0"),
    "nn.Sequential.forward": ("self x training=True", ""),
    "nn.Sequential.backward": ("self dy", ""),
    "nn.Sequential.predict": ("self x", ""),
    "nn.Sequential.parameters": ("self", ""),
    "nn.Sequential.state_dict": ("self", ""),
    "nn.Sequential.save": ("self path", ""),
    **{f"nn.{name}": ("", "") for name in ("SoftmaxCrossEntropy", "SigmoidCrossEntropy", "MeanSquaredError")},
    **{
        f"nn.{name}.__call__": ("self output target weights=None", "")
        for name in ("SoftmaxCrossEntropy", "SigmoidCrossEntropy", "MeanSquaredError")
    },
    **{
        f"optim.{name}": ("params lr", "max_norm=None ema_decay=None skip_nonfinite=False")
        for name in (
            *("SGD", "Momentum", "Adagrad", "RMSprop", "Adam", "AdamW"),
            *("NAdam", "RAdam", "Adamax", "Adadelta", "Lion", "LARS", "LAMB"),
        )
    },
    "optim.Optimizer.step": ("self", ""),
    "optim.Optimizer.zero_grad": ("self", ""),
    "optim.Optimizer.state_dict": ("self", ""),
    "optim.schedules.constant": ("lr", ""),
    "optim.schedules.inverse_time": ("lr decay", ""),
    "optim.schedules.inverse_sqrt": ("lr", ""),
    "optim.schedules.step_decay": ("lr every", ""),
    "optim.schedules.exponential": ("lr factor", ""),
    "optim.schedules.cosine": ("lr steps", ""),
    "optim.schedules.warmup_cosine": ("lr steps warmup_steps", ""),
    "optim.schedules.one_cycle": ("lr steps", ""),
    "optim.schedules.cosine_restarts": ("lr period growth=1 final_lr=0.0", ""),
    "optim.schedules.warmup": ("schedule steps", ""),
    "optim.schedules.uniform_average": ("burn_in=0", ""),
    "optim.GaussNewton": (
        "params lr=1.0 damping=0.001 weight_decay=0.0",
        "cg_max_iter=250 cg_tol=0.0001",
    ),
    "optim.DiagonalGaussNewton": ("params lr=0.01 damping=0.001 beta=0.95 every=1 weight_decay=0.0", ""),
    "optim.KFAC": ("params lr=1.0 damping=0.1 beta=0.95 every=10 weight_decay=0.0", "momentum=True seed=0"),
    "optim.KFAC.step": ("self model loss x y weights=None", ""),
    "curvature.extremes": (
        "model loss X y",
        "weights=None matrix='hessian' parameters=None training=True tol=1e-06 max_products=300 seed=0",
    ),
    "curvature.Hessian": ("model loss X y", "weights=None training=True"),
    "curvature.GaussNewton": ("model loss X y", "weights=None training=True"),
    "landscape.trajectory": ("optimizer f grad start steps", "keep_points=True"),
    "landscape.noisy": ("grad scale seed=0", ""),
    "landscape.band": ("run seeds=100", "quantiles=(0.1,0.5,0.9)"),
    "landscape.parabola": ("curvature=0.5", ""),
    "landscape.quadratic": ("eigenvalues rotation=0.0", ""),
    "landscape.ill_conditioned": ("condition=100.0 dimensions=2 rotation=0.0", ""),
    **{f"landscape.{name}": ("", "") for name in ("wells", "plateau", "saddle", "rosenbrock")},
    "landscape.plot_steps": ("function paths", "path=None"),
    "landscape.plot_levels": ("function paths", "path=None"),
    "landscape.plot_values": ("runs", "minimum=0.0 log_steps=False path=None"),
    "tune.step_size_sweep": (
        "make_model optimizers loss train validation",
        "epochs lrs=None seeds=3 n_jobs=None blas_threads=1 progress=True",
    ),
    "tune.StepSizeSweep.summary": ("self quantiles=(0.1,0.5,0.9)", ""),
    "tune.StepSizeSweep.width": ("self tolerance=0.1", ""),
    "tune.StepSizeSweep.best": ("self", ""),
    "tune.StepSizeSweep.plot": ("self path=None", ""),
    "tune.StepSizeSweep.to_json": ("self path", ""),
    "tune.lr_range_test": (
        "model optimizer loss train",
        "start=1e-06 stop=10.0 steps=100 batch_size=128 beta=0.9 explode=4.0 seed=0",
    ),
    "tune.RangeTest.plot": ("self path=None", ""),
    "data.MiniBatches": (
        "*arrays",
        "batch_size shuffle=True seed=0 last='keep' prefetch=None block_size=None shuffle_window=None",
    ),
    "data.Source": ("data indices=None", ""),
    "data.largest_batch_size": ("model sample_shape memory=None", "optimizer=None"),
    **{f"metrics.{name}": ("target output", "") for name in ("accuracy", "f1_macro", "roc_auc", "rmse", "r2")},
    "model_selection.distribution_report": ("columns parts", "part_names=None alpha=0.05"),
    "model_selection.RotatingKFold": ("n_splits=5", "shuffle=True random_state=None bins=5"),
    "model_selection.RotatingKFold.as_sklearn": ("self stratify=None groups=None", ""),
    "model_selection.train_val_test_split": (
        "*arrays",
        "sizes=(0.6,0.2,0.2) stratify=None groups=None random_state=None bins=5",
    ),
    "model_selection.RotatingKFold.split": ("self X y=None groups=None", "stratify=None"),
    "model_selection.cross_validate": (
        "make_model make_optimizer loss X y",
        "cv stratify=None groups=None preprocess=None metrics=() n_jobs=None random_state=None folder=None",
    ),
    "fit": (
        "model optimizer loss train validation=None",
        "epochs batch_size=128 metrics=() callbacks=() progress=True seed=0 resume=None class_weight=None accumulate=1",
    ),
    "evaluate": ("model loss X y weights=None", "metrics=() batch_size=None"),
    "predict": ("model X", "batch_size=None"),
    "callbacks.EarlyStopping": ("patience=10 restore_best=True", ""),
    "callbacks.Checkpoint": ("path every=1", ""),
    "callbacks.EpochSchedule": ("schedule", ""),
    "callbacks.ReduceOnPlateau": (
        "factor=0.1 patience=10 monitor='validation_loss' mode=None min_delta=0.0 cooldown=0 min_lr=0.0",
        "",
    ),
    "callbacks.StopOnNaN": ("", ""),
    "sklearn.MLPClassifier": ("hidden_layer_sizes=(100,) activation='relu'", ADDED + " class_weight=None"),
    "sklearn.MLPRegressor": ("loss='squared_error' hidden_layer_sizes=(100,) activation='relu'", ADDED),
    **{
        f"sklearn.{name}.fit": ("self X y sample_weight=None", "validation=None")
        for name in ("MLPClassifier", "MLPRegressor")
    },
    "History.plot": ("self path=None", ""),
    "History.to_json": ("self path", ""),
}


def find(path: str):
    thing = fs
    for name in path.split("."):
        thing = getattr(thing, name)
    return thing


def arguments(function) -> dict[str, inspect.Parameter]:
    """The parameters of a function or class; those behind **options are the base class's."""
    found = dict(inspect.signature(function).parameters)
    if inspect.isclass(function) and any(p.kind is p.VAR_KEYWORD for p in found.values()):
        for base in function.__mro__[1:-1]:
            found = {**inspect.signature(base).parameters, **found}
        found.pop("defaults", None)  # what the classes tell each other
    return found


@pytest.mark.parametrize("name", OPS)
def test_ops(name):
    positional, optional, keywords = OPS[name]
    found = arguments(getattr(fs.ops, name))
    expected = {n: (REQUIRED, False) for n in positional.split()} | {n: (v, False) for n, v in optional.items()}
    if name.endswith("_step"):
        keywords = {"lr": REQUIRED, **keywords, **STEP}
    expected |= {n: (v, True) for n, v in keywords.items()}
    for argument, (default, by_name) in expected.items():
        parameter = found[argument]
        assert (parameter.kind is parameter.KEYWORD_ONLY) == by_name, argument
        assert parameter.default == (parameter.empty if default is REQUIRED else default), argument
    assert list(found)[: len(positional.split()) + len(optional)] == [*positional.split(), *optional]


def test_torch_names():
    torch = pytest.importorskip("torch")
    assert set(fs.torch.__all__) == {"OffloadedOptimizer", "nn", "optim", "replace_modules"}
    optimizers, modules = fs.torch.optim.__all__, fs.torch.nn.__all__
    assert set(optimizers) == {"SGD", "Adagrad", "RMSprop", "Adam", "AdamW"}
    for name in optimizers:
        ours = getattr(fs.torch.optim, name)
        assert issubclass(ours, getattr(torch.optim, name))
        theirs = arguments(getattr(torch.optim, name))
        assert list(arguments(ours)) == [*theirs, "max_norm", "ema_decay", "state_dtype"]
        assert list(inspect.signature(ours.averages).parameters) == ["self"]
    assert set(modules) == {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout"}
    for name in modules:
        ours, theirs = getattr(fs.torch.nn, name), getattr(torch.nn, name)
        assert issubclass(ours, theirs)
        added = {"relu"} if name.startswith("BatchNorm") else set()
        assert arguments(ours).keys() - {"args", "kwargs"} == arguments(theirs).keys() | added
    from fusedstep.torch import nn, optim

    assert optim.lr_scheduler is torch.optim.lr_scheduler and optim.LBFGS is torch.optim.LBFGS
    assert nn.functional is torch.nn.functional and nn.Linear is torch.nn.Linear and "Linear" in dir(nn)
    with pytest.raises(AttributeError, match="no attribute 'Adamm'"):
        _ = optim.Adamm
    assert list(arguments(fs.torch.replace_modules)) == ["model", "back", "fuse_relu"]


def test_the_names_of_torch_s_offloaded_optimizer():
    torch = pytest.importorskip("torch")
    offloaded = fs.torch.OffloadedOptimizer
    assert issubclass(offloaded, torch.optim.Optimizer)
    parameters = inspect.signature(offloaded).parameters
    assert {name: p.default for name, p in parameters.items() if p.default is not p.empty} == {
        "optimizer_class": fs.torch.optim.AdamW,
        "master_dtype": torch.float32,
        "pin_memory": None,
        "bucket_size": 1 << 24,
        "overlap_backward": False,
        "max_norm": None,
    }
    by_name = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    assert list(parameters) == ["params", "optimizer_class", *by_name, "options"]
    assert list(inspect.signature(offloaded.averages).parameters) == ["self"]


def test_reference_has_the_same_names_and_arguments():
    assert set(fs.ops.__all__) == set(fs.reference.__all__)
    for name in fs.reference.__all__:
        assert arguments(getattr(fs.ops, name)) == arguments(getattr(fs.reference, name)), name


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures(path):
    positional, by_name = (part.split() for part in SIGNATURES[path])
    found = arguments(find(path))
    ordered = [n for n, p in inspect.signature(find(path)).parameters.items() if p.kind is not p.KEYWORD_ONLY]
    for place, text in enumerate(positional):
        name, _, default = text.lstrip("*").partition("=")
        assert ordered[place] == name
        assert (found[name].kind is inspect.Parameter.VAR_POSITIONAL) == text.startswith("*")
        assert not default or repr(found[name].default).replace(" ", "") == default, text
    for text in by_name:
        name, _, default = text.partition("=")
        assert not default or repr(found[name].default).replace(" ", "") == default, text
    required = {n for n, p in found.items() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    assert required <= {text.partition("=")[0] for text in (*positional, *by_name)}


def test_what_a_history_and_a_model_offer():
    history = fs.History()
    assert list(history.rows) == [] and hasattr(history, "best_epoch")
    net = fs.nn.Sequential(fs.nn.Dense(2, 3), fs.nn.BatchNorm(3))
    net.load_state_dict(net.state_dict())
    optimizer = fs.optim.Adam(net.parameters())
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.skipped == 0
    x = np.array([[1.0, 2.0], [3.0, 5.0]])
    _, saved = fs.ops.batch_norm(x, relu=True)
    for name in ("mean", "var", "eps", "relu", "training", "weight", "bias"):
        assert hasattr(saved, name)
    assert saved.mean.shape == saved.var.shape == (2,)


def modules() -> list:
    """All modules of the package but the compiled one."""
    names = [module.name for module in pkgutil.walk_packages(fs.__path__, "fusedstep.")]
    if importlib.util.find_spec("torch") is None:
        names = [name for name in names if not name.startswith("fusedstep.torch")]
    return [fs, *(importlib.import_module(name) for name in names if not name.endswith(("._cpu", ".__main__")))]


def public(module):
    """(path, thing, documentation) for the functions and classes that a module offers, and their methods."""
    package, _, last = module.__name__.rpartition(".")
    exported = getattr(sys.modules.get(package), "__all__", ())
    opened = last in exported and inspect.ismodule(getattr(sys.modules[package], last))
    inner = package not in ("", "fusedstep") and not opened  # offers what its package exports
    for name, thing in vars(module).items():
        defined = getattr(thing, "__module__", None) == module.__name__
        if not defined or name.startswith("_") or (inner and name not in exported):
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield f"{module.__name__}.{name}", inspect.getdoc(thing)
        if inspect.isclass(thing):
            for key, member in vars(thing).items():
                if not key.startswith("_") and inspect.isfunction(member):
                    yield f"{module.__name__}.{name}.{key}", inspect.getdoc(getattr(thing, key))
                elif not key.startswith("_") and isinstance(member, property):  # there, or among the class's attributes
                    yield f"{module.__name__}.{name}.{key}", inspect.getdoc(member) or key in inspect.getdoc(thing)


def test_everything_public_has_a_docstring():
    assert [module.__name__ for module in modules() if not (module.__doc__ or "").strip()] == []
    open_modules = [m for m in modules() if not any(part.startswith("_") for part in m.__name__.split("."))]
    documented = {path: doc for module in open_modules for path, doc in public(module)}
    assert {"fusedstep.ops.steps.adam_step", "fusedstep.optim.optimizer.Optimizer.step"} <= documented.keys()
    assert [path for path, doc in documented.items() if not doc] == []


@pytest.mark.parametrize("module", [m for m in modules() if hasattr(m, "__all__")], ids=lambda m: m.__name__)
def test_exported_names_exist(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("module", modules(), ids=lambda m: m.__name__)
def test_doctests(module, tmp_path, monkeypatch):
    if module.__name__.startswith("fusedstep.torch") and fs.info()["backend"] == "reference":
        pytest.skip("the reference takes no torch tensors")
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failed == 0


def test_public_functions_of_the_kernels_have_examples():
    without = [name for name in fs.ops.__all__ if ">>>" not in inspect.getdoc(getattr(fs.ops, name))]
    assert without in ([], ["BatchNormSaved"])
