"""Adaptive concurrency against upstreams with a capacity, under a virtual clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.concurrency import (
    START,
    Concurrency,
    note_answer,
    note_sent,
    note_signal,
)

Latency = Callable[[int, Random], float | None]  # of a call as the n-th in flight; None: overload


@dataclass
class History:
    """What became of a run: answers, overloads, and how many were in flight at each second."""

    answers: list[float] = field(default_factory=list)
    overloads: int = 0
    in_flight_at: dict[int, int] = field(default_factory=dict)

    def per_s(self, start: float, end: float) -> float:
        return sum(start <= time < end for time in self.answers) / (end - start)


def drive(ceiling: int, latency: Latency, span_s: float, *, servers: int | None = None) -> History:
    """Send as many as allowed; with `servers`, calls beyond them wait in line."""
    random, state, history = Random(7), Concurrency.start(ceiling), History()
    flying: list[tuple[float, float, bool]] = []  # ends at, sent at, overloaded
    free_at = [0.0] * servers if servers else []
    now = 0.0
    while now < span_s:
        while len(flying) < state.allowed:
            took = latency(len(flying) + 1, random)
            begins = now
            if free_at and took is not None:
                begins = max(now, free_at[0])
                heapq.heapreplace(free_at, begins + took)
            ends = now + 0.01 if took is None else begins + took
            heapq.heappush(flying, (ends, now, took is None))
            note_sent(state, now, len(flying))
        now, sent_at, is_overload = heapq.heappop(flying)
        history.in_flight_at[int(now)] = len(flying) + 1
        if is_overload:
            history.overloads += 1
            note_signal(state, sent_at, now)
        else:
            history.answers.append(now)
            note_answer(state, sent_at, now)
    return history


def test_it_starts_at_fifty_and_at_the_ceiling_where_that_is_lower() -> None:
    assert Concurrency.start(2_000).allowed == START
    assert Concurrency.start(8).allowed == 8


def test_two_thousand_in_flight_are_reached_in_eight_round_trips_of_a_second() -> None:
    history = drive(2_000, lambda n, random: random.uniform(0.9, 1.1), 12)
    assert history.in_flight_at[8] == 2_000
    assert history.per_s(9, 12) >= 0.95 * 2_000


def test_answers_of_very_different_lengths_do_not_stop_the_ramp() -> None:
    history = drive(1_000, lambda n, random: random.lognormvariate(0.7, 0.6), 60)
    assert history.in_flight_at[59] >= 900


def test_a_ceiling_is_never_passed() -> None:
    history = drive(70, lambda n, random: 0.1, 20)
    assert max(history.in_flight_at.values()) == 70


@pytest.mark.parametrize("servers", [20, 100, 400])
def test_all_servers_are_kept_busy_with_a_short_line_before_them(servers: int) -> None:
    history = drive(5_000, lambda n, random: random.uniform(0.4, 0.6), 60, servers=servers)
    assert history.per_s(20, 60) >= 0.97 * servers / 0.5
    assert history.in_flight_at[59] <= max(3 * servers, 70)


def test_the_line_before_the_servers_does_not_grow_with_time() -> None:
    history = drive(5_000, lambda n, random: random.uniform(0.4, 0.6), 300, servers=20)
    assert max(history.in_flight_at[second] for second in range(60, 300)) <= 60
    assert history.per_s(60, 300) >= 0.97 * 20 / 0.5


def test_requests_that_become_longer_are_no_reason_to_send_fewer() -> None:
    count = 0

    def latency(in_flight: int, random: Random) -> float:
        nonlocal count
        count += 1
        return random.uniform(0.9, 1.1) * (1.0 if count < 20_000 else 4.0)

    history = drive(1_000, latency, 120)
    assert history.per_s(90, 120) >= 0.85 * 1_000 / 4.0


def test_an_upstream_that_batches_is_filled_until_latency_outgrows_throughput() -> None:
    # As vLLM: little slower up to 200 sequences, then each more makes all slower.
    history = drive(5_000, lambda n, random: 1.0 if n <= 200 else n / 200, 90)
    assert history.per_s(40, 90) >= 0.95 * 200
    assert history.in_flight_at[89] <= 600


def test_overloads_halt_the_growth_and_stay_few() -> None:
    history = drive(5_000, lambda n, random: None if n > 300 else random.uniform(0.9, 1.1), 120)
    assert history.per_s(30, 120) >= 0.8 * 300
    assert history.overloads <= 0.02 * len(history.answers)


def test_signals_of_one_round_trip_count_once() -> None:
    state = Concurrency.start(1_000)
    for _ in range(30):
        note_signal(state, 1.0, 2.0)
    assert state.allowed == 35
    note_signal(state, 2.5, 3.0)
    assert state.allowed == 24


@given(st.lists(st.tuples(st.sampled_from("sao"), st.floats(0, 1e9), st.floats(0, 1e9))))
def test_whatever_comes_at_least_one_call_is_allowed(
    events: list[tuple[str, float, float]],
) -> None:
    state = Concurrency.start(500)
    for what, sent_at, now in events:
        if what == "s":
            note_sent(state, now, 10)
        elif what == "a":
            note_answer(state, sent_at, now)
        else:
            note_signal(state, sent_at, now)
        assert 1 <= state.allowed <= 500
