"""What is refused on the GPU, several GPUs, errors of the device, and forked children."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from test_cuda_streams import CALLS, on_device

import fusedstep as fs
from bits import assert_same_bits

pytestmark = pytest.mark.cuda

ARRAYS = [(key, name) for key, call in CALLS.items() for name in call.arrays if "new outputs" not in key]


@pytest.mark.parametrize("key, name", ARRAYS)
def test_arrays_of_the_host_and_the_device_do_not_mix(key, name, library):
    """TypeError, with the names of arrays and not in another library's words; nothing is written."""
    call = on_device(CALLS[key], library.put)
    if len(call.all_arrays()) == 1:
        pytest.skip("one array alone is on one device")
    mixed = replace(call, arrays={**call.arrays, name: CALLS[key].arrays[name].copy()})
    before = {n: library.get(a) for n, a in call.all_arrays().items()}
    with pytest.raises(TypeError, match="|".join(f"'{n}'" for n in call.all_arrays())):
        mixed.run(fs.ops)
    for n, a in call.all_arrays().items():
        assert_same_bits(n, library.get(a), before[n])


def spoiled(library, name, array):
    """(array, error) in place of a valid float32 one."""
    yield library.put(np.zeros((2, 2, 2), np.float32)), ValueError
    yield library.put(np.ones(library.get(array).shape, np.int32)), TypeError


@pytest.mark.parametrize("key", [key for key, call in CALLS.items() if call.outputs])
def test_wrong_shapes_and_dtypes_are_refused_by_name(key, library):
    """With the words that the CPU's kernels have for it."""
    for name in CALLS[key].outputs:
        for k in range(2):
            call = on_device(CALLS[key], library.put)
            array, error = list(spoiled(library, name, call.arrays[name]))[k]
            bad = replace(call, arrays={**call.arrays, name: array})
            with pytest.raises(error) as there:
                bad.run(fs.ops)
            on_host = on_device(bad, lambda a: a if isinstance(a, np.ndarray) else library.get(a))
            with pytest.raises(error) as here:
                on_host.run(fs.ops)
            assert name in str(there.value)
            assert str(there.value) == str(here.value)


def test_overlap_is_refused(library):
    buffer = library.put(np.ones(100, np.float32))
    with pytest.raises(ValueError, match="overlap in memory"):
        fs.ops.sgd_step(buffer[:60], library.put(np.ones(60, np.float32)), buffer[40:], lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="overlap in memory"):
        fs.ops.sgd_step(buffer[:60], buffer[1:61], lr=0.1)
    assert float(buffer.sum()) == 100


def test_a_layout_with_gaps_is_refused(library):
    params = library.put(np.ones((6, 8), np.float32))[:, ::2]
    with pytest.raises(ValueError, match="params"):
        fs.ops.sgd_step(params, params, lr=0.1)


def test_empty_arrays(library):
    empty = [library.put(np.zeros((0, 3), np.float32)) for _ in range(4)]
    fs.ops.adam_step(*empty, lr=0.1, step=1)
    with pytest.raises(ValueError):
        fs.ops.batch_norm(empty[0])


def test_gradients_of_autograd(torch):
    p = torch.ones(5, device="cuda", requires_grad=True)
    p.sum().backward()
    fs.ops.sgd_step(p.detach(), p.grad, lr=0.5)
    assert p.detach().cpu().tolist() == [0.5] * 5


def test_several_devices(library):
    """The arrays' device is used and the current one stays; two devices in a call are refused."""
    if library.device_count() < 2:
        pytest.skip("one GPU")
    rng = np.random.default_rng(0)
    host = [rng.uniform(0.1, 1, 5000).astype(np.float32) for _ in range(4)]
    arrays = [library.put(a, 1) for a in host]
    for lists in (arrays, host):
        fs.ops.adam_step(*lists, lr=0.1, step=1)
    for a, e in zip(arrays, host, strict=True):
        assert_same_bits("adam_step", library.get(a), e)
    y = fs.ops.dropout(arrays[0], 0.5, seed=1)
    assert_same_bits("dropout", library.get(y), fs.ops.dropout(host[0], 0.5, seed=1))
    assert y.device == arrays[0].device
    with pytest.raises(TypeError, match="grads"):
        fs.ops.sgd_step(arrays[0], library.put(host[1], 0), lr=0.1)


def script(source: str) -> subprocess.CompletedProcess:
    """Run in a process of its own, with this one's path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", "import os\n" + textwrap.dedent(source)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_child_forked_after_the_import_can_use_the_device(torch):
    """The import touches no device: a context would not survive the fork."""
    result = script("""
        import fusedstep as fs
        import numpy as np
        child = os.fork()
        if child == 0:
            import torch
            p, g = torch.ones(5, device="cuda"), torch.ones(5, device="cuda")
            fs.ops.sgd_step(p, g, lr=0.5)
            os._exit(0 if p.cpu().tolist() == [0.5] * 5 and fs.info()["cuda"] else 1)
        _, status = os.waitpid(child, 0)
        raise SystemExit(os.waitstatus_to_exitcode(status))
    """)
    assert result.returncode == 0, result.stderr


def test_a_launch_that_fails_names_the_kernel(torch):
    """Nothing can be launched into a capture that another call has spoiled."""
    result = script("""
        import fusedstep as fs
        import torch
        p, g = torch.ones(5, device="cuda"), torch.ones(5, device="cuda")
        fs.ops.sgd_step(p, g, lr=0.5)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda.CUDAGraph().capture_begin()
            try:
                stream.synchronize()
            except Exception:
                pass
            try:
                fs.ops.sgd_step(p, g, lr=0.5)
            except RuntimeError as error:
                print("RuntimeError:", error, flush=True)
        os._exit(0)  # torch would wait for the capture
    """)
    assert re.search("RuntimeError: .*sgd.*: cudaError", result.stdout), result


def test_an_error_of_another_kernel_is_not_passed_over(torch):
    """It has broken the context: the next call says so, and is not taken for a success."""
    result = script("""
        import fusedstep as fs
        import torch
        p, g = torch.ones(5, device="cuda"), torch.ones(5, device="cuda")
        fs.ops.sgd_step(p, g, lr=0.5)
        try:
            p[torch.tensor([10**9], device="cuda")].sum()
            torch.cuda.synchronize()
        except Exception:
            pass
        try:
            fs.ops.sgd_step(p, g, lr=0.5)
        except RuntimeError as error:
            print("RuntimeError:", error, flush=True)
        os._exit(0)
    """)
    assert re.search("RuntimeError: .*cudaError", result.stdout), result


def test_info_names_the_devices(library):
    devices = fs.info()["cuda_devices"]
    assert len(devices) == library.device_count() and fs.info()["cuda_reason"] is None
    for device in devices:
        assert device["name"] and device["memory"] > 2**30
        major, _, minor = device["capability"].partition(".")
        assert int(major) >= 7 and minor.isdecimal()
