"""The benchmarks, one after the other: the quick ones in under ten minutes, or all at full size.

    python benchmarks/run.py [--all]

Each program runs alone too and takes other sizes; see its `--help`. Close what else runs on the
machine first. A program that fails does not keep the others from running.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from time import perf_counter

QUICK = (
    ("dispatch.py", "--requests", "60000", "--rounds", "1"),
    ("peers.py", "--quick", "--variant", "small"),
    ("peers.py", "--quick", "--variant", "slow", "--peers", ""),
    ("server_api.py", "--quick"),
    ("passthrough.py", "--quick"),
    ("rate_limits.py", "--quick"),
    ("fairness.py", "--quick", "--rounds", "1"),
    ("packing.py", "--quick"),
    ("dedupe.py", "--quick"),
    ("prefix_order.py", "--quick"),
    ("upload.py", "--quick"),
    ("waiting.py", "--quick"),
    ("finalizing.py", "--quick"),
    ("memory.py", "--quick"),
    ("restart.py", "--quick"),
)
ALL = (
    ("dispatch.py",),
    ("peers.py",),
    ("server_api.py",),
    ("passthrough.py",),
    ("rate_limits.py",),
    ("rate_limits.py", "--stepping"),
    ("pacing.py",),
    ("fairness.py",),
    ("packing.py",),
    ("dedupe.py",),
    ("prefix_order.py",),
    ("upload.py",),
    ("waiting.py",),
    ("validation.py", "--mb", "20"),
    ("finalizing.py",),
    ("memory.py",),
    ("restart.py",),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="at full size: some hours")
    programs = ALL if parser.parse_args().all else QUICK
    folder = Path(__file__).parent
    failed = []
    started = perf_counter()
    for name, *arguments in programs:
        print(f"## {name} {' '.join(arguments)}\n", flush=True)
        began = perf_counter()
        ended = subprocess.run([sys.executable, str(folder / name), *arguments], check=False)
        if ended.returncode != 0:
            failed.append(f"{name} ended with {ended.returncode}")
        print(f"({perf_counter() - began:.0f} s)\n", flush=True)
    print(f"{perf_counter() - started:.0f} s in all", *failed, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
