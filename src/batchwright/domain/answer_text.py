"""What the body of a successful response says: texts, calls of tools, vectors, or why nothing.

The shapes are those of OpenAI's API reference (chat, responses, completions, embeddings).
Every reader raises `ValueError` for a body of another shape.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import Any, Literal

CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"
RESPONSES_URL = "/v1/responses"
EMBEDDINGS_URL = "/v1/embeddings"

_CALLS = ("tool_calls", "function_call", "audio")
_UNSHAPED = (KeyError, IndexError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why an answer holds none, although it was given and paid for."""

    code: Literal["refused", "no_answer"]
    message: str


@dataclass(frozen=True, slots=True)
class Said:
    """What one choice of an answer says. It has a text, calls, or a reason for neither."""

    text: str = ""
    calls: Any = None  # what it calls or speaks in the place of a text, as the body has it
    whole: Any = None  # the message, or the body, that this is of
    none: NoAnswer | None = None


def is_text_url(url: str) -> bool:
    """Whether `said_by` reads the answers of this endpoint."""
    return url in (CHAT_URL, COMPLETIONS_URL, RESPONSES_URL)


def said_by(url: str, body: Any) -> list[Said]:
    """What each choice of a chat, a completion or a response says; there is at least one."""
    try:
        if url == RESPONSES_URL:
            return [_of_response(body)]
        read = _of_completion if url == COMPLETIONS_URL else _of_choice
        said = [read(choice) for choice in body["choices"]]
    except _UNSHAPED as error:
        raise ValueError(f"not of the shape of {url}") from error
    if not said:
        raise ValueError("no choice")
    return said


def vectors_of(body: Any) -> list[list[float]]:
    """The vectors of an embeddings answer, in the order of the inputs."""
    try:
        entries = sorted(body["data"], key=lambda entry: entry.get("index") or 0)
        return [_vector(entry["embedding"]) for entry in entries]
    except _UNSHAPED as error:
        raise ValueError(f"not of the shape of {EMBEDDINGS_URL}") from error


def _of_choice(choice: Any) -> Said:
    message = choice["message"]
    text = _content_text(message.get("content"))
    calls = next((message[name] for name in _CALLS if message.get(name)), None)
    if text or calls:
        return Said(text, calls, message)
    if message.get("refusal"):
        return Said(whole=message, none=NoAnswer("refused", str(message["refusal"])))
    return Said(whole=message, none=_cut_off(choice.get("finish_reason")))


def _of_completion(choice: Any) -> Said:
    return Said(choice["text"] or "", whole=choice)


def _of_response(body: Any) -> Said:
    items = body["output"]
    parts = [part for item in items if item["type"] == "message" for part in item["content"]]
    text = "".join(part["text"] for part in parts if part["type"] == "output_text")
    if text:  # the calls beside it were made on the way: a search, say
        return Said(text, whole=body)
    calls = [item for item in items if item["type"].endswith("_call")]
    if calls:
        return Said("", calls, body)
    refusals = [part["refusal"] for part in parts if part["type"] == "refusal"]
    if refusals:
        return Said(whole=body, none=NoAnswer("refused", str(refusals[0])))
    return Said(whole=body, none=_cut_off((body.get("incomplete_details") or {}).get("reason")))


def _content_text(content: Any) -> str:
    """The text of a message: a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError(content)


def _cut_off(reason: Any) -> NoAnswer | None:
    if reason in ("length", "max_output_tokens"):
        return NoAnswer("no_answer", "the token limit was reached before the first word")
    if reason == "content_filter":
        return NoAnswer("no_answer", "stopped by the content filter")
    return None


def _vector(value: Any) -> list[float]:
    """Floats, or base64 of little-endian 32-bit floats (`encoding_format: base64`)."""
    if isinstance(value, str):
        data = base64.b64decode(value, validate=True)
        if len(data) % 4:
            raise ValueError("not a whole number of 32-bit floats")
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    return [float(number) for number in value]
