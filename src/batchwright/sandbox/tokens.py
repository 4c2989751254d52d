"""How many tokens the sandbox counts: a quarter of the characters, which is what English costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchwright.sandbox.bodies import is_reasoning

MESSAGE_TOKENS = 4
PART_TOKENS = 85  # an image, a sound or a file
IMAGE_TOKENS = 1056  # of a picture that is made: OpenAI's for a square one of medium quality


def text_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return (len(text) + 3) // 4


def message_tokens(content: str | Sequence[Any] | None) -> int:
    """Of a message with this content: text, or parts."""
    if content is None:
        return MESSAGE_TOKENS
    if isinstance(content, str):
        return MESSAGE_TOKENS + (len(content) + 3) // 4
    return MESSAGE_TOKENS + sum(_part_tokens(part) for part in content)


def _part_tokens(part: Any) -> int:
    text = part.get("text") if isinstance(part, dict) else part
    return text_tokens(text) if isinstance(text, str) else PART_TOKENS


def input_tokens(item: str | list[int]) -> int:
    """Of a text, or of a list of tokens."""
    return text_tokens(item) if isinstance(item, str) else len(item)


def cached_tokens(prompt: int) -> int:
    """OpenAI caches prompts from 1,024 tokens in steps of 128; here the first half is cached."""
    return prompt // 2 // 128 * 128 if prompt >= 1024 else 0


def reasoning_tokens(model: str, digest: bytes, cap: int | None) -> int:
    """What a reasoning model thinks, where the body names no cap."""
    return 64 * (digest[3] % 4) if cap is None and is_reasoning(model) else 0
