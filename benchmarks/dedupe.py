"""What dedupe saves, and what it costs where there is nothing to save.

    python benchmarks/dedupe.py [--requests 200000] [--rounds 3] [--concurrency 64] [--quick]

Inputs of small chat requests of which a share repeats an earlier one, in turn, through
`batchwright run` with `--dedupe` and without, one after the other, against one sandbox without
latency on its own core. That is the hardest case for dedupe: a call that is saved costs little but
its own work. The rate is that of the whole life of the command without its start-up, which is that
of a run of one request; beside it the processor time of the whole command, start-up included, which
a busy machine changes less. The calls are those in the ledger of the sandbox, of one run apart
from the timed ones.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import measure

SHARES = (0.0, 0.1, 0.5, 0.9, 0.99)  # of requests that repeat an earlier one
WAYS = {"deduped": ("--dedupe",), "plain": ()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="20,000 requests, one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.requests, arguments.rounds = 20_000, 1
    measure.show_machine()
    measure.pin_to_engine_cpu()
    with measure.sandbox() as upstream, measure.scratch() as folder:
        comparison = Comparison(folder, arguments.requests)
        comparison.prepare(upstream.base_url, arguments.concurrency)
        for number in range(arguments.rounds):
            comparison.measure_round(number)
        comparison.show()


class Comparison:
    """Both ways in turn, share after share, round after round."""

    def __init__(self, folder: Path, requests: int) -> None:
        self._folder = folder
        self._requests = requests
        self._rates: dict[tuple[float, str], list[float]] = {}
        self._cpu_us: dict[tuple[float, str], list[float]] = {}  # for each request

    def prepare(self, base_url: str, concurrency: int) -> None:
        self._concurrency = concurrency
        self._config = self._folder / "bench.toml"
        self._config.write_text(measure.config_text(base_url, concurrency))
        self._single = measure.write_requests(self._folder / "single.jsonl", 1)
        for share in SHARES:
            distinct = self._distinct(share)
            measure.write_requests(
                self._input(share),
                self._requests,
                lambda number, distinct=distinct: measure.chat_body(number % distinct),  # type: ignore[misc]
            )

    def measure_round(self, number: int) -> None:
        for share in SHARES:
            for way, options in WAYS.items():
                single = self._folder / f"{way}-{share}-single-{number}.jsonl"
                start_s = measure.run_to_end(self._single, self._config, single, *options).wall_s
                output = self._folder / f"{way}-{share}-{number}.jsonl"
                cpu_before_s = children_cpu_s()
                ran = measure.run_to_end(self._input(share), self._config, output, *options)
                cpu_us = 1e6 * (children_cpu_s() - cpu_before_s) / self._requests
                self._cpu_us.setdefault((share, way), []).append(cpu_us)
                rates = self._rates.setdefault((share, way), [])
                rates.append(self._requests / (ran.wall_s - start_s))
                output.unlink()

    def calls(self, share: float) -> int:
        """Of a deduped run, as the provider counts them."""
        with measure.sandbox(with_ledger=True) as upstream:
            config = self._folder / "counted.toml"
            config.write_text(measure.config_text(upstream.base_url, self._concurrency))
            output = self._folder / f"counted-{share}.jsonl"
            measure.run_to_end(self._input(share), config, output, *WAYS["deduped"])
            output.unlink()
            upstream.stop()
            return len(upstream.ledger())

    def show(self) -> None:
        rows = []
        for share in SHARES:
            deduped, plain = (self._rates[share, way] for way in WAYS)
            calls = self.calls(share)
            ratios = [one / other for one, other in zip(deduped, plain, strict=True)]
            rows.append(
                (
                    f"{100 * share:g} %",
                    f"{calls:,}",
                    f"{100 * (1 - calls / self._requests):.1f} %",
                    measure.spread(deduped),
                    measure.spread(plain),
                    measure.spread(ratios, 2),
                    *(measure.spread(self._cpu_us[share, way]) for way in WAYS),
                )
            )
        measure.show_table(
            f"{self._requests:,} small chat requests, one core, no latency",
            (
                "repeated",
                "calls",
                "calls saved",
                "deduped, a second",
                "plain, a second",
                "ratio",
                "deduped, µs of CPU each",
                "plain, µs of CPU each",
            ),
            rows,
        )

    def _distinct(self, share: float) -> int:
        return max(1, round(self._requests * (1 - share)))

    def _input(self, share: float) -> Path:
        return self._folder / f"input-{share}.jsonl"


def children_cpu_s() -> float:
    """The processor time of the processes that were started here and have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
