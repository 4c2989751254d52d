"""Rate-limit headers: the families that providers send, read into plain values.

| family | names | who |
|---|---|---|
| OpenAI | `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, reset as `6m0s` | OpenAI, Azure,
  Groq (there requests are per day), vLLM gateways |
| with a span | the same with `-minute`, `-hour`, `-day` behind; `req` for `requests` | Cerebras,
  Mistral |
| by size | `x-ratelimitbysize-{limit,remaining,reset}-minute` (tokens) | Mistral |
| Anthropic | `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,…}`, reset in
  RFC 3339 | Anthropic |
| bare | `x-ratelimit-{limit,remaining,reset}`, `x-tokenlimit-{…}`, per second | Together;
  OpenRouter (reset as a Unix time in ms) |

Sources: platform.openai.com/docs/guides/rate-limits, docs.claude.com/en/api/rate-limits,
console.groq.com/docs/rate-limits, inference-docs.cerebras.ai/support/rate-limits,
docs.together.ai/docs/rate-limits. `retry-after` is read where retries are decided.

Whatever cannot be read is as if absent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace

from batchwright.domain.limits import DAY_S, HOUR_S, MINUTE_S, SECOND_S, Kind, LimitSeen

READ_EVERY_S = 0.05  # of an account that sends limits; between, its answers cost nothing
LOOK_EVERY_S = 10.0  # at an account that sent none in its first answers
FIRST_LOOKS = 20
RESET_S_MAX = 31 * DAY_S
AMOUNT_MAX = 1e15

_TEXT_CHARS_MAX = 64
_MINUTE_AT_MOST_S = 66.0  # a reset beyond it is not that of a minute
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(ms|us|µs|ns|d|h|m|s)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Names(NamedTuple):
    """The three headers of one limit; a span of 0 has to be told from the values."""

    kind: Kind
    span_s: float
    limit: str
    remaining: str
    reset: str


def _openai(kind: Kind, word: str, span_s: float = 0.0) -> _Names:
    fields = (f"x-ratelimit-{field}-{word}" for field in ("limit", "remaining", "reset"))
    return _Names(kind, span_s, *fields)


def _anthropic(kind: Kind, word: str) -> _Names:
    fields = (f"anthropic-ratelimit-{word}-{field}" for field in ("limit", "remaining", "reset"))
    return _Names(kind, MINUTE_S, *fields)


def _bare(kind: Kind, prefix: str) -> _Names:
    return _Names(kind, 0.0, *(f"{prefix}-{field}" for field in ("limit", "remaining", "reset")))


_SPANS = (("minute", MINUTE_S), ("hour", HOUR_S), ("day", DAY_S))
_BARE = (_bare("requests", "x-ratelimit"), _bare("tokens", "x-tokenlimit"))
_ALL = (
    _openai("requests", "requests"),
    _openai("tokens", "tokens"),
    *(_openai("requests", f"requests-{name}", span_s) for name, span_s in _SPANS),
    *(_openai("requests", f"req-{name}", span_s) for name, span_s in _SPANS),
    *(_openai("tokens", f"tokens-{name}", span_s) for name, span_s in _SPANS),
    _Names(
        "tokens",
        MINUTE_S,
        "x-ratelimitbysize-limit-minute",
        "x-ratelimitbysize-remaining-minute",
        "x-ratelimitbysize-reset-minute",
    ),
    _anthropic("requests", "requests"),
    _anthropic("input_tokens", "input-tokens"),
    _anthropic("output_tokens", "output-tokens"),
    _anthropic("tokens", "tokens"),
    *_BARE,
)


class RateLimitReader:
    """Reads the limits of one account.

    It remembers which headers the account sends, looks for no others, and reads them twenty
    times a second at most; an account that sends none is looked at every ten seconds. So most
    answers cost one comparison.
    """

    __slots__ = ("_long", "_looks", "_names", "_next_at")

    def __init__(self) -> None:
        self._names: tuple[_Names, ...] = ()
        self._looks = 0
        self._next_at = -math.inf
        # Limits that turned out to be per hour or day: the span, and when a reset last said so.
        self._long: dict[str, tuple[float, float]] = {}

    def read(
        self, headers: Mapping[str, str], now_s: float, *, is_refusal: bool = False
    ) -> tuple[LimitSeen, ...]:
        """The limits in the headers of an answer; `now_s` is Unix time.

        Empty where there are none, and for answers between two readings, but not for a refusal.
        """
        if now_s < self._next_at and not is_refusal and now_s > self._next_at - MINUTE_S:
            return ()
        if not self._names or is_refusal:
            self._names = _sent(headers) or self._names
            self._looks += 1
        if self._names:
            self._next_at = now_s + READ_EVERY_S
        elif self._looks >= FIRST_LOOKS:
            self._next_at = now_s + LOOK_EVERY_S
        seen = (self._seen(names, headers, now_s) for names in self._names)
        return tuple(limit for limit in seen if limit is not None)

    def _seen(self, names: _Names, headers: Mapping[str, str], now_s: float) -> LimitSeen | None:
        limit = _number(headers.get(names.limit))
        remaining = _number(headers.get(names.remaining))
        if limit is None and remaining is None:
            return None
        reset_s = _reset_s(headers.get(names.reset), now_s)
        seen = LimitSeen(names.kind, names.span_s, limit, remaining, reset_s, names.limit)
        return seen if seen.span_s else replace(seen, span_s=self._span_s(names, seen, now_s))

    def _span_s(self, names: _Names, seen: LimitSeen, now_s: float) -> float:
        """Per minute, unless resets are further off; for the bare names per second."""
        reset_s = seen.reset_s
        if reset_s is not None and reset_s > _MINUTE_AT_MOST_S:
            self._long[seen.header] = _long_span_s(seen.limit, seen.remaining, reset_s), now_s
        if (long := self._long.get(seen.header)) is not None:
            span_s, said_at = long
            # The resets of a window that ends in a moment are as short, but not for long.
            if now_s - said_at <= _MINUTE_AT_MOST_S or not _fits_a_minute(seen):
                return span_s
            del self._long[seen.header]
        is_bare = names in _BARE and (reset_s is None or reset_s <= 2 * SECOND_S)
        return SECOND_S if is_bare else MINUTE_S


def _sent(headers: Mapping[str, str]) -> tuple[_Names, ...]:
    """The limits that these headers name. Anthropic's `tokens` repeats one of the two others."""
    found = [names for names in _ALL if names.limit in headers or names.remaining in headers]
    if any(names.kind == "input_tokens" for names in found):
        found = [names for names in found if names.kind != "tokens"]
    return tuple(found)


