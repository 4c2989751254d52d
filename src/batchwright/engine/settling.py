"""A rate that settles where `REFUSED_SHARE` of the calls is refused.

It goes up a little with each call that is let in, and down with each that is refused; ups and
downs balance there and nowhere else. A fixed window refuses all that is too much in a row, at its
end: so a refusal takes hardly more off than the call that it was, and some seconds without one say
little. The steps grow while nothing is refused for longer, which finds a limit that was raised; a
quarter refused sets the rate at once to what is let in, which finds one that was lowered.
"""

from __future__ import annotations

from batchwright.engine.bucket import wait_s
from batchwright.engine.learned import (
    FEW,
    RATE_MIN_PER_S,
    SLOT_S,
    WAIT_S_MAX,
    Learned,
    pace,
)

REFUSED_SHARE = 0.0015  # of the calls: what finding the limit may cost
CUT = 0.005  # of the rate, at each refusal, but not more than:
CUT_PER_S = 1.5
HELD = 0.985  # of a rate that was measured
QUIET_CALLS = 800  # let in without a refusal: the growth gains, and doubles each second then
QUIET_S_MIN = 3.0  # though not sooner: windows of a second end without one, too
QUIET_S = 60.0  # or so long
GAIN_QUIET = 4.0
GAIN_EVERY_S = 1.0
GAIN_UNSURE = 32.0  # while the rate is little more than a guess
GAIN_MAX = 1e6
GROWTH_MAX = 0.1  # per second
FREE_AT = 20.0  # this far above the refused rate there is no limit any more
FALL_S = 0.8
FALL_SHARE = 0.25  # refused of late: the limit was lowered
FLOOR = 0.9  # of what is let in of late: no lower
RAISED_S = 5.0  # so soon after it was raised
ROW_SHARE = 0.05  # of a second's calls, refused in a row: is anything let in at all?
ROW_DENSITY = 0.5  # of the calls since its first one: else answers are only slower than refusals
CLOSED_SHARE = 0.15  # of the rate of a moment ago: below it, it is a left-over that is let in
TOP_DECAY = 0.94  # of that rate, each slot


def start(learned: Learned, rate: float, now: float) -> None:
    """Begin with a rate that was measured."""
    _hold_at(learned, rate, now)
    learned.settling.top_rate = learned.bucket.rate_per_s


def resume(learned: Learned, rate: float, now: float) -> None:
    """Go on at a rate that is known."""
    learned.mode = "paced"
    learned.settling.is_rated = True
    learned.cut_at = now
    learned.answers.row = 0
    pace(learned, rate, now)
    _calm(learned, now)


def delay_s(learned: Learned, now: float) -> float:
    wait = wait_s(learned.bucket, 1, now)
    if wait > 0:
        learned.settling.short_at = now
    return min(wait, WAIT_S_MAX)


def seek(learned: Learned, rate: float, now: float) -> None:
    """Go on at a guess that is well below the rate that was refused: up fast, but to there only."""
    refused_at = learned.bucket.rate_per_s
    resume(learned, rate, now)
    learned.settling.gain = GAIN_UNSURE
    learned.settling.calm_at = refused_at * HELD


# Up


def grow(learned: Learned, now: float) -> bool:
    """A slot is over: go up by what was let in, if anybody had to wait.

    Returns whether there still is a limit.
    """
    state, slots = learned.settling, learned.answers.slots
    at, let_in, _ = slots[-1] if slots else (now, 0.0, 0.0)
    if state.short_at < at - learned.answers.round_trip_s:
        return True
    _quicken(learned, now)
    growth = _cut_share(learned) * REFUSED_SHARE * state.gain * let_in
    rate = learned.bucket.rate_per_s * (1 + min(growth, GROWTH_MAX * SLOT_S))
    if rate > state.refused_rate * FREE_AT:
        return False
    is_back = learned.bucket.rate_per_s < state.calm_at <= rate
    pace(learned, rate, now)
    state.top_rate = max(TOP_DECAY * state.top_rate, rate)
    if is_back:
        _calm(learned, now)
    return True


