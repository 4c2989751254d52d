"""How much of a rate limit `batchwright run` uses, and how many of its calls are refused.

    python benchmarks/rate_limits.py [--quick] [--stepping] [--at-once 4] [--rpm 30000]

A limit is declared in the settings (and the upstream says nothing of it), taught by headers, or
unknown: neither declared nor in any header, and a 429 says nothing. Each with the sandbox's three
algorithms, for requests and for tokens; tokens are counted as OpenAI estimates them, or as used.

Counted from the sandbox's ledger, from 15 s after the first call on for 120 s: what was let in,
against the limit times the span, and the share of all calls that was refused. Over 100 % is what
was left of the upstream's burst at the beginning.

`--stepping`: the limit halves after 60 s and doubles after 120 s; the use from 20 s after each
step on until the next. Such a limit is enforced by the second (as OpenAI says that it may do it):
of an amount per minute nobody can tell within 20 s that it has changed.

Several cases run at once, each with an upstream of its own: one takes a few percent of a core. The
same cases under a virtual clock, in seconds: `tests/support/limit_cells.py`. How others keep a
limit: `pacing.py`.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path

import measure
import msgspec

from batchwright.sandbox.answers import CHAT_PATH, compose, request_hash

KNOWN = ("declared", "headers", "unknown")
ALGORITHMS = ("bucket", "fixed", "sliding")
COUNTED = ("requests", "tokens, estimated", "tokens, used")
BOTH = "declared+headers"
USE_TARGETS_PERCENT = {"declared": 98.0, "headers": 98.0, BOTH: 98.0, "unknown": 96.0}
REFUSED_TARGET_PERCENT = 0.5
STEPPED_TARGET_PERCENT = 95.0
RAMP_S = 15.0
AFTER_STEP_S = 20.0
STEP_S = 60.0
LATENCY = "80-120ms"
CONCURRENCY = 1000
ANSWER_TOKENS_MAX = 60
ANSWERED = 200
REFUSED = 429


@dataclass(frozen=True, slots=True)
class Case:
    """One limit, and how it is known."""

    known: str
    algorithm: str
    counted: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What all cases have in common."""

    rpm: int
    span_s: float
    burst_s: float
    is_stepping: bool
    latency: str = LATENCY

    @property
    def duration_s(self) -> float:
        return 3 * STEP_S if self.is_stepping else RAMP_S + self.span_s

    @property
    def requests(self) -> int:
        """More than the limit and what may be used at once let in."""
        return int(self.rpm / 60 * (self.duration_s + 2 * self.burst_s) * 1.2)


class Call(msgspec.Struct):
    """A line of the ledger."""

    time: float
    path: str
    sha256: str
    status: int | None


@dataclass(frozen=True, slots=True)
class Used:
    """What was seen in a span."""

    use_percent: float  # of the limit times the span
    refused_percent: float  # of the calls
    calls: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="30 s, bucket, requests: a minute")
    parser.add_argument("--rpm", type=int, default=30_000, help="requests a minute, or as many")
    parser.add_argument("--known", default=",".join(KNOWN), help=f"{BOTH} too")
    parser.add_argument("--limiter", help="one of " + ", ".join(ALGORITHMS))
    parser.add_argument("--counted", choices=("requests", "estimated", "used"))
    parser.add_argument("--seconds", type=float, help="the span that counts, else 120")
    parser.add_argument("--burst-s", type=float, help="else 60 (quick: 10, stepping: 1)")
    parser.add_argument("--latency", default=LATENCY, help="as of the sandbox")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--stepping", action="store_true", help="the limit halves, then doubles")
    arguments = parser.parse_args()
    is_quick = arguments.quick
    setting = Setting(
        rpm=arguments.rpm,
        span_s=arguments.seconds or (30.0 if is_quick else 120.0),
        burst_s=arguments.burst_s or (1.0 if arguments.stepping else 10.0 if is_quick else 60.0),
        is_stepping=arguments.stepping,
        latency=arguments.latency,
    )
    algorithms = ALGORITHMS[:1] if is_quick else ALGORITHMS
    counted = COUNTED[:1] if is_quick else COUNTED
    if arguments.limiter:
        algorithms = (arguments.limiter,)
    if arguments.counted:
        counted = tuple(name for name in COUNTED if name.endswith(arguments.counted))
    cases = [Case(*names) for names in product(arguments.known.split(","), algorithms, counted)]
    measure.show_machine()
    measure.pin_to_engine_cpu()
    with ThreadPoolExecutor(arguments.at_once) as threads:
        seen = list(threads.map(lambda case: measure_case(case, setting), cases))
    show = show_stepping if setting.is_stepping else show_steady
    show(setting, dict(zip(cases, seen, strict=True)))


