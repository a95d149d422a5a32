"""What nvcc makes of the kernels: IEEE arithmetic without contraction, and accesses of 16 bytes.

The bits rest on the first, the speed on the second; neither shows where kernels run on a CPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CUDA = Path(__file__).parents[1] / "csrc" / "cuda"
NVCC = shutil.which("nvcc")

pytestmark = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A function that gives {mangled name: PTX} of a source file."""
    folder = tmp_path_factory.mktemp("ptx")

    def compiled(source: str) -> dict[str, str]:
        target = folder / f"{source}.ptx"
        if not target.exists():
            flags = ["-std=c++17", "-O3", "--fmad=false", "-arch=sm_90", "-DFUSEDSTEP_CUDA_MODULE"]
            subprocess.run([NVCC, *flags, "-ptx", str(CUDA / source), "-o", str(target)], check=True)
        parts = re.split(r"\.visible \.entry |\.entry ", target.read_text())[1:]
        return {part.partition("(")[0]: part for part in parts}

    return compiled


@pytest.mark.parametrize("source", ["steps_float32.cu", "steps_float16.cu", "dropout.cu", "norm.cu"])
def test_arithmetic_is_ieee_and_not_contracted(kernels, source):
    for name, text in kernels(source).items():
        found = re.findall(r"\b(?:fma|mad)\.\S*f(?:32|64)|\S*\.approx\S*|\S*\.ftz\S*|div\.full\S*", text)
        assert found == [], name


def states_of(name: str) -> int:
    flags = re.search(r"(RmspropRule|AdamRule)ILb([01])ELb([01])", name)
    if flags:
        momentum, centered = int(flags[2]), int(flags[3])
        return 1 + momentum + centered if flags[1] == "RmspropRule" else 2 + int(flags[2])  # AdamRule: amsgrad first
    if any(rule in name for rule in ("Nadam", "Radam", "Adamax", "Adadelta", "Lamb")):
        return 2
    return 1 if any(rule in name for rule in ("Velocity", "Adagrad", "Lion", "Lars")) else 0


@pytest.mark.parametrize("source", ["steps_float32.cu", "steps_float16.cu"])
def test_steps_access_vectors(kernels, source):
    """The parameters, each state and the average: at least a load and a store of 16 bytes for each."""
    steps = {name: text for name, text in kernels(source).items() if "step_kernel" in name}
    assert len(steps) % 38 == 0 and steps  # 19 rules, a short and a long table
    for name, text in steps.items():
        stores = len(re.findall(r"\bst\.global\.v4\.", text))
        loads = len(re.findall(r"\bld\.global(?:\.nc)?\.v4\.", text))
        assert stores >= states_of(name) + 2 and loads > stores, name
        assert "ld.local" not in text and "st.local" not in text, name


@pytest.mark.parametrize("vector", [4, 8])
def test_dropout_reads_and_writes_vectors(kernels, vector):
    plain = [text for name, text in kernels("dropout.cu").items() if f"dropout_kernelILi{vector}ELb0E" in name]
    assert plain
    for text in plain:
        rounds = 512 // 32 // vector
        assert len(re.findall(r"\bst\.global\.v4\.", text)) == rounds
        assert len(re.findall(r"\bld\.global(?:\.nc)?\.v4\.", text)) == rounds
        assert "mul.lo.s64" not in text  # Philox has 32-bit products
