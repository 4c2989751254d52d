"""Result lines taken apart: what a row of the output table shows of an answer.

Of chats, responses, completions and embeddings it is what they say (`domain/answer_text`); any
other body is shown as its JSON text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from batchwright.domain.answer_text import (
    EMBEDDINGS_URL,
    NoAnswer,
    Said,
    is_text_url,
    said_by,
    vectors_of,
)


@dataclass(frozen=True, slots=True)
class RowResult:
    """The result of one row. A row without an answer has an `error`."""

    answer: str | None = None
    embedding: list[float] | None = None
    tokens: int | None = None  # in and out together
    error: str | None = None
    copied_from: int | None = None  # the row that was asked the same, and was sent


class _CopiedFrom(msgspec.Struct):
    line: int


class _Ours(msgspec.Struct):
    copied_from: _CopiedFrom | None = None


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw = msgspec.Raw(b"null")


class _ResultLine(msgspec.Struct):
    response: _Response | None = None
    error: dict[str, Any] | None = None
    batchwright: _Ours | None = None


_decode_line = msgspec.json.Decoder(_ResultLine).decode


def read_result(url: str, line: bytes) -> RowResult:
    """The result that a line of an output or error file holds; `url` is the request's."""
    try:
        result = _decode_line(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return RowResult(error=f"the result line cannot be read: {exc}")
    row = _read_response(url, result)
    source = result.batchwright.copied_from if result.batchwright is not None else None
    return row if source is None else replace(row, copied_from=source.line)


def _read_response(url: str, result: _ResultLine) -> RowResult:
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
    try:
        if url == EMBEDDINGS_URL:
            return replace(_read_vectors(answer), tokens=tokens)
        if is_text_url(url):
            return replace(_one_or_list(said_by(url, answer)), tokens=tokens)
    except ValueError:
        return RowResult(error=f"the answer is not of the shape of {url}", tokens=tokens)
    return RowResult(answer=body.decode(), tokens=tokens)


def _one_or_list(said: list[Said]) -> RowResult:
    """The only choice as it is; several (`n` above 1) as a JSON list, failed ones as null."""
    results = [_read_said(each) for each in said]
    if len(results) == 1 or all(result.answer is None for result in results):
        return results[0]
    return RowResult(answer=_json_text([result.answer for result in results]))


def _read_said(said: Said) -> RowResult:
    match said.none:
        case NoAnswer("refused", message):
            return RowResult(error=f"refused: {message}")
        case NoAnswer(_, message):
            return RowResult(error=f"no answer: {message}")
    if said.calls and not said.text:
        return RowResult(answer=_json_text(said.calls))
    return RowResult(answer=said.text)


def _read_vectors(answer: Any) -> RowResult:
    vectors = vectors_of(answer)
    if len(vectors) == 1:
        return RowResult(embedding=vectors[0])
    return RowResult(answer=_json_text(vectors))


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
