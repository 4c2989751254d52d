"""Learning a limit that nobody tells, from refusals that carry nothing but their status.

The limit is learned in requests. Theory of operation, by mode:

- *free*: nothing was refused yet, nothing is held back.
- *draining*: the first refusal came, or a row of them. Nothing is sent for about a round trip; of
  the calls that were out, some are let in and some refused, and their share tells the rate.
- *paced*: a bucket whose rate goes up a little with each call that is let in, and down by `CUT`
  with each that is refused. So it settles where `REFUSED_SHARE` of the calls is refused, whatever
  the algorithm of the limit and its windows are: ups and downs balance there and nowhere else. The
  steps grow while nothing is refused for long, which finds a limit that was raised; a quarter
  refused sets the rate at once to what is let in, which finds one that was lowered.
- *silent*: nothing at all is let in. One call at a time probes, and eight times as many each time
  that none of them is refused in the time that a refusal takes.
- *windowed*: the silence was long, so that the limit is an amount per window of time. From one
  opening to the next it let in that much: the same is sent again, faster than evenly and a little
  more slowly than the time before, and then a few calls more try whether the amount has grown.

A limit that gives back what a call reserved and did not use lets some in though it is used up: it
has opened only once more than such a left-over went through.

Unsaid limits are met at gateways and self-hosted servers: token buckets (nginx `limit_req`, Amazon
API Gateway), fixed windows of a second or a minute (Envoy's rate-limit service, LiteLLM's proxy),
sliding ones (Kong).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from batchwright.engine.bucket import Bucket, set_rate, take, wait_s

SLOT_S = 0.25
RECENT_S = 3.0  # what "the last seconds" are
WAIT_S_MAX = 3600.0
FEW = 10  # answers that tell something

# Paced
REFUSED_SHARE = 0.0015  # of the calls: what finding the limit may cost
CUT = 0.005  # of the rate, at each refusal
HELD = 0.985  # of a rate that was measured
QUIET_CALLS = 800  # let in without a refusal: the growth gains, and doubles each second then
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
CLOSED_SHARE = 0.15  # of the rate of a moment ago: below it, it is a left-over that is let in
TOP_DECAY = 0.94  # of that rate, each slot
BURST_S = 0.05
_RATE_MIN_PER_S = 1 / 60.0

# Silent
SILENCE_S = 3.0  # a longer one makes a window
PROBE_S = 0.1
PROBE_S_MAX = 60.0
PATIENCE = 2.0  # times what a refusal takes
PATIENCE_S = 0.1  # for clients and networks are not even
MORE = 8  # times as many probes
MORE_UNSURE = 2  # where it was not expected to open now
OPEN = 64  # probes that went through: it is open
LEFT_SHARE = 0.03  # of what was let in: what may be left over

# Windowed
RAMP = 2.0  # times the even rate, at first
FASTER = 8.0  # at the most
FASTER_STEP = 1.2  # each slot
FILLED = 0.5  # of the amount, let in before the first refusal: that tells the speed
TAPER_AT = 0.97  # of the amount: from here on slower, for the amount varies a little
TAPER = 8
TRIAL_SHARE = 0.005  # calls beyond the known amount that may be out at once
MEMORY_S = 60.0  # how far back a first window can have begun


class Mode(Enum):
    """What is known of the limit; see the head of the module."""

    FREE = auto()
    DRAINING = auto()
    PACED = auto()
    SILENT = auto()
    WINDOWED = auto()


@dataclass(slots=True)
class Recent:
    """Answers of the last minute in slots of a quarter second: [start, accepted, refused]."""

    slots: deque[list[float]] = field(default_factory=lambda: deque(maxlen=240))

    def count(self, since: float) -> tuple[float, float, float]:
        """Accepted, refused, and the start of the first slot that counts."""
        accepted = refused = 0.0
        start = since
        for slot in reversed(self.slots):
            if slot[0] < since:
                break
            start, accepted, refused = slot[0], accepted + slot[1], refused + slot[2]
        return accepted, refused, start


@dataclass(slots=True)
class Learned:
    """What is known of a limit that nobody tells."""

    opened_at: float  # the limit was seen to accept again
    mode: Mode = Mode.FREE
    bucket: Bucket = field(default_factory=lambda: Bucket(1.0, 1.0, 1.0, 0.0))
    recent: Recent = field(default_factory=Recent)
    slot_ends_at: float = 0.0
    accepted: int = 0  # in all
    accepted_at_opening: int = 0
    round_trip_s: float = 0.0
    cut_at: float = 0.0
    until: float = 0.0  # draining ends; the next probe may go; a window's speed begins
    probe_s: float = PROBE_S  # silent: between two probes
    silent_at: float = 0.0
    batch: int = 0  # of probes, the last one
    probes: int = 0  # of it that have not gone yet
    probed_at: float = 0.0  # the last one went
    next_at: float = 0.0  # the next of the batch may go
    through: int = 0  # probes that were not refused in time
    passed: int = 0  # probes that were let in
    refused_at: float = 0.0
    refusal_s: float = 0.0  # how long a refusal takes
    refused_rate: float = 0.0  # per second; the limit was about here
    gain: float = 1.0  # of the growth
    gain_at: float = 0.0  # it was last set
    gain_rate: float = 0.0  # the rate then
    quiet_from: int = 0  # the count of accepted at the last refusal
    quiet_at: float = 0.0
    raised_rate: float = 0.0  # let in, on average, while the rate was raised
    raised_at: float = -math.inf  # until then
    short_at: float = 0.0  # somebody last had to wait for the rate
    top_rate: float = 0.0  # of a moment ago
    filled_at: float = 0.0  # the first refusal since the window opened
    filled: int = 0  # let in up to it
    row: int = 0  # refused since a call was let in that was sent after the first of them
    row_at: float = 0.0  # the first of them was sent
    row_accepted: int = 0  # of those sent after it, while draining
    is_rated: bool = False  # it has been paced before: the rate is known
    window_at: float = 0.0  # the last long silence ended
    window_accepted: int = 0  # the count of accepted then
    window_s: float = 0.0
    amount: int = 0  # of a window
    used: int = 0  # of the amount, in this window
    speed: float = 0.0  # of the calls in a window, per second
    windows: int = 0
    is_sure: bool = False  # when it opens: nothing has told otherwise
    grant: int = 0  # size of the running trial beyond the amount
    grant_left: int = 0
    grant_answers: int = 0
    grant_at: float = 0.0  # answers to calls sent before are none to the trial

    @classmethod
    def start(cls, now: float) -> Learned:
        return cls(opened_at=now, window_at=now)

    @property
    def rate_per_s(self) -> float | None:
        """The learned rate; None where nothing limits."""
        if self.mode is Mode.PACED:
            return self.bucket.rate_per_s
        if self.mode is Mode.WINDOWED or (self.mode is Mode.SILENT and self.window_s):
            return self.amount / self.window_s
        return None


def forget(learned: Learned, now: float) -> None:
    """Start anew: nothing is held back until something is refused again."""
    learned.mode = Mode.FREE
    learned.window_at = learned.opened_at = now
    learned.window_accepted = learned.accepted_at_opening = learned.accepted
    learned.window_s = 0.0
    learned.is_rated = False
    learned.row = 0


# Sending


def delay_s(learned: Learned, now: float) -> float:
    """Seconds until one more call may go; 0 if it may now."""
    if learned.mode is Mode.DRAINING:
        if now < learned.until:
            return learned.until - now
        _end_draining(learned, now)
    if learned.mode is Mode.PACED:
        return _paced_delay_s(learned, now)
    if learned.mode is Mode.SILENT:
        return _silent_delay_s(learned, now)
    if learned.mode is Mode.WINDOWED:
        return _windowed_delay_s(learned, now)
    return 0.0


def note_sent(learned: Learned, now: float) -> None:
    """A call goes out."""
    if learned.mode is Mode.PACED:
        take(learned.bucket, 1, now)
    elif learned.mode is Mode.SILENT:
        learned.probes -= 1
        learned.probed_at = now
        if not _is_expected(learned):
            even_s = learned.window_s / learned.amount
            learned.next_at = now + min(even_s / RAMP, PROBE_S_MAX)
    elif learned.mode is Mode.WINDOWED:
        take(learned.bucket, 1, now)
        learned.used += 1
        if learned.used > learned.amount:
            learned.grant_left -= 1
        elif learned.used == int(TAPER_AT * learned.amount):
            even = learned.amount / learned.window_s
            _pace(learned, max(learned.bucket.rate_per_s / TAPER, even), now)
        elif learned.used == learned.amount:
            learned.grant_at = now + 2 * learned.round_trip_s  # the first trial


def _paced_delay_s(learned: Learned, now: float) -> float:
    wait = wait_s(learned.bucket, 1, now)
    if wait > 0:
        learned.short_at = now
    return min(wait, WAIT_S_MAX)


def _windowed_delay_s(learned: Learned, now: float) -> float:
    if now < learned.until:
        return learned.until - now
    if now >= learned.window_at + learned.window_s:
        learned.amount = max(learned.amount, learned.used)  # nothing was refused in the last one
        _open_window(learned, now)
    if learned.used >= learned.amount and learned.grant_left <= 0:
        return _next_trial_s(learned, now)
    return min(wait_s(learned.bucket, 1, now), WAIT_S_MAX)


def _next_trial_s(learned: Learned, now: float) -> float:
    """Try a few calls more once those before were accepted; with small amounts not each time."""
    every = max(1, min(20, 100 // max(learned.amount, 1)))
    is_answered = learned.grant_answers >= learned.grant
    if learned.windows % every == 0 and is_answered and now >= learned.grant_at:
        most = max(1, int(learned.amount * TRIAL_SHARE))
        learned.grant = learned.grant_left = min(max(1, learned.grant * 2), most)
        learned.grant_answers = 0
        learned.grant_at = now
        return 0.0
    left_s = learned.window_at + learned.window_s - now
    return min(max(left_s, 0.01), max(learned.round_trip_s, 0.05))


# Answers


def note_accepted(learned: Learned, sent_at: float, now: float) -> None:
    """A call was let in: it was answered with anything but a refusal."""
    learned.accepted += 1
    if now >= learned.slot_ends_at:
        _new_slot(learned, now)
        latency_s = min(max(now - sent_at, 0.0), WAIT_S_MAX)
        smoothing = 0.2 if learned.round_trip_s else 1.0
        learned.round_trip_s += smoothing * (latency_s - learned.round_trip_s)
    learned.recent.slots[-1][1] += 1
    if learned.row and sent_at > learned.row_at:
        if learned.mode is Mode.DRAINING:
            learned.row_accepted += 1
        else:
            learned.row = 0
    if learned.mode is Mode.SILENT:
        if sent_at >= learned.silent_at:
            learned.passed += 1
    elif learned.mode is Mode.WINDOWED and sent_at >= learned.grant_at and learned.grant:
        learned.grant_answers += 1


def note_refused(
    learned: Learned, sent_at: float, now: float, *, is_explained: bool = False
) -> None:
    """A call was refused.

    `is_explained`: a known limit is paced already, or the provider said for how long. Then the
    rate of late is about right.
    """
    _count_refused(learned, sent_at, now)
    if learned.mode is Mode.FREE and is_explained:
        _doubt(learned, now)
    elif learned.mode is Mode.FREE:
        _start_draining(learned, now)
    elif learned.mode is Mode.SILENT:
        _probe_later(learned, now)
    elif sent_at > learned.cut_at:
        if learned.mode is Mode.PACED:
            _cut(learned, now)
        elif learned.mode is Mode.WINDOWED:
            learned.is_sure &= learned.used >= LEFT_SHARE * learned.amount
            _fall_silent(learned, now)


def _doubt(learned: Learned, now: float) -> None:
    """The known limit is not the one that holds, or not quite."""
    accepted, _, start = learned.recent.count(now - RECENT_S)
    if accepted >= FEW and now - start >= 2 * SLOT_S:
        _start_paced(learned, accepted / (now - start) / HELD, now)
    else:
        _start_draining(learned, now)


def _count_refused(learned: Learned, sent_at: float, now: float) -> None:
    if now >= learned.slot_ends_at:
        _new_slot(learned, now)
    learned.recent.slots[-1][2] += 1
    learned.refused_at = now
    latency_s = min(max(now - sent_at, 0.0), WAIT_S_MAX)
    learned.refusal_s = max(latency_s, 0.9 * learned.refusal_s)
    if learned.filled_at <= learned.window_at:
        learned.filled_at, learned.filled = now, learned.accepted - learned.window_accepted
    if not learned.row:
        learned.row_at = sent_at
        learned.row_accepted = 0
    learned.row += 1


def _new_slot(learned: Learned, now: float) -> None:
    if learned.mode is Mode.PACED:
        _grow(learned, now)
    elif learned.mode is Mode.WINDOWED and learned.used < TAPER_AT * learned.amount:
        _pace(learned, min(FASTER_STEP * learned.bucket.rate_per_s, learned.speed), now)
    learned.recent.slots.append([now, 0.0, 0.0])
    learned.slot_ends_at = now + SLOT_S
    if learned.mode is Mode.FREE and now - learned.window_at > MEMORY_S:
        forget(learned, now)


# Draining: how much of what was out was let in?


def _start_draining(learned: Learned, now: float) -> None:
    learned.mode = Mode.DRAINING
    learned.cut_at = learned.silent_at = now
    learned.until = now + min(max(1.5 * learned.round_trip_s, 0.02), 5.0)
    learned.slot_ends_at = now  # what follows is counted apart


def _end_draining(learned: Learned, now: float) -> None:
    """What was out had been sent over about one round trip."""
    accepted, refused, _ = learned.recent.count(learned.cut_at)
    if learned.is_rated:
        if learned.row_accepted:
            _resume(learned, learned.bucket.rate_per_s, now)
        else:
            _fall_silent(learned, now)
            learned.silent_at = learned.row_at
    elif accepted < 2 or accepted < 0.01 * refused:
        _fall_silent(learned, now)
        learned.silent_at = learned.cut_at
    else:
        _start_paced(learned, accepted / max(learned.round_trip_s, 0.02), now)
        learned.gain = GAIN_UNSURE


# Paced


def _hold_at(learned: Learned, rate: float, now: float) -> None:
    """Take `rate` for the limit, and go on a little below it."""
    learned.refused_rate = max(rate, _RATE_MIN_PER_S)
    _resume(learned, learned.refused_rate * HELD, now)


def _resume(learned: Learned, rate: float, now: float) -> None:
    learned.mode = Mode.PACED
    learned.is_rated = True
    learned.cut_at = now
    learned.row = 0
    _pace(learned, rate, now)
    _calm(learned, now)


def _start_paced(learned: Learned, rate: float, now: float) -> None:
    _hold_at(learned, rate, now)
    learned.top_rate = learned.bucket.rate_per_s


def _pace(learned: Learned, rate: float, now: float) -> None:
    rate = max(rate, _RATE_MIN_PER_S)
    set_rate(learned.bucket, rate, max(1.0, rate * BURST_S), now)


def _calm(learned: Learned, now: float) -> None:
    """After a refusal: go up slowly."""
    learned.gain = 1.0
    learned.gain_at = now
    learned.gain_rate = learned.bucket.rate_per_s
    learned.quiet_from, learned.quiet_at = learned.accepted, now


def _grow(learned: Learned, now: float) -> None:
    """A slot is over: go up by what was let in, if anybody had to wait."""
    at, let_in, _ = learned.recent.slots[-1] if learned.recent.slots else (now, 0.0, 0.0)
    if learned.short_at < at - learned.round_trip_s:
        return
    _quicken(learned, now)
    growth = CUT * REFUSED_SHARE * learned.gain * let_in
    rate = learned.bucket.rate_per_s * (1 + min(growth, GROWTH_MAX * SLOT_S))
    if rate > learned.refused_rate * FREE_AT:
        forget(learned, now)
    else:
        _pace(learned, rate, now)
        learned.top_rate = max(TOP_DECAY * learned.top_rate, rate)


def _quicken(learned: Learned, now: float) -> None:
    """Nothing was refused for so long that the limit must be further up."""
    since_s = now - learned.gain_at
    is_quiet = learned.accepted - learned.quiet_from >= QUIET_CALLS or since_s >= QUIET_S
    if learned.gain > 1:
        is_quiet = since_s >= max(GAIN_EVERY_S, 1.2 * learned.round_trip_s)
    if is_quiet:
        learned.gain = min(max(2 * learned.gain, GAIN_QUIET), GAIN_MAX)
        learned.gain_at = now
        learned.gain_rate = learned.bucket.rate_per_s


def _cut(learned: Learned, now: float) -> None:
    """Go down by what a refusal says: a little, to what is let in, or to nothing."""
    rate = learned.bucket.rate_per_s
    if learned.row >= max(FEW, ROW_SHARE * rate):
        learned.mode = Mode.DRAINING
        learned.until = now + min(max(1.2 * learned.round_trip_s, 0.02), 5.0)
        return
    learned.refused_rate = rate
    if learned.gain > 1:
        rate = min((learned.gain_rate + rate) / 2, rate)  # the limit was passed since
        let_in = learned.accepted - learned.quiet_from
        learned.raised_rate = let_in / max(now - learned.quiet_at, SLOT_S)
        learned.raised_at = learned.slot_ends_at = now  # what follows is counted apart
    _calm(learned, now)
    is_raised = now - learned.raised_at < RAISED_S and learned.row < FEW / 2  # no closed window
    span_s = max(FALL_S, 2 * FEW / rate)
    if is_raised:
        span_s = min(span_s, max(now - learned.raised_at, SLOT_S))
    accepted, refused, start = learned.recent.count(now - span_s)
    share = accepted / max(accepted + refused, 1)
    if now - start < (SLOT_S if is_raised else 2 * SLOT_S) or accepted + refused < 2 * FEW:
        _pace(learned, rate * (1 - CUT), now)
    elif share > 1 - FALL_SHARE:
        floor = FLOOR * accepted / (now - start)
        _pace(learned, max(rate * (1 - CUT), min(floor, rate)), now)
    else:
        # A stock that had built up let the rate rise too far: what it let in meanwhile is its own.
        floor = min(learned.raised_rate, rate) if is_raised else 0.0
        _hold_at(learned, max(rate * share, floor), now)
        learned.gain = GAIN_UNSURE
    if learned.bucket.rate_per_s < learned.top_rate * CLOSED_SHARE:
        _fall_silent(learned, now)


# Silent and windowed


def _fall_silent(learned: Learned, now: float) -> None:
    learned.mode = Mode.SILENT
    learned.silent_at = now
    learned.cut_at = now
    learned.batch = learned.probes = learned.through = learned.passed = 0
    learned.probe_s = PROBE_S
    learned.until = now + PROBE_S
    is_used_up = learned.used >= 0.9 * learned.amount
    if learned.window_s and is_used_up and now < learned.window_at + learned.window_s:
        learned.probe_s = max(PROBE_S, learned.window_s / 200)
        opens_at = learned.window_at + 0.985 * learned.window_s
        learned.until = max(learned.until, min(opens_at, now + WAIT_S_MAX))


def _silent_delay_s(learned: Learned, now: float) -> float:
    """One probe; if it is not refused in time, eight, and so on.

    It is open once so many went through that they are no left-over of what was used up.
    """
    if learned.probes > 0:
        return max(learned.next_at - now, 0.0)
    if learned.batch and learned.refused_at < learned.probed_at:
        left_s = learned.probed_at + PATIENCE * learned.refusal_s + PATIENCE_S - now
        if left_s > 0:
            return left_s
        learned.through += learned.batch
        missing = math.ceil(_left_over(learned)) - learned.through
        if missing <= 0:
            _reopen(learned, now)
            return delay_s(learned, now)
        more = MORE if _is_expected(learned) else MORE_UNSURE
        learned.batch = learned.probes = min(more * learned.batch, missing)
        return 0.0
    if now < learned.until:
        return learned.until - now
    learned.batch = learned.probes = 1
    return 0.0


def _left_over(learned: Learned) -> float:
    """So many calls may be let in though it has not opened: what calls that end have given back."""
    left = LEFT_SHARE * (learned.accepted - learned.passed - learned.accepted_at_opening)
    if _is_expected(learned):
        left = min(left, OPEN)
    if learned.is_rated and not learned.window_s:
        left = min(left, ROW_SHARE * learned.bucket.rate_per_s)
    return max(left, 1.0)


def _is_expected(learned: Learned) -> bool:
    return learned.is_sure or not learned.window_s


def _probe_later(learned: Learned, now: float) -> None:
    """Up to a second apart in the first minute, then up to a fiftieth of the silence."""
    learned.batch = learned.probes = 0
    if _is_expected(learned):
        learned.through = 0
    most = max(1.0, (now - learned.silent_at) / 50)
    learned.probe_s = min(learned.probe_s * 1.5, most, PROBE_S_MAX)
    learned.until = now + learned.probe_s


def _reopen(learned: Learned, now: float) -> None:
    accepted = learned.accepted - learned.accepted_at_opening - learned.passed
    cycle_s = now - learned.opened_at
    is_long = now - learned.silent_at >= SILENCE_S
    if is_long:
        _learn_window(learned, now)
    elif learned.window_s and learned.used < learned.amount:
        _slow_down(learned, now)
        return
    learned.opened_at = now
    learned.accepted_at_opening = learned.accepted - learned.passed
    if is_long:
        return
    rate = max(accepted, 1) / max(cycle_s, PROBE_S)
    if learned.is_rated:
        before, gain = learned.bucket.rate_per_s, learned.gain
        _resume(learned, min(rate, before), now)
        learned.gain = gain if rate > FLOOR * before else GAIN_UNSURE
    else:
        _start_paced(learned, rate, now)


def _learn_window(learned: Learned, now: float) -> None:
    """From one opening to the next the limit accepted so much, at such a speed."""
    learned.amount = max(learned.accepted - learned.window_accepted - learned.passed, 1)
    length_s = min(max(now - learned.window_at, SILENCE_S), WAIT_S_MAX)
    is_first = not learned.window_s
    learned.is_sure |= is_first or abs(length_s - learned.window_s) < 0.05 * length_s
    learned.window_s = length_s
    if learned.filled >= FILLED * learned.amount:
        speed = 0.95 * learned.filled / max(learned.filled_at - learned.window_at, SLOT_S)
    else:
        speed = 0.95 * learned.amount / max(learned.silent_at - learned.window_at, SLOT_S)
    even = learned.amount / learned.window_s
    learned.speed = min(max(speed, even), FASTER * even)
    learned.mode = Mode.WINDOWED
    _open_window(learned, now)
    learned.window_accepted = learned.accepted - learned.passed
    learned.used = learned.through


def _slow_down(learned: Learned, now: float) -> None:
    """A sliding window gives back more slowly than it was used: go on at half the speed."""
    learned.mode = Mode.WINDOWED
    learned.cut_at = learned.until = now
    _pace(learned, max(learned.bucket.rate_per_s / 2, learned.amount / learned.window_s), now)


def _open_window(learned: Learned, now: float) -> None:
    learned.window_at = now
    learned.window_accepted = learned.accepted
    learned.cut_at = now
    learned.used = 0
    learned.windows += 1
    _pace(learned, min(RAMP * learned.amount / learned.window_s, learned.speed), now)
    learned.bucket.level = max(learned.bucket.level, 0.0)  # trials are not paid for
    learned.grant = learned.grant_left = learned.grant_answers = 0
