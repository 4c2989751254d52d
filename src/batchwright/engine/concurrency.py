"""How many calls may be in flight, where nothing says so: learned from latencies and signals.

For upstreams without a rate limit but with a capacity. It starts at 50 and doubles per round trip
until latency grows faster than throughput or a signal (an overload, a timeout) comes; then it
goes up by a few per cent per round trip, and down by a factor at a signal, once per round trip.

A *round* watches the calls sent at its beginning, its cohort, until three quarters of them are
answered. With so many in flight all the time, throughput is in flight / latency (Little's law), so
latencies alone tell both. After the manner of Netflix's concurrency-limits (Gradient2) and TCP.
"""

from __future__ import annotations

from dataclasses import dataclass

START = 50
COHORT_MAX = 64
UP = 1.03
DOWN_SLOW = 0.9  # latency says that calls queue
DOWN_SIGNAL = 0.7
DOUBLING_GAIN = 1.25  # throughput that a doubling has to bring
TOLERATED = 1.6  # latency against its base: the queue that keeps the upstream busy
QUEUEING = 2.2
BASE_DRIFT = 0.02  # per round: requests may have become longer
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
    is_held_by_signal: bool = False  # the last change was down

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


def note_signal(state: Concurrency, sent_at: float, now: float) -> None:
    """The upstream is overloaded (503, 529, a timeout, no connection)."""
    if sent_at <= state.cut_at:
        return
    state.cut_at = now
    state.is_doubling = False
    state.is_held_by_signal = True
    _set(state, state.limit * DOWN_SIGNAL)
    _new_round(state)


def _end_round(state: Concurrency) -> None:
    latency_s = state.latency_sum_s / state.answered
    if not state.base_s:
        state.base_s = latency_s
    if state.is_busy:
        _adapt(state, (latency_s + NOISE_S) / (state.base_s + NOISE_S))
    if latency_s < state.base_s:
        state.base_s = latency_s
    else:
        state.base_s += BASE_DRIFT * (latency_s - state.base_s)
    _new_round(state)


def _adapt(state: Concurrency, slower: float) -> None:
    """`slower` is latency against its base."""
    if state.is_doubling:
        if slower < 2 / DOUBLING_GAIN:
            _set(state, state.limit * 2)
            return
        state.is_doubling = False
    if slower > QUEUEING:
        state.is_held_by_signal = True
        _set(state, state.limit * DOWN_SLOW)
    elif slower < TOLERATED:
        state.is_held_by_signal = False
        _set(state, max(state.limit * UP, state.limit + 1))
    else:
        state.is_held_by_signal = True


def _new_round(state: Concurrency) -> None:
    state.cohort = state.answered = 0
    state.cohort_ends_at = 0.0
    state.latency_sum_s = 0.0
    state.is_busy = False


def _set(state: Concurrency, limit: float) -> None:
    state.limit = min(max(limit, 1.0), float(state.ceiling))
    state.allowed = int(state.limit)
