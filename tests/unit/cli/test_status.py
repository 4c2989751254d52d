"""A Batch object in words."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright.cli.status import described, reasons
from batchwright.cli.terminal import shown_time

BATCH: dict[str, Any] = {
    "id": "batch_1",
    "status": "in_progress",
    "request_counts": {"total": 5000, "completed": 1200, "failed": 34},
    "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    "created_at": 0,
    "batchwright": {
        "requests_per_s": 12.5,
        "cost_usd": 0.25,
        "held_back_by": "the provider asks to wait",
        "failed_by_code": {"500": 30, "400": 4},
        "possibly_paid_twice": {"requests": 2, "lines": [7, 9]},
    },
}


def shown(batch: dict[str, Any]) -> str:
    return "\n".join(described(batch))


def test_a_pause_and_a_priority_stand_beside_the_state() -> None:
    paused = {**BATCH, "batchwright": {"paused_at": 1, "priority": "high"}}

    assert shown(paused).startswith("batch_1  in_progress, paused, high\n")
    assert "batchwright resume batch_1 goes on" in shown(paused)
    assert shown(BATCH).startswith("batch_1  in_progress\n")


def test_counts_speed_cost_and_errors_are_shown() -> None:
    text = shown(BATCH)

    assert "1,234 of 5,000 done, 34 failed" in text
    assert "12.5 requests/s" in text
    assert "$0.25\n" in text
    assert "500 × 30, 400 × 4" in text
    assert "possibly 2 (lines 7, 9)" in text


def test_what_was_not_run_is_told_apart_from_what_failed() -> None:
    counts = {"total": 1500, "completed": 68, "failed": 1432}
    codes = {"batch_cancelled": 1430, "500": 2}
    ended = {"status": "cancelled", "request_counts": counts}

    text = shown({**BATCH, **ended, "batchwright": {"failed_by_code": codes}})

    assert "68 answered, 1,430 not run (batch_cancelled), 2 failed\n" in text
    assert "500 × 2" in text
    assert "batch_cancelled × " not in text


def test_the_options_of_a_batch_are_shown_where_any_is_set() -> None:
    options = {"dedupe": True, "order": "prefix", "cache": {"max_age_s": 604_800}}
    plain = {"dedupe": False, "order": "input", "cache": None}

    assert "  options         dedupe, order prefix, cache 7d\n" in shown(
        {**BATCH, "batchwright": options}
    )
    assert "options" not in shown({**BATCH, "batchwright": plain})
    assert "options" not in shown(BATCH)


@pytest.mark.parametrize(("cost_usd", "words"), [(0.5, ", $0.50\n"), (None, "\n")])
def test_what_copies_saved_is_shown(cost_usd: float | None, words: str) -> None:
    savings = {"requests": 900, "usage": {"total_tokens": 6300}, "cost_usd": cost_usd}
    text = shown({**BATCH, "batchwright": {"savings": savings}})

    assert "900 requests, 6,300 tokens" + words in text
    assert "saved" not in shown(BATCH)


def test_a_batch_of_another_server_has_no_extension_and_is_shown_all_the_same() -> None:
    other = {"id": "batch_2", "status": "completed", "request_counts": None}

    assert shown(other).startswith("batch_2  completed")


def test_what_was_refused_is_shown_by_line() -> None:
    errors = {"data": [{"line": n, "message": f"bad {n}", "code": "c"} for n in range(1, 20)]}
    text = shown({**BATCH, "status": "failed", "errors": errors})

    assert "line 1: bad 1 (c)" in text
    assert "and 9 more of other causes" in text


def test_a_cause_of_many_lines_is_shown_once() -> None:
    errors = {"data": [{"line": n, "message": "bad", "code": "c"} for n in range(1, 1001)]}

    text = shown({**BATCH, "status": "failed", "errors": errors})

    assert "line 1: bad (c), and 999 more lines" in text


@pytest.mark.parametrize(("cost_usd", "words"), [(None, "unknown"), (0.0, "$0\n")])
def test_a_cost_that_is_not_known_is_no_zero(cost_usd: float | None, words: str) -> None:
    assert words in shown({**BATCH, "batchwright": {"cost_usd": cost_usd}})


def test_the_reason_for_slowness_is_told() -> None:
    assert "the provider asks to wait" in "\n".join(reasons(BATCH, {}))
    free = {**BATCH, "batchwright": {}}
    assert "nothing but the speed of the answers" in "\n".join(reasons(free, {}))


def test_nothing_holds_back_what_has_ended() -> None:
    ended = {**BATCH, "status": "completed", "batchwright": {"held_back_by": None}}

    assert "it has ended: nothing holds it back" in "\n".join(reasons(ended, {}))


def test_each_code_comes_with_an_example() -> None:
    assert "HTTP 500: r1: overloaded" in "\n".join(reasons(BATCH, {"HTTP 500": "r1: overloaded"}))


def why(ours: dict[str, Any], **fields: Any) -> str:
    return "\n".join(reasons({**BATCH, **fields, "batchwright": ours}, {}))


def test_the_figures_of_a_limit_and_the_range_of_the_end_are_told() -> None:
    limit = {"what": "requests", "provider": "acme", "in_flight": 5, "wait_s": 0.1}
    text = why({"limit": limit, "expected_finish_between": [1000, 2000]}, expires_at=3000)

    assert "figures         5 calls in flight at acme\n" in text
    assert f"expected end    between {shown_time(1000)} and {shown_time(2000)}" in text
    assert "expire" not in text


@pytest.mark.parametrize(("expires_at", "word"), [(1500, "may"), (500, "will")])
def test_an_end_after_the_deadline_is_pointed_out(expires_at: int, word: str) -> None:
    text = why({"expected_finish_between": [1000, 2000]}, expires_at=expires_at)

    assert f"; it {word} expire before" in text


@pytest.mark.parametrize(
    ("what", "words"), [("wait", "sent again in 20 s"), ("outage", "tried again in 20 s")]
)
def test_a_wait_says_what_comes_after_it(what: str, words: str) -> None:
    assert words in why({"limit": {"what": what, "provider": "acme", "wait_s": 20.0}})
