"""Spans as a person writes them: `<n>m`, `<n>h` or `<n>d`.

Of completion windows, and of the age of earlier answers.
"""

from __future__ import annotations

import re

from batchwright.domain.errors import UsageError

WINDOW_S_MIN = 60
WINDOW_S_MAX = 14 * 86_400
AGE_S_MAX = 365 * 86_400  # answers are kept for 30 days unless it is told otherwise

_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_FORM = re.compile(r"([1-9][0-9]{0,7})([smhd])")


def window_s(window: str) -> int:
    """Seconds of a window. Raises `UsageError` for anything but 1 minute to 14 days."""
    seconds = 0 if window.endswith("s") else _seconds(window)
    if not WINDOW_S_MIN <= seconds <= WINDOW_S_MAX:
        raise UsageError(
            f"Invalid value: '{window}'. Supported values are '24h' and any window from "
            "'1m' to '14d', as a number of minutes (m), hours (h) or days (d).",
            param="completion_window",
            code="invalid_value",
        )
    return seconds


def age_s(age: str) -> int:
    """Seconds of an age, `s` included. Raises `UsageError` for anything but 1 second to a year."""
    seconds = _seconds(age)
    if not 1 <= seconds <= AGE_S_MAX:
        raise UsageError(
            "expected a span from 1s to 365d, as a number of seconds (s), minutes (m), hours (h) "
            f"or days (d), got {age!r}",
            code="invalid_value",
        )
    return seconds


def span_of(seconds: int) -> str:
    """Seconds as a person writes them, in the largest unit that leaves no rest: `7d`, `90m`."""
    unit = next(unit for unit in "dhms" if seconds % _UNIT_S[unit] == 0)
    return f"{seconds // _UNIT_S[unit]}{unit}"


def _seconds(span: str) -> int:
    """0 for what is no span."""
    found = _FORM.fullmatch(span)
    return int(found[1]) * _UNIT_S[found[2]] if found else 0
