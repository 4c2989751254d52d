"""How what is known of an unsaid limit changes from one mode to another."""

from __future__ import annotations

from batchwright.engine import learning
from batchwright.engine.learned import Learned

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
