"""`batchwright run` against what people use today, on the same work and the same upstream.

    make peers                                  # once: what it is compared with, in .venv-peers
    python benchmarks/peers.py [--quick] [--variant small|4kb|slow] [--rounds 3]

small: short chat calls, an upstream without latency, one core for the client. 4kb: the same with
prompts of 4 kB. slow: an upstream of 1 s latency, 2,000 calls in flight; counted is what reaches
the upstream in 60 s after a ramp of 20 s.

In small and 4kb every peer has the number in flight of 64, 128 and 256 that suits it best in a
first trial (quick: 64). The rate of the command is that of its whole life without its start-up;
that of a peer is from its first call to its last answer, warm, without its start-up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import measure
from dispatch import IN_FLIGHT, bare
from rate_limits import CHAT_PATH, read

PYTHON = measure.SOURCE / ".venv-peers" / "bin" / "python"
OURS = "batchwright run"
BARE = "bare loop"
NAMES = {
    "aiohttp": "aiohttp and a semaphore",
    "lm-deluge": "lm-deluge",
    "openai": "AsyncOpenAI and a semaphore",
    "litellm": "litellm acompletion",
}
CALLS = {"aiohttp": 20_000, "lm-deluge": 6_000, "openai": 3_000, "litellm": 2_000}
TRIAL_CALLS = 500
TARGETS = {BARE: 0.6, "aiohttp": 2.5, "lm-deluge": 6.0, "openai": 50.0, "litellm": 100.0}
SLOW_IN_FLIGHT = 2000
RAMP_S = 20.0
SLOW_TARGET = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="20,000 requests, one round; 10 s of slow"
    )
    parser.add_argument("--variant", choices=("small", "4kb", "slow"), action="append")
    parser.add_argument("--requests", type=int, help="else 200,000; of 4kb 50,000")
    parser.add_argument("--rounds", type=int, help="else 3")
    parser.add_argument("--seconds", type=float, help="of slow, else 60")
    parser.add_argument("--concurrency", type=int, default=64, help="of the command")
    parser.add_argument("--peers", default=",".join(CALLS), help="with commas between")
    arguments = parser.parse_args()
    is_quick = arguments.quick
    peers = [name for name in arguments.peers.split(",") if name] if PYTHON.exists() else []
    measure.show_machine()
    measure.pin_to_engine_cpu()
    if not PYTHON.exists():
        print("`make peers` installs the peers; without them only the bare loop is measured.\n")
    for variant in arguments.variant or ("small", "4kb", "slow"):
        if variant == "slow":
            seconds = arguments.seconds or (10.0 if is_quick else 60.0)
            compare_slow(peers, 10.0 if is_quick else RAMP_S, seconds)
            continue
        requests = arguments.requests or (20_000 if is_quick else 200_000)
        if variant == "4kb" and not arguments.requests:
            requests //= 4
        rounds = arguments.rounds or (1 if is_quick else 3)
        tried = (64,) if is_quick else IN_FLIGHT
        compare(variant, peers, requests, rounds, arguments.concurrency, tried)


def compare(
    variant: str,
    peers: Sequence[str],
    requests: int,
    rounds: int,
    concurrency: int,
    tried: Sequence[int],
) -> None:
    """Every way in turn, round after round."""
    prompt_bytes = 0 if variant == "small" else measure.LONG_PROMPT_BYTES
    rates: dict[str, list[float]] = {}
    with measure.sandbox() as upstream, measure.scratch() as folder:
        ours = Ours(folder, upstream.base_url, prompt_bytes, requests, concurrency)
        calls = {peer: min(requests, CALLS[peer]) for peer in peers}
        suited = {
            peer: best_in_flight(peer, upstream.base_url, prompt_bytes, tried) for peer in peers
        }
        for number in range(rounds):
            trials = (
                bare_rate(upstream.base_url, min(requests, 60_000), count, prompt_bytes)
                for count in IN_FLIGHT
            )
            rates.setdefault(BARE, []).append(max(trials))
            rates.setdefault(OURS, []).append(ours.rate(number))
            for peer in peers:
                rate = peer_rate(peer, upstream.base_url, calls[peer], suited[peer], prompt_bytes)
                rates.setdefault(peer, []).append(rate)
    show(variant, requests, rates, suited)


def best_in_flight(peer: str, base_url: str, prompt_bytes: int, tried: Sequence[int]) -> int:
    """The number in flight with which a peer is fastest."""
    if len(tried) == 1:
        return tried[0]
    return max(tried, key=lambda count: peer_rate(peer, base_url, TRIAL_CALLS, count, prompt_bytes))


def show(
    variant: str, requests: int, rates: dict[str, list[float]], suited: dict[str, int]
) -> None:
    rows = []
    for way, found in rates.items():
        ratios = [own / other for own, other in zip(rates[OURS], found, strict=True)]
        target = TARGETS.get(way) if variant == "small" else None
        cells = ("–", "–") if target is None else measure.at_least(ratios, target)
        ratio = "–" if way == OURS else measure.spread(ratios, 2)
        in_flight = str(suited.get(way, "–"))
        rows.append((name_of(way), in_flight, measure.spread(found), ratio, *cells))
    measure.show_table(
        f"{requests:,} chat requests ({variant}) through `batchwright run`, one core",
        ("way", "in flight", "calls a second", "ours : this", "wanted", ""),
        rows,
    )


class Ours:
    """The command on one input file."""

    def __init__(
        self, folder: Path, base_url: str, prompt_bytes: int, requests: int, concurrency: int
    ) -> None:
        self._folder = folder
        self._config = folder / "config.toml"
        self._config.write_text(measure.config_text(base_url, concurrency))
        body_of = partial(body, prompt_bytes)
        self._requests = requests
        self._input = measure.write_requests(folder / "input.jsonl", requests, body_of)
        self._single = measure.write_requests(folder / "single.jsonl", 1, body_of)

    def rate(self, number: int) -> float:
        start_s = self._wall_s(self._single, f"single-{number}.jsonl")
        return self._requests / (self._wall_s(self._input, f"output-{number}.jsonl") - start_s)

    def _wall_s(self, source: Path, output: str) -> float:
        return measure.run_to_end(source, self._config, self._folder / output).wall_s


def body(prompt_bytes: int, number: int) -> bytes:
    return measure.long_chat_body(number) if prompt_bytes else measure.chat_body(number)


def bare_rate(base_url: str, count: int, in_flight: int, prompt_bytes: int) -> float:
    """In a process of its own, so that no way inherits the threads of another."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        work = partial(timed_bare, base_url, in_flight, prompt_bytes)
        process.submit(work, 200).result()
        return count / process.submit(work, count).result()


