"""How much of a limit is used in every case, under the virtual clock of `limit_simulation`.

    python tests/support/limit_cells.py [--per-minute 30000] [--known unknown] [--refusal 0.05]

A case: how the limit is known, its algorithm, what it counts, whether it steps. A steady one is
measured for 120 s after the first 15, with a minute's worth at once as the sandbox has it. In a
stepping one the limit halves after a minute and doubles after another; it is enforced by the
second (as OpenAI says it may be), for a count per minute shows in no 20 s that it has changed, and
it is measured from 20 s after each step on.

`--seeds 5 --refusal 0.001,0.05,0.3` measures each case 15 times and shows the median and, behind
it, the worst: one seed alone says little of a change by tenths of a percent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product, repeat
from random import Random
from statistics import median
from typing import NamedTuple

from batchwright.engine.limiter import Declared
from batchwright.sandbox.limiter import Algorithm
from batchwright.sandbox.limiter import Limiter as Upstream
from limit_simulation import Simulation, Size, rescale

KNOWN = ("declared", "headers", "declared+headers", "unknown")
ALGORITHMS: tuple[Algorithm, ...] = ("bucket", "fixed", "sliding")
COUNTED = ("requests", "tokens, estimated", "tokens, used")
MODES = ("steady", "stepping")
USE_PERCENT = {"declared": 98.0, "headers": 98.0, "declared+headers": 98.0, "unknown": 96.0}
STEPPED_PERCENT = 95.0
REFUSED_PERCENT = 0.5
MINUTE_S, SECOND_S = 60.0, 1.0
PROMPT_TOKENS, ANSWER_TOKENS = 12, (4, 32)
RESERVED_TOKENS = 73  # prompt and the cap on the answer
REFUSAL_S = 0.001  # as the sandbox beside the client


class Cell(NamedTuple):
    """One case."""

    known: str
    algorithm: Algorithm
    counted: str
    mode: str


@dataclass(frozen=True, slots=True)
class Used:
    """What was seen in a span."""

    use_percent: float
    refused_percent: float
    wanted_percent: float

    @property
    def is_met(self) -> bool:
        is_used = self.use_percent >= self.wanted_percent
        return is_used and self.refused_percent <= REFUSED_PERCENT


def cells(
    known: Sequence[str] = KNOWN,
    algorithms: Sequence[Algorithm] = ALGORITHMS,
    counted: Sequence[str] = COUNTED,
    modes: Sequence[str] = MODES,
) -> list[Cell]:
    return [Cell(*names) for names in product(known, algorithms, counted, modes)]


def measure(
    cell: Cell, *, per_minute: int, latency_s: float, refusal_s: float = REFUSAL_S, seed: int = 0
) -> list[Used]:
    """One figure, or one for each step. `per_minute` is in requests, or as many tokens."""
    are_tokens = cell.counted != "requests"
    is_used = cell.counted == "tokens, used"
    mean = PROMPT_TOKENS + sum(ANSWER_TOKENS) / 2 if is_used else RESERVED_TOKENS
    limit = round(per_minute * mean) if are_tokens else per_minute
    is_stepping = cell.mode == "stepping"
    upstream = Upstream(
        requests_per_minute=None if are_tokens else limit,
        tokens_per_minute=limit if are_tokens else None,
        algorithm=cell.algorithm,
        burst_s=SECOND_S if is_stepping else MINUTE_S,
        tpm_counts="usage" if is_used else "estimate",
    )
    tally = Simulation(
        upstream,
        seed=seed,
        declared=_declared(cell, limit),
        has_headers="headers" in cell.known,
        has_retry_after="headers" in cell.known,
        counts_usage=is_used,
        latency_s=latency_s,
        refusal_s=refusal_s,
        size=size,
        steps=_steps(upstream) if is_stepping else [],
    ).run(180.0 if is_stepping else 135.0)

    def used(start: float, end: float, part: float, wanted_percent: float) -> Used:
        let_in = tally.used(start, end, tokens=are_tokens)
        use = let_in / (limit / 60 * part * (end - start))
        return Used(100 * use, 100 * tally.refused_share(start, end), wanted_percent)

    if not is_stepping:
        return [used(15.0, 135.0, 1.0, USE_PERCENT[cell.known])]
    return [
        used(start, start + 40.0, part, STEPPED_PERCENT)
        for start, part in ((20.0, 1.0), (80.0, 0.5), (140.0, 1.0))
    ]


def size(random: Random) -> Size:
    """As the benchmark's requests are, about: answers of any length below their cap."""
    return Size(140, PROMPT_TOKENS, random.randint(*ANSWER_TOKENS), RESERVED_TOKENS)


def _declared(cell: Cell, limit: int) -> Declared | None:
    if "declared" not in cell.known:
        return None
    if cell.counted == "requests":
        return Declared(requests_per_minute=limit)
    return Declared(tokens_per_minute=limit)


def _steps(upstream: Upstream) -> list[tuple[float, Callable[[], None]]]:
    return [(60.0, partial(rescale, upstream, 0.5)), (120.0, partial(rescale, upstream, 2.0))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how limits are used, by virtual clock.")
    parser.add_argument("--per-minute", type=int, default=30_000)
    parser.add_argument("--latency", type=float, default=0.1)
    parser.add_argument("--refusal", default=str(REFUSAL_S))
    parser.add_argument("--known", default=",".join(KNOWN))
    parser.add_argument("--mode", default=",".join(MODES))
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    tried = cells(known=options.known.split(","), modes=options.mode.split(","))
    measured = partial(_measure_each, per_minute=options.per_minute, latency_s=options.latency)
    takes = list(product(map(float, options.refusal.split(",")), range(options.seeds)))
    missed = 0
    with ProcessPoolExecutor() as processes:
        for cell, runs in zip(tried, processes.map(measured, tried, repeat(takes)), strict=True):
            figures = "  ".join(_shown(span) for span in zip(*runs, strict=True))
            n_missed = sum(not all(used.is_met for used in run) for run in runs)
            missed += n_missed
            of_runs = f" {n_missed} of {len(runs)}" if len(runs) > 1 else ""
            names = f"{cell.known:17}{cell.algorithm:9}{cell.counted:18}{cell.mode:9}"
            print(f"{names}{figures}{f'  MISSED{of_runs}' if n_missed else ''}", flush=True)
    print(f"used, % / refused, %; {missed} of {len(tried) * len(takes)} missed")


def _measure_each(
    cell: Cell, takes: Sequence[tuple[float, int]], *, per_minute: int, latency_s: float
) -> list[list[Used]]:
    """A take: the seconds that a refusal takes, and the seed."""
    return [
        measure(cell, per_minute=per_minute, latency_s=latency_s, refusal_s=refusal_s, seed=seed)
        for refusal_s, seed in takes
    ]


def _shown(runs: Sequence[Used]) -> str:
    used, refused = [u.use_percent for u in runs], [u.refused_percent for u in runs]
    shown = f"{median(used):7.2f} /{median(refused):6.2f}"
    return shown if len(runs) == 1 else f"{shown} ({min(used):6.2f} /{max(refused):6.2f})"


if __name__ == "__main__":
    main()
