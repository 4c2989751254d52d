"""What an account allows: amounts of requests and tokens in a span of time."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

Kind = Literal["requests", "tokens", "input_tokens", "output_tokens"]

SECOND_S = 1.0
MINUTE_S = 60.0
HOUR_S = 3_600.0
DAY_S = 86_400.0


class Tokens(Protocol):
    """What is counted of a request: estimated (`Cost`), or used (`Usage`)."""

    @property
    def input_tokens(self) -> int: ...

    @property
    def output_tokens(self) -> int: ...


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What a request uses up, or is expected to; one request besides."""

    input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""  # whose tokens: most providers have limits for each


class LimitSeen(msgspec.Struct, frozen=True, gc=False):
    """What the headers of one answer say of one limit. Numbers are finite and not negative."""

    kind: Kind
    span_s: float  # what `limit` is counted over
    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None  # until the whole limit is there again
    header: str = ""  # that told it: one whose `span_s` changes is still the same limit