def timed_bare(base_url: str, in_flight: int, prompt_bytes: int, count: int) -> float:
    """Seconds from the first call to the last answer."""
    import uvloop

    bodies = [body(prompt_bytes, number) for number in range(count)]
    started = time.perf_counter()
    uvloop.run(bare(in_flight, base_url, bodies))
    return time.perf_counter() - started


def peer_command(
    peer: str, base_url: str, count: int, in_flight: int, prompt_bytes: int
) -> list[str]:
    program = str(Path(__file__).with_name("peer_calls.py"))
    numbers = map(str, (count, in_flight, prompt_bytes))
    return [str(PYTHON), program, peer, base_url, *numbers]


def peer_rate(peer: str, base_url: str, count: int, in_flight: int, prompt_bytes: int) -> float:
    ended = subprocess.run(
        peer_command(peer, base_url, count, in_flight, prompt_bytes),
        env=measure.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise SystemExit(f"{peer} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    said = json.loads(ended.stdout.splitlines()[-1])
    VERSIONS[peer] = said["version"]
    return float(count / said["seconds"])


VERSIONS: dict[str, str] = {}


def name_of(way: str) -> str:
    if way not in NAMES:
        return way
    return f"{NAMES[way]} ({VERSIONS[way]})" if way in VERSIONS else NAMES[way]


def compare_slow(peers: Sequence[str], ramp_s: float, seconds: float) -> None:
    """What reaches an upstream of 1 s latency, 2,000 in flight."""
    rows = []
    for way in (OURS, *peers):
        rate, after_s = slow_rate(way, ramp_s, seconds)
        cells = (
            measure.at_least([rate], SLOW_TARGET * SLOW_IN_FLIGHT) if way == OURS else ("–",) * 2
        )
        rows.append((name_of(way), f"{rate:,.0f}", f"{after_s:.1f}", *cells))
    measure.show_table(
        f"1 s latency, {SLOW_IN_FLIGHT:,} in flight: {seconds:.0f} s after {ramp_s:.0f} s",
        ("way", "calls a second", f"first {SLOW_IN_FLIGHT:,} sent after, s", "wanted", ""),
        rows,
    )


def slow_rate(way: str, ramp_s: float, seconds: float) -> tuple[float, float]:
    """Calls a second in the span that counts, and how long the first 2,000 took to be sent."""
    count = int(SLOW_IN_FLIGHT * (ramp_s + seconds + 5))
    with (
        measure.OddSandbox("--latency", "1", with_ledger=True) as upstream,
        measure.scratch() as folder,
    ):
        if way == OURS:
            config = folder / "config.toml"
            config.write_text(measure.config_text(upstream.base_url, SLOW_IN_FLIGHT))
            source = measure.write_requests(folder / "input.jsonl", count)
            command = measure.run_command(source, config, folder / "output.jsonl")
        else:
            command = peer_command(way, upstream.base_url, count, SLOW_IN_FLIGHT, 0)
        log_path = folder / "log"
        with (
            log_path.open("w") as log,
            subprocess.Popen(
                command,
                env={**measure.environment(), "HOME": str(folder)},
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
