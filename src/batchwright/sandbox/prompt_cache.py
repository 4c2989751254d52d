"""A prompt cache as a provider has one: what prompts have in common is computed once.

The least recently used goes first. A prompt can be had from the cache from 1,024 tokens on and in
steps of 128, once the first answer to it has been sent (developers.openai.com, "Prompt caching").
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Any

import msgspec

from batchwright.domain.errors import UsageError
from batchwright.sandbox.answers import CHAT_PATH, encode
from batchwright.sandbox.bodies import ChatBody, ResponseBody, reader
from batchwright.sandbox.tokens import MESSAGE_TOKENS, PART_TOKENS

TOKENS_MIN = 1024
STEP_TOKENS = 128
RESPONSES_PATH = "/v1/responses"

_CHARS = 4  # of a token, as everywhere in the sandbox

Blocks = list[bytes]
"""The hashes of the prefixes of one prompt, of 128 tokens, 256, and so on."""


class PromptCache:
    """Holds the prefixes of prompts, of at most `capacity_tokens` in all."""

    def __init__(self, capacity_tokens: int) -> None:
        self._blocks_max = capacity_tokens // STEP_TOKENS
        self._held = OrderedDict[bytes, None]()  # the least recently used first

    def cached_tokens(self, blocks: Blocks) -> int:
        """How much of a prompt is there now; it counts as used."""
        count = 0
        while count < len(blocks) and blocks[count] in self._held:
            count += 1
        self._use(blocks[:count])
        tokens = count * STEP_TOKENS
        return tokens if tokens >= TOKENS_MIN else 0

    def add(self, blocks: Blocks) -> None:
        """Keep a prompt that was answered, unless it is too short for the cache."""
        if len(blocks) * STEP_TOKENS >= TOKENS_MIN:
            self._use(blocks)
            while len(self._held) > self._blocks_max:
                self._held.popitem(last=False)

    def _use(self, blocks: Blocks) -> None:
        """The end of a prompt ages before its beginning, which is of no use without it."""
        for block in reversed(blocks):
            self._held[block] = None
            self._held.move_to_end(block)


def prompt_blocks(path: str, body: bytes) -> Blocks:
    """The prompt of a request; none where it has none, or cannot be read."""
    try:
        if path == CHAT_PATH:
            return _chat_blocks(_read_chat(body))
        if path == RESPONSES_PATH:
            return _response_blocks(_read_response(body))
    except UsageError:
        pass
    return []


_read_chat = reader(ChatBody)
_read_response = reader(ResponseBody)


def _chat_blocks(body: ChatBody) -> Blocks:
    head = encode([body.model, body.tools, body.response_format])
    return _blocks(head, "".join(_message(each.role, each.content) for each in body.messages))


def _response_blocks(body: ResponseBody) -> Blocks:
    head = encode([body.model, body.tools, body.text])
    texts = [_padded(body.instructions or "")]
    if isinstance(body.input, str):
        texts.append(_message("user", body.input))
    else:
        for item in body.input:
            given = item if isinstance(item, dict) else {}
            texts.append(_message(str(given.get("role", "")), given.get("content")))
    return _blocks(head, "".join(texts))


def _message(role: str, content: Any) -> str:
    """A message, four characters for each token that the usage counts for it."""
    marked = role[: MESSAGE_TOKENS * _CHARS].ljust(MESSAGE_TOKENS * _CHARS)
    parts = content if isinstance(content, list) else [content]
    return marked + "".join(_part(part) for part in parts if part is not None)


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    if isinstance(text, str):
        return _padded(text)
    mark = blake2b(msgspec.json.encode(part), digest_size=32).hexdigest()
    return mark.ljust(PART_TOKENS * _CHARS)


def _padded(text: str) -> str:
    return text + " " * (-len(text) % _CHARS)


def _blocks(head: bytes, text: str) -> Blocks:
    """Hashes of the whole blocks of a prompt, each with all before it."""
    hashed, blocks = blake2b(head, digest_size=16), []
    size = STEP_TOKENS * _CHARS
    for start in range(0, len(text) - size + 1, size):
        hashed.update(text[start : start + size].encode())
        blocks.append(hashed.digest())
    return blocks
