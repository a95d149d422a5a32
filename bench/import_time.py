"""What `import fusedstep` costs beside `import numpy`, in fresh interpreters that run in turn.

    python bench/import_time.py [--repeats 15] [--json bench/results/import_time.json]

The wall time of a whole `python -c ...`, with bytecode, as an installed package has it. Most parts of fusedstep are
imported when they are first asked for: hence the rows of what a training script asks for, of everything, and of the
command line. Target: `import fusedstep` within 30 ms of `import numpy`, alone and after it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from fusedstep._bench.timing import in_turn, machine, summary
from fusedstep._files import atomic_write

TARGET = 0.030
STATEMENTS = {
    "nothing": "pass",
    "numpy": "import numpy",
    "fusedstep": "import fusedstep",
    "numpy and fusedstep": "import numpy, fusedstep",
    "... and its models": "import numpy, fusedstep as fs; fs.nn, fs.optim",
    "... and its training": "import numpy, fusedstep as fs; fs.nn, fs.optim, fs.data, fs.fit",
    "... and all names": "import numpy; from fusedstep import *",
    "the command line": "import numpy, fusedstep.cli",
}
JUDGED = ("fusedstep", "numpy and fusedstep")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(statement: str) -> None:
    subprocess.run([sys.executable, "-c", statement], env=ENVIRONMENT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times = in_turn({name: partial(run, text) for name, text in STATEMENTS.items()}, options.repeats, warm_up=1)
    rows = {name: summary(seconds) | {"least": min(seconds)} for name, seconds in times.items()}
    about, numpy = machine(), rows["numpy"]
    print(f"{about['processor']}, {about['cores']} cores; Python {about['python']}, NumPy {about['numpy']}; ms")
    print(f"{'':20} {'median':>7} {'quartiles':>15} {'least':>7}   beyond numpy: median, least")
    for name, row in rows.items():
        beyond = {key: row[key] - numpy[key] for key in ("median", "least")}
        row["beyond_numpy"] = beyond
        judged = f"   at most {1e3 * TARGET:g}: {'reached' if met(row) else 'missed'}" if name in JUDGED else ""
        print(
            f"{name:20} {1e3 * row['median']:7.1f} {1e3 * row['lower']:7.1f}{1e3 * row['upper']:8.1f}"
            f" {1e3 * row['least']:7.1f}   {1e3 * beyond['median']:+14.1f} {1e3 * beyond['least']:+14.1f}{judged}"
        )
    if options.json:
        content = {
            "command": " ".join(["python", "bench/import_time.py", *sys.argv[1:]]),
            "machine": about,
            "repeats": options.repeats,
            "statements": STATEMENTS,
            "target": TARGET,
            "seconds": rows,
        }
        atomic_write(options.json, (json.dumps(content, indent=1) + "\n").encode())


def met(row: dict) -> bool:
    return row["beyond_numpy"]["median"] <= TARGET


if __name__ == "__main__":
    main()
