"""Requests that share long prompts, sent in the order of the input and by prefix.

    python benchmarks/prefix_order.py [--requests-each 40] [--rounds 3] [--quick]

Each request has one of a number of system prompts of about 2,000 tokens, in shuffled order. The
sandbox plays a provider with a prompt cache that holds a quarter of them, of which a prompt can be
had once the first answer to it has been sent. What is counted is the share of the input tokens that
came from the cache, as the summary of `batchwright run` tells it. It depends on the calls in
flight: the more, the more groups are on their way at the same time.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import NamedTuple

import measure

PROMPT_TOKENS = 2048
CACHED_PROMPTS = 1 / 4  # how many of them the cache holds
LATENCY = "20-60ms"
CASES = ((64, 16), (64, 64), (256, 256))  # prompts, calls in flight
ORDERS = ("input", "prefix")


class Cached(NamedTuple):
    """What one run says."""

    share: float  # of the input tokens, in per cent
    calls_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests-each", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of one case")
    arguments = parser.parse_args()
    cases, rounds = (CASES[1:2], 1) if arguments.quick else (CASES, arguments.rounds)
    measure.show_machine()
    measure.pin_to_engine_cpu()
    rows = [row for case in cases for row in measured(*case, arguments.requests_each, rounds)]
    measure.show_table(
        f"{arguments.requests_each} requests for each prompt of {PROMPT_TOKENS:,} tokens, "
        "shuffled; a cache for a quarter of the prompts",
        ("prompts", "in flight", "order", "cached, % of the input tokens", "calls, s"),
        rows,
    )


def measured(prompts: int, concurrency: int, each: int, rounds: int) -> list[tuple[str, ...]]:
    """Both orders in turn, a row for each."""
    ran: dict[str, list[Cached]] = {order: [] for order in ORDERS}
    with measure.scratch() as folder:
        source = write_requests(folder / "input.jsonl", prompts, each)
        for number in range(rounds):
            for order in ORDERS:
                output = folder / f"{order}-{number}.jsonl"
                ran[order].append(run(source, output, prompts, concurrency, order))
    return [
        (
            str(prompts),
            str(concurrency),
            order,
            measure.spread([one.share for one in ran[order]], 1),
            measure.spread([one.calls_s for one in ran[order]], 1),
        )
        for order in ORDERS
    ]


def run(source: Path, output: Path, prompts: int, concurrency: int, order: str) -> Cached:
    """One run against a cache that is empty."""
    tokens = int(CACHED_PROMPTS * prompts * PROMPT_TOKENS)
    with measure.sandbox("--latency", LATENCY, "--prompt-cache", str(tokens)) as upstream:
        config = output.with_suffix(".toml")
        config.write_text(measure.config_text(upstream.base_url, concurrency))
        ran = measure.run_to_end(source, config, output, "--order", order)
    usage = ran.summary["usage"]
    share = usage["input_tokens_details"]["cached_tokens"] / usage["input_tokens"]
    return Cached(100 * share, ran.phases_s["running"])


def write_requests(path: Path, prompts: int, each: int) -> Path:
    """An input file in which every prompt comes `each` times, anywhere."""
    chance = random.Random(0)
    lines = [(prompt, number) for prompt in range(prompts) for number in range(each)]
    chance.shuffle(lines)
    with path.open("w") as file:
        for place, (prompt, number) in enumerate(lines):
            system = f"You are assistant {prompt}. ".ljust(4 * PROMPT_TOKENS, "x")
            messages = [
                {"role": "system", "content": system},
                {"role": "user", "content": f"Question {number}?"},
            ]
            line = {"custom_id": f"request-{place}", "method": "POST", "url": measure.ENDPOINT}
            body = {"model": measure.MODEL, "messages": messages}
            file.write(json.dumps({**line, "body": body}) + "\n")
    return path


if __name__ == "__main__":
    main()
