from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.sandbox.limiter import (
    Algorithm,
    Bucket,
    FixedWindow,
    Limiter,
    Meter,
    SlidingWindow,
    duration_text,
)

METERS: list[Callable[[float, float], Meter]] = [Bucket, FixedWindow, SlidingWindow]


@pytest.mark.parametrize("make", METERS)
def test_what_is_taken_is_missing_and_comes_back(make: Callable[[float, float], Meter]) -> None:
    meter = make(60, 60)

    meter.take(1000.0, 60)

    assert meter.remaining(1000.0) == 0
    assert meter.wait_s(1000.0, 1) > 0
    assert meter.remaining(1000.0 + meter.reset_s(1000.0) + 1e-6) == pytest.approx(60)


@pytest.mark.parametrize("make", METERS)
@given(
    gaps_s=st.lists(st.floats(0, 30), min_size=1, max_size=60),
    amount=st.integers(1, 30),
)
def test_waiting_as_long_as_told_is_enough(
    make: Callable[[float, float], Meter], gaps_s: list[float], amount: int
) -> None:
    meter, now_s = make(60, 60), 1000.0
    for gap_s in gaps_s:
        now_s += gap_s + meter.wait_s(now_s + gap_s, amount) + 1e-6
        assert meter.wait_s(now_s, amount) == pytest.approx(0, abs=1e-6)
        meter.take(now_s, amount)


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
@pytest.mark.parametrize("burst_s", [1.0, 60.0])
def test_no_more_than_the_limit_and_one_burst_is_let_in(
    algorithm: Algorithm, burst_s: float
) -> None:
    limiter = Limiter(requests_per_minute=600, algorithm=algorithm, burst_s=burst_s)

    admitted = sum(limiter.admit(1000 + i / 100, "m", 0) is None for i in range(18_000))

    # Three minutes at 6,000 a minute asked for. A window lets in whole windows: of 60 s, the clock
    # may begin four.
    assert 3 * 600 <= admitted <= 3 * 600 + 600 * burst_s / 60 + 1


def test_a_bucket_refills_evenly_and_a_fixed_window_at_once() -> None:
    bucket, window = Bucket(60, 60), FixedWindow(60, 60)
    for meter in (bucket, window):
        meter.take(1020.0, 60)  # a whole minute of the clock

    assert bucket.remaining(1050.0) == pytest.approx(30)
    assert window.remaining(1050.0) == 0
    assert window.remaining(1080.0) == 60


def test_a_sliding_window_frees_what_is_a_window_old() -> None:
    window = SlidingWindow(60, 60)
    window.take(1000.0, 40)
    window.take(1030.0, 20)

    assert window.remaining(1059.0) == 0
    assert window.wait_s(1059.0, 1) == pytest.approx(1, abs=0.1)
    assert window.remaining(1060.2) == 40


def test_a_refusal_names_the_limit_and_the_wait() -> None:
    limiter = Limiter(requests_per_minute=3, burst_s=60)
    for _ in range(3):
        assert limiter.admit(1000.0, "gpt-4o", 5) is None

    refusal = limiter.admit(1000.0, "gpt-4o", 5)

    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(20)
    error = refusal.payload["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert "Limit 3, Used 3, Requested 1. Please try again in 20s." in error["message"]


def test_a_request_over_the_whole_token_limit_is_told_that_waiting_cannot_help() -> None:
    limiter = Limiter(tokens_per_minute=100)

    refusal = limiter.admit(1000.0, "m", 101)

    assert refusal is not None
    assert refusal.retry_after_s is None
    assert refusal.payload["error"]["type"] == "tokens"


def test_headers_tell_limit_rest_and_reset() -> None:
    limiter = Limiter(requests_per_minute=600, tokens_per_minute=60_000)
    limiter.admit(1000.0, "m", 1500)

    assert limiter.headers(1000.0) == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-tokens": "58500",
        "x-ratelimit-reset-tokens": "1.5s",
    }


@pytest.mark.parametrize(("counts", "left"), [("estimate", "900"), ("usage", "970")])
def test_a_settled_call_counts_its_usage_only_where_usage_counts(counts: Any, left: str) -> None:
    limiter = Limiter(tokens_per_minute=1000, tpm_counts=counts)
    limiter.admit(1000.0, "m", 100)

    limiter.settle(1000.0, 100, 30)

    assert limiter.headers(1000.0)["x-ratelimit-remaining-tokens"] == left


@pytest.mark.parametrize(
    ("span_s", "text"),
    [(0, "0s"), (0.0121, "13ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (3723.25, "1h2m3.25s")],
)
def test_a_duration_is_written_as_openai_does(span_s: float, text: str) -> None:
    assert duration_text(span_s) == text
