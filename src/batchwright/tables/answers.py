"""Result lines taken apart: what a row of the output table shows of an answer.

The shapes of the response bodies are those of OpenAI's API reference (chat, responses,
completions, embeddings); any other body is shown as its JSON text.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class RowResult:
    """The result of one row. A row without an answer has an `error`."""

    answer: str | None = None
    embedding: list[float] | None = None
    tokens: int | None = None  # in and out together
    error: str | None = None


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw = msgspec.Raw(b"null")


class _ResultLine(msgspec.Struct):
    response: _Response | None = None
    error: dict[str, Any] | None = None


def read_result(url: str, line: bytes) -> RowResult:
    """The result that a line of an output or error file holds; `url` is the request's."""
    try:
        result = msgspec.json.decode(line, type=_ResultLine)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return RowResult(error=f"the result line cannot be read: {exc}")
    response = result.response
    if response is None:
        return RowResult(error=_error_text(result.error))
    body = bytes(response.body)
    if response.status_code // 100 != 2:
        return RowResult(error=f"{response.status_code}: {_upstream_error(body)}")
    return extract(url, body)


def extract(url: str, body: bytes) -> RowResult:
    """What the body of a successful response says.

    A refusal, and an answer that is empty because a limit or a filter ended it, is an error.
    """
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return RowResult(error=f"the answer is not JSON: {exc}")
    tokens = _tokens(answer)
    reader = _READERS.get(url)
    if reader is None:
        return RowResult(answer=body.decode(), tokens=tokens)
    try:
        return replace(reader(answer), tokens=tokens)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return RowResult(error=f"the answer is not of the shape of {url}", tokens=tokens)


def _read_chat(answer: Any) -> RowResult:
    return _one_or_list([_read_choice(choice) for choice in answer["choices"]])


def _read_choice(choice: Any) -> RowResult:
    message = choice["message"]
    content = _content_text(message.get("content"))
    if content:
        return RowResult(answer=content)
    if message.get("refusal"):
        return RowResult(error=f"refused: {message['refusal']}")
    for key in ("tool_calls", "function_call", "audio"):
        if message.get(key):
            return RowResult(answer=_json_text(message[key]))
    return _read_empty(choice.get("finish_reason"))


def _content_text(content: Any) -> str:
    """The text of a message: a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError(content)


def _read_empty(reason: Any) -> RowResult:
    if reason in {"length", "max_output_tokens"}:
        return RowResult(error="no answer: the token limit was reached before the first word")
    if reason == "content_filter":
        return RowResult(error="no answer: stopped by the content filter")
    return RowResult(answer="")


def _read_completion(answer: Any) -> RowResult:
    return _one_or_list([RowResult(answer=choice["text"]) for choice in answer["choices"]])


def _one_or_list(results: list[RowResult]) -> RowResult:
    """The only choice as it is; several (`n` above 1) as a JSON list, failed ones as null."""
    if len(results) == 1:
        return results[0]
    if not results:
        raise ValueError("no choice")
    if all(result.answer is None for result in results):
        return results[0]
    return RowResult(answer=_json_text([result.answer for result in results]))


def _read_response(answer: Any) -> RowResult:
    items = answer["output"]
    parts = [p for item in items if item["type"] == "message" for p in item["content"]]
    text = "".join(part["text"] for part in parts if part["type"] == "output_text")
    if text:
        return RowResult(answer=text)
    refusals = [part["refusal"] for part in parts if part["type"] == "refusal"]
    if refusals:
        return RowResult(error=f"refused: {refusals[0]}")
    calls = [item for item in items if item["type"].endswith("_call")]
    if calls:
        return RowResult(answer=_json_text(calls))
    return _read_empty((answer.get("incomplete_details") or {}).get("reason"))


def _read_embedding(answer: Any) -> RowResult:
    vectors = [_vector(item["embedding"]) for item in answer["data"]]
    if len(vectors) == 1:
        return RowResult(embedding=vectors[0])
    return RowResult(answer=_json_text(vectors))


def _vector(value: Any) -> list[float]:
    """Floats, or base64 of little-endian 32-bit floats (`encoding_format: base64`)."""
    if isinstance(value, str):
        data = base64.b64decode(value, validate=True)
        if len(data) % 4:
            raise ValueError("not a whole number of 32-bit floats")
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    return [float(number) for number in value]


def _tokens(answer: Any) -> int | None:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    total = usage.get("total_tokens")
    if isinstance(total, int):
        return total
    names = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
    counts = [usage[name] for name in names if isinstance(usage.get(name), int)]
    return sum(counts) if counts else None


def _upstream_error(body: bytes) -> str:
    """The message of an error body, else the body itself."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "replace")
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
    return _error_text(error)


def _error_text(error: Any) -> str:
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        code = error.get("code")
        return f"{code}: {error['message']}" if code else error["message"]
    if isinstance(error, str) and error:
        return error
    return _json_text(error) if error else "no answer and no error was recorded"


def _json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


_READERS: dict[str, Callable[[Any], RowResult]] = {
    "/v1/chat/completions": _read_chat,
    "/v1/completions": _read_completion,
    "/v1/responses": _read_response,
    "/v1/embeddings": _read_embedding,
}
