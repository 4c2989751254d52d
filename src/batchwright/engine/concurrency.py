"""How many calls may be in flight, where nothing says so: learned from latencies and signals.

For upstreams without a rate limit but with a capacity. It starts at 50 and doubles per round trip
until latency grows faster than throughput or a signal (an overload, a timeout) comes; then it
goes up by a few per cent per round trip, and down by a factor at a signal, once per round trip.

A *round* watches the calls sent at its beginning, its cohort, until three quarters of them are
answered. With so many in flight all the time, throughput is in flight / latency (Little's law), so
latencies alone tell both.

Latency is judged against its *base*, that without a queue. Where the base may be wrong (calls
queue, or requests have become longer) a *trial* tells: for two rounds fewer are sent. If
throughput stays, calls had queued, and the limit stays lower; if it falls with them, latency is
what it has to be, and is the new base. After the manner of Netflix's concurrency-limits and of BBR.
"""

from __future__ import annotations

from dataclasses import dataclass

START = 50
COHORT_MAX = 64
UP = 1.03
TRIAL = 0.7  # of the limit, during a trial
DOWN_SIGNAL = 0.7
DOUBLING_GAIN = 1.25  # throughput that a doubling has to bring
TOLERATED = 1.6  # latency against its base: the queue that keeps the upstream busy
SUSPECT = 1.2
STAYS = 0.9  # share of the throughput that says that calls had queued
QUEUEING = 2.2  # beyond it a trial comes soon
ROUNDS_SOON = 5  # until a trial
ROUNDS_SOME = 50
ROUNDS_MANY = 200
NOISE_S = 0.01  # latencies below this tell nothing
BUSY = 0.8  # share of the limit that must have been in flight for a round to count


@dataclass(slots=True)
class Concurrency:
    """The state. `allowed` is how many calls may be in flight now."""

    ceiling: int
    allowed: int
    limit: float  # the same, in fractions
    is_doubling: bool = True
    base_s: float = 0.0  # latency without a queue
    round_at: float = 0.0
    cohort_ends_at: float = 0.0  # 0: still growing
    cohort: int = 0  # sent
    answered: int = 0
    latency_sum_s: float = 0.0
    is_busy: bool = False  # the limit was reached in this round
    cut_at: float = -1.0
    is_held: bool = False  # latency or a signal keeps it where it is
    rounds_left: int = ROUNDS_MANY  # until a trial
    trial: int = 0  # its round: the first drains, the second measures
    full_limit: float = 0.0  # before the trial
    full_per_s: float = 0.0  # throughput then

    @classmethod
    def start(cls, ceiling: int) -> Concurrency:
        allowed = max(min(START, ceiling), 1)
        return cls(max(ceiling, 1), allowed, float(allowed))


def note_sent(state: Concurrency, now: float, in_flight: int) -> None:
    """A call goes out; `in_flight` counts it."""
    if not state.cohort:
        state.round_at = now
    if not state.cohort_ends_at:
        state.cohort += 1
        if state.cohort >= COHORT_MAX or state.cohort >= state.limit:
            state.cohort_ends_at = max(now, 1e-9)
    if in_flight >= BUSY * state.limit:
        state.is_busy = True


def note_answer(state: Concurrency, sent_at: float, now: float) -> None:
    """A call was answered, well or with an error of its own."""
    if sent_at < state.round_at or not state.cohort:
        return
    if state.cohort_ends_at and sent_at > state.cohort_ends_at:
        return
    state.answered += 1
    state.latency_sum_s += now - sent_at
    if state.cohort_ends_at and state.answered >= 0.75 * state.cohort:
        _end_round(state)


def note_lost(state: Concurrency, sent_at: float) -> None:
    """A call ended in a way that tells nothing of the capacity: the round goes on without it."""
    if sent_at < state.round_at or not state.cohort:
        return
    if state.cohort_ends_at and sent_at > state.cohort_ends_at:
        return
    state.cohort -= 1
    if state.cohort_ends_at and state.answered >= 0.75 * state.cohort:
        (_end_round if state.answered else _new_round)(state)


def note_signal(state: Concurrency, sent_at: float, now: float) -> None:
    """The upstream is overloaded (503, 529, a timeout, no connection)."""
    if sent_at <= state.cut_at:
        return
    state.cut_at = now
    state.is_doubling = False
    state.is_held = True
    state.trial = 0
    _set(state, state.limit * DOWN_SIGNAL)
    _new_round(state)


def _end_round(state: Concurrency) -> None:
    latency_s = state.latency_sum_s / state.answered
    if state.trial:
        _try(state, latency_s)
    else:
        state.base_s = min(state.base_s or latency_s, latency_s)
        if state.is_busy:
            _adapt(state, latency_s)
    _new_round(state)


def _adapt(state: Concurrency, latency_s: float) -> None:
    slower = (latency_s + NOISE_S) / (state.base_s + NOISE_S)
    if state.is_doubling:
        if slower < 2 / DOUBLING_GAIN:
            _set(state, state.limit * 2)
            return
        state.is_doubling = False
        state.rounds_left = ROUNDS_SOON
    state.is_held = slower >= TOLERATED
    if slower > QUEUEING:
        state.rounds_left = min(state.rounds_left, ROUNDS_SOON)
    elif slower > SUSPECT:
        state.rounds_left = min(state.rounds_left, ROUNDS_SOME)
    if not state.is_held:
        _set(state, max(state.limit * UP, state.limit + 1))
    state.rounds_left -= 1
    if state.rounds_left <= 0 and latency_s > NOISE_S:
        state.trial = 1
        state.full_limit = state.limit
        state.full_per_s = state.limit / latency_s
        _set(state, state.limit * TRIAL)


def _try(state: Concurrency, latency_s: float) -> None:
    """The rounds of a trial, and what follows from it."""
    if state.trial == 1:
        state.trial = 2
        return
    state.trial = 0
    state.rounds_left = ROUNDS_MANY
    if state.limit / max(latency_s, 1e-9) > STAYS * state.full_per_s:
        state.rounds_left = ROUNDS_SOON  # they had queued; perhaps they still do
        state.base_s = min(state.base_s, latency_s)
    else:
        state.base_s = latency_s
        _set(state, state.full_limit)


def _new_round(state: Concurrency) -> None:
    state.cohort = state.answered = 0
    state.cohort_ends_at = 0.0
    state.latency_sum_s = 0.0
    state.is_busy = False


def _set(state: Concurrency, limit: float) -> None:
    state.limit = min(max(limit, 1.0), float(state.ceiling))
    state.allowed = int(state.limit)
