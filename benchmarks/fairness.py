"""What somebody's huge batch costs a small batch and live calls on the same server.

    python benchmarks/fairness.py [--quick] [--large 1000000] [--rounds 5]

The upstream answers after 200 ms. Everything goes through the HTTP API of `batchwright serve`.

A batch of 100 under a limit of 960 requests a minute, which takes it over 5 s alone: the same
batch beside a large one of the same tenant, and beside that of another tenant. From the request
that creates it to `completed`.

Live calls, five a second and never more than one of a caller at a time: alone, and beside a large
batch that saturates a limit of 30,000 requests a minute, or 50 calls in flight.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

import measure
from batch_api import batch_server, create, of_tenant, wait
from upload import OwnServer

LATENCY = "200ms"
SMALL = 100
SMALL_LIMIT_RPM = 960  # of a bucket of one second: (100 - 16) / 16 per s are 5.25 s
SMALL_TARGET = 2.2
REST_S = 2.0  # until what may be used at once is there again
LIVE_TARGET = 1.2
LIVE_PERIOD_S = 0.2
CALLERS = 4
SATURATED = {
    "30,000 requests a minute": (1000, "requests_per_minute = 30000"),
    "50 calls in flight": (50, ""),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a large batch of 20,000: a minute")
    parser.add_argument("--large", type=int, help="requests of the large batch, else 1,000,000")
    parser.add_argument("--rounds", type=int, help="of the small batch, else 5 (quick: 2)")
    parser.add_argument("--live-s", type=float, help="of live calls, else 100 (quick: 8)")
    parser.add_argument("--only", choices=("small", "live"))
    arguments = parser.parse_args()
    is_quick = arguments.quick
    large = arguments.large or (20_000 if is_quick else 1_000_000)
    measure.show_machine()
    os.sched_setaffinity(0, {measure.SANDBOX_CPU})  # the clients
    with measure.scratch() as folder:
        source = measure.write_requests(folder / "large.jsonl", large)
        if arguments.only != "live":
            show_small(folder, source, large, arguments.rounds or (2 if is_quick else 5))
        if arguments.only != "small":
            show_live(folder, source, large, arguments.live_s or (8.0 if is_quick else 100.0))


def show_small(folder: Path, large: Path, count: int, rounds: int) -> None:
    alone_s: list[float] = []
    beside_s: dict[str, list[float]] = {}
    limit = f"requests_per_minute = {SMALL_LIMIT_RPM}"
    with (
        measure.sandbox("--latency", LATENCY) as upstream,
        batch_server(folder / "small", upstream.base_url, 1000, limit) as (server, _),
    ):
        source = measure.write_requests(folder / "small.jsonl", SMALL)
        callers = {"the same tenant": server, "another tenant": of_tenant(server, "other")}
        for _ in range(rounds):
            sleep(REST_S)
            alone_s.append(taken_s(server, source))
        with large_batch(server, large):
            for _ in range(rounds):
                for whose, caller in callers.items():
                    beside_s.setdefault(whose, []).append(taken_s(caller, source))
    alone = sorted(alone_s)[len(alone_s) // 2]
    rows = [("alone", measure.spread(alone_s, 2), "–", "–", "–")]
    for whose, times_s in beside_s.items():
        ratios = [time_s / alone for time_s in times_s]
        ratio = measure.spread(ratios, 2)
        cells = measure.at_most(ratios, SMALL_TARGET)
        rows.append((f"beside {whose}'s", measure.spread(times_s, 2), ratio, *cells))
    measure.show_table(
        f"A batch of {SMALL} beside one of {count:,}",
        ("the batch", "seconds", "to alone", "wanted", ""),
        rows,
    )


def taken_s(server: OwnServer, source: Path) -> float:
    """From the creation of the batch to its completion."""
    file_id = server.upload(source)
    started = perf_counter()
    wait(server, create(server, file_id))
    return perf_counter() - started


@contextmanager
def large_batch(server: OwnServer, source: Path) -> Iterator[None]:
    """The large batch is under way; it must outlast what is measured beside it."""
    batch_id = create(server, server.upload(source))
    wait(server, batch_id, completed=200)
    yield
    batch = server.ask("GET", f"/batches/{batch_id}")
    if batch["status"] != "in_progress":
        raise SystemExit(f"the large batch was {batch['status']} too soon: take a larger one")
    server.ask("POST", f"/batches/{batch_id}/cancel")


def show_live(folder: Path, large: Path, count: int, live_s: float) -> None:
    rows = []
    for number, (name, (concurrency, limit)) in enumerate(SATURATED.items()):
        with (
            measure.sandbox("--latency", LATENCY) as upstream,
            batch_server(folder / f"live-{number}", upstream.base_url, concurrency, limit) as own,
        ):
            server, _ = own
            alone = waits_ms(server, live_s)
            with large_batch(server, large):
                beside = waits_ms(server, live_s)
        ratio = measure.percentile(beside, 0.99) / measure.percentile(alone, 0.99)
        rows += [
            (f"alone; {name}", *percentiles(alone), "–", "–", "–"),
            (
                *(f"beside a batch; {name}", *percentiles(beside), f"{ratio:.2f}"),
                *measure.at_most([ratio], LIVE_TARGET),
            ),
        ]
    measure.show_table(
        f"Live calls beside a batch of {count:,}",
        ("the calls", "count", "p50, ms", "p99, ms", "p99 to alone", "wanted", ""),
        rows,
    )


def percentiles(waits: list[float]) -> tuple[str, str, str]:
    p50, p99 = measure.percentile(waits, 0.5), measure.percentile(waits, 0.99)
    return str(len(waits)), f"{p50:.1f}", f"{p99:.1f}"


def waits_ms(server: OwnServer, span_s: float) -> list[float]:
    """How long each live call took; several callers, each in a thread."""
    found: list[float] = []
    errors: list[BaseException] = []
    until = perf_counter() + span_s

    def call_again_and_again(caller: int) -> None:
        number = 0
        try:
            call_s(server, f"Hello {caller}?")  # warms up
            while perf_counter() < until:
                taken_s = call_s(server, f"Live {caller} {number}?")
                found.append(1e3 * taken_s)
                number += 1
                sleep(max(CALLERS * LIVE_PERIOD_S - taken_s, 0.0))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call_again_and_again, args=(n,)) for n in range(CALLERS)]
    for thread in threads:
        thread.start()
        sleep(LIVE_PERIOD_S)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


def call_s(server: OwnServer, text: str) -> float:
    """How long one live call took."""
    body = {"model": measure.MODEL, "messages": [{"role": "user", "content": text}]}
    started = perf_counter()
    server.ask("POST", "/chat/completions", body)
    return perf_counter() - started


if __name__ == "__main__":
    main()
