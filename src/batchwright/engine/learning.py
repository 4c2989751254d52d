"""Learning a limit that nobody tells, from refusals that carry nothing but their status.

The limit is learned in requests. Theory of operation, by mode:

- *free*: nothing was refused yet, nothing is held back.
- *draining*: the first refusal came, or a row of them. Nothing is sent for about a round trip; of
  the calls that were out, some are let in and some refused, and their share tells the rate.
- *paced* (`settling`): a rate that moves a little with each answer, and so settles where few calls
  are refused, whatever the algorithm of the limit and its windows are.
- *silent* (`probing`): nothing at all is let in. Probes find out when that ends.
- *windowed* (`window`): the silence was long, so that the limit is an amount per window of time.

Here is how one mode becomes another, and what a call that goes out or is answered does in each.

Unsaid limits are met at gateways and self-hosted servers: token buckets (nginx `limit_req`, Amazon
API Gateway), fixed windows of a second or a minute (Envoy's rate-limit service, LiteLLM's proxy),
sliding ones (Kong).
"""

from __future__ import annotations

from batchwright.engine import probing, settling, window
from batchwright.engine.bucket import take
from batchwright.engine.learned import FEW, PROBE_S, SLOT_S, WAIT_S_MAX, Learned, Window

RECENT_S = 3.0  # what "the last seconds" are
MEMORY_S = 60.0  # how far back a first window can have begun


def forget(learned: Learned, now: float) -> None:
    """Start anew: nothing is held back until something is refused again."""
    accepted = learned.answers.accepted
    learned.mode = "free"
    learned.window = Window(began_at=now, accepted_before=accepted)
    learned.opened_at, learned.accepted_at_opening = now, accepted
    learned.settling.is_rated = False
    learned.answers.row = 0


# Sending


def delay_s(learned: Learned, now: float) -> float:
    """Seconds until one more call may go; 0 if it may now."""
    if learned.mode == "draining":
        if now < learned.until:
            return learned.until - now
        _end_draining(learned, now)
    if learned.mode == "paced":
        return settling.delay_s(learned, now)
    if learned.mode == "silent":
        wait = probing.delay_s(learned, now)
        if wait is None:
            _reopen(learned, now)
        elif _is_trickle(learned, now):
            _pace_trickle(learned, now)
        else:
            return wait
        return delay_s(learned, now)
    if learned.mode == "windowed":
        return window.delay_s(learned, now)
    return 0.0


def note_sent(learned: Learned, now: float) -> None:
    """A call goes out."""
    learned.answers.row_sent += 1
    if learned.mode == "paced":
        take(learned.bucket, 1, now)
    elif learned.mode == "silent":
        probing.note_sent(learned, now)
    elif learned.mode == "windowed":
        window.note_sent(learned, now)


# Answers


def note_accepted(learned: Learned, sent_at: float, now: float) -> None:
    """A call was let in: it was answered with anything but a refusal."""
    answers = learned.answers
    answers.accepted += 1
    if now >= answers.slot_ends_at:
        _new_slot(learned, now)
        if answers.accepted == 1:
            learned.window.began_at = learned.opened_at = sent_at
        latency_s = min(max(now - sent_at, 0.0), WAIT_S_MAX)
        smoothing = 0.2 if answers.round_trip_s else 1.0
        answers.round_trip_s += smoothing * (latency_s - answers.round_trip_s)
    answers.slots[-1][1] += 1
    if answers.row and sent_at > answers.row_at:
        if learned.mode == "draining":
            answers.row_accepted += 1
        else:
            answers.row = 0
    if learned.mode == "silent":
        probing.note_accepted(learned, sent_at)
    elif learned.mode == "windowed" and learned.window.grant:
        learned.window.grant_answers += sent_at >= learned.window.grant_at


def note_refused(
    learned: Learned, sent_at: float, now: float, *, is_explained: bool = False
) -> None:
    """A call was refused.

    `is_explained`: a known limit is paced already, or the provider said for how long. Then the
    rate of late is about right.
    """
    _count_refused(learned, sent_at, now)
    if learned.mode == "free" and is_explained:
        _doubt(learned, now)
    elif learned.mode == "free":
        _start_draining(learned, now)
    elif learned.mode == "silent":
        probing.note_refused(learned, now)
    elif sent_at > learned.cut_at:
        if learned.mode == "paced":
            _slow_down(learned, now)
        elif learned.mode == "windowed":
            has_opened = learned.window.used >= probing.LEFT_SHARE * learned.window.amount
            probing.start(learned, now)
            if not has_opened:
                learned.window.is_sure = False
                window.undo(learned)


def _count_refused(learned: Learned, sent_at: float, now: float) -> None:
    answers, of_window = learned.answers, learned.window
    if now >= answers.slot_ends_at:
        _new_slot(learned, now)
    answers.slots[-1][2] += 1
    answers.refused_at = now
    latency_s = min(max(now - sent_at, 0.0), WAIT_S_MAX)
    answers.refusal_s = max(latency_s, 0.9 * answers.refusal_s)
    if of_window.filled_at <= of_window.began_at:
        of_window.filled_at = now
        of_window.filled = answers.accepted - of_window.accepted_before
    if learned.mode == "paced" and sent_at <= learned.cut_at:
        return  # of a row that has told already
    if not answers.row:
        answers.row_at = sent_at
        answers.row_sent = answers.row_accepted = 0
    answers.row += 1


