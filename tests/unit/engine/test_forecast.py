"""The forecast: right for steady work, wide for unsteady work, and never in the past."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchwright.engine.forecast import FACTOR_MAX, HORIZON_S, Ceiling, forecast

RATES = st.lists(st.floats(0, 1e5), max_size=10)
CEILINGS = st.none() | st.builds(
    Ceiling,
    st.floats(0.1, 1e6),
    st.sampled_from([60.0, 86_400.0]),
    st.floats(0, 1e6),
    st.booleans(),
)


def ends(left: int, *rates: float, **options: object) -> tuple[float, float, float]:
    """(early, expected, late) in seconds, from spans of ten seconds."""
    found = forecast(left, rates, 10.0, **options)  # type: ignore[arg-type]
    assert found is not None
    return found.early_s, found.expected_s, found.late_s


@given(st.floats(0.1, 1e4), st.integers(1, 10**7), st.integers(4, 10))
def test_the_range_holds_the_truth_of_a_steady_rate(rate: float, left: int, count: int) -> None:
    early, expected, late = ends(left, *[rate] * count)

    assert early < left / rate < late
    assert expected == pytest.approx(left / rate)


@given(
    st.integers(1, 10**7),
    RATES,
    st.floats(0.01, 1),
    st.floats(0, 3600),
    CEILINGS,
)
@example(1, [5e-324], 1.0, 0.0, None)
@example(1, [5e-324], 1.0, 0.0, Ceiling(1.0, 60.0, 0.0, True))
def test_an_end_is_never_in_the_past_and_within_its_range(
    left: int, rates: list[float], share: float, wait_s: float, ceiling: Ceiling | None
) -> None:
    found = forecast(left, rates, 1.0, share=share, wait_s=wait_s, ceiling=ceiling)

    if found is not None:
        slack = 1e-9 * found.late_s
        assert wait_s <= found.early_s <= found.expected_s + slack
        assert found.expected_s <= found.late_s + slack
        assert found.late_s < HORIZON_S


@given(st.floats(0.0, 0.9), st.floats(0.01, 0.1))
def test_the_range_widens_with_how_unsteady_the_work_is(swing: float, more: float) -> None:
    def width(swing: float) -> float:
        rates = [100 * (1 + swing * (1 if at % 2 else -1)) for at in range(10)]
        early, _, late = ends(10_000, *rates)
        return late / early

    assert width(min(swing + more, 1.0)) >= 0.999 * width(swing)
    assert width(1.0) > 1.5 * width(0.0)


def test_of_nothing_or_of_few_spans_little_is_said() -> None:
    assert forecast(10, [], 1.0) is None
    assert forecast(10, [0.0, 0.0], 1.0) is None
    early, _, late = ends(1000, 100.0)
    assert late / early > 4


def test_few_results_make_a_wide_range_however_even_they_come() -> None:
    few_early, _, few_late = ends(100, *[0.1] * 10)
    many_early, _, many_late = ends(100, *[100.0] * 10)

    assert few_late / few_early > 1.8 > many_late / many_early


def test_what_has_just_changed_is_in_the_range() -> None:
    slower = ends(1000, *[100.0] * 8, 20.0, 20.0)
    faster = ends(1000, *[20.0] * 8, 100.0, 100.0)

    assert slower[2] >= 1000 / 20
    assert faster[0] <= 1000 / 100


def test_a_batch_that_stands_still_for_a_while_has_a_range_with_an_end() -> None:
    early, expected, late = ends(1000, *[100.0] * 8, 0.0, 0.0)

    assert early < expected < late <= 1.001 * FACTOR_MAX * expected


def test_no_rate_passes_the_limit_but_the_share_of_it_may_grow() -> None:
    cap = Ceiling(600, 60.0)
    burst = ends(1000, *[40.0] * 10, ceiling=cap)
    shared = ends(1000, *[2.0] * 10, ceiling=cap, share=0.2)

    stocked = ends(1000, *[40.0] * 10, ceiling=Ceiling(600, 60.0, stock=300))
    newly_shared = ends(1000, *[10.0] * 10, ceiling=cap, share=0.2)

    assert burst[0] == burst[1] == 100
    assert (stocked[0], stocked[1]) == (70, 100)
    assert newly_shared[1] == 500
    assert shared[0] == 100
    assert shared[1] == 500


def test_an_allowance_per_day_gives_so_much_each_day() -> None:
    allowance = Ceiling(1000, 86_400.0, is_allowance=True)
    early, expected, late = ends(2500, *[10.0] * 10, wait_s=600.0, ceiling=allowance)
    unknown = forecast(2500, [], 0.0, wait_s=600.0, ceiling=allowance)

    assert expected == pytest.approx(600 + 2 * 86_400 + 50)
    assert early < expected < late == pytest.approx(1.02 * 3 * 86_400)
    assert unknown is not None
    assert (unknown.early_s, unknown.expected_s) == (600 + 2 * 86_400, 600 + 2.5 * 86_400)
    assert unknown.late_s == late
