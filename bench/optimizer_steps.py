"""Adam on a small model beside torch's fused Adam, and AdamW on 30 million values beside its memory traffic.

    python bench/optimizer_steps.py [--json FILE]

Needs torch and a C++ compiler. Both sides step the same values in turn, in one process; results are compared first.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch  # before fusedstep, so that torch's OpenMP threads wait as torch's users know them, not passively
from measure import compiled_traffic, in_turn, machine, summary, write_json

import fusedstep as fs
from fusedstep._arena import aligned_zeros


def small_model(repeats: int) -> dict:
    """Six arrays, 26,122 values: Dense 64-128-128-10."""
    layers = [fs.nn.Dense(64, 128), fs.nn.Dense(128, 128), fs.nn.Dense(128, 10)]
    model = fs.nn.Sequential(*layers)
    rng = np.random.default_rng(0)
    theirs = []
    for p in model.parameters():
        p.grad[...] = rng.normal(size=p.grad.shape)
        theirs.append(torch.nn.Parameter(torch.from_numpy(p.array.copy())))
        theirs[-1].grad = torch.from_numpy(p.grad.copy())
    optimizer, peer = fs.optim.Adam(model.parameters()), torch.optim.Adam(theirs, fused=True)
    for _ in range(10):
        optimizer.step()
        peer.step()
    for p, t in zip(model.parameters(), theirs, strict=True):
        np.testing.assert_allclose(p.array, t.detach().numpy(), rtol=1e-4, atol=1e-6)
    seconds = in_turn({"fusedstep": optimizer.step, "peer": peer.step}, repeats, warm_up=100, calls=200)
    return row(
        f"Adam.step, {len(theirs)} arrays, {model.n_parameters} values", f"torch {torch.__version__} fused", seconds
    )


def large_step(repeats: int, n: int = 30_000_000) -> dict:
    traffic = compiled_traffic()
    arrays = [aligned_zeros(n, np.float32) for _ in range(4)]
    arrays[1][:] = np.random.default_rng(0).normal(size=n)
    parameter = fs.nn.Parameter(arrays[0], arrays[1], "p")
    optimizer = fs.optim.AdamW([parameter], lr=1e-3)
    state = optimizer.state_arrays("p").values()
    pointers = [a.ctypes.data for a in (arrays[0], arrays[1], *state)]
    seconds = in_turn({"fusedstep": optimizer.step, "peer": lambda: traffic(*pointers, n)}, repeats)
    return row(f"AdamW.step, {n} values", "loop of the same traffic", seconds, bytes_moved=7 * 4 * n)


def row(work: str, peer: str, seconds: dict[str, list[float]], bytes_moved: int | None = None) -> dict:
    ours, theirs = summary(seconds["fusedstep"]), summary(seconds["peer"])
    result = {"work": work, "peer": peer, "fusedstep": ours, "peer_seconds": theirs}
    result["ratio"] = theirs["median"] / ours["median"]
    if bytes_moved is not None:
        result["GB/s"] = bytes_moved / ours["median"] / 1e9
        result["peer GB/s"] = bytes_moved / theirs["median"] / 1e9
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the result here")
    parser.add_argument("--repeats", type=int, default=40, help="pairs")
    arguments = parser.parse_args()
    about = machine()
    print(f"{about['processor']}, {about['cores']} cores, {about['num_threads']} threads, {about['isa']}")
    rows = [small_model(arguments.repeats), large_step(arguments.repeats)]
    for r in rows:
        ours, theirs = r["fusedstep"], r["peer_seconds"]
        speed = f", {r['GB/s']:.1f} of {r['peer GB/s']:.1f} GB/s" if "GB/s" in r else ""
        print(
            f"{r['work']}: {ours['median'] * 1e6:.1f} us [{ours['lower'] * 1e6:.1f}, {ours['upper'] * 1e6:.1f}]; "
            f"{r['peer']}: {theirs['median'] * 1e6:.1f} us [{theirs['lower'] * 1e6:.1f}, {theirs['upper'] * 1e6:.1f}]; "
            f"ratio {r['ratio']:.2f}{speed}"
        )
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
