"""Completion windows: what is understood, and that the rest is refused in plain words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.errors import UsageError
from batchwright.domain.window import WINDOW_S_MAX, WINDOW_S_MIN, age_s, span_of, window_s


@pytest.mark.parametrize(
    ("window", "seconds"),
    [
        ("24h", 86_400),
        ("1m", 60),
        ("90m", 5_400),
        ("1h", 3_600),
        ("14d", 1_209_600),
        ("336h", 1_209_600),
    ],
)
def test_minutes_hours_and_days_are_understood(window: str, seconds: int) -> None:
    assert window_s(window) == seconds


@pytest.mark.parametrize(
    "window",
    [
        *("", "0m", "59s", "24", "h", "24H", "1w", "15d", "337h", "20161m", "01h", "-1h", "+1h"),
        *("1.5h", " 24h", "24h ", "24h\n", "24 h", "1h1m", "\u0662h", "9999999999d", "24h" * 1000),
    ],
)
def test_anything_else_is_refused_and_named(window: str) -> None:
    with pytest.raises(UsageError) as refused:
        window_s(window)
    assert refused.value.param == "completion_window"
    assert "24h" in refused.value.message


@given(st.text(max_size=10))
def test_no_text_gives_a_window_out_of_bounds(window: str) -> None:
    try:
        seconds = window_s(window)
    except UsageError:
        return
    assert WINDOW_S_MIN <= seconds <= WINDOW_S_MAX


@pytest.mark.parametrize(
    ("age", "seconds"), [("1s", 1), ("90m", 5_400), ("24h", 86_400), ("365d", 31_536_000)]
)
def test_an_age_is_from_a_second_to_a_year(age: str, seconds: int) -> None:
    assert age_s(age) == seconds


@pytest.mark.parametrize("age", ["", "0s", "366d", "soon", "7", "7w", "1.5h", "7d ", "-1s"])
def test_any_other_age_is_refused_with_what_is_expected(age: str) -> None:
    with pytest.raises(UsageError, match="a span from 1s to 365d") as refused:
        age_s(age)
    assert repr(age) in refused.value.message


@pytest.mark.parametrize("age", ["7d", "36h", "90m", "61s"])
def test_an_age_is_written_as_it_is_read(age: str) -> None:
    assert span_of(age_s(age)) == age
