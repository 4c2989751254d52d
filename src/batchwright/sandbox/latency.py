"""How long the sandbox takes to answer: a distribution, drawn from by the request's hash."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

from batchwright.domain.errors import ConfigError

LATENCY_MAX_S = 3600.0


class Latency(Protocol):
    """A distribution of waiting times."""

    def draw_s(self, fraction: float) -> float:
        """The waiting time at this point of the distribution, `0 <= fraction < 1`."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same for every request."""

    latency_s: float

    def draw_s(self, fraction: float) -> float:
        return self.latency_s


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every time between two is equally likely."""

    low_s: float
    high_s: float

    def draw_s(self, fraction: float) -> float:
        return self.low_s + (self.high_s - self.low_s) * fraction


@dataclass(frozen=True, slots=True)
class LogNormal:
    """The long right tail of real services; `sigma` is that of the logarithm."""

    median_s: float
    sigma: float

    def draw_s(self, fraction: float) -> float:
        quantile = NormalDist().inv_cdf(min(max(fraction, 1e-9), 1 - 1e-9))
        return min(self.median_s * math.exp(self.sigma * quantile), LATENCY_MAX_S)


def parse_latency(text: str) -> Latency:
    """Read `0.1`, `100ms`, `50-150ms`, `0.05-0.15` or `lognormal:200ms,0.5`.

    A number without a unit is in seconds; the unit of a range may stand once, at its end.
    Raises `ConfigError`.
    """
    if match := _LOGNORMAL.fullmatch(text.strip()):
        return LogNormal(_seconds(text, match[1], match[2]), float(match[3]))
    if match := _RANGE.fullmatch(text.strip()):
        low_s = _seconds(text, match[1], match[2] or match[4])
        high_s = _seconds(text, match[3], match[4])
        if low_s > high_s:
            raise _unreadable(text)
        return Uniform(low_s, high_s)
    if match := _FIXED.fullmatch(text.strip()):
        return Fixed(_seconds(text, match[1], match[2]))
    raise _unreadable(text)


_SPAN = r"(\d+\.?\d*|\.\d+)\s*(ms|s)?"
_FIXED = re.compile(_SPAN)
_RANGE = re.compile(rf"{_SPAN}\s*-\s*{_SPAN}")
_LOGNORMAL = re.compile(rf"lognormal:\s*{_SPAN}\s*,\s*(\d+\.?\d*|\.\d+)")


def _seconds(text: str, number: str, unit: str | None) -> float:
    span_s = float(number) / (1000 if unit == "ms" else 1)
    if span_s > LATENCY_MAX_S:
        raise _unreadable(text)
    return span_s


def _unreadable(text: str) -> ConfigError:
    return ConfigError(
        "latency: expected a time such as 0.1 or 100ms, a range such as 50-150ms, or "
        f"lognormal:MEDIAN,SIGMA such as lognormal:200ms,0.5, none over an hour; got {text!r}"
    )