def _long_span_s(limit: float | None, remaining: float | None, reset_s: float) -> float:
    """An hour or a day: a limit that comes back evenly needs `reset_s` for what is used of it."""
    if reset_s <= HOUR_S and limit and remaining is not None and limit > remaining:
        return DAY_S if reset_s * limit / (limit - remaining) > DAY_S / 4 else HOUR_S
    return DAY_S


def _fits_a_minute(seen: LimitSeen) -> bool:
    """Whether what is used of a limit comes back sooner than that of an hour or a day would."""
    if seen.limit is None or seen.remaining is None or seen.reset_s is None:
        return False
    used = seen.limit - seen.remaining
    return used > 0 and seen.reset_s * seen.limit <= _MINUTE_AT_MOST_S * used


def _number(text: str | None) -> float | None:
    if text is None or len(text) > _TEXT_CHARS_MAX:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number <= AMOUNT_MAX else None


def _reset_s(text: str | None, now_s: float) -> float | None:
    """Seconds from now: of `6m0s`, `12ms`, `1.5`, a Unix time in s or ms, or an RFC 3339 time."""
    if text is None or len(text) > _TEXT_CHARS_MAX:
        return None
    span_s = _number(text)
    if span_s is None:
        span_s = _duration_s(text) if text[-1:].isalpha() and "T" not in text else None
    elif span_s > 1e11:
        span_s = span_s / 1000 - now_s
    elif span_s > 1e9:
        span_s -= now_s
    if span_s is None:
        span_s = _until_s(text, now_s)
    return None if span_s is None else min(max(span_s, 0.0), RESET_S_MAX)


def _duration_s(text: str) -> float | None:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * (_UNIT_S.get(unit) or DAY_S) for number, unit in parts)


def _until_s(text: str, now_s: float) -> float | None:
    try:
        date = datetime.fromisoformat(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return date.timestamp() - now_s
    except (ValueError, OverflowError):
        return None
