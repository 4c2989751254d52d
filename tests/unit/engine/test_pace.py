"""The pace: the rate of the last seconds, and the spans of the last minutes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.pace import MEMORY_S, SPANS_MAX, WINDOW_S, Pace


def paced(*steps: tuple[int, int]) -> tuple[Pace, float, int]:
    """After steps of (seconds, settled in each of them); each tenth of a second is noted."""
    pace, tenths, settled = Pace(), 0, 0.0
    for seconds, each in steps:
        for _ in range(10 * seconds):
            pace.note(tenths / 10, int(settled))
            tenths += 1
            settled += each / 10
    return pace, tenths / 10, round(settled)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    pace, now, settled = paced((30, 10), (20, 50))

    assert pace.per_s(now, settled) == pytest.approx(50, rel=0.02)


def test_it_falls_to_nothing_where_nothing_settles() -> None:
    pace, now, settled = paced((30, 10))

    assert pace.per_s(now + WINDOW_S / 2, settled) == pytest.approx(5, rel=0.1)
    assert pace.per_s(now + 3 * WINDOW_S, settled) == 0.0
    assert Pace().per_s(5.0, 0) == 0.0


def test_the_spans_show_how_the_rate_has_changed() -> None:
    pace, now, settled = paced((100, 10), (100, 50))
    spans, span_s = pace.spans_per_s(now, settled)

    assert span_s == pytest.approx(20)
    assert spans[:5] == pytest.approx([10] * 5, rel=0.05)
    assert spans[5:] == pytest.approx([50] * 5, rel=0.05)


def test_what_is_older_than_five_minutes_is_forgotten() -> None:
    pace, now, settled = paced((200, 10), (310, 50))
    spans, span_s = pace.spans_per_s(now, settled)

    assert span_s * len(spans) == MEMORY_S
    assert spans == pytest.approx([50] * SPANS_MAX, rel=0.02)


def test_nothing_is_told_of_less_than_a_second() -> None:
    assert Pace().spans_per_s(3.0, 0) == ([], 0.0)
    pace, now, settled = paced((1, 10))
    assert pace.spans_per_s(now - 0.1, settled) == ([], 0.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), min_size=1, max_size=50))
def test_the_spans_add_up_to_what_has_settled(steps: list[tuple[float, int]]) -> None:
    pace, now, settled = Pace(), 0.0, 0
    for passed_s, more in steps:
        pace.note(now, settled)
        now, settled = now + passed_s, settled + more
    spans, span_s = pace.spans_per_s(now, settled)

    assert all(rate >= -1e-6 for rate in spans)
    assert sum(spans) * span_s <= settled + 1e-3
    if spans and now <= MEMORY_S:
        assert sum(spans) * span_s == pytest.approx(settled, abs=1e-3)
