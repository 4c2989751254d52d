"""Small chat requests on one core: `batchwright run` against the bare HTTP client and others.

    python benchmarks/dispatch.py [--requests 200000] [--rounds 3] [--concurrency 64]

The bare loop is `pyreqwest`, keeping nothing; the best of 64, 128 and 256 in flight counts. The
engine takes that client too, but for plain HTTP, as here, it has one of its own. That one is shown
in the same way: it is what the engine could reach at most.

The sandbox has no latency and its own core, whose use is shown: a figure is good where that core
is under 70 %. The command's rate is that of its whole life without its start-up, which is that of
a run of one request: reading and checking the file, the calls, the journal, the output.

The command asks the system for the scheduling of batch work (`system.prefer_throughput`). The bare
loop is measured as it is usually written, without; and once more with it, shown apart.
"""

from __future__ import annotations

import argparse
import asyncio
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

from batchwright.providers.base import Call
from batchwright.providers.http1 import Http1Transport
from batchwright.system import prefer_throughput

IN_FLIGHT = (64, 128, 256)
OURS = "batchwright run"
BATCH_WORK = "bare loop as batch work, 64"
OWN_CLIENT = "the engine's client alone, 64"
AIOHTTP = "aiohttp and a semaphore"
SDK = "openai SDK"
TARGETS = {"the best bare loop": 0.6, AIOHTTP: 2.5, SDK: 50.0}
WARM_UP_CALLS = 200
HEADERS = {"content-type": "application/json"}
ANSWER_BYTES_MAX = 16 * 2**20


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
        self._core = measure.UpstreamCore(upstream_pid)
        self._requests = requests
        self._rates: dict[str, list[float]] = {}
        self._starts_s: list[float] = []
        self._phases_s: dict[str, list[float]] = {}

    def prepare(self, concurrency: int) -> None:
        self._config = self._folder / "config.toml"
        self._config.write_text(measure.config_text(self._base_url, concurrency))
        self._input = measure.write_requests(self._folder / "input.jsonl", self._requests)
        self._single = measure.write_requests(self._folder / "single.jsonl", 1)
        measure.run_to_end(self._single, self._config, self._folder / "warm-up.jsonl")

    def measure_round(self, number: int) -> None:
        quick = min(self._requests, 60_000)
        for in_flight in IN_FLIGHT:
            self._take(bare_name(in_flight), quick, partial(bare, in_flight))
        self._take(BATCH_WORK, quick, partial(bare, 64), as_batch_work=True)
        self._take(OWN_CLIENT, quick, with_own_client, as_batch_work=True)
        self._take_run(number)
        self._take(AIOHTTP, min(quick, 20_000), with_aiohttp)
        self._take(SDK, min(quick, 5_000), with_sdk)

    def _take(
        self, name: str, count: int, send_all: SendAll, *, as_batch_work: bool = False
    ) -> None:
        """Measure in a process of its own, so that no way inherits the threads of another."""
        prepare = prefer_throughput if as_batch_work else None
        with ProcessPoolExecutor(1, get_context("spawn"), prepare) as process:
            warm_up = process.submit(timed, send_all, self._base_url, min(count, WARM_UP_CALLS))
            warm_up.result()
            self._core.begin()
            taken_s = process.submit(timed, send_all, self._base_url, count).result()
            self._note(name, count, taken_s)

    def _take_run(self, number: int) -> None:
        single = self._folder / f"single-{number}.jsonl"
        self._starts_s.append(measure.run_to_end(self._single, self._config, single).wall_s)
        self._core.begin()
        output = self._folder / f"output-{number}.jsonl"
        ran = measure.run_to_end(self._input, self._config, output)
        self._note(OURS, self._requests, ran.wall_s - self._starts_s[-1])
        for phase, taken_s in ran.phases_s.items():
            self._phases_s.setdefault(phase, []).append(taken_s)

    def _note(self, name: str, count: int, taken_s: float) -> None:
        self._core.note(name, count, taken_s)
        self._rates.setdefault(name, []).append(count / taken_s)

    def show(self) -> None:
        measure.show_table(
            f"{self._requests:,} small chat requests, one core",
            ("way", "calls a second", "sandbox's core, %"),
            [
                (name, measure.spread(rates), self._core.share(name))
                for name, rates in self._rates.items()
            ],
        )
        measure.show_table(
            f"`{OURS}` against",
            ("the other", "ratio", "wanted", ""),
            [self._ratio_row(name, rates) for name, rates in self._others().items()],
        )
        self._core.show(bare_name(IN_FLIGHT[0]))
        measure.show_table(
            "What the command does meanwhile",
            ("phase", "seconds"),
            [(name, measure.spread(taken_s, 2)) for name, taken_s in self._phases_s.items()],
        )
        print(f"start-up of the command: {measure.spread(self._starts_s, 2)} s\n")

    def _others(self) -> dict[str, list[float]]:
        bare_loops = zip(*(self._rates[bare_name(count)] for count in IN_FLIGHT), strict=True)
        return {
            "the best bare loop": [max(rates) for rates in bare_loops],
            **{name: self._rates[name] for name in (BATCH_WORK, OWN_CLIENT, AIOHTTP, SDK)},
        }

    def _ratio_row(self, name: str, rates: Sequence[float]) -> tuple[str, ...]:
        ratios = [own / other for own, other in zip(self._rates[OURS], rates, strict=True)]
        target = TARGETS.get(name)
        cells = ("–", "–") if target is None else measure.at_least(ratios, target)
        return name, measure.spread(ratios, 2), *cells


def bare_name(in_flight: int) -> str:
    return f"bare loop, {in_flight} in flight"


def timed(send_all: SendAll, base_url: str, count: int) -> float:
    """Seconds from the first call to the last answer."""
    bodies = [measure.chat_body(number) for number in range(count)]
    started = perf_counter()
    uvloop.run(_awaited(send_all(base_url, bodies)))
    return perf_counter() - started


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def bare(
    in_flight: int, base_url: str, bodies: Sequence[bytes], ca_file: Path | None = None
) -> None:
    """`pyreqwest` alone, with a timeout as in the engine; every answer is read and dropped."""
    url = f"{base_url}/chat/completions"
    left = iter(bodies)
    builder = ClientBuilder().no_proxy().follow_redirects(False).timeout(timedelta(seconds=600))
    if ca_file is not None:
        builder = builder.add_root_certificate_pem(ca_file.read_bytes())
    async with builder.build() as client:

        async def work() -> None:
            for body in left:
                request = client.post(url).headers(HEADERS).body_bytes(body).build()
                response = await request.send()
                await response.bytes()

        await asyncio.gather(*(work() for _ in range(in_flight)))


async def with_own_client(base_url: str, bodies: Sequence[bytes]) -> None:
    """The client that the engine has for plain HTTP, used as `bare` uses the other."""
    url = f"{base_url}/chat/completions"
    left = iter(bodies)
    transport = Http1Transport()

    async def work() -> None:
        for body in left:
            await transport.send(Call("POST", url, HEADERS, body, 600.0, ANSWER_BYTES_MAX))

    await asyncio.gather(*(work() for _ in range(64)))
    await transport.close()


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
