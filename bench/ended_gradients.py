"""A step of Adam on a million values of which some get no gradient any more, beside PyTorch's fused one.

    python bench/ended_gradients.py [--json bench/results/ended_gradients.json]

Their first moments have become as small as they get: 0 here, subnormal numbers in PyTorch, which a processor takes some
150 cycles for. Rows of an embedding that are not used, and units that died, are such values.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import fusedstep as fs
from fusedstep._bench.timing import in_turn, machine, summary
from fusedstep._files import atomic_write

SIZE, SHARES, STEP = 1_000_000, (0.0, 0.01, 0.1, 0.5), 1000
LEAST = np.float32(6e-45)  # what 0.9 times leaves as it is


def steps_of(share: float) -> dict:
    rng = np.random.default_rng(0)
    start, gradient = rng.standard_normal((2, SIZE)).astype(np.float32)
    ended = rng.random(SIZE) < share
    gradient[ended] = 0
    m, v = np.where(ended, LEAST, gradient), np.where(ended, np.float32(1e-9), gradient * gradient)
    ours = [array.copy() for array in (start, gradient, m, v)]
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    parameter.grad = torch.from_numpy(gradient.copy())
    peer = torch.optim.Adam([parameter], fused=True)
    peer.step()
    state = peer.state[parameter]
    state["exp_avg"].copy_(torch.from_numpy(m))
    state["exp_avg_sq"].copy_(torch.from_numpy(v))
    state["step"].fill_(STEP - 1)
    parameter.detach().copy_(torch.from_numpy(start))
    steps = {"fusedstep": lambda: fs.ops.adam_step(*ours, lr=1e-3, step=STEP), "torch": peer.step}
    for step in steps.values():
        step()
    np.testing.assert_allclose(ours[0], parameter.detach().numpy(), rtol=1e-6, atol=1e-8)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about, rows = machine(), {}
    print(f"{about['processor']}, {about['cores']} cores, {about['isa']}; torch {torch.__version__}; medians in ms")
    for share in SHARES:
        times = {name: summary(seconds) for name, seconds in in_turn(steps_of(share), 30, warm_up=10).items()}
        ours, peer = (times[name]["median"] * 1e3 for name in ("fusedstep", "torch"))
        print(f"{share:4.0%} without gradient: {ours:6.2f}, torch {peer:6.2f}, ratio {peer / ours:5.1f}")
        rows[f"{share:.0%}"] = times
    if options.json:
        content = {"command": "python bench/ended_gradients.py", "machine": about, "torch": torch.__version__}
        atomic_write(options.json, json.dumps(content | {"rows": rows}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
