"""Probes in a silence: few, further and further apart, and sure before it counts as over."""

from __future__ import annotations

from itertools import pairwise

from batchwright.engine import learning, probing
from batchwright.engine.learned import PROBE_S, Learned
from batchwright.engine.probing import EMPTY, OWED


def silent(*, accepted: int = 1_000, window_s: float = 0.0) -> Learned:
    """After so many that were let in; in the middle of a window of that length, if one is known."""
    learned = Learned.start(0.0)
    learned.answers.accepted = accepted
    learned.window.span_s, learned.window.amount, learned.window.used = window_s, 100, 100
    learned.window.is_sure = bool(window_s)
    probing.start(learned, window_s / 2)
    return learned


def probes_until(learned: Learned, start: float, end: float, *, refusal_s: float) -> list[float]:
    """When probes go if each is refused."""
    now, sent = start, []
    while now < end:
        wait = learning.delay_s(learned, now)
        if wait > 0:
            now += wait
            continue
        sent.append(now)
        learning.note_sent(learned, now)
        learning.note_refused(learned, now, now + refusal_s)
        now += refusal_s
    return sent


def test_one_probe_goes_at_a_time_and_refused_ones_are_further_and_further_apart() -> None:
    learned = silent()
    sent = probes_until(learned, 0.0, 600.0, refusal_s=0.02)
    gaps = [after - before for before, after in pairwise(sent)]
    assert sent[0] == PROBE_S
    assert all(before < after for before, after in pairwise(gaps[:5]))
    assert max(gaps[:45]) <= 1.1  # in the first minute
    assert max(gaps) <= 600 / 50 + 1


def test_it_is_open_once_more_went_through_than_can_be_left_over() -> None:
    learned, now, through = silent(accepted=1_000), PROBE_S, 0
    while learned.mode == "silent":
        wait = learning.delay_s(learned, now)
        if wait > 0:
            now += wait
            continue
        if learned.mode == "silent":
            learning.note_sent(learned, now)
            through += 1
            learning.note_accepted(learned, now, now + 0.01)
    assert through == 0.03 * 1_000
    assert learned.mode == "paced"


def test_what_is_left_over_and_then_refused_again_has_not_opened_it() -> None:
    learned, now = silent(accepted=1_000), PROBE_S
    for _ in range(5):
        now += learning.delay_s(learned, now)
        learning.note_sent(learned, now)
        learning.note_accepted(learned, now, now + 0.01)
        now += learning.delay_s(learned, now)
        learning.note_sent(learned, now)
        learning.note_refused(learned, now, now + 0.01)
        now += 0.01
    assert learned.mode == "silent"


def test_where_the_end_of_a_window_is_known_a_few_probes_go_at_its_beginning_and_then_none() -> (
    None
):
    learned = silent(window_s=60.0)
    sent = probes_until(learned, 30.0, 58.0, refusal_s=0.02)
    assert len(sent) == EMPTY
    assert learning.delay_s(learned, 58.0) > 1


def test_what_goes_through_before_the_end_of_a_window_has_not_opened_it() -> None:
    learned, now, through = silent(window_s=60.0), 30.0, 0
    while now < 50.0:
        wait = learning.delay_s(learned, now)
        now += wait
        if wait == 0:
            learning.note_sent(learned, now)
            learning.note_accepted(learned, now, now + 0.01)
            through += 1
    assert through > 0.03 * 1_000
    assert learned.mode == "silent"


def test_as_much_as_those_in_flight_may_give_back_has_not_opened_it_either() -> None:
    learned, now, through = silent(accepted=0), PROBE_S, 0
    for _ in range(200):  # let in up to the last refusal
        learning.note_accepted(learned, 0.0, 2.9)
    learned.probing.batch = 1
    learning.note_refused(learned, 2.9, 3.0)
    while learned.mode == "silent":
        wait = learning.delay_s(learned, now)
        now += wait
        if wait == 0 and learned.mode == "silent":
            learning.note_sent(learned, now)
            learning.note_accepted(learned, now, now + 0.01)
            through += 1
    assert through == OWED * 200


def test_a_batch_of_probes_that_is_refused_puts_off_the_next_once() -> None:
    learned = silent()
    learned.probing.batch = 8
    for _ in range(8):
        learning.note_refused(learned, 1.0, 1.0)
    assert learning.delay_s(learned, 1.0) <= 2 * PROBE_S
