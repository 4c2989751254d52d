"""The limits of an account: what passes, what is learned, what binds; nothing absurd stalls it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright.domain.limits import DAY_S, HOUR_S, MINUTE_S, SECOND_S, Cost, LimitSeen
from batchwright.engine import bucket as limits_bucket
from batchwright.engine import limiter as account
from batchwright.engine.limiter import Declared, Limiter, Reservation

COST = Cost(100, 50)


def limiter(declared: Declared | None = None, *, max_concurrency: int = 1_000) -> Limiter:
    return account.start(0.0, max_concurrency=max_concurrency, declared=declared)


def send(of: Limiter, now: float, cost: Cost = COST) -> Reservation:
    return account.reserve(of, cost, now, 1)


def send_all(of: Limiter, start: float, end: float, cost: Cost = COST) -> list[float]:
    """When calls go, if there is always another one."""
    now, times = start, []
    while now < end:
        wait = account.delay_s(of, cost, now)
        if wait > 0:
            now += max(wait, 1e-6)
            continue
        send(of, now, cost)
        times.append(now)
    return times


def minute(kind: str, limit: float, remaining: float, reset_s: float | None = None) -> LimitSeen:
    return LimitSeen(kind, MINUTE_S, limit, remaining, reset_s)  # type: ignore[arg-type]


# Known limits


def test_an_account_of_which_nothing_is_known_holds_nothing_back() -> None:
    of = limiter()
    assert all(account.delay_s(of, COST, 0.0) == 0 for _ in range(100) if send(of, 0.0))
    assert account.binding(of, 0.0, 1) is None


@given(
    st.floats(1, 60_000),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 5)), min_size=1, max_size=50),
)
@settings(max_examples=60)
def test_in_every_interval_at_most_the_rate_and_a_second_of_it_passes(
    per_minute: float, wishes: list[tuple[float, int]]
) -> None:
    of = limiter(Declared(requests_per_minute=per_minute))
    now, times = 0.0, []
    for pause, calls in wishes:
        now += pause
        for _ in range(calls):
            now += account.delay_s(of, COST, now)
            send(of, now)
            times.append(now)
    rate, burst = per_minute / 60, max(1.0, per_minute / 60)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= rate * (times[last] - start) + burst + 1e-6


@pytest.mark.parametrize(
    ("declared", "per_minute"),
    [
        (Declared(requests_per_minute=600), 600),
        (Declared(tokens_per_minute=90_000), 600),
        (Declared(input_tokens_per_minute=60_000), 600),
        (Declared(output_tokens_per_minute=30_000), 600),
        (Declared(requests_per_minute=6_000, output_tokens_per_minute=30_000), 600),
    ],
)
def test_the_tightest_of_several_limits_sets_the_pace(
    declared: Declared, per_minute: float
) -> None:
    times = send_all(limiter(declared), 0.0, 60.0)
    assert 0.98 * per_minute <= len(times) <= per_minute


def test_a_limit_per_day_may_be_used_at_once_and_then_not_before_a_day_has_passed() -> None:
    of = limiter(Declared(requests_per_day=100))
    assert len(send_all(of, 0.0, 10.0)) == 100
    assert account.delay_s(of, COST, 10.0) == 3600.0
    assert len(send_all(of, DAY_S * 0.99, DAY_S)) == 0
    assert len(send_all(of, DAY_S * 1.02, DAY_S * 1.03)) == 100


def test_what_an_answer_really_used_takes_the_place_of_the_estimate() -> None:
    of = limiter(Declared(tokens_per_minute=60_000))
    reserved = send(of, 0.0, Cost(500, 500))
    assert account.delay_s(of, Cost(250, 0), 0.0) > 0.9
    account.settle(of, reserved, Cost(1, 0), 0.0)
    assert account.delay_s(of, Cost(250, 0), 0.0) < 0.3


@pytest.mark.parametrize("used", [Cost(0, 0), Cost(-5, 3), Cost(10, -900_000_000)])
def test_a_usage_of_nothing_or_less_corrects_nothing(used: Cost) -> None:
    of = limiter(Declared(tokens_per_minute=60_000))
    reserved = send(of, 0.0, Cost(500, 500))
    before = account.delay_s(of, COST, 0.0)
    account.settle(of, reserved, used, 0.0)
    assert account.delay_s(of, COST, 0.0) == before


def test_a_call_that_used_nothing_gives_its_tokens_back_but_was_a_request() -> None:
    of = limiter(Declared(tokens_per_minute=60_000, requests_per_minute=60))
    account.delay_s(of, COST, 0.0)
    account.give_back(of, send(of, 0.0, Cost(5_000, 0)), 0.5)
    assert account.delay_s(of, COST, 0.5) == pytest.approx(0.5, abs=0.02)


def test_a_call_counts_for_the_whole_limit_at_most_until_its_usage_is_known() -> None:
    of = limiter(Declared(tokens_per_minute=60_000))
    reserved = send(of, 0.0, Cost(1_000_000, 0))
    assert account.delay_s(of, COST, 0.0) == pytest.approx(60, abs=1)
    account.settle(of, reserved, Cost(2_000, 0), 0.0)
    assert account.delay_s(of, COST, 0.0) == pytest.approx(2, abs=0.2)


# Headers


def test_the_headers_of_the_first_answer_set_the_pace() -> None:
    of = limiter()
    account.observe(of, send(of, 0.0), (minute("requests", 600, 599, 0.1),), 0.1)
    assert len(send_all(of, 0.1, 60.1)) <= 600 + 10


@pytest.mark.parametrize(("told", "holds"), [(6_000, 600), (300, 300), (900, 600)])
def test_the_smaller_of_our_own_cap_and_what_the_provider_says_holds(
    told: float, holds: int
) -> None:
    of = limiter(Declared(requests_per_minute=600))
    account.observe(of, send(of, 0.0), (minute("requests", told, told / 2),), 0.1)
    assert 0.98 * holds <= len(send_all(of, 0.1, 60.1)) <= holds + 10


def test_a_window_that_is_used_up_is_waited_for() -> None:
    of = limiter()
    for second in range(10):  # its end stands still: a window, not a stock
        now = float(second) * 2
        seen = minute("requests", 600, 300 - second * 30, 40.0 - now)
        account.observe(of, send(of, now), (seen,), now)
    account.observe(of, send(of, 20.0), (minute("requests", 600, 0, 20.0),), 20.0)
    assert len(send_all(of, 20.0, 39.0)) == 0
    assert account.delay_s(of, COST, 40.1) == 0


def test_calls_that_the_headers_do_not_know_of_yet_count_as_used() -> None:
    of = limiter()
    first = send(of, 0.0)
    for _ in range(100):
        send(of, 0.0)
    day = LimitSeen("requests", DAY_S, 1_000, 101, 50_000)
    account.observe(of, first, (day,), 0.2)
    assert len(send_all(of, 0.2, 1.0)) == 1


def test_a_model_that_was_never_called_does_not_wait_for_the_day_of_another() -> None:
    of = limiter()
    day = LimitSeen("requests", DAY_S, 1_000, 0, 50_000)
    account.observe(of, send(of, 0.0, Cost(1, 1, "used up")), (day,), 0.1)
    assert account.delay_s(of, Cost(1, 1, "used up"), 1.0) > 3_590
    assert account.known_wait_s(of, Cost(1, 1, "used up"), 1.0) > 3_590
    assert account.delay_s(of, Cost(1, 1, "new"), 1.0) == 0
    refused = send(of, 1.0, Cost(1, 1, "new"))
    account.observe(of, refused, (day,), 1.1)  # it is a limit of both
    assert account.delay_s(of, Cost(1, 1, "new"), 2.0) > 3_590


def test_two_models_with_the_same_amount_per_day_have_a_day_each() -> None:
    of = limiter()
    for model, left in (("a", 1.0), ("b", 900.0), ("a", 0.0)):
        day = LimitSeen("requests", DAY_S, 1_000, left, 50_000)
        account.observe(of, send(of, 0.0, Cost(1, 1, model)), (day,), 0.1)
    assert account.known_wait_s(of, Cost(1, 1, "a"), 1.0) > 3_590
    assert account.delay_s(of, Cost(1, 1, "b"), 1.0) == 0


def test_tokens_of_a_day_that_are_only_expected_to_be_used_are_no_known_wait() -> None:
    of = limiter(Declared(tokens_per_day=1_000_000))
    image = send(of, 0.0, Cost(1_000_000, 0))
    assert account.delay_s(of, COST, 1.0) > 0
    assert account.known_wait_s(of, COST, 1.0) == 0
    account.settle(of, image, Cost(900, 100), 2.0)
    assert account.delay_s(of, COST, 2.0) == 0


def test_a_limit_taken_for_one_per_minute_is_dropped_when_it_turns_out_to_be_per_day() -> None:
    of = limiter()
    account.observe(of, send(of, 0.0), (minute("requests", 14_400, 14_399, 6.0),), 0.1)
    seen = LimitSeen("requests", DAY_S, 14_400, 14_380, 120.0)
    account.observe(of, send(of, 1.0), (seen,), 1.1)
    assert [meter.span_s for meter in of.meters] == [DAY_S]
    assert len(send_all(of, 1.1, 2.0)) == 14_380


def test_a_limit_is_dropped_when_its_header_tells_another_span_with_another_amount() -> None:
    of = limiter(Declared(requests_per_minute=6_000))
    account.observe(of, send(of, 0.0), (minute("requests", 1, 0),), 0.1)
    tokens = minute("tokens", 6_000, 5_000)
    account.observe(of, send(of, 0.0), (tokens,), 0.1)
    day = LimitSeen("requests", DAY_S, 10_000, 9_990, 120.0)
    account.observe(of, send(of, 1.0), (day,), 1.1)
    spans = [(meter.kind, meter.span_s) for meter in of.meters]
    assert spans == [("requests", MINUTE_S), ("tokens", MINUTE_S), ("requests", DAY_S)]
    assert of.meters[0].is_own


def test_limits_of_one_kind_in_several_headers_hold_side_by_side() -> None:
    of = limiter()
    by_header = [
        LimitSeen("requests", span_s, 100, 99, 1.0, header=f"limit-per-{span_s}")
        for span_s in (MINUTE_S, HOUR_S, DAY_S)
    ]
    for second in range(3):
        account.observe(of, send(of, float(second)), tuple(by_header), second + 0.1)
    assert [meter.span_s for meter in of.meters] == [MINUTE_S, HOUR_S, DAY_S]


def answer_without_limits(of: Limiter, calls: int, start: float, end: float) -> None:
    """So many calls that were in flight are answered between two times, and tell no limit."""
    for reserved in [send(of, 0.0) for _ in range(calls)]:
        start += (end - start) / calls
        account.on_answer(of, reserved, start)
        account.settle(of, reserved, COST, start)


@pytest.mark.parametrize("span_s", [MINUTE_S, DAY_S])
def test_a_limit_that_no_other_answer_confirms_is_dropped_after_some_minutes(span_s: float) -> None:
    of = limiter()
    seen = LimitSeen("tokens", span_s, 1, 0, None)  # a proxy's error page
    account.observe(of, send(of, 0.0), (seen,), 0.1)
    answer_without_limits(of, 50, 2.0, 5.0)
    wait = account.delay_s(of, COST, 5.0)
    assert 60 < wait <= 5 * 60  # and the lane asks again by then
    assert account.delay_s(of, COST, 5.0 + wait) == 0
    assert not of.meters


def test_a_limit_is_kept_while_nothing_is_answered_or_answers_confirm_it() -> None:
    of = limiter()
    used_up = LimitSeen("requests", DAY_S, 100, 0, 80_000.0)
    account.observe(of, send(of, 0.0), (used_up,), 0.1)
    answer_without_limits(of, 5, 0.1, 0.14)  # between two looks at the headers
    assert account.delay_s(of, COST, 900.0) > 1_000
    for minute_of in range(15, 60):
        refused = send(of, 60.0 * minute_of)
        account.observe(of, refused, (used_up,), 60.0 * minute_of)
        account.on_rate_limited(of, refused, 60.0 * minute_of, None)
    assert account.delay_s(of, COST, 3_600.0) > 1_000


def test_a_cap_of_our_own_needs_no_confirmation() -> None:
    of = limiter(Declared(requests_per_minute=60))
    send_all(of, 0.0, 600.0)
    answer_without_limits(of, 50, 600.0, 610.0)
    assert account.delay_s(of, COST, 610.0) > 10


def test_a_provider_that_counts_more_tokens_than_are_used_is_believed() -> None:
    of = limiter()
    remaining = 60_000.0
    for step in range(40):  # in a minute's window, each call of 150 counts as 600
        now = step * 0.5
        reserved = send(of, now)
        remaining -= 600
        account.observe(of, reserved, (minute("tokens", 60_000, remaining, 59 - now),), now + 0.1)
    (meter,) = of.meters
    assert meter.weight == pytest.approx(4.0, rel=0.1)
    assert meter.is_kept


def test_first_estimates_that_are_far_off_do_not_change_what_a_token_weighs() -> None:
    of, remaining = limiter(), 60_000.0
    for step in range(40):  # estimated as 1,000 at first, 100 are used, and 100 are counted
        now = step * 0.5
        reserved = send(of, now, Cost(900, 100) if step < 20 else Cost(50, 50))
        remaining -= 100
        account.settle(of, reserved, Cost(50, 50), now + 0.1)
        account.observe(of, reserved, (minute("tokens", 60_000, remaining, 59 - now),), now + 0.1)
        assert not of.meters[0].is_kept
    assert of.meters[0].weight == pytest.approx(1.0, rel=0.1)


# Models


def cost_of(model: str, tokens: int = 150) -> Cost:
    return Cost(tokens, 0, model)


def tell(of: Limiter, model: str, limit: float, now: float) -> None:
    """A call of a model is answered, with the limit of its tokens."""
    reserved = send(of, now, cost_of(model))
    account.observe(of, reserved, (minute("tokens", limit, limit / 2),), now + 0.1)
    account.on_answer(of, reserved, now + 0.1)


def limits_of(of: Limiter) -> dict[float | None, list[str]]:
    return {meter.limit: list(meter.models) for meter in of.meters}


def test_two_models_with_limits_of_their_own_each_go_at_theirs() -> None:
    of, now, sent = limiter(), 0.0, {"small": 0, "large": 0}
    limits = {"small": 30_000.0, "large": 200_000.0}
    answers: list[tuple[float, Reservation]] = []
    while now < 130.0:
        while answers and answers[0][0] <= now:
            reserved = answers.pop(0)[1]
            seen = minute("tokens", limits[reserved.cost.model], 100.0)
            account.observe(of, reserved, (seen,), now)
            account.on_answer(of, reserved, now)
        for model in limits:
            if account.delay_s(of, cost_of(model), now) == 0:
                answers.append((now + 0.5, send(of, now, cost_of(model))))
                sent[model] += 150 if now >= 10 else 0
        now += 0.01
    for model, limit in limits.items():
        assert 0.95 * limit <= sent[model] / 2 <= 1.01 * limit


def test_models_that_tell_the_same_limit_share_it() -> None:
    of = limiter()
    for model in ("a", "b", "c"):
        tell(of, model, 60_000, 0.0)
    assert limits_of(of) == {60_000: ["a", "b", "c"]}
    send(of, 1.0, cost_of("a", 10_000))
    assert account.delay_s(of, cost_of("b"), 1.0) > 5


def test_a_model_that_has_told_nothing_counts_with_the_others_where_they_share_one_limit() -> None:
    of = limiter()
    tell(of, "a", 60_000, 0.0)
    send(of, 1.0, cost_of("new", 10_000))
    assert account.delay_s(of, cost_of("a"), 1.0) > 5
    tell(of, "b", 600_000, 20.0)
    send(of, 21.0, cost_of("new", 1_000_000))
    assert account.delay_s(of, cost_of("a"), 21.0) == 0
    assert account.delay_s(of, cost_of("b"), 21.0) == 0


def test_a_limit_that_changes_stays_one_limit() -> None:
    of = limiter()
    tell(of, "a", 30_000, 0.0)
    tell(of, "a", 60_000, 1.0)
    assert limits_of(of) == {60_000: ["a"]}
    tell(of, "b", 60_000, 2.0)
    tell(of, "a", 20_000, 3.0)  # the common limit falls: what the one tells, the other tells next
    tell(of, "b", 20_000, 4.0)
    assert limits_of(of) == {20_000: ["a", "b"]}


def test_what_is_learned_from_refusals_is_not_forgotten_because_models_alternate() -> None:
    of = limiter()
    for second in range(20):
        tell(of, "small", 30_000, float(second))
        tell(of, "large", 200_000, second + 0.5)
    account.on_rate_limited(of, send(of, 20.0, cost_of("large")), 20.1, None)
    mode = of.learned.mode
    tell(of, "small", 30_000, 20.2)
    tell(of, "large", 200_000, 20.3)
    assert of.learned.mode is mode
    tell(of, "large", 400_000, 20.4)  # but because its limit has grown
    assert of.learned.mode is not mode


def test_our_own_cap_counts_the_calls_of_all_models() -> None:
    of = limiter(Declared(tokens_per_minute=60_000))
    tell(of, "a", 600_000, 0.0)
    tell(of, "b", 900_000, 0.0)
    send(of, 10.0, cost_of("a", 10_000))
    assert account.delay_s(of, cost_of("b"), 10.0) > 5
    assert account.delay_s(of, cost_of("new"), 10.0) > 5


def test_answers_of_other_models_do_not_speak_against_the_limit_of_one() -> None:
    of = limiter()
    reserved = send(of, 0.0, cost_of("a"))
    used_up = LimitSeen("tokens", DAY_S, 100_000, 0, 80_000.0)
    account.observe(of, reserved, (used_up,), 0.1)
    for second in range(1, 1_000):
        account.on_answer(of, send(of, float(second), cost_of("b")), second + 0.1)
    assert account.delay_s(of, cost_of("a"), 1_000.0) > 1_000


def test_names_of_models_and_their_limits_are_not_kept_without_bound() -> None:
    of = limiter()
    for number in range(3_000):
        tell(of, f"model-{number}", 1_000 + number % 300, number / 10)
        account.delay_s(of, cost_of(f"unheard-{number}"), number / 10)
    assert len(of.meters) <= account.METERS_MAX
    assert sum(len(meter.models) for meter in of.meters) <= account.METERS_MAX * 256
    assert len(of.by_model) <= 1_024


def test_the_limit_of_one_model_among_several_is_told_with_its_name() -> None:
    of = limiter()
    tell(of, "small", 6_000, 0.0)
    account.delay_s(of, cost_of("small", 6_000), 0.2)
    alone = account.binding(of, 0.2)
    tell(of, "large", 60_000, 0.3)
    account.delay_s(of, cost_of("small", 6_000), 0.4)
    beside = account.binding(of, 0.4)
    assert alone is not None
    assert beside is not None
    assert alone.message == "the provider's limit of 6,000 tokens per minute, 3,000 left"
    assert beside.message == "the provider's limit of 6,000 tokens per minute for small, 3,000 left"


# Refusals


def test_a_told_wait_stops_everything_for_that_long_but_an_hour_at_most() -> None:
    of = limiter()
    account.on_rate_limited(of, send(of, 0.0), 1.0, 7.0)
    assert account.delay_s(of, COST, 1.0) == pytest.approx(7.0)
    assert account.delay_s(of, COST, 8.01) == 0
    account.on_rate_limited(of, send(of, 9.0), 9.0, 1e9)
    assert account.delay_s(of, COST, 9.0) == 3600.0
    assert account.delay_s(of, COST, 9.0 + 3600.0) == 0


def test_a_wait_that_a_refusal_asks_for_is_of_its_model_and_one_of_the_server_for_all() -> None:
    of = limiter(Declared(requests_per_minute=6_000))
    large, small = Cost(1, 1, "large"), Cost(1, 1, "small")
    account.on_rate_limited(of, send(of, 0.0, large), 1.0, 7.0)
    assert account.delay_s(of, large, 1.0) == pytest.approx(7.0)
    assert account.delay_s(of, small, 1.0) == 0
    assert of.tells_models_apart
    bound = account.binding(of, 1.0)
    assert bound is not None
    assert bound.message == "the provider asked to wait 7 s more for large"
    assert account.binding(of, 1.0, model="small") is None
    assert account.delay_s(of, large, 8.01) == 0
    assert not of.tells_models_apart
    account.on_overload(of, send(of, 9.0, large), 9.0, 7.0)
    assert account.delay_s(of, small, 9.0) == pytest.approx(7.0)


@pytest.mark.parametrize("told_s", [0.0, -3.0, math.nan])
def test_a_told_wait_that_makes_no_sense_is_as_if_absent(told_s: float) -> None:
    of = limiter()
    account.on_rate_limited(of, send(of, 0.0), 1.0, told_s)
    assert of.paused_until == 0.0


def test_a_usage_beyond_all_measure_stops_the_calls_for_an_hour_at_most() -> None:
    of = limiter(Declared(tokens_per_minute=60_000))
    account.settle(of, send(of, 0.0), Cost(10, 10**12), 1.0)
    assert account.delay_s(of, COST, 1.0) == 3600.0
    assert account.delay_s(of, COST, 3_602.0) == 0


def test_what_is_owed_to_our_own_cap_is_still_owed_after_a_window_that_was_nearly_used_up() -> None:
    of = limiter(Declared(tokens_per_minute=60_000))
    for second in range(0, 30, 3):  # a window that ends at 60, with little left
        now = float(second)
        seen = minute("tokens", 100_000, 10_000, 60.0 - now)
        account.observe(of, send(of, now, Cost(10, 0)), (seen,), now)
    large = send(of, 30.0, Cost(40_000, 0))  # 40 s of the cap
    account.observe(of, large, (minute("tokens", 100_000, 10, 30.0),), 30.0)
    assert account.delay_s(of, COST, 30.0) == pytest.approx(40.0, abs=0.5)
    assert account.delay_s(of, COST, 60.1) > 9


def test_a_minute_that_is_said_to_end_in_a_month_ends_in_a_minute() -> None:
    of = limiter()
    for second in range(0, 20, 3):
        now = float(second)
        seen = minute("requests", 600, 300 - second, 2_000_000 - now)
        account.observe(of, send(of, now), (seen,), now)
    account.observe(of, send(of, 20.0), (minute("requests", 600, 0, 1_999_980.0),), 20.0)
    assert account.delay_s(of, COST, 20.0) <= 60
    assert account.delay_s(of, COST, 81.0) == 0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["send", "answer", "refuse", "told", "overload", "observe", "settle"]),
        st.one_of(st.floats(0, 2), st.floats(0, 200_000)),  # time that passes before
        st.one_of(st.floats(0, 1e15), st.sampled_from([0.0, 1.0, 1e-9])),
        st.one_of(st.none(), st.floats(0, 1e15)),
        st.sampled_from([SECOND_S, MINUTE_S, HOUR_S, DAY_S]),
        st.sampled_from(["requests", "tokens", "input_tokens", "output_tokens"]),
    ),
    max_size=60,
)


@given(EVENTS, st.sampled_from([None, Declared(requests_per_minute=100, tokens_per_day=1e5)]))
@settings(max_examples=200)
def test_nothing_that_a_provider_says_makes_a_wait_negative_endless_or_over_an_hour(
    events: list[tuple[str, float, float, float | None, float, str]], declared: Declared | None
) -> None:
    of, now = limiter(declared), 0.0
    out = [send(of, now)]
    for what, passes_s, number, other, span_s, kind in events:
        now += passes_s
        reserved = out[int(number) % len(out)]
        if what == "send":
            out.append(send(of, now))
        elif what == "answer":
            account.on_answer(of, reserved, now)
        elif what == "refuse":
            account.on_rate_limited(of, reserved, now, None)
        elif what == "told":
            account.on_rate_limited(of, reserved, now, number)
        elif what == "overload":
            account.on_overload(of, reserved, now, other)
        elif what == "observe":
            seen = LimitSeen(kind, span_s, number, other, other)  # type: ignore[arg-type]
            account.observe(of, reserved, (seen,), now)
        else:
            account.settle(of, reserved, Cost(int(number) % 10**9, 5), now)
        wait = account.delay_s(of, COST, now)
        assert 0 <= wait <= 3600
        assert of.allowed_in_flight >= 1
        account.binding(of, now, 10)


@given(st.lists(st.floats(1, 1e9), min_size=5, max_size=30))
@settings(max_examples=30)
def test_limits_that_change_with_every_call_neither_stall_nor_spin(limits: list[float]) -> None:
    of, now = limiter(), 0.0
    for limit in limits:
        waits = 0
        while (wait := account.delay_s(of, COST, now)) > 0:
            now += max(wait, 1e-6)
            waits += 1
            assert waits < 100
        reserved = send(of, now)
        now += 0.1
        account.observe(of, reserved, (minute("requests", limit, limit / 2, 30.0),), now)
    assert now <= 61 * len(limits)


def test_many_limits_of_odd_spans_are_not_kept_without_bound() -> None:
    of = limiter()
    for span in range(1, 200):
        seen = LimitSeen("requests", float(span), span + 5, 1, None)
        account.observe(of, send(of, 0.0), (seen,), 0.0)
    assert len(of.meters) <= account.METERS_MAX


@given(
    st.floats(60, 60_000),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 20)), min_size=1, max_size=30),
)
@settings(max_examples=60)
def test_a_told_limit_passes_at_most_its_rate_and_a_second_of_it_or_what_remains(
    per_minute: float, share: float, wishes: list[tuple[float, int]]
) -> None:
    of, now, times = limiter(), 0.1, []
    remaining = share * per_minute
    seen = minute("requests", per_minute, remaining, (1 - share) * 60)
    account.observe(of, send(of, 0.0), (seen,), now)
    for pause_s, calls in wishes:
        now += pause_s
        for _ in range(calls):
            now += account.delay_s(of, COST, now)
            send(of, now)
            times.append(now)
    rate, burst = per_minute / 60, max(1.0, per_minute / 60, remaining)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= rate * (times[last] - start) + burst + 1e-6


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 400)), min_size=1, max_size=12),
    st.floats(0.001, 30),
    st.one_of(st.none(), st.floats(0.1, 1e9)),
)
@settings(max_examples=100)
def test_whatever_is_refused_calls_go_on_within_an_hour_and_nothing_spins(
    answers: list[tuple[bool, int]], latency_s: float, told_s: float | None
) -> None:
    of, now = limiter(), 0.0
    for is_let_in, calls in answers:
        for _ in range(calls):
            asked_at, looks = now, 0
            while (wait := account.delay_s(of, COST, now)) > 0:
                now += max(wait, 1e-6)
                looks += 1
                assert now - asked_at <= 3_600 + 60
                assert looks <= 30 * (now - asked_at) + 10
            reserved = send(of, now)
            now += latency_s
            if is_let_in:
                account.on_answer(of, reserved, now)
            else:
                account.on_rate_limited(of, reserved, now, told_s)


# What holds it back


def test_the_limit_that_binds_is_named_with_its_figures() -> None:
    of = limiter(Declared(requests_per_minute=600))
    send_all(of, 0.0, 1.0)
    binding = account.binding(of, 1.0)
    assert binding is not None
    assert (binding.what, binding.limit, binding.span_s) == ("cap", 600, MINUTE_S)
    assert binding.message == "the configured cap of 600 requests per minute"


def test_a_limit_of_the_provider_is_told_from_our_own_cap() -> None:
    of = limiter()
    seen = minute("output_tokens", 6_000, 5_000, 10.0)
    account.observe(of, send(of, 0.0), (seen,), 0.1)
    send_all(of, 0.1, 3.0)
    binding = account.binding(of, 3.0)
    assert binding is not None
    assert (binding.what, binding.remaining) == ("output_tokens", 5_000)
    assert "provider's limit of 6,000 output tokens per minute, 5,000 left" in binding.message


def test_a_wait_concurrency_and_capacity_are_named_too() -> None:
    of = limiter(max_concurrency=2)
    full = account.binding(of, 0.0, 2)
    assert full is not None
    assert full.what == "concurrency"
    account.on_rate_limited(of, send(of, 0.0), 1.0, 30.0)
    waiting = account.binding(of, 1.0)
    assert waiting is not None
    assert (waiting.what, waiting.wait_s) == ("wait", 30.0)
    slow = limiter()
    account.on_overload(slow, send(slow, 0.0), 1.0)
    held = account.binding(slow, 1.0, 35)
    assert held is not None
    assert (held.what, held.limit) == ("capacity", 35)


def test_a_wait_always_moves_the_clock_however_little_is_missing() -> None:
    now = 1e6
    nearly = limits_bucket.Bucket(rate_per_s=1e4, burst=10.0, level=1.0 - 2e-9, at=now)

    assert now + limits_bucket.wait_s(nearly, 1, now) > now
