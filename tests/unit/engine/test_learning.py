"""How what is known of an unsaid limit changes from one mode to another."""

from __future__ import annotations

import pytest

from batchwright.engine import learning, settling
from batchwright.engine.learned import FEW, Learned

LATENCY_S = 0.1


def let_in(learned: Learned, start: float, end: float, per_s: float) -> None:
    count = round((end - start) * per_s)
    for number in range(count):
        now = start + number / per_s
        learning.note_accepted(learned, now - LATENCY_S, now)


def test_before_anything_is_refused_nothing_is_held_back() -> None:
    learned = Learned.start(0.0)
    let_in(learned, 0.0, 10.0, 100.0)
    assert learned.mode == "free"
    assert learning.delay_s(learned, 10.0) == 0


def test_after_the_first_refusal_what_is_out_tells_the_rate() -> None:
    learned = Learned.start(0.0)
    let_in(learned, 0.0, 1.0, 100.0)
    learning.note_refused(learned, 0.95, 1.0)
    assert learned.mode == "draining"
    assert 0 < learning.delay_s(learned, 1.0) <= 2 * LATENCY_S

    for number in range(10):  # half of what was out for a round trip of 0.1 s
        at = 1.0 + number / 100
        learning.note_accepted(learned, at - LATENCY_S, at)
        learning.note_refused(learned, at - LATENCY_S, at)
    learning.delay_s(learned, 1.0 + 2 * LATENCY_S)
    assert learned.mode == "paced"
    assert 50 < (learned.rate_per_s or 0) < 200


def test_where_nothing_that_was_out_is_let_in_it_is_silent() -> None:
    learned = Learned.start(0.0)
    let_in(learned, 0.0, 1.0, 100.0)
    for number in range(10):
        learning.note_refused(learned, 0.9, 1.0 + number / 100)
    learning.delay_s(learned, 1.5)
    assert learned.mode == "silent"


def test_a_refusal_that_is_explained_keeps_the_rate_of_late() -> None:
    learned = Learned.start(0.0)
    let_in(learned, 0.0, 5.0, 100.0)
    learning.note_refused(learned, 4.9, 5.0, is_explained=True)
    assert learned.mode == "paced"
    assert 95 < (learned.rate_per_s or 0) < 110


def test_forgotten_it_holds_nothing_back() -> None:
    learned = Learned.start(0.0)
    let_in(learned, 0.0, 5.0, 100.0)
    learning.note_refused(learned, 4.9, 5.0)
    learning.forget(learned, 5.0)
    assert learning.delay_s(learned, 5.0) == 0


@pytest.mark.parametrize("let_in", [0, 3, 300])
def test_after_hours_without_work_a_short_silence_leaves_the_rate_about_as_it_was(
    let_in: int,
) -> None:
    learned = Learned.start(0.0)
    settling.start(learned, 100.0, 0.0)
    learning.note_accepted(learned, 0.0, 0.05)
    now = 36_000.0
    for _ in range(let_in):
        now += 0.01
        learning.note_accepted(learned, now - 0.05, now)
    for number in range(2 * FEW):
        learning.note_refused(learned, now + number * 0.001, now + 0.005 + number * 0.001)
    now += 0.03
    for _ in range(1_000):
        wait = learning.delay_s(learned, now)
        if learned.mode == "paced":
            break
        now += wait
        if wait == 0 and learned.mode == "silent":
            learning.note_sent(learned, now)
            learning.note_accepted(learned, now, now + 0.001)
    assert learned.mode == "paced"
    assert learned.bucket.rate_per_s > 50


@pytest.mark.parametrize("demand_per_s", [40, 100])
def test_after_two_seconds_closed_it_goes_on_though_little_was_asked_for(demand_per_s: int) -> None:
    learned = Learned.start(0.0)
    settling.start(learned, 100.0, 0.0)
    learning.note_accepted(learned, 0.0, 0.05)
    start_s = now = 3_600.0
    let_in = 0
    while now < start_s + 30.0:
        wait = learning.delay_s(learned, now)
        if wait == 0:
            learning.note_sent(learned, now)
            if now < start_s + 2.0:
                learning.note_refused(learned, now, now + 0.005)
            else:
                learning.note_accepted(learned, now, now + 0.005)
                let_in += now >= start_s + 20.0
        now += max(wait, 1 / demand_per_s)
    assert let_in >= 0.8 * 10 * demand_per_s


@pytest.mark.parametrize("closed_s", [20.0, 90.0, 300.0])
def test_what_was_closed_for_long_is_used_soon_after_it_has_opened(closed_s: float) -> None:
    learned = Learned.start(0.0)
    settling.start(learned, 100.0, 0.0)
    opens_at, now, let_in = 30.0 + closed_s, 0.0, 0
    while now < opens_at + 60.0:
        wait = learning.delay_s(learned, now)
        if wait == 0:
            learning.note_sent(learned, now)
            if 30.0 <= now < opens_at:
                learning.note_refused(learned, now, now + 0.005)
            else:
                learning.note_accepted(learned, now, now + 0.005)
                let_in += now >= opens_at + 20.0
        now += max(wait, 0.01)
    assert let_in >= 0.4 * 40 * 100


def test_a_limit_that_opens_at_a_tenth_after_minutes_closed_is_found_again() -> None:
    learned = Learned.start(0.0)
    settling.start(learned, 190.0, 0.0)
    now, level, let_in = 0.0, 1.0, 0
    while now < 400.0:
        wait = learning.delay_s(learned, now)
        step_s = max(wait, 0.005)
        if wait == 0:
            learning.note_sent(learned, now)
            if now < 30.0 or (now >= 150.0 and level >= 1):
                level -= now >= 150.0
                learning.note_accepted(learned, now, now + 0.005)
                let_in += now >= 340.0
            else:
                learning.note_refused(learned, now, now + 0.005)
        level = min(level + 20.0 * step_s, 20.0)
        now += step_s
    assert let_in >= 0.8 * 60 * 20
