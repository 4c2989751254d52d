"""The benchmarks, one after the other: the quick ones in under ten minutes, or all at full size.

    python benchmarks/run.py [--all]

Each program runs alone too and takes other sizes; see its `--help`. Close what else runs on the
machine first. A program that fails does not keep the others from running. At the end every figure
that has a target stands once more, with what was wanted and whether it was met.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from time import perf_counter

from measure import VERDICTS, show_table

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
    ("memory.py", "--sizes", "10000,100000,1000000,10000000"),
    ("restart.py",),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="at full size: some hours")
    programs = ALL if parser.parse_args().all else QUICK
    failed: list[str] = []
    held: list[tuple[str, ...]] = []
    started = perf_counter()
    for name, *arguments in programs:
        print(f"## {name} {' '.join(arguments)}\n", flush=True)
        began = perf_counter()
        code, lines = shown(name, arguments)
        held += [(name, *row) for row in targets(lines)]
        if code != 0:
            failed.append(f"{name} ended with {code}")
        print(f"({perf_counter() - began:.0f} s)\n", flush=True)
    show_table("What was wanted", ("program", "what", "seen", "wanted", ""), held)
    print(f"{perf_counter() - started:.0f} s in all", *failed, sep="\n")
    return 1 if failed else 0


def shown(name: str, arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Run a program and show what it prints; its exit code and its lines."""
    command = [sys.executable, "-u", str(Path(__file__).with_name(name)), *arguments]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    return process.returncode, lines


def targets(lines: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """What is measured, the figure, the target and the verdict, of each in the tables."""
    title, header = "", [""]
    for line, above in zip(lines, ["", *lines], strict=False):
        if not line.startswith("|"):
            title = line or title
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not above.startswith("|"):
            header = cells
        for at, cell in enumerate(cells):
            if cell in VERDICTS:
                yield _named(title, header[0], cells[: at - 2]), *cells[at - 2 : at], cell


def _named(title: str, first: str, before: Sequence[str]) -> str:
    """The name of a row: its cells as far as they are words."""
    words = list(takewhile(lambda cell: not cell[:1].isdigit(), before))
    if words:
        return ", ".join(words)
    return f"{first} {before[0]}" if before else title


if __name__ == "__main__":
    sys.exit(main())
