"""`batchwright run` against what people use today, on the same work and the same upstream.

    make peers                                  # once: what it is compared with, in .venv-peers
    python benchmarks/peers.py [--quick] [--variant small|4kb|pretty|tls|slow] [--rounds 3]

small: short chat calls, an upstream without latency, one core for the client. 4kb: the same with
prompts of 4 kB. pretty: with answers indented over many lines. tls: over HTTPS, with an authority
of its own. slow: an upstream of 1 s latency, 2,000 calls in flight; counted is what reaches the
upstream in 60 s after a ramp of 20 s.

The bare loop is `pyreqwest`, as in `dispatch.py`; but for tls the client that the engine has for
plain HTTP is shown in the same way.

But for slow, every peer has the number in flight of 64, 128 and 256 that suits it best in a trial
before the first variant (quick: 64). The rate of the command is that of its whole life without
its start-up; that of a peer is from its first call to its last answer, warm, without its start-up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import measure
import uvloop
from dispatch import IN_FLIGHT, OWN_CLIENT, bare, with_own_client
from rate_limits import CHAT_PATH, read

from own_authority import KEY, make_certificate

OURS = "batchwright run"
BARE = "bare loop"
NAMES = {
    "aiohttp": "aiohttp and a semaphore",
    "openai": "AsyncOpenAI and a semaphore",
    "langchain": "LangChain abatch",
    "litellm": "litellm acompletion",
}
CALLS = {
    "aiohttp": 20_000,
    "lm-deluge": 6_000,
    "flexllm": 6_000,
    "openai": 3_000,
    "async-batch-llm": 3_000,
    "langchain": 2_000,
    "litellm": 2_000,
}
TARGETS = {BARE: 0.6, "aiohttp": 2.5, "lm-deluge": 6.0, "openai": 50.0, "litellm": 100.0}
BARE_CALLS = 60_000
SLOW = "slow"
SLOW_PEERS = ("aiohttp", "lm-deluge", "flexllm")  # the others take a core for less
SLOW_IN_FLIGHT = 2000
RAMP_S = 20.0
SLOW_TARGET = 0.95


@dataclass(frozen=True, slots=True)
class Variant:
    """Another kind of work."""

    requests: int = 50_000
    prompt_bytes: int = 0  # 0: a short prompt
    upstream: tuple[str, ...] = ()  # options of `upstream.py`
    is_tls: bool = False


VARIANTS = {
    "small": Variant(requests=200_000),
    "4kb": Variant(prompt_bytes=measure.LONG_PROMPT_BYTES),
    "pretty": Variant(upstream=("--pretty",)),
    "tls": Variant(is_tls=True),
}


@dataclass(frozen=True, slots=True)
class Work:
    """What every way is asked to do, and where."""

    base_url: str
    prompt_bytes: int
    ca_file: Path | None  # of the authority, where it is none that everybody knows

    def body(self, number: int) -> bytes:
        return measure.long_chat_body(number) if self.prompt_bytes else measure.chat_body(number)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="60,000 requests, one round; 10 s of slow"
    )
    parser.add_argument("--variant", choices=(*VARIANTS, SLOW), action="append")
    parser.add_argument("--requests", type=int, help="else 200,000; but for small 50,000")
    parser.add_argument("--rounds", type=int, help="else 3; of slow 1")
    parser.add_argument("--seconds", type=float, help="of slow, else 60")
    parser.add_argument("--concurrency", type=int, default=64, help="of the command")
    parser.add_argument("--peers", help="with commas between, else " + ",".join(CALLS))
    arguments = parser.parse_args()
    is_quick = arguments.quick
    measure.show_machine()
    measure.pin_to_engine_cpu()
    if not measure.PEERS_PYTHON.exists():
        print("`make peers` installs the peers; without them only the bare loop is measured.\n")
    chosen = None if arguments.peers is None else list(filter(None, arguments.peers.split(",")))
    suited: dict[str, int] = {}
    for name in arguments.variant or (*VARIANTS, SLOW):
        if name == SLOW:
            peers = peers_of(chosen, SLOW_PEERS)
            seconds = arguments.seconds or (10.0 if is_quick else 60.0)
            compare_slow(peers, 10.0 if is_quick else RAMP_S, seconds, arguments.rounds or 1)
            continue
        peers = peers_of(chosen, tuple(CALLS))
        variant = VARIANTS[name]
        requests = arguments.requests or min(variant.requests, 60_000 if is_quick else 10**9)
        rounds = arguments.rounds or (1 if is_quick else 3)
        with measure.scratch() as folder, upstream_for(variant, folder) as (work, pid):
            for peer in peers:
                if peer not in suited:
                    suited[peer] = best_in_flight(peer, work, IN_FLIGHT[: 1 if is_quick else None])
            ours = Ours(folder, work, requests, arguments.concurrency)
            comparison = Comparison(work, ours, measure.UpstreamCore(pid), suited)
            for number in range(rounds):
                comparison.measure_round(number, peers)
        comparison.show(name, peers)


def peers_of(chosen: Sequence[str] | None, usual: Sequence[str]) -> Sequence[str]:
    if not measure.PEERS_PYTHON.exists():
        return ()
    return usual if chosen is None else chosen


@contextmanager
def upstream_for(variant: Variant, folder: Path) -> Iterator[tuple[Work, int]]:
    """The upstream of a variant: the work that it is for, and its process id."""
    ca_file = make_certificate(folder) if variant.is_tls else None
    tls = [] if ca_file is None else ["--tls", str(ca_file), str(folder / KEY)]
    with measure.OddSandbox(*variant.upstream, *tls) as upstream:
        yield Work(upstream.base_url, variant.prompt_bytes, ca_file), upstream.pid


class Comparison:
    """Every way in turn, round after round."""

    def __init__(
        self, work: Work, ours: Ours, core: measure.UpstreamCore, suited: dict[str, int]
    ) -> None:
        self._work = work
        self._ours = ours
        self._core = core
        self._in_flight = suited
        self._rates: dict[str, list[float]] = {}

    def measure_round(self, number: int, peers: Sequence[str]) -> None:
        for in_flight in IN_FLIGHT:
            count = min(self._ours.requests, BARE_CALLS)
            self._core.begin()
            self._note(f"{BARE}, {in_flight}", count, bare_s(self._work, count, in_flight))
        if self._work.ca_file is None:
            count = min(self._ours.requests, BARE_CALLS)
            self._core.begin()
            self._note(OWN_CLIENT, count, bare_s(self._work, count, None))
        self._core.begin()
        self._note(OURS, self._ours.requests, self._ours.taken_s(number))
        for peer in peers:
            count = min(self._ours.requests, CALLS[peer])
            self._core.begin()
            self._note(peer, count, peer_s(peer, self._work, count, self._in_flight[peer]))

    def _note(self, way: str, calls: int, taken_s: float) -> None:
        self._core.note(way, calls, taken_s)
        self._rates.setdefault(way, []).append(calls / taken_s)

    def show(self, variant: str, peers: Sequence[str]) -> None:
        measure.show_table(
            f"{self._ours.requests:,} chat requests ({variant}) through `{OURS}`, one core",
            (
                *("way", "in flight", "calls a second", "sandbox's core, %"),
                *("ours : this", "wanted", "", "bare loop : this"),
            ),
            [
                *(self._row(f"{BARE}, {count}", str(count), variant) for count in IN_FLIGHT),
                *(self._row(way, "–", variant) for way in (OWN_CLIENT, OURS) if way in self._rates),
                *(self._row(peer, str(self._in_flight[peer]), variant) for peer in peers),
            ],
        )
        best = self._best()
        ratios = self._ratios(self._rates[OURS], best)
        target = measure.at_least(ratios, TARGETS[BARE]) if variant == "small" else ("–", "–")
        measure.show_table(
            f"`{OURS}` ({variant}) against the bare loop",
            ("the other", "calls a second", "ratio", "wanted", ""),
            [
                (
                    f"best {BARE} ({variant})",
                    measure.spread(best),
                    measure.spread(ratios, 2),
                    *target,
                )
            ],
        )
        self._core.show(f"{BARE}, {IN_FLIGHT[0]}")

    def _row(self, way: str, in_flight: str, variant: str) -> tuple[str, ...]:
        rates = self._rates[way]
        ratios = self._ratios(self._rates[OURS], rates)
        is_target = variant == "small" and way in TARGETS
        wanted = measure.at_least(ratios, TARGETS[way]) if is_target else ("–", "–")
        return (
            *(name_of(way), in_flight, measure.spread(rates), self._core.share(way)),
            *("–" if way == OURS else measure.spread(ratios, 2), *wanted),
            measure.spread(self._ratios(self._best(), rates), 2),
        )

    def _best(self) -> list[float]:
        """The rate of the best bare loop, round by round."""
        rates = (self._rates[f"{BARE}, {count}"] for count in IN_FLIGHT)
        return [max(of_round) for of_round in zip(*rates, strict=True)]

    @staticmethod
    def _ratios(own: Sequence[float], others: Sequence[float]) -> list[float]:
        return [rate / other for rate, other in zip(own, others, strict=True)]


class Ours:
    """The command on one input file."""

    def __init__(self, folder: Path, work: Work, requests: int, concurrency: int) -> None:
        self.requests = requests
        self._folder = folder
        self._config = folder / "config.toml"
        more = () if work.ca_file is None else (f'ca_file = "{work.ca_file}"',)
        self._config.write_text(measure.config_text(work.base_url, concurrency, *more))
        self._input = measure.write_requests(folder / "input.jsonl", requests, work.body)
        self._single = measure.write_requests(folder / "single.jsonl", 1, work.body)
        self._wall_s(self._single, "warm-up.jsonl")

    def taken_s(self, number: int) -> float:
        """How long all requests take, without the start-up."""
        start_s = self._wall_s(self._single, f"single-{number}.jsonl")
        return self._wall_s(self._input, f"output-{number}.jsonl") - start_s

    def _wall_s(self, source: Path, output: str) -> float:
        return measure.run_to_end(source, self._config, self._folder / output).wall_s


def bare_s(work: Work, count: int, in_flight: int | None) -> float:
    """In a process of its own, so that no way inherits the threads of another.

    `in_flight` None: with the engine's own client.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        timed = partial(timed_bare, work, in_flight)
        process.submit(timed, 200).result()
        return process.submit(timed, count).result()


