"""The quick benchmarks, one after the other, in under ten minutes.

    python benchmarks/run.py

Each program runs alone too and takes other sizes; see its `--help`. Close what else runs on the
machine first.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

PROGRAMS = (
    ("dispatch.py", "--requests", "200000", "--rounds", "3"),
    ("upload.py", "--rounds", "3"),
    ("waiting.py", "--rounds", "3"),
    ("validation.py", "--mb", "20"),
    ("finalizing.py", "--sizes", "1000,10000,100000"),
    ("memory.py", "--sizes", "10000,100000"),
    ("restart.py", "--requests", "100000"),
)


def main() -> None:
    folder = Path(__file__).parent
    for name, *arguments in PROGRAMS:
        print(f"## {name} {' '.join(arguments)}\n", flush=True)
        started = perf_counter()
        ended = subprocess.run([sys.executable, str(folder / name), *arguments], check=False)
        if ended.returncode != 0:
            raise SystemExit(f"{name} ended with {ended.returncode}")
        print(f"({perf_counter() - started:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