def measure_case(case: Case, setting: Setting) -> list[Used]:
    """Run until the time is over; one figure, or with steps one for each step."""
    tokens_of = TOKENS_OF[case.counted]
    limit = round(setting.rpm * mean_tokens(tokens_of))
    with measure.scratch() as folder:
        source = measure.write_requests(folder / "input.jsonl", setting.requests, body_of)
        with measure.OddSandbox(*upstream_options(case, setting, limit), with_ledger=True) as own:
            config = folder / "config.toml"
            config.write_text(
                measure.config_text(own.base_url, CONCURRENCY, *declared(case, limit))
            )
            command = measure.run_command(source, config, folder / "output.jsonl")
            run_for(command, folder, own.ledger_path, setting.duration_s)
            calls = [call for call in read(own.ledger_path) if call.path == CHAT_PATH]
        if not calls:
            raise SystemExit(f"{case}: no call came")
        return [
            used(calls, spans, limit * part, tokens_of)
            for spans, part in spans_of(setting, calls[0].time)
        ]


def upstream_options(case: Case, setting: Setting, limit: int) -> list[str]:
    options = ["--latency", setting.latency, "--limiter", case.algorithm]
    options += ["--burst-s", str(setting.burst_s)]
    options += ["--rpm" if case.counted == "requests" else "--tpm", str(limit)]
    options += ["--tpm-counts", "usage" if case.counted == "tokens, used" else "estimate"]
    options += [] if "headers" in case.known else ["--silent"]
    return [*options, "--step-s", str(STEP_S)] if setting.is_stepping else options


def declared(case: Case, limit: int) -> list[str]:
    """Lines of the settings."""
    if "declared" not in case.known:
        return []
    what = "requests" if case.counted == "requests" else "tokens"
    return [f"{what}_per_minute = {limit}"]


def run_for(command: Sequence[str], folder: Path, ledger: Path, duration_s: float) -> None:
    """Start the command and end it so long after its first call.

    A run that ends before that has used less than it could; why is shown.
    """
    with (
        (folder / "run.log").open("w") as log,
        subprocess.Popen(
            command, env={**measure.environment(), "HOME": str(folder)}, stdout=log, stderr=log
        ) as process,
    ):
        first_at = None
        while first_at is None or time.monotonic() < first_at + duration_s + 1:
            if process.poll() is not None:
                print(f"the run ended early:\n{(folder / 'run.log').read_text()}", flush=True)
                return
            if first_at is None and ledger.exists() and ledger.stat().st_size > 0:
                first_at = time.monotonic()
            time.sleep(0.05)
        process.kill()


def read(ledger: Path) -> Iterator[Call]:
    decode = msgspec.json.Decoder(Call).decode
    with ledger.open("rb") as lines:
        yield from (decode(line) for line in lines if line.endswith(b"\n"))


def spans_of(setting: Setting, first_at: float) -> list[tuple[tuple[float, float], float]]:
    """Each span that counts, in the ledger's time, and the part of the limit that holds in it."""
    if not setting.is_stepping:
        return [((first_at + RAMP_S, first_at + RAMP_S + setting.span_s), 1.0)]
    starts = [(first_at + number * STEP_S, part) for number, part in enumerate((1.0, 0.5, 1.0))]
    return [((at + AFTER_STEP_S, at + STEP_S), part) for at, part in starts]