def timed_bare(work: Work, in_flight: int | None, count: int) -> float:
    """Seconds from the first call to the last answer."""
    bodies = [work.body(number) for number in range(count)]
    started = time.perf_counter()
    if in_flight is None:
        uvloop.run(with_own_client(work.base_url, bodies))
    else:
        uvloop.run(bare(in_flight, work.base_url, bodies, work.ca_file))
    return time.perf_counter() - started


def best_in_flight(peer: str, work: Work, tried: Sequence[int]) -> int:
    """The number in flight with which a peer is fastest."""
    if len(tried) == 1:
        return tried[0]
    return min(tried, key=lambda in_flight: peer_s(peer, work, CALLS[peer] // 4, in_flight))


def peer_command(peer: str, work: Work, count: int, in_flight: int) -> list[str]:
    program = str(Path(__file__).with_name("peer_calls.py"))
    numbers = map(str, (count, in_flight, work.prompt_bytes))
    return [str(measure.PEERS_PYTHON), program, peer, work.base_url, *numbers]


def peer_environment(work: Work) -> dict[str, str]:
    trusted = {} if work.ca_file is None else {"SSL_CERT_FILE": str(work.ca_file)}
    return {**measure.environment(), **trusted}


def peer_s(peer: str, work: Work, count: int, in_flight: int) -> float:
    """Seconds from a peer's first call to its last answer."""
    return said_s(peer, peer_command(peer, work, count, in_flight), peer_environment(work))


def said_s(peer: str, command: Sequence[str], environment: Mapping[str, str]) -> float:
    """The seconds that the program of a peer prints; its version is kept."""
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{peer} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    said = json.loads(ended.stdout.splitlines()[-1])
    VERSIONS[peer] = said["version"]
    return float(said["seconds"])


VERSIONS: dict[str, str] = {}


def name_of(way: str) -> str:
    name = NAMES.get(way, way)
    return f"{name} ({VERSIONS[way]})" if way in VERSIONS else name


def compare_slow(peers: Sequence[str], ramp_s: float, seconds: float, rounds: int) -> None:
    """What reaches an upstream of 1 s latency, 2,000 in flight."""
    seen: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for way in (OURS, *peers):
            seen.setdefault(way, []).append(slow_rate(way, ramp_s, seconds))
    rows = []
    for way, found in seen.items():
        rates, starts_s = zip(*found, strict=True)
        shares = [rate / SLOW_IN_FLIGHT for rate in rates]
        cells = measure.at_least(shares, SLOW_TARGET) if way == OURS else ("–", "–")
        rows.append(
            (
                *(name_of(way), measure.spread(rates), measure.spread(starts_s, 1)),
                *(measure.spread(shares, 3), *cells),
            )
        )
    measure.show_table(
        f"1 s latency, {SLOW_IN_FLIGHT:,} in flight: {seconds:.0f} s after {ramp_s:.0f} s",
        (
            *("way", "calls a second", f"first {SLOW_IN_FLIGHT:,} sent after, s"),
            *(f"of {SLOW_IN_FLIGHT:,}", "wanted", ""),
        ),
        rows,
    )


def slow_rate(way: str, ramp_s: float, seconds: float) -> tuple[float, float]:
    """Calls a second in the span that counts, and how long the first 2,000 took to be sent."""
    count = int(SLOW_IN_FLIGHT * (ramp_s + seconds + 5))
    with (
        measure.OddSandbox("--latency", "1", with_ledger=True) as upstream,
        measure.scratch() as folder,
    ):
        work = Work(upstream.base_url, 0, None)
        if way == OURS:
            config = folder / "config.toml"
            config.write_text(measure.config_text(upstream.base_url, SLOW_IN_FLIGHT))
            source = measure.write_requests(folder / "input.jsonl", count)
            command = measure.run_command(source, config, folder / "output.jsonl")
        else:
            command = peer_command(way, work, count, SLOW_IN_FLIGHT)
        log_path = folder / "log"
        with (
            log_path.open("w") as log,
            subprocess.Popen(
                command,
                env={**peer_environment(work), "HOME": str(folder)},
                stdout=log,
                stderr=log,
            ) as process,
        ):
            wait_for_calls(process, upstream.ledger_path, log_path)
            time.sleep(ramp_s + seconds + 1)
            process.kill()
        times = [call.time for call in read(upstream.ledger_path) if call.path == CHAT_PATH]
    started = times[0]
    inside = sum(ramp_s <= at - started < ramp_s + seconds for at in times)
    after_s = times[min(SLOW_IN_FLIGHT, len(times)) - 1] - started
    return inside / seconds, after_s


def wait_for_calls(process: subprocess.Popen[bytes], ledger: Path, log: Path) -> None:
    until = time.monotonic() + 120
    while not (ledger.exists() and ledger.stat().st_size > 0):
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise SystemExit(f"no call came:\n{log.read_text()}")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
