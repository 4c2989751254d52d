"""The deadline boost: it rises where the time is short, and comes to rest where it suffices."""

from __future__ import annotations

import pytest

from batchwright.engine.urgency import CHECK_EVERY_S, RAISED_MAX, Rival, Urgency

HUGE = [Rival(10**9, 1.0)]  # it wants the lane until after the deadline


def weights(
    rate_of: object,
    *,
    left: int = 10_000,
    left_s: float = 10_000.0,
    own: float = 4.0,
    rivals: list[Rival] = HUGE,
) -> list[float]:
    """The weights at each look, where `rate_of(weight)` requests settle per second."""
    urgency = Urgency(own, now=0.0, settled=0, left_s=left_s, rivals=lambda: rivals)
    now, settled, seen = 0.0, 0.0, []
    while left > settled and now < left_s:
        now += CHECK_EVERY_S
        settled += rate_of(urgency.weight) * CHECK_EVERY_S  # type: ignore[operator]
        todo = left - int(settled)
        seen.append(urgency.check(now=now, settled=int(settled), left=todo, left_s=left_s - now))
    return seen


def test_a_batch_that_ends_in_time_keeps_the_weight_of_its_priority() -> None:
    assert set(weights(lambda _weight: 2.0)) == {4.0}


def test_a_batch_that_would_be_late_is_raised_and_ends_within_its_time() -> None:
    seen = weights(lambda weight: 10 * weight / (weight + 60.0))

    assert max(seen) > 4.0
    assert len(seen) * CHECK_EVERY_S < 9_500.0
    later = seen[len(seen) // 4 : len(seen) // 2]
    assert max(later) / min(later) < 1.2  # it comes to rest


def test_the_boost_has_a_bound_and_is_taken_back() -> None:
    assert max(weights(lambda _weight: 0.1)) == 4.0 * RAISED_MAX

    urgency = Urgency(1.0, now=0.0, settled=0, left_s=100.0, rivals=lambda: HUGE)
    for step in range(1, 100):
        is_late = step < 20
        urgency.check(now=step * 5.0, settled=step * 10, left=1_000, left_s=10 if is_late else 1e6)
        assert urgency.weight > 1.0 or not is_late
    assert urgency.weight == 1.0


def test_nothing_is_concluded_before_something_has_settled() -> None:
    urgency = Urgency(4.0, now=0.0, settled=50, left_s=1.0, rivals=lambda: HUGE)

    for step in range(1, 20):
        assert urgency.check(now=step * 5.0, settled=50, left=1_000, left_s=1.0) == 4.0


@pytest.mark.parametrize("left_s", [0.0, -5.0])
def test_a_deadline_that_has_passed_is_no_error(left_s: float) -> None:
    urgency = Urgency(4.0, now=0.0, settled=0, left_s=10.0, rivals=lambda: HUGE)

    assert urgency.check(now=5.0, settled=10, left=10, left_s=left_s) == 8.0


def test_looks_that_follow_closely_are_one() -> None:
    urgency = Urgency(4.0, now=0.0, settled=0, left_s=10.0, rivals=lambda: HUGE)
    urgency.check(now=5.0, settled=5, left=1_000, left_s=10.0)

    assert urgency.check(now=5.1, settled=6, left=1_000, left_s=10.0) == 8.0


@pytest.mark.parametrize(("rivals_left", "is_raised"), [(100, False), (2_000, True)])
def test_a_batch_is_raised_only_if_it_would_be_late_after_its_rivals_too(
    rivals_left: int, is_raised: bool
) -> None:
    rivals = [Rival(rivals_left // 2, 0.3)] * 2
    urgency = Urgency(4.0, now=0.0, settled=0, left_s=10_000.0, rivals=lambda: rivals)

    # At 0.6 a second it would be late; at the 1.2 of all of them it would not.
    for at in (5.0, 10.0):
        seen = urgency.check(now=at, settled=int(0.6 * at), left=10_000, left_s=10_000.0)
    assert (seen > 4.0) == is_raised


def test_a_batch_is_not_raised_where_no_other_of_its_tenant_wants_its_lane() -> None:
    assert set(weights(lambda _weight: 0.1, rivals=[])) == {4.0}


def test_a_raised_batch_is_lowered_as_soon_as_its_rivals_have_gone() -> None:
    rivals = list(HUGE)
    urgency = Urgency(4.0, now=0.0, settled=0, left_s=100.0, rivals=lambda: rivals)
    for at in (5.0, 10.0, 15.0):
        urgency.check(now=at, settled=int(at), left=10_000, left_s=100.0)
    assert urgency.weight == 32.0

    rivals.clear()
    for at in (20.0, 25.0, 30.0):
        urgency.check(now=at, settled=int(at), left=10_000, left_s=100.0)
    assert urgency.weight == 4.0
