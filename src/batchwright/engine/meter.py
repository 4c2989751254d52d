"""One known limit: a cap of our own, or one that the provider told in its headers.

- Limits per second or minute are *paced*: a bucket whose burst is a quarter second of the rate.
  Where headers also say what remains and when it resets, the pace follows them: a window that
  ends is used up evenly to its end, a stock that is more than half full may be used four times
  as fast, and where little remains it slows down. What remains is less than the headers say by
  what was sent since: such calls are counted as used.
- Limits per hour or day are *allowances*: what is left may be used at once. Without headers it is
  counted over the last span of time.

A provider counts tokens its own way (it may keep its reservation for `max_tokens`). What a token of
ours weighs there is learned from how fast `remaining` falls.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from batchwright.domain.limits import MINUTE_S, Kind, LimitSeen
from batchwright.engine.bucket import Bucket, set_rate, take, wait_s

WAIT_S_MAX = 3600.0
MARGIN = 0.995  # of a known rate: clocks and latencies are not even
BURST_S = 0.25
BURST_S_SMALL = 0.05  # once something was refused
SURPLUS = 4.0  # how much faster than the limit a well-filled stock may be used
STOCK_S = 5.0  # `remaining` says something where it has been that much of the rate
CATCH_UP_S = 10.0  # in which a sliding window is filled up
STALE_S = 2.0  # headers are taken for at most that old
SAMPLE_S = 1.0  # between two looks at how `remaining` falls
SAMPLES_MAX = 64  # a minute of them
WEIGHT_MAX = 100.0
FULL_FACTOR = 0.95  # on the weight, each second in which a stock stays full
KEPT_WEIGHT = 1.3  # a provider that counts so much more than is used keeps reservations
SCARCE = 0.004  # share of the most ever left, below which it slows down
TURN_S = 2.0  # between two looks at where the window ends
SLOTS_PER_SPAN = 96
BELIEVED_S = 180.0  # a told limit that the answers since do not repeat
READ_WITHIN_S = 1.0  # the headers of an answer that comes later have been looked at


@dataclass(slots=True)
class Meter:
    """A limit, and what is known of how the provider counts it."""

    kind: Kind
    span_s: float
    limit: float | None = None  # per span; None until it is told
    is_own: bool = False  # a cap of the configuration: headers do not touch it
    header: str = ""  # that told it
    models: dict[str, None] = field(default_factory=dict)  # whose answers tell it
    began_at: float = 0.0
    sent: float = 0.0  # ever; what it counts of the account's calls, in our units
    corrected: float = 0.0  # by how much estimates of that were wrong
    told_at: float = 0.0  # by the last answer that did
    answered_at: float = 0.0  # a call was, well or not
    bucket: Bucket = field(default_factory=lambda: Bucket(1.0, 1.0, 0.0, 0.0))
    weight: float = 1.0  # the provider's units for one of ours
    is_weighed: bool = False
    pace: float = 1.0  # factor on the rate, from what remains
    pace_until: float = 0.0
    remaining: float | None = None  # as last seen, for a person
    remaining_max: float = 0.0
    first_seen_at: float | None = None
    ends_at: float = 0.0  # the window, as last seen
    turned_at: float = 0.0
    fixed_votes: int = 0
    bucket_votes: int = 0
    may_surplus: bool = True
    samples: deque[tuple[float, float, float]] = field(  # at, sent until then, remaining
        default_factory=lambda: deque(maxlen=SAMPLES_MAX)
    )
    used: deque[list[float]] = field(default_factory=deque)  # allowances: [slot, amount]
    left: float | None = None  # allowances: told by headers
    left_until: float = 0.0

    @property
    def rate_per_s(self) -> float:
        return (self.limit or 0.0) / self.span_s

    @property
    def is_allowance(self) -> bool:
        return self.span_s > MINUTE_S

    @property
    def is_fixed(self) -> bool:
        return self.fixed_votes >= 2

    @property
    def is_kept(self) -> bool:
        """Whether the provider counts its reservation and not what was used."""
        return self.is_weighed and self.weight > KEPT_WEIGHT


def declare(kind: Kind, span_s: float, amount: float, now: float) -> Meter:
    """A limit of the configuration; `amount` is more than 0."""
    meter = Meter(kind, span_s, limit=amount, is_own=True)
    meter.bucket.at = now
    _set_pace(meter, now)
    meter.bucket.level = 1.0
    return meter


# Sending


def delay_s(meter: Meter, amount: float, now: float) -> float:
    """Seconds until `amount` may be used, from 0 to an hour."""
    if meter.is_allowance:
        return _allowance_delay_s(meter, amount, now)
    if meter.pace != 1.0 and now >= meter.pace_until:
        meter.pace = 1.0
        _set_pace(meter, now)
    if meter.pace <= 0:
        return min(meter.pace_until - now, WAIT_S_MAX)
    wait = wait_s(meter.bucket, amount * meter.weight, now)
    if wait > WAIT_S_MAX and meter.pace >= 1.0:
        # A usage that makes no sense: what is owed beyond an hour at the limit is let go.
        take(meter.bucket, (WAIT_S_MAX - wait) * meter.bucket.rate_per_s, now)
    if wait > 0 and meter.pace < 1.0:
        wait = min(wait, max(meter.pace_until - now, 0.001))
    return min(wait, WAIT_S_MAX)


def use(meter: Meter, amount: float, now: float) -> float:
    """Count `amount` as sent. Returns all that ever was, this too."""
    _take(meter, _expected(meter, amount), now)
    meter.sent += amount
    return meter.sent


def settle(meter: Meter, expected: float, used: float, now: float) -> None:
    """Count what was really used in the place of what was expected, unless the provider keeps its
    first count."""
    meter.corrected += used - expected
    if used != expected and not meter.is_kept:
        _take(meter, used * meter.weight - _expected(meter, expected), now)


def _expected(meter: Meter, amount: float) -> float:
    """What a call counts for at first: at most the whole limit, or it would never be let in."""
    amount *= meter.weight
    if amount > 1 and meter.limit is not None:
        return min(amount, meter.limit)
    return amount


def _take(meter: Meter, amount: float, now: float) -> None:
    if meter.is_allowance:
        _use_allowance(meter, amount, now)
    else:
        take(meter.bucket, amount, now)


def believed_s(meter: Meter, now: float) -> float:
    """Seconds for which a told limit holds if no answer confirms it; 0 if it does no more."""
    if meter.is_own or meter.answered_at <= meter.told_at + READ_WITHIN_S:
        return math.inf
    return max(meter.told_at + BELIEVED_S - now, 0.0)


# Headers


def see(
    meter: Meter, seen: LimitSeen, *, sent: float, unseen: float, sent_at: float, now: float
) -> None:
    """Learn from the headers of an answer.

    `sent` is all that was ever sent up to that call, which went out at `sent_at`; `unseen` is what
    was sent after it.
    """
    meter.told_at = now
    if seen.limit is not None and seen.limit >= 1 and seen.limit != meter.limit:
        _teach(meter, seen.limit, now)
    if seen.remaining is None or meter.limit is None:
        return
    meter.remaining = seen.remaining
    if meter.is_allowance:
        meter.left = max(seen.remaining - unseen * meter.weight, 0.0)
        meter.left_until = now + min(
            WAIT_S_MAX if seen.reset_s is None else seen.reset_s, WAIT_S_MAX
        )
        return
    meter.remaining_max = max(meter.remaining_max, seen.remaining)
    if meter.remaining_max < STOCK_S * meter.rate_per_s:
        return  # the provider allows no stock: what remains is gone before we know of it
    if meter.first_seen_at is None:
        meter.first_seen_at = sent_at
    _vote(meter, seen, sent_at)
    if meter.kind != "requests":
        _weigh(meter, seen.remaining, sent, sent_at)
    unseen = min(unseen * meter.weight, meter.rate_per_s * STALE_S * SURPLUS)
    _follow(meter, seen.remaining, seen.reset_s, unseen, now - sent_at, now)


def refuse(meter: Meter) -> None:
    """A call was refused.

    Unless the headers had said that hardly anything remains, the stock that they promise is not to
    be had at once.
    """
    has_stock = meter.remaining_max >= STOCK_S * meter.rate_per_s
    if not has_stock or meter.remaining is None or meter.remaining > meter.rate_per_s:
        meter.may_surplus = False
    meter.pace = min(meter.pace, 1.0)


def _teach(meter: Meter, limit: float, now: float) -> None:
    if meter.limit is None:
        meter.bucket.at = now
    else:
        meter.remaining_max = 0.0
        meter.samples.clear()
        meter.pace = 1.0
    meter.limit = limit
    if not meter.is_allowance:
        _set_pace(meter, now)


def _set_pace(meter: Meter, now: float) -> None:
    rate = meter.rate_per_s * MARGIN
    burst = max(1.0, rate * (BURST_S if meter.may_surplus else BURST_S_SMALL))
    set_rate(meter.bucket, max(rate * meter.pace, 1e-9), burst, now)


def _vote(meter: Meter, seen: LimitSeen, sent_at: float) -> None:
    """Tell a window, whose end stands still, from a stock that refills evenly."""
    limit = seen.limit or meter.limit
    if seen.reset_s is None or not limit or seen.remaining is None:
        return
    until_full_s = (limit - seen.remaining) / limit * meter.span_s
    if 0.1 < seen.remaining / limit < 0.97:  # else a sliding window looks the same
        _vote_bucket(meter, abs(seen.reset_s - until_full_s) < 0.5 + 0.02 * meter.span_s)
    passed_s = sent_at - meter.turned_at
    if passed_s < TURN_S:
        return
    ends_at = sent_at + seen.reset_s
    if meter.turned_at:
        moved_s = abs(ends_at - meter.ends_at)
        if moved_s < 0.4 * passed_s:
            meter.fixed_votes = min(meter.fixed_votes + 1, 5)
        elif abs(moved_s - meter.span_s) > 2.0:  # not the next window either
            meter.fixed_votes = 0
    meter.ends_at, meter.turned_at = ends_at, sent_at


def _vote_bucket(meter: Meter, is_bucket: bool) -> None:
    meter.bucket_votes = min(max(meter.bucket_votes + (1 if is_bucket else -2), 0), 20)


def _weigh(meter: Meter, remaining: float, sent: float, sent_at: float) -> None:
    """What a token of ours weighs, from how much was taken there while we sent so much."""
    samples = meter.samples
    if samples and sent_at - samples[-1][0] < (SAMPLE_S if meter.is_weighed else SAMPLE_S / 4):
        return
    samples.append((sent_at, sent, remaining))
    if len(samples) < 2:
        return
    then, sent_then, remaining_then = samples[-2]
    fell = remaining_then - remaining
    if _refills_evenly(meter):
        if remaining > 0.97 * meter.remaining_max:
            return  # full: it is unknown how much would have come back
        fell += (sent_at - then) * meter.rate_per_s
    elif not _refills_at_once(meter, sent_at):
        sent_then = _sent_until(meter, sent_at - meter.span_s)
        fell = (meter.limit or 0.0) - remaining  # a sliding window holds what its span took
    ours = sent - sent_then
    if ours <= 0:
        return
    if fell <= 0.05 * ours:
        if remaining > 0.97 * meter.remaining_max:  # full, so that it weighs less, if anything
            meter.weight = max(min(meter.weight, 1.0), FULL_FACTOR * meter.weight)
        return
    weight = min(max(fell / ours, 1 / WEIGHT_MAX), WEIGHT_MAX)
    meter.weight += (0.4 if meter.is_weighed else 1.0) * (weight - meter.weight)
    meter.is_weighed = True


def _sent_until(meter: Meter, at: float) -> float:
    """What had been sent up to a time in the past; infinite where that is not known."""
    samples = meter.samples
    while len(samples) > 2 and samples[1][0] <= at:
        samples.popleft()
    (before, sent_before, _), (after, sent_after, _) = samples[0], samples[1]
    if not before <= at <= after or after <= before:
        return math.inf
    return sent_before + (sent_after - sent_before) * (at - before) / (after - before)


def _refills_evenly(meter: Meter) -> bool:
    return meter.bucket_votes >= 5 and not meter.is_fixed


def _refills_at_once(meter: Meter, sent_at: float) -> bool:
    """A fixed window, or the first turn of a sliding one, from which nothing leaves yet."""
    first_at = meter.first_seen_at
    return meter.is_fixed or (first_at is not None and sent_at - first_at < 0.8 * meter.span_s)


def _is_sliding(meter: Meter, now: float) -> bool:
    """Whether what remains is what was not sent in the last span: it neither refills nor ends."""
    first_at = meter.first_seen_at
    is_known = first_at is not None and now - first_at > 1.1 * meter.span_s
    is_known = is_known and meter.turned_at > 0  # without a reset it may be fixed as well
    return is_known and not meter.is_fixed and meter.bucket_votes == 0


def _follow(
    meter: Meter, remaining: float, reset_s: float | None, unseen: float, age_s: float, now: float
) -> None:
    """Set the pace from what remains, as it was said `age_s` ago."""
    rate = meter.rate_per_s
    age_s = min(age_s, STALE_S)
    most = SURPLUS if meter.may_surplus else 1.0
    if meter.is_fixed and reset_s is not None:
        left_s = min(reset_s, meter.span_s) - age_s
        meter.pace_until = now + max(left_s, 0.0)
        meter.pace = (remaining - unseen) / max(left_s, 1.0) / rate if left_s > 0 else 1.0
        meter.pace = min(max(meter.pace, 0.0), most)
    else:
        grant = remaining - unseen + rate * age_s
        is_rich = _refills_evenly(meter) and grant > 0.5 * meter.remaining_max
        scarce = min(SCARCE * meter.remaining_max, rate)
        slowed = min(max(grant / scarce, 0.05), 1.0)
        if slowed == 1.0 and _is_sliding(meter, now):
            # What was not sent a while ago is missing in the window until it is sent.
            slowed = min(1.0 + (grant - scarce) / (CATCH_UP_S * rate), most)
        meter.pace_until = now + max(2 * age_s, 1.0)
        meter.pace = most if is_rich else slowed
    _set_pace(meter, now)


# Allowances


def _allowance_delay_s(meter: Meter, amount: float, now: float) -> float:
    if meter.left is not None and now < meter.left_until:
        if meter.left < min(amount, 1.0):
            return min(meter.left_until - now, WAIT_S_MAX)
    else:
        meter.left = None
    if not meter.is_own or meter.limit is None:
        return 0.0
    slot_s = meter.span_s / SLOTS_PER_SPAN
    while meter.used and (meter.used[0][0] + 1) * slot_s + meter.span_s <= now:
        meter.used.popleft()
    used = sum(slot[1] for slot in meter.used)
    if used + min(amount, meter.limit) <= meter.limit:
        return 0.0
    return min(max((meter.used[0][0] + 1) * slot_s + meter.span_s - now, 0.001), WAIT_S_MAX)


def _use_allowance(meter: Meter, amount: float, now: float) -> None:
    if meter.left is not None:
        meter.left = max(meter.left - amount, 0.0)
    slot = now // (meter.span_s / SLOTS_PER_SPAN)
    if not meter.used or meter.used[-1][0] < slot:
        meter.used.append([slot, 0.0])
        if len(meter.used) > SLOTS_PER_SPAN + 2:
            meter.used.popleft()
    meter.used[-1][1] = max(meter.used[-1][1] + amount, 0.0)
