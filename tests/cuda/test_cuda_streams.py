"""Every call runs on the producer's current stream, in order, and returns before the device has done it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fusedstep as fs
from bits import assert_same_bits
from fusedstep.reference import BatchNormSaved
from valid_calls import Call, calls

pytestmark = pytest.mark.cuda

CALLS = calls()


def on_device(call: Call, convert) -> Call:
    """The call with its arrays converted, and with an `out` where there is a result to wait for else."""
    arrays = {name: convert(a) for name, a in call.arrays.items()}
    if call.op == "global_norm":
        arrays["out"] = convert(np.zeros(()))
    saved = call.saved
    if saved is not None:
        saved = replace(saved, mean=convert(saved.mean), var=convert(saved.var))
    return replace(call, arrays=arrays, saved=saved)


def results(returned, call: Call, get) -> dict[str, np.ndarray]:
    """All arrays after the call, and what it returned."""
    items = returned if isinstance(returned, tuple) else (returned,)
    found = dict(call.all_arrays())
    for i, item in enumerate(items):
        if isinstance(item, BatchNormSaved):
            found |= {"returned mean": item.mean, "returned var": item.var}
        elif item is not None:
            found[f"returned {i}"] = item
    return {name: np.asarray(a) if isinstance(a, float | np.ndarray) else get(a) for name, a in found.items()}


@pytest.mark.parametrize("key", CALLS)
def test_in_order_and_without_waiting(key, library):
    """Behind a kernel that takes its time, the inputs are written, and the call must see them."""
    call = CALLS[key]
    on_host = on_device(call, np.copy)
    expected = results(on_host.run(fs.ops), on_host, None)
    source = on_device(call, library.put)

    def write_and_run(target: Call):
        for name, array in target.all_arrays().items():
            library.copy_into(array, source.all_arrays()[name])
        return target.run(fs.ops)

    first, call = (on_device(call, lambda a: library.zeros_like(library.put(a))) for _ in range(2))
    write_and_run(first)  # loads all kernels
    with library.side_stream() as is_idle:
        library.spin(0.2)
        returned = write_and_run(call)
        assert not is_idle(), "the call waited for the device"
        actual = results(returned, call, library.get)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(f"{key}: {name}", actual[name], array)


def test_a_float_waits_for_the_stream(library):
    grads = library.put(np.zeros(3, np.float32))
    source = library.put(np.array([0, 3, -4], np.float32))
    with library.side_stream():
        library.spin(0.1)
        library.copy_into(grads, source)
        assert fs.ops.global_norm(grads) == 5


def test_two_streams_at_once(torch):
    """Kernels that need memory of their own, with nothing that waits in between."""
    rng = np.random.default_rng(0)
    host = [rng.normal(size=n).astype(np.float32) for n in (3_000_000, 2_000_000)]
    arrays = [torch.from_numpy(a).cuda() for a in host]
    outs = [[torch.zeros((), dtype=torch.float64, device="cuda") for _ in range(50)] for _ in host]
    streams = [torch.cuda.Stream() for _ in host]
    torch.cuda.synchronize()
    for turn in range(50):
        for stream, array, out in zip(streams, arrays, outs, strict=True):
            with torch.cuda.stream(stream):
                fs.ops.global_norm(array, out=out[turn])
    torch.cuda.synchronize()
    for values, out in zip(host, outs, strict=True):
        assert {norm.item() for norm in out} == {fs.ops.global_norm(values)}
