"""An amount per window: found after a long silence, sent again, and tried for more."""

from __future__ import annotations

import pytest

from batchwright.engine import learning, window
from batchwright.engine.learned import Learned

LATENCY_S = 0.02


class FixedWindow:
    """An upstream that lets in so many calls in each minute."""

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.by_window: dict[int, int] = {}
        self.refused = 0

    def lets_in(self, now: float) -> bool:
        number = int(now // 60)
        used = self.by_window.setdefault(number, 0)
        if used >= self.amount:
            self.refused += 1
            return False
        self.by_window[number] += 1
        return True


def drive(learned: Learned, upstream: FixedWindow, start: float, end: float) -> None:
    """As many calls as may go, at most 200 a second, each answered before the next goes."""
    now = start
    while now < end:
        wait = learning.delay_s(learned, now)
        if wait > 0:
            now += wait
            continue
        learning.note_sent(learned, now)
        note = learning.note_accepted if upstream.lets_in(now) else learning.note_refused
        note(learned, now, now + LATENCY_S / 10)
        now += 0.005


def test_an_amount_per_window_is_learned_and_used_from_then_on() -> None:
    learned, upstream = Learned.start(0.0), FixedWindow(3_000)
    drive(learned, upstream, 0.0, 360.0)
    assert learned.mode in ("windowed", "silent")
    assert abs(learned.window.span_s - 60.0) < 2
    assert [upstream.by_window[number] for number in range(1, 6)] == [3_000] * 5


def test_an_amount_that_grew_is_found_and_one_that_shrank_too() -> None:
    learned, upstream = Learned.start(0.0), FixedWindow(3_000)
    drive(learned, upstream, 0.0, 240.0)
    upstream.amount = 3_300
    drive(learned, upstream, 240.0, 600.0)
    assert upstream.by_window[9] == 3_300
    upstream.amount = 1_000
    drive(learned, upstream, 600.0, 900.0)
    assert upstream.by_window[14] == 1_000


def test_a_window_lasts_from_the_first_probe_that_is_let_in_to_the_next_such() -> None:
    learned, upstream = Learned.start(0.0), FixedWindow(3_000)
    drive(learned, upstream, 0.0, 300.0)
    assert learned.window.span_s == pytest.approx(60.0, abs=1.0)


def test_an_opening_that_was_none_is_forgotten() -> None:
    learned, upstream = Learned.start(0.0), FixedWindow(3_000)
    drive(learned, upstream, 0.0, 110.0)
    known = learned.window.span_s, learned.window.amount
    learned.probing.open_at = 110.0
    window.start(learned, 110.0)
    learning.note_refused(learned, 110.1, 110.1)
    assert (learned.window.span_s, learned.window.amount) == known
    assert learned.window.began_at == pytest.approx(60.0, abs=2.0)
    assert learned.mode == "silent"


def test_an_amount_that_is_far_too_small_grows_from_window_to_window() -> None:
    learned, upstream = Learned.start(0.0), FixedWindow(3_000)
    drive(learned, upstream, 0.0, 70.0)
    learned.window.amount = 30
    drive(learned, upstream, 70.0, 1_500.0)
    assert upstream.by_window[24] == 3_000


def test_a_window_begins_with_the_first_call_and_not_before() -> None:
    learned = Learned.start(0.0)
    learning.note_accepted(learned, 7.0, 7.5)
    assert learned.window.began_at == 7.0


def test_few_calls_are_tried_beyond_the_amount() -> None:
    learned, upstream = Learned.start(0.0), FixedWindow(3_000)
    drive(learned, upstream, 0.0, 180.0)
    before = upstream.refused
    drive(learned, upstream, 180.0, 360.0)
    assert upstream.refused - before <= 3 * 0.005 * 3_000


@pytest.mark.parametrize("silence_s", [1.0, 20.0])
def test_an_amount_is_still_known_after_an_idle_hour_that_ended_with_a_refusal(
    silence_s: float,
) -> None:
    learned, upstream = Learned.start(0.0), FixedWindow(1_000)
    drive(learned, upstream, 0.0, 130.0)
    assert learned.rate_per_s == pytest.approx(1_000 / 60, rel=0.1)
    for call in range(60):  # windows open by the clock, with a call in each
        now = 200.0 + 61 * call
        assert learning.delay_s(learned, now) == 0
        learning.note_sent(learned, now)
        learning.note_accepted(learned, now, now + LATENCY_S)
    upstream.by_window[64] = 1_000  # somebody else has used it up
    opens_at = 65 * 60.0
    drive(learned, upstream, opens_at - silence_s, opens_at + 30.0)
    assert learned.rate_per_s == pytest.approx(1_000 / 60, rel=0.1)
    assert upstream.by_window[65] >= 500


def refused_by_the_clock() -> tuple[Learned, FixedWindow]:
    """An amount is known, and a window that the clock opened was refused, 20 s too early."""
    learned, upstream = Learned.start(0.0), FixedWindow(1_000)
    drive(learned, upstream, 0.0, 130.0)
    learning.note_sent(learned, 200.0)
    for now in (200.0, 261.0, 322.0):
        assert learning.delay_s(learned, now) == 0
        learning.note_sent(learned, now)
        learning.note_accepted(learned, now, now + LATENCY_S)
    upstream.by_window[6] = 1_000  # somebody else has used it up
    drive(learned, upstream, 400.0, 430.0)
    return learned, upstream


def test_a_lowered_amount_is_learned_after_a_window_that_the_clock_opened_was_refused() -> None:
    learned, upstream = refused_by_the_clock()
    upstream.amount = 300
    drive(learned, upstream, 430.0, 720.0)
    refused = upstream.refused
    drive(learned, upstream, 720.0, 1_020.0)
    assert learned.rate_per_s == pytest.approx(300 / 60, rel=0.05)
    assert [upstream.by_window[number] for number in range(13, 17)] == [300] * 4
    assert upstream.refused - refused <= 5 * 0.03 * 300


def test_nothing_of_a_window_is_kept_where_all_is_forgotten() -> None:
    learned, upstream = refused_by_the_clock()
    learning.forget(learned, 430.0)
    drive(learned, upstream, 430.0, 720.0)
    assert [upstream.by_window[number] for number in (9, 10, 11)] == [1_000] * 3
