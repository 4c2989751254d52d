"""Rate-limit headers of every family, and whatever else an upstream may send in their place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from batchwright.domain.limits import DAY_S, HOUR_S, MINUTE_S, SECOND_S, LimitSeen
from batchwright.providers.rate_limits import RESET_S_MAX, RateLimitReader

NOW_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def read(headers: Mapping[str, str]) -> dict[tuple[str, float], LimitSeen]:
    """The limits seen, but for the names of their headers."""
    seen = RateLimitReader().read(headers, NOW_S)
    return {(limit.kind, limit.span_s): structs.replace(limit, header="") for limit in seen}


def openai(kind: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": limit,
        f"x-ratelimit-remaining-{kind}": remaining,
        f"x-ratelimit-reset-{kind}": reset,
    }


def test_openai_names_requests_and_tokens_per_minute() -> None:
    seen = read(
        openai("requests", "5000", "4999", "12ms") | openai("tokens", "160000", "0", "1m0s")
    )
    assert seen == {
        ("requests", MINUTE_S): LimitSeen("requests", MINUTE_S, 5000, 4999, 0.012),
        ("tokens", MINUTE_S): LimitSeen("tokens", MINUTE_S, 160000, 0, 60.0),
    }


def test_azure_may_say_only_what_remains() -> None:
    seen = read({"x-ratelimit-remaining-tokens": "19913", "x-ratelimit-remaining-requests": "19"})
    assert seen["tokens", MINUTE_S] == LimitSeen("tokens", MINUTE_S, None, 19913, None)


def test_groq_counts_requests_per_day_which_only_its_reset_tells() -> None:
    headers = openai("requests", "14400", "14370", "2m59.56s") | openai(
        "tokens", "18000", "17997", "7.66s"
    )
    assert set(read(headers)) == {("requests", DAY_S), ("tokens", MINUTE_S)}


def test_a_span_that_was_told_once_stays() -> None:
    reader = RateLimitReader()
    reader.read(openai("requests", "14400", "14370", "2m59.56s"), NOW_S)
    (seen,) = reader.read(openai("requests", "14400", "14399", "6s"), NOW_S + 1)
    assert seen.span_s == DAY_S


def test_a_limit_whose_resets_fit_a_minute_for_longer_than_one_is_per_minute_again() -> None:
    def span_s_at(after_s: float, remaining: str, reset: str) -> float:
        (seen,) = reader.read(openai("tokens", "6000", remaining, reset), NOW_S + after_s)
        return seen.span_s

    reader = RateLimitReader()
    assert span_s_at(0, "0", "2m0s") == HOUR_S  # far over the limit for once
    assert span_s_at(30, "3000", "30s") == HOUR_S  # it may be the end of an hour
    assert span_s_at(70, "5000", "10m") == HOUR_S
    assert span_s_at(100, "3000", "30s") == HOUR_S
    assert span_s_at(140, "5990", "30s") == HOUR_S  # an hour would bring ten back in six
    assert span_s_at(141, "3000", "30s") == MINUTE_S
    assert span_s_at(142, "5999", "10ms") == MINUTE_S


def test_an_hour_whose_end_comes_near_stays_an_hour() -> None:
    reader = RateLimitReader()
    for left_s in range(200, 0, -1):
        seen = reader.read(openai("requests", "100", "3", f"{left_s}s"), NOW_S - left_s)
        assert seen[0].span_s == HOUR_S
    (seen,) = reader.read(openai("requests", "100", "10", "54m"), NOW_S + 1)
    assert seen.span_s == HOUR_S


def test_each_limit_names_its_header() -> None:
    seen = RateLimitReader().read(openai("req-hour", "900", "899", "1"), NOW_S)
    assert [limit.header for limit in seen] == ["x-ratelimit-limit-req-hour"]


def test_cerebras_and_mistral_write_the_span_behind() -> None:
    seen = read(
        openai("requests-day", "14400", "14399", "33011.38")
        | openai("tokens-minute", "60000", "59000", "11.38")
        | openai("req-hour", "900", "899", "1")
    )
    assert set(seen) == {("requests", DAY_S), ("tokens", MINUTE_S), ("requests", HOUR_S)}
    assert seen["requests", DAY_S].reset_s == pytest.approx(33011.38)


def test_anthropic_tells_input_and_output_apart_and_a_time_to_reset() -> None:
    headers = {
        f"anthropic-ratelimit-{kind}-{field}": value
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
        for field, value in (
            ("limit", "4000"),
            ("remaining", "3999"),
            ("reset", "2026-01-01T00:00:30Z"),
        )
    }
    seen = read(headers)
    assert set(seen) == {
        ("requests", MINUTE_S),
        ("input_tokens", MINUTE_S),
        ("output_tokens", MINUTE_S),
    }
    assert seen["input_tokens", MINUTE_S].reset_s == pytest.approx(30.0)


def test_together_counts_per_second() -> None:
    seen = read(
        {
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "9",
            "x-ratelimit-reset": "1",
            "x-tokenlimit-limit": "3000",
            "x-tokenlimit-remaining": "2900",
        }
    )
    assert set(seen) == {("requests", SECOND_S), ("tokens", SECOND_S)}


def test_a_reset_may_be_a_unix_time_in_milliseconds() -> None:
    seen = read(
        {
            "x-ratelimit-limit": "20",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": str(int((NOW_S + 40) * 1000)),
        }
    )
    assert seen["requests", MINUTE_S].reset_s == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("text", "reset_s"),
    [
        ("6m0s", 360.0),
        ("1h2m3s", 3723.0),
        ("1.5s", 1.5),
        ("20ms", 0.02),
        ("0s", 0.0),
        ("7", 7.0),
        ("2d", 172_800.0),
        ("-5", None),
        ("nan", None),
        ("1e400", None),
        ("soon", None),
        ("3 s", None),
        ("2020-01-01T00:00:00Z", 0.0),
        ("99999999999999s", RESET_S_MAX),
        ("9" * 65, None),
        ("", None),
    ],
)
def test_a_reset_is_read_or_left_out(text: str, reset_s: float | None) -> None:
    seen = RateLimitReader().read(openai("tokens", "100", "50", text), NOW_S)
    assert seen[0].reset_s == (None if reset_s is None else pytest.approx(reset_s))


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *openai("requests", "", "", ""),
                *openai("tokens-day", "", "", ""),
                "x-ratelimit-limit",
                "x-ratelimit-reset",
                "anthropic-ratelimit-tokens-limit",
                "anthropic-ratelimit-tokens-reset",
            ]
        ),
        st.one_of(st.text(max_size=80), st.floats().map(str), st.integers().map(str)),
    )
)
def test_no_value_gives_a_number_that_makes_no_sense(headers: dict[str, str]) -> None:
    for seen in RateLimitReader().read(headers, NOW_S, is_refusal=True):
        for number in (seen.limit, seen.remaining, seen.reset_s):
            assert number is None or (math.isfinite(number) and number >= 0)
        assert seen.reset_s is None or seen.reset_s <= RESET_S_MAX


class Counted(Mapping[str, str]):
    """Headers that count how often they are asked."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers, self.asked = headers, 0

    def __getitem__(self, name: str) -> str:
        self.asked += 1
        return self.headers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)


def test_an_account_without_limits_is_soon_asked_no_more_but_every_ten_seconds() -> None:
    reader, headers = RateLimitReader(), Counted({"content-type": "application/json"})
    for call in range(20):
        reader.read(headers, NOW_S + call / 1000)
    asked = headers.asked
    for call in range(1_000):
        assert reader.read(headers, NOW_S + 1 + call / 1000) == ()
    assert headers.asked == asked
    headers.headers |= openai("requests", "10", "9", "6s")
    assert reader.read(headers, NOW_S + 11)


def test_limits_are_read_twenty_times_a_second_and_at_every_refusal() -> None:
    reader, headers = RateLimitReader(), openai("requests", "10", "9", "6s")
    assert reader.read(headers, NOW_S)
    assert reader.read(headers, NOW_S + 0.01) == ()
    assert reader.read(headers, NOW_S + 0.02, is_refusal=True)
    assert reader.read(headers, NOW_S + 0.08)


def test_a_clock_that_steps_back_does_not_stop_the_reading() -> None:
    reader, headers = RateLimitReader(), openai("requests", "10", "9", "6s")
    reader.read(headers, NOW_S)
    assert reader.read(headers, NOW_S - 7_200)
