"""How much of a limit others use, that are told it, and how many of their calls are refused.

    make peers                                  # once: what is compared, in .venv-peers
    python benchmarks/pacing.py [--quick] [--rpm 30000] [--seconds 60] [--ways ...]

A limit of requests a minute (a token bucket with 60 s of burst) at an upstream that answers after
80 to 120 ms and tells its limits in headers and 429s. Each way is told the limit, as far as it
takes one: `batchwright run` by its settings, lm-deluge, flexllm and async-batch-llm by their
parameters. The loop with a semaphore knows none: it has 128 calls in flight and tries again after a
429, as OpenAI's cookbook shows it. One after the other; counted from the ledger of the upstream as
in `rate_limits.py`, from 15 s after the first call on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import measure
from rate_limits import (
    ANSWERED,
    BOTH,
    CHAT_PATH,
    CONCURRENCY,
    RAMP_S,
    REFUSED,
    REFUSED_TARGET_PERCENT,
    USE_TARGETS_PERCENT,
    Case,
    Setting,
    Used,
    body_of,
    declared,
    read,
    run_for,
    upstream_options,
)

OURS = "batchwright run"
NAMES = {
    "backoff": "aiohttp and a semaphore of 128",
    "lm-deluge": "lm-deluge",
    "flexllm": "flexllm",
    "async-batch-llm": "async-batch-llm",
}
IN_FLIGHT = {"backoff": 128}
CASE = Case(BOTH, "bucket", "requests")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="15 s of each: two minutes")
    parser.add_argument("--rpm", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, help="the span that counts, else 60")
    parser.add_argument("--ways", default=",".join(NAMES), help="with commas between")
    arguments = parser.parse_args()
    seconds = arguments.seconds or (15.0 if arguments.quick else 60.0)
    burst_s = 10.0 if arguments.quick else 60.0
    setting = Setting(arguments.rpm, seconds, burst_s, is_stepping=False)
    measure.show_machine()
    measure.pin_to_engine_cpu()
    ways = list(filter(None, arguments.ways.split(",")))
    if not measure.PEERS_PYTHON.exists():
        print("`make peers` installs the others; without them only ours is measured.\n")
        ways = []
    seen = {way: measure_way(way, setting) for way in (OURS, *ways)}
    measure.show_table(
        f"A limit of {setting.rpm:,} requests a minute that each is told; "
        f"{seconds:.0f} s after the first {RAMP_S:.0f}; burst {burst_s:.0f} s",
        ("way", "calls", "used, %", "wanted", "", "refused, %", "wanted", ""),
        [row(way, found) for way, found in seen.items()],
    )


def measure_way(way: str, setting: Setting) -> Used:
    """Let a way run until the time is over."""
    options = upstream_options(CASE, setting, setting.rpm)
    with (
        measure.scratch() as folder,
        measure.OddSandbox(*options, with_ledger=True) as upstream,
    ):
        command = command_of(way, setting, folder, upstream.base_url)
        run_for(command, folder, upstream.ledger_path, setting.duration_s)
        calls = [call for call in read(upstream.ledger_path) if call.path == CHAT_PATH]
    start = calls[0].time + RAMP_S
    inside = [call for call in calls if start <= call.time < start + setting.span_s]
    allowed = setting.rpm / 60 * setting.span_s
    return Used(
        use_percent=100 * sum(call.status == ANSWERED for call in inside) / allowed,
        refused_percent=100 * sum(call.status == REFUSED for call in inside) / max(len(inside), 1),
        calls=len(inside),
    )


def command_of(way: str, setting: Setting, folder: Path, base_url: str) -> list[str]:
    if way != OURS:
        program = str(Path(__file__).with_name("peer_calls.py"))
        in_flight = IN_FLIGHT.get(way, CONCURRENCY)
        numbers = map(str, (setting.requests, in_flight, 0, setting.rpm))
        return [str(measure.PEERS_PYTHON), program, way, base_url, *numbers]
    source = measure.write_requests(folder / "input.jsonl", setting.requests, body_of)
    config = folder / "config.toml"
    config.write_text(measure.config_text(base_url, CONCURRENCY, *declared(CASE, setting.rpm)))
    return measure.run_command(source, config, folder / "output.jsonl")


def row(way: str, found: Used) -> tuple[str, ...]:
    use, refused = [found.use_percent], [found.refused_percent]
    is_ours = way == OURS
    use_cells = measure.at_least(use, USE_TARGETS_PERCENT[BOTH]) if is_ours else ("–", "–")
    refused_cells = measure.at_most(refused, REFUSED_TARGET_PERCENT) if is_ours else ("–", "–")
    return (
        *(NAMES.get(way, way), f"{found.calls:,}", f"{found.use_percent:.2f}", *use_cells),
        *(f"{found.refused_percent:.2f}", *refused_cells),
    )


if __name__ == "__main__":
    main()
