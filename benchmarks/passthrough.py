"""Live calls through our server, through the litellm proxy, and straight to the upstream.

    make peers                                  # once: the litellm proxy, in .venv-peers
    python benchmarks/passthrough.py [--quick] [--rounds 3] [--calls 20000]

Each server has one core to itself and asks for a key; the client and an upstream without latency
have the other. Latency: one call at a time, and what a server adds is the difference of the
percentiles to the upstream alone. Calls a second: the best of 16, 64 and 128 in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic, perf_counter, sleep
from urllib.error import URLError
from urllib.request import urlopen

import measure
import uvloop
from batch_api import batch_server
from pyreqwest.client import Client, ClientBuilder
from upload import pin

IN_FLIGHT = (16, 64, 128)
KEY = "sk-" + "0123456789abcdef" * 3
ADDED_P50_TARGET_MS = 2.0
RATE_TARGET = 10.0
READY_S = 120.0
STRAIGHT = "straight to the upstream"
OURS = "batchwright serve"
LITELLM = "litellm proxy"


@dataclass(frozen=True, slots=True)
class Target:
    """A server under test."""

    base_url: str  # with /v1
    key: str
    pid: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2,000 calls, one round")
    parser.add_argument("--rounds", type=int, help="else 3")
    parser.add_argument("--calls", type=int, help="of ours and straight; of litellm a tenth")
    arguments = parser.parse_args()
    calls = arguments.calls or (2_000 if arguments.quick else 20_000)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    measure.show_machine()
    os.sched_setaffinity(0, {measure.SANDBOX_CPU})  # the client
    comparison = Comparison()
    with (
        measure.sandbox() as upstream,
        measure.scratch() as folder,
        batch_server(folder / "own", upstream.base_url, max(IN_FLIGHT)) as (own, pid),
        litellm_proxy(folder, upstream.base_url) as proxy,
    ):
        ways = {
            STRAIGHT: (Target(upstream.base_url, "none", upstream.pid), calls),
            OURS: (Target(own.base_url, own.key, pid), calls),
        }
        if proxy is not None:
            ways[LITELLM] = (proxy, max(calls // 10, 500))
        for _ in range(rounds):
            for way, (target, count) in ways.items():
                comparison.take(way, target, count)
    comparison.show()
    if proxy is None:
        print("`make peers` installs the litellm proxy; without it nothing is compared.\n")


class Comparison:
    """Every way in turn, round after round."""

    def __init__(self) -> None:
        self._p50_ms: dict[str, list[float]] = {}
        self._p99_ms: dict[str, list[float]] = {}
        self._rates: dict[str, list[float]] = {}
        self._shares_percent: dict[str, list[float]] = {}  # of its core at that rate

    def take(self, way: str, target: Target, calls: int) -> None:
        each_ms = uvloop.run(one_by_one_ms(target, calls // 4))
        self._p50_ms.setdefault(way, []).append(measure.percentile(each_ms, 0.5))
        self._p99_ms.setdefault(way, []).append(measure.percentile(each_ms, 0.99))
        rate, share = max(uvloop.run(rate_and_share(target, calls, count)) for count in IN_FLIGHT)
        self._rates.setdefault(way, []).append(rate)
        self._shares_percent.setdefault(way, []).append(share)

    def show(self) -> None:
        rows = []
        for way in self._rates:
            p50, p99 = self._added_ms(way, self._p50_ms), self._added_ms(way, self._p99_ms)
            cells = measure.at_most(p50, ADDED_P50_TARGET_MS) if way == OURS else ("–", "–")
            rows.append(
                (
                    *(way, measure.spread(self._p50_ms[way], 2), measure.spread(p50, 2), *cells),
                    *(measure.spread(p99, 2), measure.spread(self._rates[way])),
                    measure.spread(self._shares_percent[way]),
                )
            )
        measure.show_table(
            "One live call at a time, and as many as go",
            (
                *("way", "p50, ms", "p50 added", "wanted", "", "p99 added", "calls a second"),
                "its core, %",
            ),
            rows,
        )
        if LITELLM in self._rates:
            pairs = zip(self._rates[OURS], self._rates[LITELLM], strict=True)
            ratios = [own / other for own, other in pairs]
            measure.show_table(
                "Calls a second of ours to those of the litellm proxy",
                ("ratio", "wanted", ""),
                [(measure.spread(ratios, 1), *measure.at_least(ratios, RATE_TARGET))],
            )

    def _added_ms(self, way: str, found: dict[str, list[float]]) -> list[float]:
        """To the upstream alone in the same round."""
        return [ms - alone for ms, alone in zip(found[way], found[STRAIGHT], strict=True)]


async def one_by_one_ms(target: Target, count: int) -> list[float]:
    """How long each of so many calls took, one after the other, after some to warm up."""
    found = []
    async with client() as http:
        for number in range(-50, count):
            started = perf_counter()
            await call(http, target, number)
            if number >= 0:
                found.append(1e3 * (perf_counter() - started))
    return found


async def rate_and_share(target: Target, count: int, in_flight: int) -> tuple[float, float]:
    """Calls a second, and how much of its core the server took for them, in percent."""
    left = iter(range(count))
    async with client() as http:

        async def work() -> None:
            for number in left:
                await call(http, target, number)

        await asyncio.gather(*(call(http, target, -1 - number) for number in range(in_flight)))
        started, before_s = perf_counter(), measure.cpu_s(target.pid)
        await asyncio.gather(*(work() for _ in range(in_flight)))
        taken_s = perf_counter() - started
        return count / taken_s, 100 * (measure.cpu_s(target.pid) - before_s) / taken_s


def client() -> Client:
    return ClientBuilder().no_proxy().timeout(timedelta(seconds=60)).build()


async def call(http: Client, target: Target, number: int) -> None:
    headers = {"content-type": "application/json", "authorization": f"Bearer {target.key}"}
    request = http.post(f"{target.base_url}/chat/completions").headers(headers)
    answer = await request.body_bytes(measure.chat_body(number)).build().send()
    body = await answer.bytes()
    if answer.status != 200:
        raise SystemExit(f"{target.base_url}: {answer.status}: {bytes(body)[:500]!r}")


@contextmanager
def litellm_proxy(folder: Path, base_url: str) -> Iterator[Target | None]:
    """The proxy on the core of our server, one worker, as its documentation starts it; None where
    it is not installed."""
    if not measure.PEERS_PYTHON.exists():
        yield None
        return
    port = free_port()
    settings = folder / "litellm.yaml"
    settings.write_text(
        f"model_list:\n  - model_name: {measure.MODEL}\n    litellm_params:\n"
        f"      model: openai/{measure.MODEL}\n      api_base: {base_url}\n      api_key: none\n"
        f"general_settings:\n  master_key: {KEY}\n"
    )
    command = [
        str(measure.PEERS_PYTHON.with_name("litellm")),
        "--config",
        str(settings),
        "--host",
        "127.0.0.1",
    ]
    environment = {
        **measure.environment(),
        "HOME": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches the prices from the network
    }
    log_path = folder / "litellm.log"
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            [*command, "--port", str(port), "--telemetry", "False"],
            env=environment,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}/health/liveliness", log_path)
            pin(process.pid)
            yield Target(f"http://127.0.0.1:{port}/v1", KEY, process.pid)
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = monotonic() + READY_S
    while process.poll() is None and monotonic() < until:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            sleep(0.2)
    raise SystemExit(f"the litellm proxy did not start:\n{log.read_text()[-4000:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
