"""Streamed answers: OpenAI's server-sent events, one token at a time.

Chat completions and completions send nameless events and end with `data: [DONE]`;
responses send named, numbered events and end with `response.completed` or
`response.incomplete`. Source: https://platform.openai.com/docs/api-reference, "Streaming".
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec

from batchwright.providers.builtin.answers import (
    FINGERPRINT,
    Json,
    Text,
    chat_usage,
    output_message,
    output_part,
    response_with,
)
from batchwright.providers.builtin.models import CHAT, COMPLETIONS, RESPONSES


def text_events(text: Text) -> Iterator[bytes]:
    """The events of a streamed answer, each complete with its empty line."""
    return _EVENTS[text.request.endpoint](text)


def _chat_events(text: Text) -> Iterator[bytes]:
    head = {
        "id": f"chatcmpl-{text.key}",
        "object": "chat.completion.chunk",
        "created": text.created,
        "model": text.request.model.name,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }
    opening = {"role": "assistant", "content": "", "refusal": None}
    deltas: list[tuple[Json, str | None]] = [(opening, None)]
    deltas += [({"content": piece}, None) for piece in text.pieces]
    deltas.append(({}, text.finish_reason))
    choices = (
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        for delta, reason in deltas
    )
    return _choice_events(text, head, choices)


def _completion_events(text: Text) -> Iterator[bytes]:
    head = {
        "id": f"cmpl-{text.key}",
        "object": "text_completion",
        "created": text.created,
        "model": text.request.model.name,
        "system_fingerprint": FINGERPRINT,
    }
    deltas: list[tuple[str, str | None]] = [(piece, None) for piece in text.pieces]
    deltas.append(("", text.finish_reason))
    choices = (
        {"text": piece, "index": 0, "logprobs": None, "finish_reason": reason}
        for piece, reason in deltas
    )
    return _choice_events(text, head, choices)


def _choice_events(text: Text, head: Json, choices: Iterator[Json]) -> Iterator[bytes]:
    """A chunk a choice, then, where asked for, one of usage, which all others announce by null."""
    announced: Json = {"usage": None} if text.request.includes_usage else {}
    for choice in choices:
        yield _data({**head, "choices": [choice], **announced})
    if text.request.includes_usage:
        yield _data({**head, "choices": [], "usage": chat_usage(text)})
    yield b"data: [DONE]\n\n"


def _response_events(text: Text) -> Iterator[bytes]:
    numbers = count()
    for kind, fields in _response_fields(text):
        event = {"type": kind, "sequence_number": next(numbers), **fields}
        yield b"event: %s\n%s" % (kind.encode(), _data(event))


def _response_fields(text: Text) -> Iterator[tuple[str, Json]]:
    status = "incomplete" if text.is_cut else "completed"
    item: Json = {"output_index": 0}
    part: Json = {"item_id": f"msg_{text.key}", "output_index": 0, "content_index": 0}
    in_progress = {"response": response_with(text, "in_progress")}
    yield "response.created", in_progress
    yield "response.in_progress", in_progress
    yield "response.output_item.added", item | {"item": output_message(text, "in_progress")}
    yield "response.content_part.added", part | {"part": output_part("")}
    for piece in text.pieces:
        yield "response.output_text.delta", part | {"delta": piece, "logprobs": []}
    yield "response.output_text.done", part | {"text": text.text, "logprobs": []}
    yield "response.content_part.done", part | {"part": output_part(text.text)}
    yield "response.output_item.done", item | {"item": output_message(text, status)}
    yield f"response.{status}", {"response": response_with(text, status)}


def _data(value: Any) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(value)


_EVENTS = {CHAT: _chat_events, COMPLETIONS: _completion_events, RESPONSES: _response_events}
