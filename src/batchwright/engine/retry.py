"""What is to be done after each outcome of an attempt. One table; no I/O, no clock.

| outcome | retried | uses an attempt | slows the lane | may be paid | stops |
|---|---|---|---|---|---|
| not sent | yes | yes | yes | no | – |
| ambiguous (timeout, broken connection) | yes | yes | yes | yes | – |
| answer too large | no | | no | yes | – |
| 2xx whose body does not check | yes | yes | no | yes | – |
| no money: 402; or 400, 403, 429 that say so | yes | no | no | no | the credential, if all are |
| key refused: 401, 403 | yes | no | no | no | the credential, if all are |
| 403 about the model or the content | no | | no | no | – |
| 429 | yes | no | yes | no | the lane, if `retry-after` |
| 429 about this one request: larger than the whole limit | no | | no | no | – |
| 408, 502, 504, 524 | yes | yes | yes | yes | the lane, if `retry-after` |
| 503, 529, other 5xx of gateways | yes | yes | yes | no | the lane, if `retry-after` |
| 500, 409, 425 | yes | yes | no | no | the lane, if `retry-after` |
| 501, 505 and every other status | no | | no | no | – |

Waits are exponential with full jitter (base 1 s, cap 60 s), or what `retry-after` says, up to
an hour. Those of a refused credential grow with all tries of the request; whether it is the
request alone that is refused, `credential` says. A request that used up its attempts is not
retried. What slows the lane uses no attempt while the lane is down: an outage is not held against
the requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from batchwright.domain.answers import BadAnswer
from batchwright.domain.errors import AnswerTooLarge, NotSent, TransportError
from batchwright.providers.base import Answer

BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 60.0
RETRY_AFTER_MAX_S = 3600.0

_BODY_BYTES_MAX = 64 * 1024  # an error that says more than this is not searched for its code
_HEADER_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table."""

    cause: str  # a short name to group by
    error_code: str = "request_failed"  # of a result line that has no HTTP answer to show
    is_retried: bool = False
    uses_attempt: bool = True
    slows_lane: bool = False
    may_be_paid: bool = False
    stops_credential: bool = False  # unless it is this request alone


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with the request, and with the lane it came from."""

    rule: Rule
    retry: bool
    uses_attempt: bool = True
    wait_s: float = 0.0  # before the request is tried again
    stops_lane_s: float = 0.0  # nothing is sent on the lane for that long; 0: it goes on


_SUCCESS = Rule("success")
_NOT_SENT = Rule("not_sent", is_retried=True, slows_lane=True)
_AMBIGUOUS = Rule("ambiguous", is_retried=True, slows_lane=True, may_be_paid=True)
_TOO_LARGE = Rule("answer_too_large", "response_too_large", may_be_paid=True)
_BAD_ANSWER = Rule("bad_answer", "invalid_response", is_retried=True, may_be_paid=True)
_NO_MONEY = Rule("no_money", is_retried=True, uses_attempt=False, stops_credential=True)
_KEY_REFUSED = Rule("key_refused", is_retried=True, uses_attempt=False, stops_credential=True)
_RATE_LIMITED = Rule("rate_limited", is_retried=True, uses_attempt=False, slows_lane=True)
_OVERLOADED = Rule("overloaded", is_retried=True, slows_lane=True)
_GATEWAY = Rule("gateway_timeout", is_retried=True, slows_lane=True, may_be_paid=True)
_SERVER_ERROR = Rule("server_error", is_retried=True)
_REDIRECTED = Rule("redirected")
_REFUSED = Rule("refused")

_BY_STATUS: Mapping[int, Rule] = {
    401: _KEY_REFUSED,
    402: _NO_MONEY,
    403: _KEY_REFUSED,
    408: _GATEWAY,
    409: _SERVER_ERROR,
    425: _SERVER_ERROR,
    429: _RATE_LIMITED,
    500: _SERVER_ERROR,
    501: _REFUSED,
    502: _GATEWAY,
    504: _GATEWAY,
    505: _REFUSED,
    524: _GATEWAY,
}

# Codes and types of the error body. OpenAI: platform.openai.com/docs/guides/error-codes;
# Anthropic: `enforced_spend_limit_reached`, `billing_error`.
_MONEY = frozenset(
    {
        "insufficient_quota",
        "insufficient_balance",
        "insufficient_credits",
        "credit_balance_exhausted",
        "enforced_spend_limit_reached",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "exceeded_current_quota_error",
    }
)
_MONEY_ENDINGS = ("_spend_limit_exceeded", "_usage_limit_exceeded")
_MONEY_STATUSES = frozenset({400, 403, 429})
# A 403 that is about this request and not about the key: OpenAI's for a model that the project
# may not use, OpenRouter's for an input that moderation flagged.
_ONE_REQUEST = ("model", "moderation", "flagged", "content_policy", "content_filter")

# OpenAI's 429 for a request that is larger than its limit of a whole minute: it never passes.
_TOO_LARGE_FOR_LIMIT = b"Request too large for "

DONE = Decision(_SUCCESS, retry=False)


def decide(
    outcome: Answer | TransportError | BadAnswer,
    *,
    attempt: int,
    max_attempts: int,
    random: Callable[[], float],
    now_s: float,
    tries: int = 1,
    is_down: bool = False,
) -> Decision:
    """What follows from the outcome of an attempt.

    `outcome` is the answer as it came, or what was raised in its place; a 2xx whose body failed
    `check_answer` comes as its `BadAnswer`. `attempt` counts the attempts used up so far and
    this one, from 1; `tries` all of them. `random` gives numbers in [0, 1). `now_s` is Unix time,
    for HTTP dates.
    `is_down`: the lane is tripped, and this was a probe or was sent before.
    """
    told_s = None
    if isinstance(outcome, Answer):
        if 200 <= outcome.status < 300:
            return DONE
        told_s = retry_after_s(outcome.headers, now_s)
    rule = _rule(outcome)
    stops_lane_s = _lane_stop_s(rule, told_s)
    uses_attempt = rule.uses_attempt and not (is_down and rule.slows_lane)
    if not rule.is_retried or (uses_attempt and attempt >= max_attempts):
        return Decision(rule, retry=False, stops_lane_s=stops_lane_s)
    wait_s = _wait_s(told_s, tries if rule.stops_credential else attempt, random)
    return Decision(rule, True, uses_attempt, wait_s, stops_lane_s)


def said_of(outcome: Answer | TransportError | BadAnswer) -> str:
    """What went wrong, short and without data, for the operator."""
    return f"HTTP {outcome.status}" if isinstance(outcome, Answer) else str(outcome)


def backoff_s(attempt: int, random: Callable[[], float]) -> float:
    """Exponential with full jitter: from 0 up to 1, 2, 4 … 60 s after attempt 1, 2, 3 …"""
    ceiling_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(max(attempt - 1, 0), 16))
    return random() * ceiling_s


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """How long the provider asks to wait: more than 0, at most an hour; None where it does not.

    Reads `retry-after-ms`, then `retry-after` as seconds or as an HTTP date (RFC 9110, 10.2.3).
    What makes no sense, or lies in the past, is as if absent.
    """
    milliseconds = _positive(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, RETRY_AFTER_MAX_S)
    text = headers.get("retry-after")
    seconds = _positive(text)
    if seconds is None and text is not None:
        seconds = _until(text, now_s)
    return None if seconds is None else min(seconds, RETRY_AFTER_MAX_S)


def _rule(outcome: Answer | TransportError | BadAnswer) -> Rule:
    match outcome:
        case Answer():
            return _answer_rule(outcome.status, outcome.body)
        case NotSent():
            return _NOT_SENT
        case AnswerTooLarge():
            return _TOO_LARGE
        case BadAnswer():
            return _BAD_ANSWER
        case _:
            return _AMBIGUOUS


def _answer_rule(status: int, body: bytes) -> Rule:
    words = _error_words(body) if status in _MONEY_STATUSES else ()
    if any(word in _MONEY or word.endswith(_MONEY_ENDINGS) for word in words):
        return _NO_MONEY
    if status == 403 and any(mark in word for word in words for mark in _ONE_REQUEST):
        return _REFUSED
    if status == 429 and _TOO_LARGE_FOR_LIMIT in body[:_BODY_BYTES_MAX]:
        return _REFUSED
    if status < 400:
        return _REDIRECTED
    return _BY_STATUS.get(status, _OVERLOADED if status >= 500 else _REFUSED)


def _lane_stop_s(rule: Rule, told_s: float | None) -> float:
    if told_s is None or rule.stops_credential or not rule.is_retried:
        return 0.0
    return told_s


def _wait_s(told_s: float | None, attempt: int, random: Callable[[], float]) -> float:
    return told_s if told_s is not None else backoff_s(attempt, random)


def _error_words(body: bytes) -> tuple[str, ...]:
    """The `code`, `type` and `status` of an error body, and the keys of its `metadata`."""
    if len(body) > _BODY_BYTES_MAX:
        return ()
    try:
        whole = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    error = whole.get("error", whole) if isinstance(whole, dict) else None
    return tuple(_words(error)) if isinstance(error, dict) else ()


def _words(error: Mapping[str, object]) -> Iterator[str]:
    for name in ("code", "type", "status"):
        word = error.get(name)
        if isinstance(word, str):
            yield word.lower()
    metadata = error.get("metadata")  # OpenRouter: {"reasons": [...], "flagged_input": "..."}
    if isinstance(metadata, dict):
        yield from (key for key in metadata if isinstance(key, str))


def _positive(text: str | None) -> float | None:
    if text is None or len(text) > _HEADER_CHARS_MAX:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _until(text: str, now_s: float) -> float | None:
    if len(text) > _HEADER_CHARS_MAX:
        return None
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:  # "-0000": UTC without a place
            date = date.replace(tzinfo=UTC)
        wait_s = date.timestamp() - now_s
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return wait_s if wait_s > 0 else None
