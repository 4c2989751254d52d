"""A silence, in which nothing at all is let in, and the probes that find out when it ends.

One call at a time probes, and eight times as many each time that none of them is refused in the
time that a refusal takes. A limit that gives back what a call reserved and did not use lets some in
though it is used up: it has opened only once more than such a left-over went through. Where the end
of a window is known, what goes through before it is left over, however much it is.
"""

from __future__ import annotations

import math

from batchwright.engine.learned import PROBE_S, WAIT_S_MAX, Learned
from batchwright.engine.settling import ROW_SHARE
from batchwright.engine.window import RAMP, SILENCE_S, is_used_up

PROBE_S_MAX = 60.0
PATIENCE = 2.0  # times what a refusal takes
PATIENCE_S = 0.1  # for clients and networks are not even
MORE = 8  # times as many probes
MORE_UNSURE = 2  # where it was not expected to open now
EMPTY = 2  # probes refused in a row: nothing is left over
OPEN = 64  # probes that went through: it is open
OWED = 2.0  # calls for each that was in flight
LEFT_SHARE = 0.03  # of what was let in: what may be left over


def start(learned: Learned, now: float) -> None:
    """Fall silent."""
    state, window = learned.probing, learned.window
    learned.mode = "silent"
    state.silent_at = now
    learned.cut_at = now
    state.batch = state.left = state.through = state.passed = 0
    state.every_s = PROBE_S
    learned.until = now + PROBE_S
    state.in_vain = 0
    state.opens_at = now
    if is_used_up(window, now):
        opens_at = window.began_at + 0.985 * window.span_s
        state.opens_at = min(opens_at, now + WAIT_S_MAX)


def delay_s(learned: Learned, now: float) -> float | None:
    """Seconds until the next probe may go; None where it has opened.

    It is open once so many went through that they are no left-over of what was used up.
    """
    state, answers = learned.probing, learned.answers
    if state.left > 0:
        return max(state.next_at - now, 0.0)
    if state.batch and answers.refused_at < state.sent_at:
        left_s = state.sent_at + PATIENCE * answers.refusal_s + PATIENCE_S - now
        if left_s > 0:
            return left_s
        state.through += state.batch
        if now < state.opens_at and learned.window.is_sure:
            missing = OPEN  # too early: it is left over, however much it is
        else:
            missing = math.ceil(_left_over(learned, now)) - state.through
        if missing <= 0:
            return None
        more = MORE if _is_expected(learned, now) else MORE_UNSURE
        state.batch = state.left = min(more * state.batch, missing, OPEN)
        return 0.0
    if now < learned.until:
        return learned.until - now
    state.batch = state.left = 1
    state.open_at = math.inf
    return 0.0


def note_sent(learned: Learned, now: float) -> None:
    """A probe goes out."""
    state, window = learned.probing, learned.window
    state.left -= 1
    state.sent_at = now
    state.open_at = min(state.open_at, now)
    if not _is_expected(learned, now):
        even_s = window.span_s / window.amount
        state.next_at = now + min(even_s / RAMP, PROBE_S_MAX)


def note_accepted(learned: Learned, sent_at: float) -> None:
    """A call was let in; it counts if it was a probe."""
    state = learned.probing
    if sent_at >= state.silent_at:
        if not state.passed:
            state.passed_at = sent_at
        state.passed += 1


def note_refused(learned: Learned, now: float) -> None:
    """Probe later: up to a second apart in the first minute, then to a fiftieth of the silence."""
    state = learned.probing
    if not state.batch:
        return  # of a batch that told already, or sent before the silence
    most = max(1.0, (now - state.silent_at) / 50)
    state.in_vain = state.in_vain + 1 if state.batch == 1 else 0
    state.batch = state.left = 0
    state.owed = OWED * learned.answers.count(now - 1.5 * learned.answers.round_trip_s)[0]
    if learned.window.is_sure or not learned.window.span_s:
        state.through = 0
    state.every_s = min(state.every_s * 1.5, most, PROBE_S_MAX)
    learned.until = now + state.every_s
    is_empty = state.in_vain >= EMPTY and now - state.silent_at >= 2 * learned.answers.round_trip_s
    if is_empty and learned.until < state.opens_at:
        learned.until = state.opens_at
        state.every_s = max(PROBE_S, learned.window.span_s / 200)


def _left_over(learned: Learned, now: float) -> float:
    """So many calls may be let in though it has not opened: what calls that end have given back."""
    let_in = learned.answers.accepted - learned.probing.passed
    left = LEFT_SHARE * (let_in - learned.accepted_at_opening)
    if _is_expected(learned, now):
        left = min(left, OPEN)
    if now - learned.probing.silent_at >= SILENCE_S:
        left = max(left, learned.probing.owed)
    elif learned.settling.is_rated and not learned.window.span_s:
        left = min(left, ROW_SHARE * learned.bucket.rate_per_s)
    return max(left, 1.0)


def _is_expected(learned: Learned, now: float) -> bool:
    """Whether it may open now, by all that is known."""
    window = learned.window
    return not window.span_s or (window.is_sure and now >= learned.probing.opens_at)
