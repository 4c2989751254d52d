"""A limit that is an amount per window of time.

From one opening to the next it let in that much: the same is sent again, faster than evenly and a
little more slowly than the time before, and then a few calls more try whether the amount has grown.
If all of these are let in, the next one is tried with more, twice as much more each time. If hardly
anything is let in after an opening, it was none: what was known before is known again.
"""

from __future__ import annotations

from dataclasses import replace

from batchwright.engine.bucket import take, wait_s
from batchwright.engine.learned import SLOT_S, WAIT_S_MAX, Learned, Window, pace

SILENCE_S = 3.0  # a longer one makes a window
EXPECTED_SILENCE_S = 2.0  # the same, where one is to be expected
RAMP = 2.0  # times the even rate, at first
FASTER = 8.0  # at the most
FASTER_STEP = 1.2  # each slot
FILLED = 0.5  # of the amount, let in before the first refusal: that tells the speed
TAPER_AT = 0.97  # of the amount: from here on slower, for the amount varies a little
TAPER = 8
TRIAL_SHARE = 0.005  # calls beyond the known amount that may be out at once
GROWTH_SHARE = 0.02  # more in the next window, after one in which all trials were let in
BEYOND_SHARE = 0.125  # or of those beyond it that were let in


def start(learned: Learned, now: float) -> None:
    """From one opening to the next the limit accepted so much, at such a speed."""
    window, probing = learned.window, learned.probing
    window.before = replace(window, before=None)
    window.silent_at = probing.silent_at
    let_in = learned.answers.accepted - probing.passed
    if not window.is_vain:
        _measure(learned, let_in)
    window.is_vain = False
    learned.mode = "windowed"
    _open(learned, now)
    window.began_at = probing.open_at
    window.accepted_before = let_in
    window.used = probing.through
    window.grown = 0


def _measure(learned: Learned, let_in: int) -> None:
    """What the window that ended was, by what was let in up to the silence."""
    window, probing = learned.window, learned.probing
    window.amount = max(let_in - window.accepted_before, 1)
    span_s = min(max(probing.open_at - window.began_at, SILENCE_S), WAIT_S_MAX)
    is_first = not window.span_s
    window.is_sure |= is_first or abs(span_s - window.span_s) < 0.05 * span_s
    window.span_s = span_s
    if window.filled >= FILLED * window.amount:
        speed = 0.95 * window.filled / max(window.filled_at - window.began_at, SLOT_S)
    else:
        speed = 0.95 * window.amount / max(probing.silent_at - window.began_at, SLOT_S)
    even = window.amount / window.span_s
    window.speed = min(max(speed, even), FASTER * even)


def undo(learned: Learned) -> None:
    """It had not opened: what was let in was left over."""
    window = learned.window
    if window.before is None:  # it was opened by the clock: what is known still holds
        window.is_vain, window.used = True, 0
        let_in = window.amount  # as much may be left over as of a full one
    else:
        learned.window, let_in = window.before, 0
        learned.probing.silent_at = window.silent_at
    learned.window.is_sure = False
    learned.opened_at = learned.window.began_at
    learned.accepted_at_opening = learned.window.accepted_before - let_in


def is_used_up(window: Window, now: float) -> bool:
    """Whether nothing can be expected of it before its end."""
    is_spent = window.used >= 0.9 * window.amount
    return bool(window.span_s) and is_spent and now < window.began_at + window.span_s


def delay_s(learned: Learned, now: float) -> float:
    window = learned.window
    if now < learned.until:
        return learned.until - now
    if now >= window.began_at + window.span_s:
        _grow(window)
        window.before = None  # it may have ended long ago
        _open(learned, now)
    if window.used >= window.amount and window.grant_left <= 0:
        return _next_trial_s(window, learned.answers.round_trip_s, now)
    return min(wait_s(learned.bucket, 1, now), WAIT_S_MAX)


def _grow(window: Window) -> None:
    """Nothing was refused in the last one: twice as much more, each time."""
    if window.used < window.amount or not _is_trial_due(window):
        return
    factor = 1 + min(GROWTH_SHARE * 2**window.grown, 1.0)
    window.amount = max(int(window.used * factor), window.amount + 1)
    window.speed *= factor
    window.grown += 1


def _is_trial_due(window: Window) -> bool:
    """In each window; with small amounts not each time, for one refusal is a large share there."""
    every = max(1, min(20, 100 // max(window.amount, 1)))
    return window.number % every == 0 or window.grown > 0


def _next_trial_s(window: Window, round_trip_s: float, now: float) -> float:
    """Try a few calls more once those before were accepted."""
    is_answered = window.grant_answers >= window.grant
    if _is_trial_due(window) and is_answered and now >= window.grant_at:
        beyond = window.used - window.amount
        most = max(1, int(window.amount * TRIAL_SHARE), int(beyond * BEYOND_SHARE))
        window.grant = window.grant_left = min(max(1, window.grant * 2), most)
        window.grant_answers = 0
        window.grant_at = now
        return 0.0
    left_s = window.began_at + window.span_s - now
    return min(max(left_s, 0.01), max(round_trip_s, 0.05))


def note_sent(learned: Learned, now: float) -> None:
    """A call goes out."""
    window = learned.window
    take(learned.bucket, 1, now)
    window.used += 1
    if window.used > window.amount:
        window.grant_left -= 1
    elif window.used == int(TAPER_AT * window.amount):
        even = window.amount / window.span_s
        pace(learned, max(learned.bucket.rate_per_s / TAPER, even), now)
    elif window.used == window.amount:
        window.grant_at = now + 2 * learned.answers.round_trip_s  # the first trial


def speed_up(learned: Learned, now: float) -> None:
    """A slot is over: a little faster."""
    window = learned.window
    if window.used < TAPER_AT * window.amount:
        pace(learned, min(FASTER_STEP * learned.bucket.rate_per_s, window.speed), now)


def slow_down(learned: Learned, now: float) -> None:
    """A sliding window gives back more slowly than it was used: go on at half the speed."""
    window = learned.window
    learned.mode = "windowed"
    window.is_vain = False
    learned.cut_at = learned.until = now
    pace(learned, max(learned.bucket.rate_per_s / 2, window.amount / window.span_s), now)


def _open(learned: Learned, now: float) -> None:
    window = learned.window
    window.began_at = now
    window.accepted_before = learned.answers.accepted
    learned.cut_at = now
    window.used = 0
    window.number += 1
    pace(learned, min(RAMP * window.amount / window.span_s, window.speed), now)
    learned.bucket.level = max(learned.bucket.level, 0.0)  # trials are not paid for
    window.grant = window.grant_left = window.grant_answers = 0
