from __future__ import annotations

import pytest

from batchwright.domain.errors import ConfigError
from batchwright.sandbox.latency import Fixed, Latency, LogNormal, Uniform, parse_latency


@pytest.mark.parametrize(
    ("text", "latency"),
    [
        ("0", Fixed(0)),
        ("0.1", Fixed(0.1)),
        ("100ms", Fixed(0.1)),
        ("2s", Fixed(2)),
        ("50-150ms", Uniform(0.05, 0.15)),
        ("500ms-2s", Uniform(0.5, 2)),
        ("0.05-0.15", Uniform(0.05, 0.15)),
        ("lognormal:200ms,0.5", LogNormal(0.2, 0.5)),
    ],
)
def test_a_latency_is_read_from_its_text(text: str, latency: Latency) -> None:
    assert parse_latency(text) == latency


@pytest.mark.parametrize("text", ["", "fast", "-1", "150-50ms", "lognormal:1", "2h", "4000"])
def test_an_unreadable_latency_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match="50-150ms"):
        parse_latency(text)


def test_a_distribution_is_drawn_from_by_a_fraction() -> None:
    assert Uniform(1, 3).draw_s(0.5) == 2
    assert LogNormal(0.2, 0.5).draw_s(0.5) == pytest.approx(0.2)
    assert LogNormal(0.2, 0.5).draw_s(0.99) > 0.5
    assert LogNormal(3000, 5).draw_s(0.0) >= 0
    assert LogNormal(3000, 5).draw_s(1 - 2**-48) == 3600
