"""Anonymous memory of `batchwright run` at its peak, by the number of requests.

    python benchmarks/memory.py [--sizes 10000,100000]

The memory of the command is read from the kernel twenty times a second. Growth is what a request
more takes, between the least and the greatest size.
"""

from __future__ import annotations

import argparse
import subprocess
import time

import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000", help="1000000 takes minutes")
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    measure.show_machine()
    measure.pin_to_engine_cpu()
    peaks_mb = {size: peak_mb(size) for size in sizes}
    measure.show_table(
        "Memory of batchwright run",
        ("requests", "peak, MB"),
        [(f"{size:,}", f"{peak:.0f}") for size, peak in peaks_mb.items()],
    )
    least, most = min(sizes), max(sizes)
    if most > least:
        grown_bytes = (peaks_mb[most] - peaks_mb[least]) * 2**20
        print(f"growth: {grown_bytes / (most - least):.1f} bytes a request\n")


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
