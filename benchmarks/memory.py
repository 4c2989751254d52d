"""Anonymous memory of `batchwright run` at its peak, by the number of requests.

    python benchmarks/memory.py [--quick] [--sizes 10000,100000,1000000]

The memory of the command is read from the kernel twenty times a second. Growth is what a request
more takes, between one size and the next.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from itertools import pairwise

import measure

TARGET_MB = 300.0  # that of 1,000,000 requests
TARGET_GROWTH_BYTES = 16.0
QUICK_SIZES = "10000,100000"
SIZES = f"{QUICK_SIZES},1000000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 100,000")
    parser.add_argument("--sizes", help="else 10000,100000,1000000; 10000000 takes half an hour")
    arguments = parser.parse_args()
    sizes = measure.sizes(arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES))
    measure.show_machine()
    measure.pin_to_engine_cpu()
    peaks_mb = {size: peak_mb(size) for size in sizes}
    measure.show_table(
        "Memory of batchwright run",
        ("requests", "peak, MB", "wanted", ""),
        [
            (f"{size:,}", f"{peak:.0f}", *measure.at_most([peak], TARGET_MB))
            for size, peak in peaks_mb.items()
        ],
    )
    rows = []
    for less, more in pairwise(sorted(sizes)):
        grown = (peaks_mb[more] - peaks_mb[less]) * 2**20 / (more - less)
        cells = measure.at_most([grown], TARGET_GROWTH_BYTES)
        rows.append((f"{less:,}", f"{more:,}", f"{grown:.1f}", *cells))
    measure.show_table("Growth", ("from", "to", "bytes a request", "wanted", ""), rows)


def peak_mb(count: int) -> float:
    """The most that the command held at a time while it ran `count` requests."""
    with measure.sandbox() as upstream, measure.scratch() as folder:
        config = folder / "config.toml"
        config.write_text(measure.config_text(upstream.base_url, 64))
        source = measure.write_requests(folder / "input.jsonl", count)
        with subprocess.Popen(
            measure.run_command(source, config, folder / "output.jsonl"),
            env={**measure.environment(), "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            most_mb = 0.0
            while process.poll() is None:
                most_mb = max(most_mb, measure.anonymous_mb(process.pid))
                time.sleep(0.05)
        if process.returncode != 0:
            raise SystemExit(f"batchwright run ended with {process.returncode}")
        return most_mb


if __name__ == "__main__":
    main()
