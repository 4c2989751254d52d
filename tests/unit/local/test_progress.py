from __future__ import annotations

from batchwright.local.progress import RATE_WINDOW_S, Meter


def test_rates_are_those_of_the_last_seconds() -> None:
    meter = Meter()
    meter.note(0.0, settled=0, calls=0, tokens=0)
    meter.note(RATE_WINDOW_S, settled=1000, calls=1000, tokens=1000)
    meter.note(2 * RATE_WINDOW_S, settled=1100, calls=1200, tokens=5000)

    assert meter.rates() == (10.0, 20.0, 400.0)


def test_one_moment_has_no_rate() -> None:
    meter = Meter()
    meter.note(5.0, settled=3, calls=3, tokens=9)

    assert meter.rates() == (0.0, 0.0, 0.0)