def used(
    calls: Sequence[Call],
    span: tuple[float, float],
    per_minute: float,
    tokens_of: Callable[[bytes], int],
) -> Used:
    start, end = span
    inside = [call for call in calls if start <= call.time < end]
    weights = weights_of(calls, tokens_of)
    let_in = sum(weights[call.sha256] for call in inside if call.status == ANSWERED)
    refused = sum(call.status == REFUSED for call in inside)
    return Used(
        use_percent=100 * let_in / (per_minute / 60 * (end - start)),
        refused_percent=100 * refused / len(inside) if inside else 100.0,  # none: it stands still
        calls=len(inside),
    )


def weights_of(calls: Sequence[Call], tokens_of: Callable[[bytes], int]) -> dict[str, int]:
    """What each body of the calls weighs, by its hash."""
    wanted = {call.sha256 for call in calls}
    weights: dict[str, int] = {}
    number = 0
    while len(weights) < len(wanted):
        body = body_of(number)
        digest = sha256(body).hexdigest()
        if digest in wanted:
            weights[digest] = tokens_of(body)
        number += 1
        if number > 10 * len(wanted) + 10_000_000:
            raise SystemExit("the upstream got bodies that are not in the input")
    return weights


def body_of(number: int) -> bytes:
    """A body whose estimate is the same for all."""
    text = f"Is review {number:09} good or bad?"
    body = {
        "model": measure.MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_completion_tokens": ANSWER_TOKENS_MAX,
    }
    return msgspec.json.encode(body)


def _one(body: bytes) -> int:
    return 1


def _estimated(body: bytes) -> int:
    return compose(CHAT_PATH, body, request_hash(CHAT_PATH, body, 0)).tokens_estimated


def _used(body: bytes) -> int:
    return compose(CHAT_PATH, body, request_hash(CHAT_PATH, body, 0)).tokens_used


TOKENS_OF: dict[str, Callable[[bytes], int]] = dict(
    zip(COUNTED, (_one, _estimated, _used), strict=True)
)


def mean_tokens(tokens_of: Callable[[bytes], int]) -> float:
    return sum(tokens_of(body_of(number)) for number in range(1000)) / 1000


def show_steady(setting: Setting, seen: dict[Case, list[Used]]) -> None:
    rows = []
    for case, (found,) in seen.items():
        target = USE_TARGETS_PERCENT[case.known]
        rows.append(
            (
                *(case.known, case.algorithm, case.counted),
                f"{found.calls:,}",
                *(f"{found.use_percent:.2f}", *measure.at_least([found.use_percent], target)),
                f"{found.refused_percent:.2f}",
                *measure.at_most([found.refused_percent], REFUSED_TARGET_PERCENT),
            )
        )
    measure.show_table(
        f"A limit of {setting.rpm:,} requests a minute, or as many tokens as they take; "
        f"{setting.span_s:.0f} s after the first {RAMP_S:.0f}; burst {setting.burst_s:.0f} s",
        (
            *("limit", "algorithm", "counted", "calls"),
            *("used, %", "wanted", "", "refused, %", "wanted", ""),
        ),
        rows,
    )


def show_stepping(setting: Setting, seen: dict[Case, list[Used]]) -> None:
    steps = ("before", "halved", "doubled again")
    rows = [
        (
            *(case.known, case.algorithm, case.counted, step),
            *(f"{found.use_percent:.2f}", *measure.at_least([found.use_percent], wanted)),
            f"{found.refused_percent:.2f}",
            *measure.at_most([found.refused_percent], REFUSED_TARGET_PERCENT),
        )
        for case, figures in seen.items()
        for step, found, wanted in zip(
            steps,
            figures,
            (USE_TARGETS_PERCENT[case.known], STEPPED_TARGET_PERCENT, STEPPED_TARGET_PERCENT),
            strict=True,
        )
    ]
    measure.show_table(
        f"A limit of {setting.rpm:,} requests a minute that steps each {STEP_S:.0f} s; "
        f"from {AFTER_STEP_S:.0f} s after each step on; burst {setting.burst_s:.0f} s",
        (
            *("limit", "algorithm", "counted", "step"),
            *("used, %", "wanted", "", "refused, %", "wanted", ""),
        ),
        rows,
    )


if __name__ == "__main__":
    main()
