"""Batches through the server's API: from the first byte of the first upload to `completed`.

    python benchmarks/server_api.py [--quick] [--requests 200000] [--batches 4] [--rounds 3]

`batchwright serve` has one core, the upstream without latency and the client the other. Every
batch is uploaded by a thread of its own and created as soon as its file is there.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import measure
from batch_api import batch_server, create, wait
from upload import OwnServer

TARGET = 8000
CONCURRENCY = 64
POLL_S = 0.25  # a look at a batch costs the server a millisecond


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="40,000 requests, one round")
    parser.add_argument("--requests", type=int, help="in all batches, else 200,000")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, help="else 3")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY, help="calls in flight")
    arguments = parser.parse_args()
    requests = arguments.requests or (40_000 if arguments.quick else 200_000)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    measure.show_machine()
    os.sched_setaffinity(0, {measure.SANDBOX_CPU})  # the client
    rates, shares, memory_mb = [], [], []
    with measure.scratch() as folder, measure.sandbox() as upstream:
        each = requests // arguments.batches
        sources = [
            measure.write_requests(folder / f"{number}.jsonl", each, first=number * each)
            for number in range(arguments.batches)
        ]
        for number in range(rounds):
            own = batch_server(folder / f"round-{number}", upstream.base_url, arguments.concurrency)
            with own as (server, pid):
                cpu_before_s = measure.cpu_s(upstream.pid)
                taken_s = completed_after_s(server, sources)
                rates.append(each * len(sources) / taken_s)
                shares.append(100 * (measure.cpu_s(upstream.pid) - cpu_before_s) / taken_s)
                memory_mb.append(measure.anonymous_mb(pid))
    measure.show_table(
        f"{each * len(sources):,} requests in {len(sources)} batches through the API",
        ("requests a second", "wanted", "", "sandbox's core, %", "memory at the end, MB"),
        [
            (
                *(measure.spread(rates), *measure.at_least(rates, TARGET)),
                *(measure.spread(shares), measure.spread(memory_mb)),
            )
        ],
    )


def completed_after_s(server: OwnServer, sources: list[Path]) -> float:
    """Upload every file, create its batch, wait for all."""

    def run(source: Path) -> None:
        wait(server, create(server, server.upload(source)), poll_s=POLL_S)

    started = perf_counter()
    with ThreadPoolExecutor(len(sources)) as threads:
        list(threads.map(run, sources))
    return perf_counter() - started


if __name__ == "__main__":
    main()
