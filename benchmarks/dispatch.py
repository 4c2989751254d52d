"""Small chat requests on one core: `batchwright run` against the bare HTTP client and others.

    python benchmarks/dispatch.py [--requests 200000] [--rounds 3] [--concurrency 64]

The bare loop is the HTTP client that the engine uses, keeping nothing; the best of 64, 128 and
256 in flight counts. The sandbox has no latency and its own core, whose use is shown: a figure
is good where that core is under 70 %. The command's rate is that of its whole life without its
start-up, which is that of a run of one request: reading and checking the file, the calls, the
journal, the output.

The command asks the system for the scheduling of batch work (`system.prefer_throughput`). The bare
loop is measured as it is usually written, without; and once more with it, shown apart.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import aiohttp
import measure
import openai
import uvloop
from pyreqwest.client import ClientBuilder

from batchwright.system import prefer_throughput

IN_FLIGHT = (64, 128, 256)
WARM_UP_CALLS = 200
HEADERS = {"content-type": "application/json"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    arguments = parser.parse_args()
    measure.show_machine()
    measure.pin_to_engine_cpu()
    with measure.sandbox() as upstream, measure.scratch() as folder:
        comparison = Comparison(folder, upstream.base_url, upstream.pid, arguments.requests)
        comparison.prepare(arguments.concurrency)
        for number in range(arguments.rounds):
            comparison.measure_round(number)
    comparison.show()


SendAll = Callable[[str, Sequence[bytes]], Awaitable[None]]
"""Sends every body to the base URL."""


class Comparison:
    """Every way in turn, round after round."""

    def __init__(self, folder: Path, base_url: str, upstream_pid: int, requests: int) -> None:
        self._folder = folder
        self._base_url = base_url
        self._upstream_pid = upstream_pid
        self._requests = requests
        self._rates: dict[str, list[float]] = {}
        self._upstream_shares: dict[str, list[float]] = {}
        self._starts_s: list[float] = []
        self._phases_s: dict[str, list[float]] = {}
        self._ratios: dict[str, list[float]] = {}

    def prepare(self, concurrency: int) -> None:
        self._config = self._folder / "config.toml"
        self._config.write_text(measure.config_text(self._base_url, concurrency))
        self._input = measure.write_requests(self._folder / "input.jsonl", self._requests)
        self._single = measure.write_requests(self._folder / "single.jsonl", 1)

    def measure_round(self, number: int) -> None:
        quick = min(self._requests, 60_000)
        for in_flight in IN_FLIGHT:
            self._take(f"bare loop, {in_flight} in flight", quick, partial(bare, in_flight))
        self._take("bare loop as batch work, 64", quick, partial(bare, 64), as_batch_work=True)
        self._take_run(number)
        self._take("aiohttp and a semaphore", min(quick, 20_000), with_aiohttp)
        self._take("openai SDK", min(quick, 5_000), with_sdk)
        best = max(self._rates[f"bare loop, {count} in flight"][-1] for count in IN_FLIGHT)
        ours = self._rates["batchwright run"][-1]
        for name, other in (
            ("bare loop, best", best),
            ("bare loop as batch work", self._rates["bare loop as batch work, 64"][-1]),
            ("aiohttp and a semaphore", self._rates["aiohttp and a semaphore"][-1]),
            ("openai SDK", self._rates["openai SDK"][-1]),
        ):
            self._ratios.setdefault(name, []).append(ours / other)

    def _take(
        self, name: str, count: int, send_all: SendAll, *, as_batch_work: bool = False
    ) -> None:
        """Measure in a process of its own, so that no way inherits the threads of another."""
        prepare = prefer_throughput if as_batch_work else None
        with ProcessPoolExecutor(1, get_context("spawn"), prepare) as process:
            warm_up = process.submit(timed, send_all, self._base_url, min(count, WARM_UP_CALLS))
            warm_up.result()
            cpu_before_s = measure.cpu_s(self._upstream_pid)
            taken_s = process.submit(timed, send_all, self._base_url, count).result()
            self._note(name, count, taken_s, cpu_before_s)

    def _take_run(self, number: int) -> None:
        single = self._folder / f"single-{number}.jsonl"
        self._starts_s.append(measure.run_to_end(self._single, self._config, single).wall_s)
        cpu_before_s = measure.cpu_s(self._upstream_pid)
        output = self._folder / f"output-{number}.jsonl"
        ran = measure.run_to_end(self._input, self._config, output)
        self._note("batchwright run", self._requests, ran.wall_s - self._starts_s[-1], cpu_before_s)
        for phase, taken_s in ran.phases_s.items():
            self._phases_s.setdefault(phase, []).append(taken_s)

    def _note(self, name: str, count: int, taken_s: float, cpu_before_s: float) -> None:
        share = (measure.cpu_s(self._upstream_pid) - cpu_before_s) / taken_s
        self._rates.setdefault(name, []).append(count / taken_s)
        self._upstream_shares.setdefault(name, []).append(100 * share)

    def show(self) -> None:
        measure.show_table(
            f"{self._requests:,} small chat requests, one core",
            ("way", "calls a second", "sandbox's core, %"),
            [
                (
                    name,
                    measure.spread(rates),
                    f"{statistics.median(self._upstream_shares[name]):.0f}",
                )
                for name, rates in self._rates.items()
            ],
        )
        measure.show_table(
            "batchwright run against",
            ("the other", "ratio"),
            [(name, measure.spread(ratios, 2)) for name, ratios in self._ratios.items()],
        )
        measure.show_table(
            "What the command does meanwhile",
            ("phase", "seconds"),
            [(name, measure.spread(taken_s, 2)) for name, taken_s in self._phases_s.items()],
        )
        print(f"start-up of the command: {measure.spread(self._starts_s, 2)} s\n")


def timed(send_all: SendAll, base_url: str, count: int) -> float:
    """Seconds from the first call to the last answer."""
    bodies = [measure.chat_body(number) for number in range(count)]
    started = perf_counter()
    uvloop.run(_awaited(send_all(base_url, bodies)))
    return perf_counter() - started


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def bare(in_flight: int, base_url: str, bodies: Sequence[bytes]) -> None:
    """`pyreqwest` alone, with a timeout as in the engine; every answer is read and dropped."""
    url = f"{base_url}/chat/completions"
    left = iter(bodies)
    builder = ClientBuilder().no_proxy().follow_redirects(False).timeout(timedelta(seconds=600))
    async with builder.build() as client:

        async def work() -> None:
            for body in left:
                request = client.post(url).headers(HEADERS).body_bytes(body).build()
                response = await request.send()
                await response.bytes()

        await asyncio.gather(*(work() for _ in range(in_flight)))


async def with_aiohttp(base_url: str, bodies: Sequence[bytes]) -> None:
    """As it is usually written: a task for each request, a semaphore, answers parsed and kept."""
    semaphore = asyncio.Semaphore(128)
    url = f"{base_url}/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(body: bytes) -> object:
            async with semaphore, session.post(url, data=body, headers=HEADERS) as answer:
                return await answer.json()

        await asyncio.gather(*map(ask, bodies))


async def with_sdk(base_url: str, bodies: Sequence[bytes]) -> None:
    """The official SDK, 64 in flight."""
    semaphore = asyncio.Semaphore(64)
    async with openai.AsyncOpenAI(api_key="none", base_url=base_url) as client:

        async def ask(number: int) -> object:
            async with semaphore:
                return await client.chat.completions.create(
                    model=measure.MODEL, messages=[{"role": "user", "content": f"Review {number}"}]
                )

        await asyncio.gather(*map(ask, range(len(bodies))))


if __name__ == "__main__":
    main()
