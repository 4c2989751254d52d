"""Completion windows: `<n>m`, `<n>h` or `<n>d` (batch API contract, section 7)."""

from __future__ import annotations

import re

from batchwright.domain.errors import UsageError

WINDOW_S_MIN = 60
WINDOW_S_MAX = 14 * 86_400

_UNIT_S = {"m": 60, "h": 3_600, "d": 86_400}
_FORM = re.compile(r"([1-9][0-9]{0,6})([mhd])")


def window_s(window: str) -> int:
    """Seconds of a window. Raises `UsageError` for anything but 1 minute to 14 days."""
    found = _FORM.fullmatch(window)
    seconds = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not WINDOW_S_MIN <= seconds <= WINDOW_S_MAX:
        raise UsageError(
            f"Invalid value: '{window}'. Supported values are '24h' and any window from "
            "'1m' to '14d', as a number of minutes (m), hours (h) or days (d).",
            param="completion_window",
            code="invalid_value",
        )
    return seconds