def _new_slot(learned: Learned, now: float) -> None:
    if learned.mode == "paced":
        if not settling.grow(learned, now):
            forget(learned, now)
    elif learned.mode == "windowed":
        window.speed_up(learned, now)
    learned.answers.slots.append([now, 0.0, 0.0])
    learned.answers.slot_ends_at = now + SLOT_S
    if learned.mode == "free" and now - learned.window.began_at > MEMORY_S:
        forget(learned, now)


# From one mode to another


def _doubt(learned: Learned, now: float) -> None:
    """The known limit is not the one that holds, or not quite."""
    accepted, _, start = learned.answers.count(now - RECENT_S)
    if accepted >= FEW and now - start >= 2 * SLOT_S:
        settling.start(learned, accepted / (now - start) / settling.HELD, now)
    else:
        _start_draining(learned, now)


def _start_draining(learned: Learned, now: float) -> None:
    """How much of what is out is let in?"""
    learned.cut_at = learned.probing.silent_at = now
    learned.answers.slot_ends_at = now  # what follows is counted apart
    _drain(learned, 1.5, now)


def _drain(learned: Learned, round_trips: float, now: float) -> None:
    learned.mode = "draining"
    learned.until = now + min(max(round_trips * learned.answers.round_trip_s, 0.02), 5.0)


def _end_draining(learned: Learned, now: float) -> None:
    """What was out had been sent over about one round trip."""
    answers = learned.answers
    accepted, refused, _ = answers.count(learned.cut_at)
    if learned.settling.is_rated:
        if answers.row_accepted:
            settling.go_on(learned, now)
        else:
            probing.start(learned, now)
            learned.probing.silent_at = answers.row_at
    elif accepted < 2 or accepted < 0.01 * refused:
        probing.start(learned, now)
    else:
        settling.start(learned, accepted / max(answers.round_trip_s, 0.02), now)
        learned.settling.gain = settling.GAIN_UNSURE


def _rate_of_late(learned: Learned, before: float) -> float:
    """What was let in per second just before a silence, and in it: nothing may have been sent for
    hours before. `before`, what it was paced at, where that is too little to tell."""
    silence, span_s = learned.probing, max(RECENT_S, 2 * FEW / before)
    accepted, _, start = learned.answers.count(silence.silent_at - span_s)
    accepted -= silence.passed
    return accepted / max(silence.open_at - start, span_s) if accepted >= FEW else before


def _is_trickle(learned: Learned, now: float) -> bool:
    """Whether the silence is none, but a limit so far below the one before that what it lets in
    was taken for left over: no window of a minute is closed for so long. Told when a probe was
    refused: while none is, it may be opening."""
    silence = learned.probing
    is_rate = learned.settling.is_rated and not learned.window.span_s
    is_refused = not silence.batch and silence.passed >= FEW
    return is_rate and is_refused and now - silence.passed_at >= MEMORY_S


def _pace_trickle(learned: Learned, now: float) -> None:
    silence = learned.probing
    learned.opened_at, learned.accepted_at_opening = now, learned.answers.accepted
    settling.seek(learned, silence.passed / (now - silence.passed_at), now)


def _slow_down(learned: Learned, now: float) -> None:
    """Go down by what a refusal says; if it may be that nothing at all is let in, find out."""
    if settling.is_in_doubt(learned):
        _drain(learned, 1.2, now)
    elif not settling.cut(learned, now):
        probing.start(learned, now)


def _is_long(learned: Learned, now: float) -> bool:
    """Whether a silence was one between two windows.

    It was over when the first of the probes that got through went: what we waited after that, to
    be sure, is no time in which nothing was let in, and is long where a refusal takes long. Not so
    where a window is to be expected, as calls were let in for seconds, none refused, and for longer
    than anything has been refused since: what gets through first is left over then.
    """
    silence, of_window = learned.probing, learned.window
    open_s = of_window.filled_at - of_window.began_at
    refused_s = silence.silent_at - of_window.filled_at
    was_open = window.SILENCE_S < open_s <= MEMORY_S and of_window.filled >= FEW
    if was_open and refused_s < open_s:
        return now - silence.silent_at >= window.EXPECTED_SILENCE_S
    return silence.open_at - silence.silent_at >= window.SILENCE_S


def _reopen(learned: Learned, now: float) -> None:
    """The silence is over: a long one makes a window, after a short one it is a rate."""
    silence, rate_of = learned.probing, learned.settling
    let_in = learned.answers.accepted - silence.passed
    accepted = let_in - learned.accepted_at_opening
    open_s = silence.open_at - learned.opened_at
    is_long = _is_long(learned, now)
    if is_long:
        window.start(learned, now)
    elif learned.window.span_s and learned.window.used < learned.window.amount:
        window.slow_down(learned, now)
        return
    learned.opened_at = silence.open_at
    learned.accepted_at_opening = let_in
    if is_long:
        return
    rate = max(accepted, 1) / max(open_s, PROBE_S)
    if rate_of.is_rated:
        before, gain = learned.bucket.rate_per_s, rate_of.gain
        rate = max(rate, _rate_of_late(learned, before))
        if rate < settling.FLOOR * before:
            settling.seek(learned, rate, now)
        else:
            settling.resume(learned, min(rate, before), now)
            rate_of.gain = gain
    else:
        settling.start(learned, rate, now)
