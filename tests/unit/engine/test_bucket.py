"""Buckets: never more than the rate, and never less than it without need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.bucket import Bucket, take, wait_s

AMOUNTS = st.lists(
    st.tuples(st.floats(0, 5), st.integers(1, 40)), min_size=1, max_size=60
)  # (pause before, amount)
PER_MINUTE = st.floats(1, 6_000)


def passes(per_minute: float, wishes: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """(time, amount) of each take, when everybody waits as long as it is told."""
    bucket, now, taken = Bucket.per_minute(per_minute, 0.0), 0.0, []
    for pause, amount in wishes:
        now += pause
        now += wait_s(bucket, amount, now)
        assert wait_s(bucket, amount, now) == pytest.approx(0.0, abs=1e-6)
        take(bucket, amount, now)
        taken.append((now, amount))
    return taken


@given(PER_MINUTE, AMOUNTS)
def test_no_interval_has_more_than_rate_times_length_plus_burst(
    per_minute: float, wishes: list[tuple[float, int]]
) -> None:
    rate, burst = per_minute / 60, max(1.0, per_minute / 60)
    taken = passes(per_minute, wishes)
    for first, (start, _) in enumerate(taken):
        total = 0
        for end, amount in taken[first:]:
            # The last one of an interval may be larger than the burst: it then pays afterwards.
            assert total + min(amount, burst) <= rate * (end - start) + burst + 1e-6
            total += amount


@given(PER_MINUTE, st.integers(1, 200))
def test_whoever_always_wants_gets_the_whole_rate(per_minute: float, count: int) -> None:
    taken = passes(per_minute, [(0.0, 1)] * count)
    burst = max(1.0, per_minute / 60)
    assert taken[-1][0] <= max(0.0, count - burst) * 60 / per_minute + 1e-6


def test_one_larger_than_the_burst_passes_a_full_bucket_and_the_next_waits_for_it() -> None:
    bucket = Bucket.per_minute(600, 0.0)  # 10 a second
    assert wait_s(bucket, 1000, 0.0) == 0.0
    take(bucket, 1000, 0.0)
    assert wait_s(bucket, 1, 0.0) == pytest.approx(99.1)


def test_what_was_reserved_too_much_comes_back_but_never_above_the_burst() -> None:
    bucket = Bucket.per_minute(600, 0.0)
    take(bucket, 10, 0.0)
    take(bucket, -4, 0.0)
    assert wait_s(bucket, 4, 0.0) == 0.0
    take(bucket, -1_000, 0.0)
    assert bucket.level == bucket.burst


def test_a_clock_that_stands_still_or_steps_back_gives_nothing() -> None:
    bucket = Bucket.per_minute(60, 10.0)
    take(bucket, 1, 10.0)
    assert wait_s(bucket, 1, 10.0) == pytest.approx(1.0)
    assert wait_s(bucket, 1, 5.0) == pytest.approx(1.0)
