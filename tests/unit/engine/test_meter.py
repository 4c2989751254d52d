"""One known limit: how it is paced, and how what remains of it is read."""

from __future__ import annotations

import pytest

from batchwright.domain.limits import DAY_S, MINUTE_S, Kind, LimitSeen
from batchwright.engine import meter as meters
from batchwright.engine.meter import Meter

LATENCY_S = 0.1


class Account:
    """A meter, and how much was ever sent: what a limiter knows besides."""

    def __init__(self, kind: Kind = "requests", span_s: float = MINUTE_S) -> None:
        self.meter = Meter(kind, span_s)
        self.sent = 0.0

    def send(self, amount: float, at: float) -> None:
        self.sent += amount
        meters.use(self.meter, amount, at)

    def see(
        self,
        at: float,
        limit: float,
        remaining: float,
        reset_s: float | None = None,
        *,
        unseen: float = 0.0,
    ) -> None:
        """The headers of a call that went out at that time; `unseen` was sent after it."""
        seen = LimitSeen(self.meter.kind, self.meter.span_s, limit, remaining, reset_s)
        sent = self.sent - unseen
        now = at + LATENCY_S
        meters.see(self.meter, seen, sent=sent, unseen=unseen, sent_at=at, now=now)


def amount_sent(meter: Meter, start: float, end: float, each: float = 1.0) -> float:
    """How much goes between two times, if there is always more to send."""
    now, amount = start, 0.0
    while now < end:
        wait = meters.delay_s(meter, each, now)
        if wait > 0:
            now += wait
            continue
        meters.use(meter, each, now)
        amount += each
    return amount


# Paced limits


def test_a_declared_limit_starts_with_one_call_and_keeps_just_below_its_rate() -> None:
    meter = meters.declare("requests", MINUTE_S, 6_000, 0.0)
    assert amount_sent(meter, 0.0, 0.001) == 1
    assert amount_sent(meter, 0.001, 60.0) == pytest.approx(0.995 * 6_000, rel=0.001)


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_a_limit_below_one_is_not_believed(limit: float) -> None:
    meter = Meter("requests", MINUTE_S)
    seen = LimitSeen("requests", MINUTE_S, limit, 0.0, 60.0)
    meters.see(meter, seen, sent=1, unseen=0, sent_at=0.0, now=0.1)
    assert meter.limit is None


def test_a_single_request_larger_than_the_burst_goes_and_what_follows_waits_for_it() -> None:
    meter = meters.declare("tokens", MINUTE_S, 60_000, 0.0)
    assert meters.delay_s(meter, 5_000, 1.0) == 0
    meters.use(meter, 5_000, 1.0)
    assert meters.delay_s(meter, 1, 1.0) == pytest.approx(4.75, abs=0.1)


def test_what_was_not_used_is_given_back_unless_the_provider_keeps_it() -> None:
    def wait_after(*, weight: float) -> float:
        meter = meters.declare("tokens", MINUTE_S, 60_000, 0.0)
        meter.is_weighed, meter.weight = True, weight
        meters.use(meter, 1_000, 1.0)
        meters.settle(meter, 1_000, 100, 1.0)
        return meters.delay_s(meter, 100, 1.0)

    assert wait_after(weight=1.0) == 0
    assert wait_after(weight=2.0) > 1


def test_a_debt_of_more_than_an_hour_is_let_go_down_to_an_hour() -> None:
    meter = meters.declare("tokens", MINUTE_S, 60_000, 0.0)
    meters.settle(meter, 1, 1e15, 1.0)
    assert meters.delay_s(meter, 1, 1.0) == 3_600
    assert meters.delay_s(meter, 1, 3_601.5) == 0


# What remains


def test_a_stock_that_refills_is_told_from_a_window_that_ends() -> None:
    refilling, ending = Account(), Account()
    for second in range(0, 40, 2):
        now = float(second)
        left = 3_000.0 - second * 10
        refilling.see(now, 6_000, left, (6_000 - left) / 100)
        ending.see(now, 6_000, left, 50.0 - now)
    assert refilling.meter.bucket_votes >= 5
    assert not refilling.meter.is_fixed
    assert ending.meter.is_fixed


def test_a_stock_that_refills_and_is_well_filled_may_be_used_four_times_as_fast() -> None:
    of = Account()
    for second in range(10):
        of.see(float(second), 6_000, 5_000, 10.0)
    assert amount_sent(of.meter, 9.2, 10.2) == pytest.approx(4 * 100, rel=0.15)
    meters.refuse(of.meter)  # so it is not to be had at once
    of.see(10.2, 6_000, 5_000, 10.0)
    assert amount_sent(of.meter, 10.4, 11.4) == pytest.approx(100, rel=0.15)


def test_a_window_is_used_up_evenly_to_its_end_and_waited_for_when_it_is_used_up() -> None:
    of = Account()
    for second in range(0, 20, 2):
        of.see(float(second), 6_000, 4_000, 60.0 - second)
    of.see(20.0, 6_000, 2_000, 40.0)
    assert amount_sent(of.meter, 20.1, 30.1) == pytest.approx(10 * 2_000 / 40, rel=0.05)
    of.see(30.1, 6_000, 0, 29.9)
    assert amount_sent(of.meter, 30.2, 59.9) == 0
    assert meters.delay_s(of.meter, 1, 60.1) == 0


