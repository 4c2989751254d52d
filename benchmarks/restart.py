"""From the start of the command to the first new request of a batch that is half done.

    python benchmarks/restart.py [--quick] [--requests 1000000] [--long 200000]

A run is killed when half of its requests have reached the upstream, and the same command is
given again. The sandbox's ledger shows the first new request; it is written every 20 ms.
Once with small results, and once with results of 30 kB (128 choices a request).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import measure

GIVE_UP_S = 7200.0
TARGET_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100,000 and 4,000")
    parser.add_argument("--requests", type=int, help="with small results, else 1,000,000")
    parser.add_argument(
        "--long", type=int, help="with results of 30 kB, else 1,000,000 (15 GB of disk)"
    )
    arguments = parser.parse_args()
    small = arguments.requests or (100_000 if arguments.quick else 1_000_000)
    long = arguments.long or (4_000 if arguments.quick else 1_000_000)
    measure.show_machine()
    measure.pin_to_engine_cpu()
    rows = []
    for results, count, body_of in (
        ("small", small, measure.chat_body),
        ("30 kB", long, many_choices_body),
    ):
        sent, taken_s = restart(count, body_of)
        cells = measure.at_most([taken_s], TARGET_S)
        rows.append((results, f"{count:,}", f"{sent:,}", f"{taken_s:.2f}", *cells))
    measure.show_table(
        "Restart of a run that was killed half way",
        ("results", "requests", "sent before", "first new request after, s", "wanted", ""),
        rows,
    )


def restart(count: int, body_of: Callable[[int], bytes]) -> tuple[int, float]:
    """How many requests had been sent, and how long the command took to send another."""
    with measure.sandbox(with_ledger=True) as upstream, measure.scratch() as folder:
        config = folder / "config.toml"
        config.write_text(measure.config_text(upstream.base_url, 64))
        source = measure.write_requests(folder / "input.jsonl", count, body_of)
        command = measure.run_command(source, config, folder / "output.jsonl")
        ledger = Ledger(upstream.ledger_path)
        run_until(command, folder, lambda: ledger.count() >= count // 2)
        time.sleep(0.5)  # what was on its way when the run was killed is now in the ledger
        sent = ledger.count()
        return sent, run_until(command, folder, lambda: ledger.count() > sent)


def many_choices_body(number: int) -> bytes:
    """A request that is answered with 30 kB."""
    message = {"role": "user", "content": f"Is review {number} good or bad?"}
    return json.dumps({"model": measure.MODEL, "messages": [message], "n": 128}).encode()


class Ledger:
    """Counts the lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._lines = 0

    def count(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            self._offset += len(new)
            self._lines += new.count(b"\n")
        return self._lines


def run_until(command: Sequence[str], folder: Path, is_reached: Callable[[], bool]) -> float:
    """Start the command, kill it as soon as the condition holds; how long that took."""
    started = time.perf_counter()
    with (
        (folder / "run.log").open("w") as log,
        subprocess.Popen(
            command,
            env={**measure.environment(), "HOME": str(folder)},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        while not is_reached():
            taken_s = time.perf_counter() - started
            if process.poll() is not None or taken_s > GIVE_UP_S:
                process.kill()
                raise SystemExit(f"it did not come so far:\n{(folder / 'run.log').read_text()}")
            time.sleep(0.005)
        taken_s = time.perf_counter() - started
        process.kill()
    return taken_s


if __name__ == "__main__":
    main()
