"""What is known of a limit that nobody tells."""

from __future__ import annotations

import pytest

from batchwright.engine.learned import RATE_MIN_PER_S, Answers, Learned, pace


def test_only_the_slots_that_began_since_are_counted() -> None:
    answers = Answers()
    answers.slots.extend([[1.0, 5.0, 0.0], [1.25, 7.0, 1.0], [1.5, 2.0, 3.0]])

    assert answers.count(1.2) == (9.0, 4.0, 1.25)
    assert answers.count(9.0) == (0.0, 0.0, 9.0)


def test_a_rate_is_told_where_one_is_known_and_only_there() -> None:
    learned = Learned.start(0.0)
    assert learned.rate_per_s is None

    pace(learned, 40.0, 0.0)
    learned.mode = "paced"
    assert learned.rate_per_s == 40.0

    learned.mode = "silent"
    assert learned.rate_per_s is None

    learned.window.span_s, learned.window.amount = 60.0, 600
    assert learned.rate_per_s == 10.0


def test_no_pace_is_so_slow_that_a_call_waits_for_ever() -> None:
    learned = Learned.start(0.0)
    pace(learned, 0.0, 0.0)
    assert learned.bucket.rate_per_s == pytest.approx(RATE_MIN_PER_S)
