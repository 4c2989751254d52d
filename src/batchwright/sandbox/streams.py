"""A finished answer as the server-sent events that a streaming call gets instead.

Shapes: the API reference's pages "Chat streaming" and "Streaming events" of Responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batchwright.sandbox.answers import Composed, encode

DONE = b"data: [DONE]\n\n"
PIECE_CHARS = 12


def events(composed: Composed) -> Iterator[bytes]:
    """The events of a successful answer, each complete with its closing blank line."""
    match composed.payload["object"]:
        case "chat.completion":
            return _chat_events(composed)
        case "text_completion":
            return _completion_events(composed)
    return _response_events(composed.payload)


def error_event(payload: dict[str, Any]) -> bytes:
    """An error after a 200, as it arrives in the middle of a stream."""
    return b"data: %b\n\n" % encode(payload)


def _chat_events(composed: Composed) -> Iterator[bytes]:
    head = {**_chunk_head(composed.payload), "object": "chat.completion.chunk"}
    usage = {"usage": None} if composed.with_usage else {}
    for choice in composed.payload["choices"]:
        for delta in _chat_deltas(choice["message"]):
            part = _chunk_choice(choice["index"], delta, None)
            yield _data({**head, "choices": [part], **usage})
        part = _chunk_choice(choice["index"], {}, choice["finish_reason"])
        yield _data({**head, "choices": [part], **usage})
    if composed.with_usage:
        yield _data({**head, "choices": [], "usage": composed.payload["usage"]})
    yield DONE


def _chunk_choice(index: int, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _chat_deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if message["content"] is not None:
        yield {"role": "assistant", "content": "", "refusal": None}
        for piece in _pieces(message["content"]):
            yield {"content": piece}
        return
    yield {"role": "assistant", "content": None, "refusal": None}
    for index, call in enumerate(message["tool_calls"]):
        opening = {"name": call["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{"index": index, **call, "function": opening}]}
        for piece in _pieces(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _completion_events(composed: Composed) -> Iterator[bytes]:
    head = {**_chunk_head(composed.payload), "object": "text_completion"}
    for choice in composed.payload["choices"]:
        pieces = list(_pieces(choice["text"]))
        for place, piece in enumerate(pieces):
            finish = choice["finish_reason"] if place == len(pieces) - 1 else None
            part = {**choice, "text": piece, "finish_reason": finish}
            yield _data({**head, "choices": [part]})
    if composed.with_usage:
        yield _data({**head, "choices": [], "usage": composed.payload["usage"]})
    yield DONE


def _response_events(payload: dict[str, Any]) -> Iterator[bytes]:
    begun = {**payload, "status": "in_progress", "output": [], "usage": None}
    begun["incomplete_details"] = None
    item = payload["output"][0]
    parts = _message_parts if item["type"] == "message" else _call_parts
    stages = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        *parts(item),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        (f"response.{payload['status']}", {"response": payload}),
    ]
    for number, (kind, fields) in enumerate(stages):
        data = {"type": kind, "sequence_number": number, **fields}
        yield b"event: %b\n%b" % (kind.encode(), _data(data))


def _message_parts(item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    part = item["content"][0]
    opened = {**item, "status": "in_progress", "content": []}
    yield "response.output_item.added", {"output_index": 0, "item": opened}
    yield "response.content_part.added", {**at, "part": {**part, "text": ""}}
    for piece in _pieces(part["text"]):
        yield "response.output_text.delta", {**at, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}
    yield "response.content_part.done", {**at, "part": part}


def _call_parts(item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    at = {"item_id": item["id"], "output_index": 0}
    opened = {**item, "status": "in_progress", "arguments": ""}
    yield "response.output_item.added", {"output_index": 0, "item": opened}
    for piece in _pieces(item["arguments"]):
        yield "response.function_call_arguments.delta", {**at, "delta": piece}
    finished = {**at, "name": item["name"], "arguments": item["arguments"]}
    yield "response.function_call_arguments.done", finished


def _chunk_head(payload: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in payload.items() if k not in ("object", "choices", "usage")}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE_CHARS):
        yield text[start : start + PIECE_CHARS]


def _data(payload: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % encode(payload)
