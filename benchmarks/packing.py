"""Short texts embedded through `batchwright run`, with packing and without.

    python benchmarks/packing.py [--requests 100000] [--rounds 3] [--concurrency 64] [--quick]

Every request is one text for a vector of 256 dimensions. Packed and unpacked runs take turns
against one sandbox on its own core; the share of that core is shown, since an embedding is more
work for it than a small chat. The rate is that of the whole life of the command without its
start-up, which is that of a run of one request; beside it that of the calls alone.

The target is for a sandbox without latency. A second table, which no target is for, is with 200 ms
and a tenth of the requests.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import measure

DIMENSIONS = 256
TARGET = 8.0  # times the rate without packing
ENDPOINT = "/v1/embeddings"
WAYS = {"packed": "true", "unpacked": "false"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="20,000 requests, one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.requests, arguments.rounds = 20_000, 1
    measure.show_machine()
    measure.pin_to_engine_cpu()
    compare(arguments.requests, arguments.rounds, arguments.concurrency, "0ms")
    compare(arguments.requests // 10, arguments.rounds, arguments.concurrency, "200ms")


def compare(requests: int, rounds: int, concurrency: int, latency: str) -> None:
    """Measure and show both ways at one latency of the upstream."""
    with measure.sandbox("--latency", latency) as upstream, measure.scratch() as folder:
        comparison = Comparison(folder, upstream.base_url, upstream.pid, requests)
        comparison.prepare(concurrency)
        for number in range(rounds):
            comparison.measure_round(number)
    comparison.show(latency)


class Comparison:
    """Both ways in turn, round after round."""

    def __init__(self, folder: Path, base_url: str, upstream_pid: int, requests: int) -> None:
        self._folder = folder
        self._base_url = base_url
        self._upstream_pid = upstream_pid
        self._requests = requests
        self._rates: dict[str, list[float]] = {way: [] for way in WAYS}
        self._calls_alone: dict[str, list[float]] = {way: [] for way in WAYS}
        self._shares: dict[str, list[float]] = {way: [] for way in WAYS}

    def prepare(self, concurrency: int) -> None:
        settings = measure.config_text(self._base_url, concurrency)
        settings += "embedding_inputs_per_batch = 0\n"
        for way, value in WAYS.items():
            self._config(way).write_text(f"{settings}pack_embeddings = {value}\n")
        self._input = write_texts(self._folder / "input.jsonl", self._requests)
        self._single = write_texts(self._folder / "single.jsonl", 1)

    def measure_round(self, number: int) -> None:
        for way in WAYS:
            config = self._config(way)
            single = self._folder / f"{way}-single-{number}.jsonl"
            start_s = measure.run_to_end(self._single, config, single).wall_s
            cpu_before_s = measure.cpu_s(self._upstream_pid)
            output = self._folder / f"{way}-{number}.jsonl"
            ran = measure.run_to_end(self._input, config, output)
            taken_s = ran.wall_s - start_s
            share = (measure.cpu_s(self._upstream_pid) - cpu_before_s) / taken_s
            self._rates[way].append(self._requests / taken_s)
            self._calls_alone[way].append(self._requests / ran.phases_s["running"])
            self._shares[way].append(100 * share)
            output.unlink()

    def show(self, latency: str) -> None:
        measure.show_table(
            f"{self._requests:,} short texts, {DIMENSIONS} dimensions, latency {latency}, one core",
            ("way", "texts a second", "the calls alone", "sandbox's core, %"),
            [(way, *(measure.spread(each[way]) for each in self._columns())) for way in WAYS],
        )
        ratios, alone = self._ratios(self._rates), self._ratios(self._calls_alone)
        target = measure.at_least(ratios, TARGET) if latency == "0ms" else ("–", "")
        measure.show_table(
            f"Packed against unpacked, latency {latency}",
            ("", "ratio", "wanted", ""),
            [
                ("the whole run", measure.spread(ratios, 2), *target),
                ("the calls alone", measure.spread(alone, 2), "–", ""),
            ],
        )

    def _columns(self) -> tuple[dict[str, list[float]], ...]:
        return self._rates, self._calls_alone, self._shares

    def _ratios(self, rates: dict[str, list[float]]) -> list[float]:
        pairs = zip(rates["packed"], rates["unpacked"], strict=True)
        return [packed / unpacked for packed, unpacked in pairs]

    def _config(self, way: str) -> Path:
        return self._folder / f"{way}.toml"


def write_texts(path: Path, count: int) -> Path:
    """An input file of `count` embedding requests, each for a text of its own."""
    with path.open("w") as file:
        for number in range(count):
            body = {
                "model": measure.MODEL,
                "input": f"Review {number}: it does what it says.",
                "dimensions": DIMENSIONS,
            }
            line = {"custom_id": f"request-{number:07}", "method": "POST", "url": ENDPOINT}
            file.write(json.dumps({**line, "body": body}) + "\n")
    return path


if __name__ == "__main__":
    main()
