"""Turns the modules of an existing model into ours, and back."""

from __future__ import annotations

import itertools
from collections import Counter

import torch

from . import nn
from .nn.batch_norm import has_relu

_OURS = {getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__}
_TORCHS = {ours: theirs for theirs, ours in _OURS.items()}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FusedReLU(torch.nn.ReLU):
    """Stands in a Sequential where a ReLU was that the batch norm before it has taken over.

    Where that norm has been changed for another module since, or its result changed, it is a ReLU again.
    """

    @torch.compiler.disable  # it asks a tensor for an attribute, right behind a module that breaks the graph anyway
    def forward(self, input):
        return input if has_relu(input) else super().forward(input)


def replace_modules(model, *, back=False, fuse_relu=False):
    """Turn BatchNorm1d, 2d, 3d and Dropout of torch.nn, wherever they are in `model`, into those of fusedstep.torch.nn.

    Each module stays the same object and only changes its class: parameters, buffers, hooks, training mode, state dict
    and names stay, so that an optimizer made before goes on. Only modules of exactly torch's classes are turned:
    SyncBatchNorm, lazy modules and classes of your own are left alone, and so are calls of torch.nn.functional.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place; may be such a module itself.
    back : bool
        Turn ours into torch's instead, for instance before an export, or for gradients of gradients.
    fuse_relu : bool
        In a `torch.nn.Sequential`, also let a batch norm take over the ReLU right behind it, whose place a `FusedReLU`
        keeps for the way back; the norm's own output is then the ReLU's. Left out where one of the two has hooks, or
        the batch norm is in the model twice.

    Returns
    -------
    model : torch.nn.Module

    Raises
    ------
    TypeError
        `model` is no module.
    ValueError
        With `back`, a batch norm was made with `relu=True`: torch has no such module. Nothing was changed then.

    Examples
    --------
    >>> import torch, fusedstep as fs
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    >>> model = fs.torch.replace_modules(model, fuse_relu=True)
    >>> model[1]
    BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, relu=True)
    >>> type(fs.torch.replace_modules(model, back=True)[2])
    <class 'torch.nn.modules.activation.ReLU'>
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"[replace_modules] 'model' must be a torch.nn.Module but got {type(model).__name__}")
    if back and fuse_relu:
        raise ValueError(
            "[replace_modules] 'fuse_relu' is not for the way back: that gives each fused ReLU back anyway"
        )
    if back:
        _give_relus_back(model)
    classes = _TORCHS if back else _OURS
    for module in model.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
    if fuse_relu:
        _fuse_relus(model)
    return model


def _pairs(model, second):
    """(sequential, batch norm, name of what follows it, what follows it), where that is of the class `second`."""
    for sequential in model.modules():
        if type(sequential) is torch.nn.Sequential:
            for (_, norm), (name, behind) in itertools.pairwise(sequential._modules.items()):
                if type(norm) in _BATCH_NORMS and type(behind) is second:
                    yield sequential, norm, name, behind


def _fuse_relus(model) -> None:
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for sequential, norm, name, relu in list(_pairs(model, torch.nn.ReLU)):
        if norm.relu or places[id(norm)] > 1 or _has_hooks(norm) or _has_hooks(relu):
            continue
        norm.relu = True
        setattr(sequential, name, FusedReLU(relu.inplace).train(relu.training))  # `relu` may be elsewhere, too


def _give_relus_back(model) -> None:
    fused = {id(norm): norm for _, norm, *_ in _pairs(model, FusedReLU)}
    for name, module in model.named_modules():
        if type(module) in _BATCH_NORMS and module.relu and id(module) not in fused:
            where = repr(name) if name else "the model"
            raise ValueError(
                f"[replace_modules] {where} is a {type(module).__name__} with relu=True, which torch has not: "
                "a Sequential in its place would rename the entries of the state dict; "
                "put a ReLU behind it and set its 'relu' to False"
            )
    for norm in fused.values():
        norm.__dict__.pop("relu", None)  # the class says False
    for module in model.modules():  # also those whose norm has gone
        if type(module) is FusedReLU:
            module.__class__ = torch.nn.ReLU


def _has_hooks(module) -> bool:
    return any(hooks for name, hooks in vars(module).items() if name.endswith("_hooks"))
