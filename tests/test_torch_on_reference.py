"""torch's tensors where the NumPy reference is in use: what is missing, and why, is told before anything is written."""

from __future__ import annotations

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import backend

torch = pytest.importorskip("torch")


@pytest.fixture(params=[None, "this installation has no compiled module (pip install fusedstep)"])
def reason(request, monkeypatch):
    """Of the reference: it was chosen, or the compiled module is missing."""
    monkeypatch.setattr(backend, "_setup_done", backend._Setup(None, request.param, None))
    monkeypatch.setattr(backend, "_active", None)
    monkeypatch.setattr(backend, "_ready", True)
    return request.param or "FUSEDSTEP_BACKEND=reference leaves them out"


@pytest.mark.parametrize("params", [torch.ones(3), [torch.ones(3)], torch.nn.Parameter(torch.ones(3))])
def test_ops(params, reason):
    name = r"params\[0\]" if isinstance(params, list) else "params"
    with pytest.raises(
        RuntimeError, match=f"^'{name}' is a torch tensor, which needs the compiled kernels: "
    ) as caught:
        fs.ops.sgd_step(params, params, lr=0.5)
    assert str(caught.value).endswith(reason)
    with pytest.raises(RuntimeError, match=r"^'grads\[0\]' is a torch tensor"):
        fs.ops.sgd_step([np.ones(3)], [torch.ones(3)], lr=0.5)


def test_other_things_of_torch_are_no_tensors(reason):
    x = np.ones((2, 3), np.float32)
    assert fs.ops.dropout_mask(torch.ones(2, 3).shape, 0.5, seed=0).shape == x.shape
    with pytest.raises(TypeError, match="'x' must be an array but got dtype"):
        fs.ops.batch_norm(torch.float32)


def test_modules(reason):
    x = torch.ones(4, 3)
    norm = fs.torch.nn.BatchNorm1d(3)
    for module in (norm, norm.eval(), fs.torch.nn.Dropout(0.5)):
        with pytest.raises(RuntimeError, match=r"^'x' is a torch tensor, which needs the compiled kernels: ") as caught:
            module(x)
        assert str(caught.value).endswith(reason)
    assert int(norm.num_batches_tracked) == 0


@pytest.mark.parametrize("make", [fs.torch.optim.AdamW, fs.torch.OffloadedOptimizer])
def test_optimizers(make, reason):
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"^\[AdamW\] the fused step needs the compiled kernels: ") as caught:
        make([p], lr=0.5).step()
    assert str(caught.value).endswith(f"{reason}; or use torch.optim.AdamW")
    assert p.tolist() == [1.0, 1.0, 1.0]
