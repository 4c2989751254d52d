"""What the sandbox says: a sentence that the request's hash picks, or JSON that fits a schema."""

from __future__ import annotations

from typing import Any

import msgspec

from batchwright.domain.errors import UsageError
from batchwright.sandbox.structured import example

encode = msgspec.json.Encoder().encode


def answer_text(digest: bytes, index: int, cap: int | None, schema: Any) -> tuple[str, str]:
    """An answer's text and `finish_reason`; with a schema the text is JSON that fits it."""
    text = sentence(digest, index) if schema is None else json_text(schema, digest, index)
    if cap is not None and len(text) > cap * 4:
        return text[: cap * 4], "length"
    return text, "stop"


def sentence(digest: bytes, index: int) -> str:
    """The text of a choice: ASCII that needs no escapes in JSON."""
    chosen = _SENTENCES[digest[(4 + index) % 32] % len(_SENTENCES)]
    return f"[sandbox {digest[:4].hex()}] {chosen}"


def json_text(schema: Any, digest: bytes, index: int) -> str:
    """JSON that fits a schema, as the hash of the request picks it. Raises `UsageError`."""
    try:
        return encode(example(schema, digest[(4 + index) % 32])).decode()
    except ValueError as error:
        raise UsageError(f"Invalid schema: {error}", code="invalid_json_schema") from error


_ANY_OBJECT = {
    "type": "object",
    "properties": {"sandbox": {"const": True}, "answer": {"type": "string"}},
}


def chat_schema(wanted: dict[str, Any] | None) -> Any:
    """The schema that a `response_format` of chat asks for; None for text."""
    if wanted is None:
        return None
    if wanted.get("type") == "json_schema":
        named = wanted.get("json_schema")
        return (named.get("schema") if isinstance(named, dict) else None) or _ANY_OBJECT
    return _ANY_OBJECT if wanted.get("type") == "json_object" else None


def response_schema(wanted: dict[str, Any]) -> Any:
    """The same of a `text.format` of Responses."""
    if wanted.get("type") == "json_schema":
        return wanted.get("schema") or _ANY_OBJECT
    return _ANY_OBJECT if wanted.get("type") == "json_object" else None


_SENTENCES = (
    "This is a rehearsal: no model read the request.",
    "A simulated answer, made from the hash of the request.",
    "Nothing was sent to a provider, and nothing was paid.",
    "The same request gets this same answer each time.",
    "A real model would have answered here, at greater length or not.",
    "Made up by the sandbox. Change the base URL to ask a real model the same question.",
    "This text stands in for an answer, so that the program around it can be tried out.",
    "Simulated. The shape is that of a real answer, and so are the names of its fields; the words "
    "mean nothing, and the token counts are estimates.",
)
