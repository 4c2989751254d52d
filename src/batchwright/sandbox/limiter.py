"""Rate limits as providers enforce them: requests and tokens per minute, three algorithms.

Everything is a plain function of explicit state and a given monotonic clock.

`burst_s` is how many seconds' worth of the limit may be used at once: the size of the bucket, or
the length of the window. OpenAI's limits are per minute, but it may enforce them over shorter
spans (60,000 a minute as 1,000 a second), which is `burst_s=1`.

Sources: platform.openai.com/docs/guides/rate-limits (headers, estimate of tokens); the texts of
the 429 bodies are those that the API sends.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from batchwright.sandbox.answers import error_payload

Algorithm = Literal["bucket", "fixed", "sliding"]
TokenCount = Literal["estimate", "usage"]
SLOTS_PER_WINDOW = 1000


class Meter(Protocol):
    """One limit: an amount that is used up and comes back with time."""

    capacity: float

    def remaining(self, now_s: float) -> float:
        """What may be taken now."""
        ...

    def take(self, now_s: float, amount: float) -> None:
        """Use up an amount; a negative one gives back."""
        ...

    def wait_s(self, now_s: float, amount: float) -> float:
        """How long until `amount` may be taken; 0 if now."""
        ...

    def reset_s(self, now_s: float) -> float:
        """How long until the whole capacity is there again."""
        ...


class Bucket:
    """A token bucket: refills evenly, up to its capacity."""

    def __init__(self, per_minute: float, burst_s: float) -> None:
        self._rate = per_minute / 60
        self.capacity = max(self._rate * burst_s, 1.0)
        self._level = self.capacity
        self._at_s = -math.inf

    def remaining(self, now_s: float) -> float:
        if now_s > self._at_s:
            refill = (now_s - self._at_s) * self._rate
            self._level = min(self._level + refill, self.capacity)
            self._at_s = now_s
        return self._level

    def take(self, now_s: float, amount: float) -> None:
        self._level = min(self.remaining(now_s) - amount, self.capacity)

    def wait_s(self, now_s: float, amount: float) -> float:
        return max(amount - self.remaining(now_s), 0.0) / self._rate

    def reset_s(self, now_s: float) -> float:
        return self.wait_s(now_s, self.capacity)


class FixedWindow:
    """A counter that starts anew at each whole window of the clock."""

    def __init__(self, per_minute: float, burst_s: float) -> None:
        self._window_s = burst_s
        self.capacity = max(per_minute * burst_s / 60, 1.0)
        self._used = 0.0
        self._number = -1

    def remaining(self, now_s: float) -> float:
        number = int(now_s // self._window_s)
        if number > self._number:
            self._number, self._used = number, 0.0
        return self.capacity - self._used

    def take(self, now_s: float, amount: float) -> None:
        self._used = self.capacity - self.remaining(now_s) + amount
        self._used = max(self._used, 0.0)

    def wait_s(self, now_s: float, amount: float) -> float:
        if amount <= self.remaining(now_s):
            return 0.0
        return (self._number + 1) * self._window_s - now_s

    def reset_s(self, now_s: float) -> float:
        return self.wait_s(now_s, self.capacity)


class SlidingWindow:
    """What was used in the last window, to a thousandth of its length."""

    def __init__(self, per_minute: float, burst_s: float) -> None:
        self._window_s = burst_s
        self._slot_s = burst_s / SLOTS_PER_WINDOW
        self.capacity = max(per_minute * burst_s / 60, 1.0)
        self._slots: deque[list[float]] = deque()  # [number of the slot, amount], oldest first
        self._used = 0.0

    def remaining(self, now_s: float) -> float:
        oldest = now_s // self._slot_s - SLOTS_PER_WINDOW
        while self._slots and self._slots[0][0] < oldest:
            self._used -= self._slots.popleft()[1]
        if not self._slots:
            self._used = 0.0  # sheds the rounding of the sum
        return self.capacity - self._used

    def take(self, now_s: float, amount: float) -> None:
        amount = max(amount, self.remaining(now_s) - self.capacity)
        slot = now_s // self._slot_s
        if not self._slots or self._slots[-1][0] < slot:
            self._slots.append([slot, 0.0])
        self._slots[-1][1] += amount
        self._used += amount

    def wait_s(self, now_s: float, amount: float) -> float:
        missing = amount - self.remaining(now_s)
        if missing <= 0:
            return 0.0
        for slot, used in self._slots:
            missing -= used
            if missing <= 1e-9:
                return self._gone_in_s(slot, now_s)
        return self._window_s

    def reset_s(self, now_s: float) -> float:
        self.remaining(now_s)
        return self._gone_in_s(self._slots[-1][0], now_s) if self._slots else 0.0

    def _gone_in_s(self, slot: float, now_s: float) -> float:
        return (slot + SLOTS_PER_WINDOW + 1) * self._slot_s - now_s


_ALGORITHMS: dict[Algorithm, type[Bucket] | type[FixedWindow] | type[SlidingWindow]] = {
    "bucket": Bucket,
    "fixed": FixedWindow,
    "sliding": SlidingWindow,
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit under its name in headers and messages."""

    kind: Literal["requests", "tokens"]
    label: str
    per_minute: int
    meter: Meter


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was not let in: the body of the 429 and how long to wait."""

    payload: dict[str, Any]
    retry_after_s: float | None  # None: waiting cannot help


class Limiter:
    """The limits of one account. A refused request uses up nothing."""

    def __init__(
        self,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        algorithm: Algorithm = "bucket",
        burst_s: float = 60.0,
        tpm_counts: TokenCount = "estimate",
    ) -> None:
        make = _ALGORITHMS[algorithm]
        self._settles = tpm_counts == "usage"
        self._limits: list[Limit] = []
        self._tokens: Meter | None = None
        if requests_per_minute is not None:
            meter: Meter = make(requests_per_minute, burst_s)
            self._limits.append(
                Limit("requests", "requests per min (RPM)", requests_per_minute, meter)
            )
        if tokens_per_minute is not None:
            self._tokens = make(tokens_per_minute, burst_s)
            self._limits.append(
                Limit("tokens", "tokens per min (TPM)", tokens_per_minute, self._tokens)
            )

    def admit(self, now_s: float, model: str, tokens: int) -> Refusal | None:
        """Take one request and its estimated tokens, or say why not."""
        for limit in self._limits:
            amount = _amount(limit, tokens)
            if amount > limit.meter.capacity:
                return _too_large(limit, model, tokens)
            wait_s = limit.meter.wait_s(now_s, amount)
            if wait_s > 0:
                return _not_yet(limit, model, amount, wait_s, limit.meter.remaining(now_s))
        for limit in self._limits:
            limit.meter.take(now_s, _amount(limit, tokens))
        return None

    def settle(self, now_s: float, estimated: int, used: int) -> None:
        """At the end of a call, count what it used instead of its estimate, if so configured."""
        if self._settles and self._tokens is not None:
            self._tokens.take(now_s, used - estimated)

    def headers(self, now_s: float) -> dict[str, str]:
        """The `x-ratelimit-*` headers as of now."""
        headers = {}
        for limit in self._limits:
            remaining = max(math.floor(limit.meter.remaining(now_s)), 0)
            headers[f"x-ratelimit-limit-{limit.kind}"] = str(limit.per_minute)
            headers[f"x-ratelimit-remaining-{limit.kind}"] = str(remaining)
            reset = duration_text(limit.meter.reset_s(now_s))
            headers[f"x-ratelimit-reset-{limit.kind}"] = reset
        return headers


def duration_text(span_s: float) -> str:
    """A span as OpenAI's reset headers write it: `6m0s`, `1.5s`, `20ms`, `1h2m3s`."""
    ms = math.ceil(span_s * 1000 - 1e-6)
    if ms < 1000:
        return f"{ms}ms" if ms > 0 else "0s"
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    tail = f"{seconds}.{ms:03d}".rstrip("0") if ms else str(seconds)
    if hours:
        return f"{hours}h{minutes}m{tail}s"
    return f"{minutes}m{tail}s" if minutes else f"{tail}s"


def _amount(limit: Limit, tokens: int) -> int:
    return 1 if limit.kind == "requests" else tokens


def _not_yet(limit: Limit, model: str, amount: int, wait_s: float, remaining: float) -> Refusal:
    used = math.ceil(limit.meter.capacity - remaining)
    message = (
        f"Rate limit reached for {model} in organization org-sandbox on {limit.label}: "
        f"Limit {limit.per_minute}, Used {used}, Requested {amount}. Please try again in "
        f"{duration_text(wait_s)}. Visit https://platform.openai.com/account/rate-limits "
        "to learn more."
    )
    return Refusal(error_payload(message, kind=limit.kind, code="rate_limit_exceeded"), wait_s)


def _too_large(limit: Limit, model: str, tokens: int) -> Refusal:
    message = (
        f"Request too large for {model} in organization org-sandbox on {limit.label}: "
        f"Limit {math.floor(limit.meter.capacity)}, Requested {tokens}. The input or output "
        "tokens must be reduced in order to run successfully. Visit "
        "https://platform.openai.com/account/rate-limits to learn more."
    )
    return Refusal(error_payload(message, kind=limit.kind, code="rate_limit_exceeded"), None)
