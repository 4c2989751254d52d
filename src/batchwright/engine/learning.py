"""Learning a limit that nobody tells, from refusals that carry nothing but their status.

The limit is learned in requests. Theory of operation, by mode:

- *free*: nothing was refused yet, nothing is held back.
- *draining*: the first refusal came. Nothing is sent for about a round trip; of the calls that were
  out, some are accepted and some refused, and their share tells the rate of the limit.
- *paced*: a bucket at that rate. From one refusal to the next the limit was used up exactly, so
  that what was accepted in between, over the time, is its rate; whatever stock it keeps, whatever
  its windows. In between the rate is probed upward: in steps of 1 % as long as it is near what
  was refused before, in doubling steps beyond.
- *silent*: nothing at all is accepted. One call at a time probes.
- *windowed*: the silence was long, so that the limit is an amount per window of time. From one
  opening to the next it accepted that much: the same is sent again, a little more slowly each
  time, and then a few calls more try whether the amount has grown.

A limit that keeps no stock and was not used fully between two refusals has a rate above what was
accepted in between: that of the last seconds. Which of the two it is shows at the next refusal,
and is remembered (`stock_votes`).

A refusal is a signal only if its call was sent after the last cut: at most one per round trip.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from batchwright.engine.bucket import Bucket, set_rate, take, wait_s

SLOT_S = 0.25
RECENT_S = 3.0  # what "the last seconds" are
CUT = 0.985  # of the rate that was accepted
STEP = 0.01
STEP_MAX = 0.2
STEP_UNSURE = 0.16  # while the rate is little more than a guess
STEP_EVERY_S = 1.0
HOLD_S = 3.0  # after a cut, before the first step
NEAR = 1.02  # up to here above the refused rate steps stay small
FREE_AT = 20.0  # this far above the refused rate there is no limit any more
CYCLE_S = 2.5  # shorter times between two refusals tell no rate
STRIKES = 2
STRIKE_CUT = 0.95
AGREE = 1.1
FALL_S = 1.25
FALL_SHARE = 0.25
TRY = 1.25
TRY_SURE = 2.0
VOTES = 3
GRACE_S = 1.0
DOUBT_REFUSALS = 10
DOUBT_SHARE = 0.03
SILENCE_S = 3.0  # a longer one makes a window
PROBE_S = 0.1
PROBE_S_MAX = 60.0
LEAK_AMOUNT = 100
LEAK_SHARE = 0.05  # a window that is refused before so much of it has not opened
TAPER_AT = 0.97  # of the amount: from here on slower, for the amount varies a little
TAPER = 8
TRIAL_SHARE = 0.005  # calls beyond the known amount that may be out at once
BURST_S = 0.05
MEMORY_S = 60.0  # how far back a first window can have begun
WAIT_S_MAX = 3600.0
_RATE_MIN_PER_S = 1 / PROBE_S_MAX  # as often as a silent limit is probed


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
    dry_at: float = 0.0  # the limit was used up
    dry_accepted: int = 0
    strikes: int = 0  # refusals since, too early to tell a rate
    floor_rate: float = 0.0  # of the last full cycle
    was_judged: bool = False  # the rate was measured over a cycle, once
    quiet_s: float = 0.0  # of this cycle
    stock_votes: int = 0  # above 0: the limit keeps what is not used, for a while
    judge_at: float = 0.0  # 0: nothing to judge
    recent_rate: float = 0.0  # as the limit was used up
    later: int = 0  # accepted, but sent after that
    refused_rate: float = 0.0  # per second; the limit was about here
    step: float = STEP
    step_at: float = 0.0
    was_short: bool = False  # somebody had to wait since the last step
    window_at: float = 0.0  # the last long silence ended
    window_accepted: int = 0  # the count of accepted then
    window_s: float = 0.0
    amount: int = 0  # of a window
    used: int = 0  # of the amount, in this window
    speed: float = 0.0  # of the calls in a window, per second
    windows: int = 0
    before: tuple[float, int, float, int, float, int] = (0.0, 0, 0.0, 0, 0.0, 0)  # the window
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
    learned.was_judged = False


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
        return max(learned.until - now, 0.0)
    if learned.mode is Mode.WINDOWED:
        return _windowed_delay_s(learned, now)
    return 0.0


def note_sent(learned: Learned, now: float) -> None:
    """A call goes out."""
    if learned.mode is Mode.PACED:
        take(learned.bucket, 1, now)
    elif learned.mode is Mode.SILENT:
        learned.until = now + max(learned.probe_s, learned.round_trip_s)
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
    if learned.judge_at and now >= learned.judge_at:
        _judge(learned, now)
    if now < learned.until:  # also if it has fallen silent
        return learned.until - now
    if now >= learned.step_at and learned.was_short:
        _step_up(learned, now)
    wait = wait_s(learned.bucket, 1, now)
    if wait > 0:
        learned.was_short = True
    return min(wait, WAIT_S_MAX)


def _step_up(learned: Learned, now: float) -> None:
    rate = learned.bucket.rate_per_s
    if rate > learned.refused_rate * NEAR:
        learned.step = min(learned.step * 2, STEP_MAX)
    rate *= 1 + learned.step
    if rate > learned.refused_rate * FREE_AT:
        forget(learned, now)
        return
    _pace(learned, rate, now)
    learned.step_at = now + max(STEP_EVERY_S, 1.2 * learned.round_trip_s)
    learned.was_short = False


def _windowed_delay_s(learned: Learned, now: float) -> float:
    if now < learned.until:
        return learned.until - now
    if now >= learned.window_at + learned.window_s:
        _open_window(learned, now)  # nothing was refused in the last one
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
        _new_slot(learned, sent_at, now)
    learned.recent.slots[-1][1] += 1
    if learned.judge_at and sent_at > learned.cut_at:
        learned.later += 1
    if learned.mode is Mode.SILENT:
        if sent_at >= learned.silent_at:
            _reopen(learned, now)
    elif learned.mode is Mode.WINDOWED and sent_at >= learned.grant_at and learned.grant:
        learned.grant_answers += 1


def note_refused(
    learned: Learned, sent_at: float, now: float, *, is_explained: bool = False
) -> None:
    """A call was refused.

    `is_explained`: a known limit is paced already, or the provider said for how long. Then only
    many refusals say that the pace is wrong.
    """
    _count_refused(learned, sent_at, now)
    if learned.mode is Mode.FREE and is_explained:
        _doubt(learned, now)
    elif learned.mode is Mode.FREE:
        _start_draining(learned, now)
    elif learned.mode is Mode.SILENT:
        _probe_later(learned, now)
    elif sent_at > learned.cut_at:
        if learned.mode is Mode.PACED and not learned.judge_at:
            _cut(learned, now)
        elif learned.mode is Mode.WINDOWED:
            if learned.amount >= LEAK_AMOUNT and learned.used < LEAK_SHARE * learned.amount:
                _undo_window(learned, now)
            else:
                _fall_silent(learned, now)


def _doubt(learned: Learned, now: float) -> None:
    accepted, refused, start = learned.recent.count(now - RECENT_S)
    if refused < DOUBT_REFUSALS or refused < DOUBT_SHARE * accepted:
        return
    if not accepted:
        _start_draining(learned, now)
    elif now - start >= 2 * SLOT_S:
        _hold_at(learned, accepted / (now - start), now)


def _count_refused(learned: Learned, sent_at: float, now: float) -> None:
    if now >= learned.slot_ends_at:
        _new_slot(learned, sent_at, now)
    learned.recent.slots[-1][2] += 1


def _new_slot(learned: Learned, sent_at: float, now: float) -> None:
    learned.recent.slots.append([now, 0.0, 0.0])
    learned.slot_ends_at = now + SLOT_S
    latency_s = min(max(now - sent_at, 0.0), WAIT_S_MAX)
    smoothing = 0.2 if learned.round_trip_s else 1.0
    learned.round_trip_s += smoothing * (latency_s - learned.round_trip_s)
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
    if accepted < 2 or accepted < 0.01 * refused:
        _fall_silent(learned, now)
        learned.silent_at = learned.cut_at
    else:
        _hold_at(learned, accepted / max(learned.round_trip_s, 0.02), now)
        learned.step = STEP_UNSURE


# Paced


def _hold_at(learned: Learned, rate: float, now: float) -> None:
    """Take `rate` for the limit, stay a little below it for a while."""
    learned.mode = Mode.PACED
    learned.refused_rate = max(rate, _RATE_MIN_PER_S)
    learned.cut_at = learned.dry_at = now
    learned.dry_accepted = learned.accepted
    learned.strikes = 0
    learned.floor_rate = learned.judge_at = learned.until = learned.quiet_s = 0.0
    learned.step = STEP
    learned.step_at = now + max(
        HOLD_S, 4 * learned.round_trip_s, min(5 / learned.refused_rate, 60.0)
    )
    learned.was_short = False
    _pace(learned, learned.refused_rate * CUT, now)


def _pace(learned: Learned, rate: float, now: float) -> None:
    rate = max(rate, _RATE_MIN_PER_S)
    set_rate(learned.bucket, rate, max(1.0, rate * BURST_S), now)


def _cut(learned: Learned, now: float) -> None:
    """The limit is used up again."""
    learned.cut_at = now
    cycle_s = max(CYCLE_S, 3 * learned.round_trip_s)
    if _has_fallen(learned, now):
        return
    learned.strikes += 1
    _pace(learned, learned.bucket.rate_per_s * STRIKE_CUT, now)
    if now - learned.dry_at >= cycle_s:
        _start_judging(learned, now)
    elif learned.floor_rate and learned.floor_rate < learned.bucket.rate_per_s:
        # It was a stock that let so much pass.
        learned.stock_votes = min(max(learned.stock_votes + 1, 1), VOTES)
        _hold_at(learned, learned.floor_rate, now)
    elif learned.strikes > STRIKES:  # far too high: let a cycle pass, whatever the windows are
        learned.until = learned.dry_at + cycle_s
        learned.quiet_s = learned.until - now
        learned.cut_at = learned.until


def _has_fallen(learned: Learned, now: float) -> bool:
    """A quarter refused of late, though the rate was known well: take what is accepted now."""
    accepted, refused, start = learned.recent.count(now - FALL_S)
    is_sure = learned.was_judged and accepted >= 10
    if not is_sure or refused < FALL_SHARE * (accepted + refused) or now - start < 2 * SLOT_S:
        return False
    _hold_at(learned, min(accepted / (now - start), learned.bucket.rate_per_s), now)
    learned.cut_at = now + GRACE_S / 2
    return True


def _start_judging(learned: Learned, now: float) -> None:
    """Judge once the calls that are out are answered; those sent from now on do not count."""
    accepted, _, start = learned.recent.count(now - RECENT_S)
    learned.recent_rate = accepted / max(now - start, SLOT_S)
    learned.judge_at = now + min(1.2 * learned.round_trip_s, 5.0)
    learned.later = 0


def _judge(learned: Learned, now: float) -> None:
    """What was accepted since the limit was last used up, over the time, is its rate.

    Unless it keeps no stock and was not used fully in between: then it is what was accepted in
    the last seconds. That is tried first, a little; more refusals tell which it was.
    """
    learned.judge_at = 0.0
    if _has_fallen(learned, now):
        return
    used_up_at = learned.cut_at
    accepted = learned.accepted - learned.dry_accepted - learned.later
    rate = accepted / (used_up_at - learned.dry_at)
    if not accepted:
        _fall_silent(learned, now)
        return
    later = learned.later
    tried = _tried(learned, rate)
    floor = rate
    if learned.quiet_s:  # of which a limit may keep all for us, or a second's worth
        tried = accepted / (used_up_at - learned.dry_at - learned.quiet_s + GRACE_S)
        floor = math.sqrt(rate * tried)
    _hold_at(learned, max(rate, tried), now)
    learned.floor_rate = floor if tried > rate else 0.0
    learned.dry_at, learned.dry_accepted = used_up_at, learned.accepted - later
    learned.was_judged = True
    learned.cut_at = now + GRACE_S  # a window of a second may still be used up


def _tried(learned: Learned, rate: float) -> float:
    """Whether the limit keeps a stock decides which of the two rates is its own."""
    if learned.floor_rate:  # what was tried last time held
        learned.stock_votes = max(learned.stock_votes - 1, -VOTES)
    if learned.stock_votes > 0 and learned.recent_rate < rate * AGREE:
        return rate
    return min(learned.recent_rate, rate * (TRY if learned.stock_votes >= 0 else TRY_SURE))


# Silent and windowed


def _fall_silent(learned: Learned, now: float) -> None:
    learned.mode = Mode.SILENT
    learned.silent_at = now
    learned.cut_at = now
    learned.probe_s = PROBE_S
    learned.until = now + PROBE_S
    is_used_up = learned.used >= 0.9 * learned.amount
    if learned.window_s and is_used_up and now < learned.window_at + learned.window_s:
        learned.probe_s = max(PROBE_S, learned.window_s / 100)
        opens_at = learned.window_at + 0.985 * learned.window_s
        learned.until = max(learned.until, min(opens_at, now + WAIT_S_MAX))


def _probe_later(learned: Learned, now: float) -> None:
    """Up to a second apart in the first minute, then up to a fiftieth of the silence."""
    most = max(1.0, (now - learned.silent_at) / 50)
    learned.probe_s = min(learned.probe_s * 1.5, most, PROBE_S_MAX)


def _reopen(learned: Learned, now: float) -> None:
    accepted = learned.accepted - learned.accepted_at_opening - 1  # without the probe
    cycle_s = now - learned.opened_at
    is_long = now - learned.silent_at >= SILENCE_S
    if is_long:
        _learn_window(learned, now)
    elif learned.window_s and learned.used < learned.amount:
        _slow_down(learned, now)
        return
    learned.opened_at = now
    learned.accepted_at_opening = learned.accepted - 1
    if not is_long:
        dry_at = learned.silent_at
        _hold_at(learned, max(accepted, 1) / max(cycle_s, PROBE_S), now)
        learned.dry_at, learned.dry_accepted = dry_at, learned.accepted - 1


def _learn_window(learned: Learned, now: float) -> None:
    """From one opening to the next the limit accepted so much, at such a speed."""
    learned.before = (
        learned.window_at,
        learned.window_accepted,
        learned.silent_at,
        learned.amount,
        learned.window_s,
        learned.used,
    )
    learned.amount = max(learned.accepted - learned.window_accepted - 1, 1)
    learned.window_s = min(max(now - learned.window_at, SILENCE_S), 24 * WAIT_S_MAX)
    busy_s = max(learned.silent_at - learned.window_at, SLOT_S)
    speed = max(0.95 * learned.amount / busy_s, learned.amount / learned.window_s)
    learned.mode = Mode.WINDOWED
    _open_window(learned, now)
    learned.window_accepted = learned.accepted - 1
    # A sliding window gives back as slowly as it was used: stay a little behind it.
    learned.until = now + 0.01 * learned.window_s
    learned.speed = speed
    _pace(learned, speed, now)


def _undo_window(learned: Learned, now: float) -> None:
    """It was no opening: a small request fitted into what was left of the window before."""
    (
        learned.window_at,
        learned.window_accepted,
        learned.silent_at,
        learned.amount,
        learned.window_s,
        learned.used,
    ) = learned.before
    learned.mode = Mode.SILENT
    learned.cut_at = now
    learned.until = now + learned.probe_s


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
    _pace(learned, learned.speed, now)
    learned.grant = learned.grant_left = learned.grant_answers = 0
