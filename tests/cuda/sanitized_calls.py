"""A call or more of every kernel, few enough for compute-sanitizer. A script, no test:

    compute-sanitizer --tool memcheck python tests/cuda/sanitized_calls.py
    compute-sanitizer --tool racecheck python tests/cuda/sanitized_calls.py --small

Every array has an allocation of its own, so that memcheck sees each access beyond an end.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import test_cuda_layers as layers
import test_cuda_steps as steps
from test_cuda_streams import CALLS, on_device, results

import fusedstep as fs
from bits import ALL_DTYPES, assert_same_bits
from gpu_arrays import CuPy
from test_bits import ACTIVATIONS, PAIRS, RULES


def first_of_each_op() -> list[int]:
    """Indices of rules."""
    names = [op for op, _, _ in RULES]
    return sorted({names.index(name) for name in names})


def main(small: bool) -> None:
    library = CuPy()
    library.cupy.cuda.set_allocator(None)
    for call in CALLS.values():
        here, there = on_device(call, np.copy), on_device(call, library.put)
        expected, actual = (results(c.run(fs.ops), c, library.get) for c in (here, there))
        for name, array in expected.items():
            assert_same_bits(name, actual[name], array)

    pairs = [pair for pair in PAIRS if all(library.has(np.dtype(dtype)) for dtype in pair)]
    for pair in pairs[:1] if small else pairs:
        for rule_index in first_of_each_op() if small else range(len(RULES)):
            for size in (9, 1025):
                start, grads, _ = steps.case(rule_index, pair, size)
                for offsets in steps.OFFSETS[:1] if small else steps.OFFSETS:
                    steps.run_on_device(library, rule_index, start, grads[:1], offsets)
    steps.test_lists(40 if small else 500, PAIRS[0], library)
    steps.test_clipping_and_skipping(1.0, library)

    shapes = [((4, 33, 70), 1), ((5, 9, 9, 17), -1), ((70, 40), 1)]
    for pair in pairs[:1] if small else pairs:
        for shape, axis in shapes if small else [*shapes, ((2, 3, 9001), 1), ((3, 300, 7, 7), 1)]:
            for option in layers.BATCH_OPTIONS:
                layers.batch_norm(library, (*pair, False), shape, axis, option)
    rng = np.random.default_rng(0)
    for dtype in ALL_DTYPES:
        if library.has(np.dtype(dtype)):
            x = library.put(rng.normal(size=1025 if small else 70_001).astype(dtype))
            fs.ops.global_norm(x)
            fs.ops.dropout_backward(fs.ops.dropout(x[1:], 0.3, seed=1), 0.3, seed=1)
    x, target = (library.put(rng.uniform(size=(70, 33)).astype(np.float32)) for _ in range(2))
    for activation in ACTIVATIONS:
        fs.ops.bias_activation_backward(x, fs.ops.bias_activation(x, activation=activation), activation=activation)
    fs.ops.softmax_cross_entropy(x, library.put(np.arange(70) % 33))
    fs.ops.sigmoid_cross_entropy(x, target)
    fs.ops.mean_squared_error(x, target)
    library.cupy.cuda.runtime.deviceSynchronize()
    print("all calls are done")


if __name__ == "__main__":
    main("--small" in sys.argv[1:])
