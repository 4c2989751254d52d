"""Tokens: what an answer, and a batch, has used."""

from __future__ import annotations

import msgspec

TOKENS_MAX = 2**31 - 1  # beyond it a provider's figure is nonsense


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the provider reported them."""

    input_tokens: int = 0
    cached_tokens: int = 0  # part of `input_tokens`
    output_tokens: int = 0
    reasoning_tokens: int = 0  # part of `output_tokens` at most providers

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def add(self, other: Usage) -> Usage:
        """The sum of the two."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def to_wire(self) -> dict[str, object]:
        """The `usage` of a Batch object (`types/batch_usage.py` of the openai SDK)."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.total_tokens,
        }


NO_USAGE = Usage()


def clamped(tokens: object) -> int:
    """A token count to trust: 0 for what is negative, absurd or no whole number."""
    if isinstance(tokens, float) and tokens.is_integer():
        tokens = int(tokens)
    if type(tokens) is not int or not 0 <= tokens <= TOKENS_MAX:
        return 0
    return tokens
