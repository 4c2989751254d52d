"""What the key `batchwright` of a Batch object tells."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from batchwright.domain.batch import Batch, Closing, Counts, Savings, Status
from batchwright.domain.priority import Priority
from batchwright.domain.usage import Usage
from batchwright.engine.fair_queue import Flow
from batchwright.engine.limiter import Binding
from batchwright.engine.preparation import Preparation
from batchwright.server.progress import LINES_IN_LIST_MAX, live_batch_wire

BATCH = Batch(
    id="batch_1",
    tenant="t",
    endpoint="/v1/embeddings",
    input_file_id="file-1",
    completion_window="24h",
    created_at=100.9,
    expires_at=86_500.9,
    status=Status.IN_PROGRESS,
    in_progress_at=110.0,
    counts=Counts(100, 40, 10),
)


def engine_with(supervisor: Any = None, *, is_short_of_space: bool = False) -> Any:
    return SimpleNamespace(
        supervisor=lambda _batch_id: supervisor,
        with_progress=lambda batch: batch,
        runtime=SimpleNamespace(now=lambda: 1000.0, monotonic=lambda: 10.0),
        router=SimpleNamespace(unheard=[]),
        is_short_of_space=is_short_of_space,
    )


def running(rate_per_s: float, *reasons: str | None) -> Any:
    """A run of ten seconds at an even rate, that has settled half of its hundred requests."""
    lanes = [lane(reason) for reason in reasons]
    flow = Flow[Any]("t", lambda: None)
    run = SimpleNamespace(
        rate_per_s=lambda: rate_per_s,
        lanes=lanes,
        total=100,
        ran=50,
        left=50,
        preparation=Preparation(),
        spans_per_s=lambda _now: ([rate_per_s] * 10, 1.0),
        flow_on=lambda _lane: flow,
    )
    return SimpleNamespace(current=run, problem=None, has_stopped=False)


def lane(reason: str | None) -> Any:
    binding = None if reason is None else Binding("concurrency", reason, 50.0)
    return Named(
        name="lane",
        holds_back=lambda _flow: reason and f"lane: {reason}",
        binding=lambda _flow: binding,
        tripped_by=None,
        in_flight=50 if reason else 0,
        contenders=[],
    )


class Named(SimpleNamespace):
    __hash__ = object.__hash__


def ours(batch: Batch, engine: Any, **options: bool) -> Any:
    return live_batch_wire(batch, engine, **options)["batchwright"]


def test_a_running_batch_tells_its_rate_its_end_and_what_holds_it_back() -> None:
    told = ours(BATCH, engine_with(running(5.0, None, "50 calls in flight")))

    assert told["requests_per_s"] == 5.0
    assert told["expected_finish_at"] == 1010
    early, late = told["expected_finish_between"]
    assert 1005 < early <= 1010 <= late < 1020
    assert told["held_back_by"] == "lane: 50 calls in flight"
    assert told["limit"] == {
        "what": "concurrency",
        "provider": "lane",
        "unit": "calls",
        "limit": 50.0,
        "span_s": None,
        "remaining": None,
        "wait_s": None,
        "in_flight": 50,
        "within": None,
        "share": None,
        "shared_with": None,
    }


def test_a_cost_is_null_where_a_price_is_not_known() -> None:
    known = replace(BATCH, closing=Closing(cost_nano=2_000_000_000))
    unknown = replace(BATCH, closing=Closing(cost_nano=2_000_000_000, unpriced=1))

    assert ours(known, engine_with())["cost_usd"] == 2.0
    assert ours(unknown, engine_with())["cost_usd"] is None


def test_the_speed_of_an_ended_batch_leaves_out_what_was_not_run() -> None:
    cancelled = replace(
        BATCH,
        status=Status.CANCELLED,
        cancelled_at=120.0,
        counts=Counts(100, 40, 60),
        closing=Closing(codes={"batch_cancelled": 50, "400": 10}),
    )

    assert ours(cancelled, engine_with())["requests_per_s"] == 5.0


def test_one_that_stands_still_has_no_expected_end() -> None:
    told = ours(BATCH, engine_with(running(0.0), is_short_of_space=True))

    assert (told["requests_per_s"], told["expected_finish_at"]) == (0.0, None)
    assert told["held_back_by"] == "the disk is nearly full"
    assert told["limit"]["what"] == "disk"


def test_a_paused_batch_tells_since_when_and_has_no_expected_end() -> None:
    paused = replace(BATCH, paused_at=900.7, priority=Priority.HIGH)

    told = ours(paused, engine_with(running(5.0, "50 calls in flight")))

    assert (told["paused_at"], told["priority"]) == (900, "high")
    assert (told["held_back_by"], told["expected_finish_at"]) == ("it is paused", None)
    assert (told["limit"]["what"], told["expected_finish_between"]) == ("paused", None)


def test_an_ended_batch_tells_its_mean_rate_and_its_sums() -> None:
    closing = Closing(
        cost_nano=1_500_000_000,
        codes={"429": 10},
        attempts=70,
        possibly_paid_twice=300,
        possibly_paid_twice_lines=tuple(range(1, 301)),
        savings=Savings(3, Usage(10, 0, 5, 0), 500_000_000),
    )
    ended = replace(
        BATCH,
        status=Status.COMPLETED,
        completed_at=120.0,
        closing=closing,
        options={"dedupe": True, "retry_of": "batch_0"},
    )

    told = ours(ended, engine_with())
    listed = ours(ended, engine_with(), is_listed=True)

    assert told == {
        "requests_per_s": 4.7,
        "expected_finish_at": None,
        "expected_finish_between": None,
        "held_back_by": None,
        "limit": None,
        "problem": None,
        "failed_by_code": {"429": 10},
        "attempts": 70,
        "cost_usd": 1.5,
        "possibly_paid_twice": {"requests": 300, "lines": tuple(range(1, 301))},
        "dedupe": True,
        "cache": None,
        "savings": {"requests": 3, "usage": Usage(10, 0, 5, 0).to_wire(), "cost_usd": 0.5},
        "priority": "normal",
        "order": "input",
        "paused_at": None,
        "retry_of": "batch_0",
    }
    assert len(listed["possibly_paid_twice"]["lines"]) == LINES_IN_LIST_MAX


def test_times_on_the_wire_are_whole_seconds_and_usage_is_there_once_it_runs() -> None:
    wire = live_batch_wire(BATCH, engine_with())
    validating = live_batch_wire(replace(BATCH, status=Status.VALIDATING), engine_with())

    assert (wire["created_at"], wire["expires_at"]) == (100, 86_500)
    assert wire["usage"]["total_tokens"] == 0
    assert validating["usage"] is None