def _quicken(learned: Learned, now: float) -> None:
    """Nothing was refused for so long that the limit must be further up."""
    state, answers = learned.settling, learned.answers
    since_s = now - state.gain_at
    is_quiet = answers.accepted - state.quiet_from >= QUIET_CALLS and since_s >= QUIET_S_MIN
    is_quiet = is_quiet or since_s >= QUIET_S
    if state.gain > 1:
        is_quiet = since_s >= max(GAIN_EVERY_S, 1.2 * answers.round_trip_s)
    if is_quiet:
        state.gain = min(max(2 * state.gain, GAIN_QUIET), GAIN_MAX)
        state.gain_at = now
        state.gain_rate = learned.bucket.rate_per_s


def _calm(learned: Learned, now: float) -> None:
    """After a refusal: go up slowly."""
    state = learned.settling
    state.gain = 1.0
    state.calm_at = 0.0
    state.gain_at = now
    state.gain_rate = learned.bucket.rate_per_s
    state.quiet_from, state.quiet_at = learned.answers.accepted, now


# Down


def is_in_doubt(learned: Learned) -> bool:
    """So many were refused in a row, and most of those sent: is anything let in at all?

    Answers may take far longer than refusals, so that none of them is there to break the row.
    """
    answers, rate = learned.answers, learned.bucket.rate_per_s
    return answers.row >= max(FEW, ROW_SHARE * rate, ROW_DENSITY * answers.row_sent)


def cut(learned: Learned, now: float) -> bool:
    """Go down by what a refusal says: a little, or to what is let in.

    Returns whether that is a rate; else it is what a limit that is used up lets in all the same.
    """
    state, answers = learned.settling, learned.answers
    rate = learned.bucket.rate_per_s
    state.refused_rate = rate
    if state.gain > 1:
        rate = min((state.gain_rate + rate) / 2, rate)  # the limit was passed since
        let_in = answers.accepted - state.quiet_from
        state.raised_rate = let_in / max(now - state.quiet_at, SLOT_S)
        state.raised_at = answers.slot_ends_at = now  # what follows is counted apart
    _calm(learned, now)
    is_raised = now - state.raised_at < RAISED_S and answers.row < FEW / 2  # no closed window
    span_s = max(FALL_S, 2 * FEW / rate)
    if is_raised:
        span_s = min(span_s, max(now - state.raised_at, SLOT_S))
    accepted, refused, start = answers.count(now - span_s)
    lower = rate * (1 - _cut_share(learned))
    share = accepted / max(accepted + refused, 1)
    if not accepted and refused >= 2 * FEW:
        return False
    if now - start < (SLOT_S if is_raised else 2 * SLOT_S) or accepted + refused < 2 * FEW:
        pace(learned, lower, now)
    elif share > 1 - FALL_SHARE:
        floor = FLOOR * accepted / (now - start)
        pace(learned, max(lower, min(floor, rate)), now)
    else:
        # A stock that had built up let the rate rise too far: what it let in meanwhile is its own.
        lowered = max(rate * share, state.raised_rate if is_raised else 0.0)
        _fall(learned, min(lowered, rate), accepted / (now - start), now)
    return learned.bucket.rate_per_s >= state.top_rate * CLOSED_SHARE


def go_on(learned: Learned, now: float) -> None:
    """What was out is back, and some of it was let in: go on, slower where much was not."""
    rate = learned.bucket.rate_per_s
    accepted, refused, start = learned.answers.count(learned.cut_at)
    if accepted + refused < 2 * FEW or refused < FALL_SHARE * (accepted + refused):
        resume(learned, rate, now)
    else:
        let_in_per_s = accepted / max(now - start, SLOT_S)
        _fall(learned, rate * accepted / (accepted + refused), let_in_per_s, now)


def _fall(learned: Learned, rate: float, let_in_per_s: float, now: float) -> None:
    """The limit was lowered to about `rate`, but not below what was let in of late.

    A second that is used up refuses all at its end, and each fall counts the refusals of the one
    before again.
    """
    least = FLOOR / HELD * let_in_per_s
    _hold_at(learned, min(max(rate, least), learned.bucket.rate_per_s), now)
    learned.settling.gain = GAIN_UNSURE


def _cut_share(learned: Learned) -> float:
    """What a refusal takes off the rate."""
    return min(CUT, CUT_PER_S / learned.bucket.rate_per_s)


def _hold_at(learned: Learned, rate: float, now: float) -> None:
    """Take `rate` for the limit, and go on a little below it."""
    learned.settling.refused_rate = max(rate, RATE_MIN_PER_S)
    resume(learned, learned.settling.refused_rate * HELD, now)
