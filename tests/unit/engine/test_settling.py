"""A rate that settles where few calls are refused."""

from __future__ import annotations

from random import Random

import pytest

from batchwright.engine import learning, settling
from batchwright.engine.learned import FEW, Learned
from batchwright.engine.settling import REFUSED_SHARE

LATENCY_S = 0.05


def paced(rate: float) -> Learned:
    learned = Learned.start(0.0)
    settling.start(learned, rate, 0.0)
    return learned


def drive(learned: Learned, limit_per_s: float, span_s: float, *, start: float = 0.0) -> list[int]:
    """Calls let in and refused by an upstream that lets in so many evenly, answered at once."""
    random, now, level = Random(3), start, 10.0
    counts, at = [0, 0], start
    while now < start + span_s:
        now += max(learning.delay_s(learned, now), 1e-4)
        if learning.delay_s(learned, now) > 0:
            continue
        learning.note_sent(learned, now)
        level, at = min(level + (now - at) * limit_per_s, 10.0), now
        sent_at = now - LATENCY_S * random.random()
        if level >= 1:
            level -= 1
            counts[0] += 1
            learning.note_accepted(learned, sent_at, now)
        else:
            counts[1] += 1
            learning.note_refused(learned, sent_at, now)
    return counts


@pytest.mark.parametrize("guess", [0.3, 0.9, 1.5])
def test_the_rate_settles_at_the_limit_from_above_and_from_below(guess: float) -> None:
    learned = paced(200.0 * guess)
    drive(learned, 200.0, 30.0)
    let_in, refused = drive(learned, 200.0, 60.0, start=30.0)
    assert let_in >= 0.98 * 200 * 60
    assert refused <= 2 * REFUSED_SHARE * let_in


def test_a_rate_that_nobody_waits_for_does_not_grow() -> None:
    learned = paced(100.0)
    before = learned.bucket.rate_per_s
    for second in range(60):
        learning.note_accepted(learned, second - LATENCY_S, float(second))
    assert learned.bucket.rate_per_s == pytest.approx(before, rel=1e-4)


def test_a_limit_that_is_far_out_of_reach_is_forgotten() -> None:
    learned = paced(20.0)
    drive(learned, 1e6, 150.0)
    assert learned.mode == "free"


def test_where_half_is_refused_the_rate_falls_at_once_to_what_is_let_in() -> None:
    learned = paced(400.0)
    drive(learned, 400.0, 10.0)
    drive(learned, 200.0, 2.0, start=10.0)
    assert learned.bucket.rate_per_s == pytest.approx(200.0, rel=0.1)


def test_each_refusal_of_a_row_takes_the_rate_no_lower_than_what_was_let_in() -> None:
    learned = paced(400.0)
    for number in range(320):  # five of eight are let in
        now = number / 400
        note = learning._count_refused if number % 8 >= 5 else learning.note_accepted
        note(learned, now, now)
    for number in range(FEW - 3):
        now = 0.8 + number / 1000
        learning.note_refused(learned, now, now)
    assert learned.bucket.rate_per_s >= 0.85 * 250


def test_a_guess_below_the_refused_rate_rises_fast_to_there_and_slowly_beyond() -> None:
    learned = paced(400.0)
    refused_at = learned.bucket.rate_per_s
    settling.seek(learned, 200.0, 0.0)
    assert learned.settling.gain == settling.GAIN_UNSURE
    now = 0.0
    while learned.settling.gain > 1:
        now += 0.001
        if learning.delay_s(learned, now) == 0:
            learning.note_sent(learned, now)
            learning.note_accepted(learned, now - LATENCY_S, now)
        assert now < 20
    assert learned.bucket.rate_per_s == pytest.approx(settling.HELD * refused_at, rel=0.03)


def test_a_refusal_takes_hardly_more_off_a_high_rate_than_the_call_that_it_was() -> None:
    learned = paced(2_000.0)
    drive(learned, 1e6, 2.0)
    before = learned.bucket.rate_per_s
    settling.cut(learned, 2.0)
    assert before - 2 <= learned.bucket.rate_per_s < before


def test_a_row_of_refusals_asks_whether_anything_is_let_in() -> None:
    learned = paced(10.0)
    assert not settling.is_in_doubt(learned)
    learned.answers.row = FEW
    assert settling.is_in_doubt(learned)


def test_refusals_among_as_many_that_are_not_are_no_row_though_answers_take_long() -> None:
    learned = paced(10.0)
    for number in range(40):  # one of three is refused, at once; the others are answered later
        now = number / 10
        learning.note_sent(learned, now)
        if number % 3 == 0:
            learning.note_refused(learned, now, now)
    assert learned.answers.row > FEW
    assert learned.mode == "paced"


def test_where_half_of_what_was_out_was_refused_it_goes_on_at_half_the_rate() -> None:
    learned = paced(400.0)
    for number in range(400):
        now = 0.3 + number / 400
        note = learning._count_refused if number % 2 else learning.note_accepted
        note(learned, now, now)
    settling.go_on(learned, 1.3)
    assert learned.bucket.rate_per_s == pytest.approx(200.0, rel=0.05)


def test_where_nothing_at_all_is_let_in_the_rate_is_kept_for_when_it_opens() -> None:
    learned = paced(100.0)
    for number in range(2 * FEW):
        learning._count_refused(learned, 1.0 + number / 100, 1.0 + number / 100)
    assert not settling.cut(learned, 1.2)
    assert learned.bucket.rate_per_s > 90


def test_refusals_of_calls_that_were_sent_before_the_last_step_are_no_row() -> None:
    learned = paced(10.0)
    learned.cut_at = 5.0
    for _ in range(2 * FEW):
        learning.note_refused(learned, 4.9, 5.1)
    assert (learned.mode, learned.answers.row) == ("paced", 0)
