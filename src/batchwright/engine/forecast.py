"""When a batch will have ended: an expected time with an early and a late bound.

From the rates of its last minutes, in spans of the same length. The expected rate is their mean,
in which a later span weighs more. The bounds are a factor above and below it, which follows from
how much the spans differ (the standard error of their mean, at 95 %), and they take in the rate of
just now. Steady work so has a narrow range, unsteady work a wide one.

What holds the batch back may bound it further: no rate passes that of a limit, an allowance per
hour or day gives so much each time, and a batch that shares a lane gets faster when others end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, inf, log, sqrt
from statistics import fmean, pstdev

SCORE = 2.26  # Student's t at 95 % for ten spans
SPREAD_MIN = 0.03  # of the rate: nothing is steadier than that
SPREAD_SHORT = 0.35  # where less than `SPANS_MIN` spans are known
SPANS_MIN = 4
FACTOR_MAX = 10.0  # between the expected rate and a bound
SPAN_LAG = 1.02  # how much later than after its span an allowance is surely back
HORIZON_S = 10 * 366 * 86_400.0  # beyond ten years nothing is foretold


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a limit lets through: `requests` of this batch in each `span_s`."""

    requests: float
    span_s: float
    stock: float = 0.0  # requests that are left of it now, and may come on top
    is_allowance: bool = False  # all of it may be used at once, then nothing to the end of the span

    @property
    def per_s(self) -> float:
        return self.requests / self.span_s


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds from now to the end; early ≤ expected ≤ late."""

    expected_s: float
    early_s: float
    late_s: float


@dataclass(frozen=True, slots=True)
class _Rates:
    """Requests per second."""

    expected: float
    low: float
    high: float


def forecast(
    left: int,
    spans_per_s: Sequence[float],
    span_s: float,
    *,
    share: float = 1.0,
    wait_s: float = 0.0,
    ceiling: Ceiling | None = None,
) -> Forecast | None:
    """When `left` requests will have settled; None where nothing tells.

    `spans_per_s` are the rates of the last spans of `span_s` each, the oldest first. `share` is
    what the batch has of its lane (0 to 1], `wait_s` for how long nothing at all is sent, and
    `ceiling` what the whole limit lets through.
    """
    rates = _rates(spans_per_s, span_s, share)
    if ceiling is not None and ceiling.is_allowance:
        found = _by_allowance(left, rates, wait_s, ceiling)
    elif rates is not None:
        found = _by_rate(left, rates, share, wait_s, ceiling)
    else:
        return None
    return found if found.late_s < HORIZON_S else None


def _rates(spans_per_s: Sequence[float], span_s: float, share: float) -> _Rates | None:
    count = len(spans_per_s)
    mean = fmean(spans_per_s) if count else 0.0
    if mean * HORIZON_S < 1:
        return None
    expected = fmean(spans_per_s, weights=range(1, count + 1))
    recent = fmean(spans_per_s[-max(1, count // 4) :])
    factor = exp(min(SCORE * _spread(spans_per_s, span_s, mean), log(FACTOR_MAX)))
    low = max(min(expected / factor, recent), expected / FACTOR_MAX)
    high = min(max(expected * factor, recent), expected * FACTOR_MAX)
    return _Rates(expected, low, high / share)


def _spread(spans_per_s: Sequence[float], span_s: float, mean: float) -> float:
    """The standard error of the mean rate, as a part of it."""
    count = len(spans_per_s)
    spread = max(
        SPREAD_MIN,
        pstdev(spans_per_s) / mean / sqrt(max(count - 1, 1)),
        1 / sqrt(mean * span_s * count),  # so many have settled: chance alone makes this much
    )
    return spread if count >= SPANS_MIN else max(spread, SPREAD_SHORT)


def _by_rate(
    left: int, rates: _Rates, share: float, wait_s: float, ceiling: Ceiling | None
) -> Forecast:
    """At most the share of the limit; at best all of it, and what is in stock."""
    most, stock = (inf, 0.0) if ceiling is None else (ceiling.per_s, ceiling.stock)
    return Forecast(
        expected_s=wait_s + left / min(rates.expected, share * most),
        early_s=wait_s + max(left / rates.high, (left - stock) / most),
        late_s=wait_s + left / min(rates.low, share * most),
    )


def _by_allowance(left: int, rates: _Rates | None, wait_s: float, allowance: Ceiling) -> Forecast:
    """It comes back all at once, bit by bit, or each bit a span after it was used: which of them
    is not known, so all are in the range."""
    rounds, rest = divmod(left, allowance.requests)
    at_once_s = wait_s + rounds * allowance.span_s
    bit_by_bit_s = wait_s + left / allowance.per_s
    late_s = max(bit_by_bit_s, ceil(left / allowance.requests) * allowance.span_s * SPAN_LAG)
    if rates is None:
        return Forecast(bit_by_bit_s, at_once_s, late_s)
    expected_s = at_once_s + rest / rates.expected
    return Forecast(
        expected_s=expected_s,
        early_s=at_once_s + rest / rates.high,
        late_s=max(late_s, at_once_s + rest / rates.low),
    )
