"""Tests of the benchmark that import JAX; run by test_bench_jax.py in a process of their own.

JAX starts threads, and warns of every fork of a process that has them.
"""

from __future__ import annotations

import numpy as np
import pytest

from fusedstep._bench import batch_norm, kernels, training

KERNELS = {work.name: work for work in kernels.works()}
TRAINING = {work.name: work for work in training.works()}


@pytest.mark.parametrize("name", ["batch-norm-256x64x56x28", "batch-norm-4096x1024"])
def test_batch_norm_beside_jax(name):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    sides = KERNELS[name].make(True)
    sides.check()
    assert list(sides.peers) == ["torch", "JAX"]


def test_other_running_statistics_than_those_of_jax_are_found(monkeypatch):
    pytest.importorskip("jax")
    right = batch_norm.jax_batch_norm

    def biased(jax, x, *given, **options):
        y, (mean, var) = right(jax, x, *given, **options)
        return y, [mean, 0.9 + (var - 0.9) * (1 - x.shape[1] / x.size)]

    monkeypatch.setattr(batch_norm, "jax_batch_norm", biased)
    with pytest.raises(AssertionError, match="running variance differs"):
        KERNELS["batch-norm-4096x1024"].make(True).check()


def test_another_result_than_jax_gives_is_found():
    dy = np.ones((100, 2), np.float32)
    results = [dy, dy, np.ones(2, np.float32), np.ones(2, np.float32)]
    batch_norm._check_beside_jax(dy, lambda: results, lambda dy=None: results)
    for place in range(4):
        wrong = [a * np.float32(1.01) if i == place else a for i, a in enumerate(results)]
        with pytest.raises(AssertionError, match="from JAX's"):
            batch_norm._check_beside_jax(dy, lambda: results, lambda dy=None, wrong=wrong: wrong)
    with pytest.raises(AssertionError, match="cut by one side alone"):
        batch_norm._check_beside_jax(dy, lambda: results, lambda dy=None: [-results[0], *results[1:]])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["epoch-32", "epoch-plain-32", "step-small"])
def test_all_sides_train_alike(name):
    sides = TRAINING[name].make(True)
    assert not sides.missing
    assert sides.peers.keys() == {"torch", "JAX"} | ({"scikit-learn"} if "plain" in name else set())
    sides.check()
    for function in sides.functions().values():
        function()
    assert [remark.startswith("JAX's first epoch") for remark in sides.remarks()] == [True] * ("epoch" in name)