def test_what_was_sent_after_a_call_is_taken_from_what_its_headers_say() -> None:
    of = Account()
    for second in range(0, 20, 2):
        of.see(float(second), 6_000, 4_000, 60.0 - second)
    of.send(190, 20.0)
    of.see(20.0, 6_000, 200, 40.0, unseen=190)
    assert amount_sent(of.meter, 20.1, 59.0) <= 12


def test_a_sliding_window_that_was_not_filled_is_filled_up() -> None:
    def pace_after(remaining: float) -> float:
        of = Account()
        for second in range(80):  # its end moves with each call: no window that ends
            of.see(float(second), 6_000, remaining, 59.9)
        return of.meter.pace

    assert pace_after(150.0) == pytest.approx(1.0, abs=0.3)
    assert pace_after(1_500.0) > 2


def test_a_stock_that_is_not_said_to_reset_is_not_taken_for_a_sliding_window() -> None:
    of = Account()
    for second in range(80):  # it may be a fixed window as well, to be used evenly
        of.see(float(second), 6_000, 5_000)
    assert of.meter.pace == 1.0


def test_a_provider_that_allows_no_stock_is_paced_by_its_limit_alone() -> None:
    of = Account()
    for second in range(20):  # a tenth of a second's worth at most: gone before it is known
        of.see(float(second), 6_000, 10.0, 0.1)
    assert of.meter.pace == 1.0
    assert amount_sent(of.meter, 20.0, 30.0) == pytest.approx(1_000, rel=0.03)


def test_a_refusal_that_the_headers_announced_takes_nothing_from_what_they_say() -> None:
    def may_surplus_after(remaining: float) -> bool:
        of = Account()
        of.see(0.0, 6_000, 5_000, 10.0)
        of.see(0.1, 6_000, remaining, 10.0)
        meters.refuse(of.meter)
        return of.meter.may_surplus

    assert may_surplus_after(0.0)
    assert not may_surplus_after(4_000.0)


def test_a_limit_that_changes_forgets_what_remained_of_the_old_one() -> None:
    of = Account()
    of.see(0.0, 6_000, 5_000, 10.0)
    of.see(1.0, 600, 599, 0.1)
    assert of.meter.remaining_max == 599
    assert amount_sent(of.meter, 1.1, 11.1) <= 0.5 * 600


# What a token weighs


def test_a_token_weighs_what_the_provider_takes_for_it() -> None:
    of, remaining = Account("tokens"), 60_000.0
    for step in range(40):  # in a minute's window, each call of 150 counts as 600
        of.send(150, step * 0.5)
        remaining -= 600
        of.see(step * 0.5, 60_000, remaining, 59 - step * 0.5)
    assert of.meter.weight == pytest.approx(4.0, rel=0.05)
    assert of.meter.is_kept


def test_requests_are_not_weighed() -> None:
    of, remaining = Account("requests"), 6_000.0
    for step in range(40):
        of.send(1, step * 0.5)
        remaining -= 10  # others use the account too
        of.see(step * 0.5, 6_000, remaining, 59 - step * 0.5)
    assert of.meter.weight == 1.0


def test_a_token_that_seemed_to_weigh_more_weighs_less_where_the_stock_stays_full() -> None:
    of = Account("tokens")
    of.see(0.0, 60_000, 60_000, 0.0)
    of.meter.is_weighed, of.meter.weight = True, 1.5
    for second in range(1, 20):
        of.send(150, float(second))
        of.see(float(second), 60_000, 60_000, 0.0)
    assert of.meter.weight == 1.0


# Allowances


def test_an_allowance_may_be_used_at_once_and_comes_back_after_its_span() -> None:
    meter = meters.declare("requests", DAY_S, 100, 0.0)
    assert amount_sent(meter, 0.0, 10.0) == 100
    assert meters.delay_s(meter, 1, 10.0) == 3_600
    assert amount_sent(meter, 0.99 * DAY_S, DAY_S) == 0
    assert amount_sent(meter, 1.02 * DAY_S, 1.03 * DAY_S) == 100


def test_what_the_provider_says_is_left_of_an_allowance_holds_until_its_reset() -> None:
    of = Account(span_s=DAY_S)
    of.see(0.0, 1_000, 30, 500.0, unseen=10)
    assert amount_sent(of.meter, 0.1, 1.0) == 20
    assert meters.delay_s(of.meter, 1, 1.0) == pytest.approx(499.1)
    assert meters.delay_s(of.meter, 1, 500.2) == 0


def test_an_allowance_that_is_said_to_come_back_in_a_month_is_asked_for_after_an_hour() -> None:
    of = Account(span_s=DAY_S)
    of.see(0.0, 1_000, 0, 2_000_000.0)
    assert meters.delay_s(of.meter, 1, 0.1) == 3_600
    assert meters.delay_s(of.meter, 1, 3_600.2) == 0


def test_tokens_that_were_not_used_go_back_to_an_allowance() -> None:
    meter = meters.declare("tokens", DAY_S, 1_000, 0.0)
    meters.use(meter, 1_000, 0.0)
    assert meters.delay_s(meter, 100, 0.0) > 0
    meters.settle(meter, 1_000, 600, 1.0)
    assert amount_sent(meter, 1.0, 2.0, each=100.0) == 400
