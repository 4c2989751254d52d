"""The strict check of an answer before it is spliced into a result line.

An answer passes when it is valid UTF-8, one JSON object of its endpoint's shape, without an
`error` at its top, with finite numbers, no lone surrogate, and at most 100 levels deep.

Theory of operation: one typed decode by msgspec reads the few keys that matter and skips the
rest. It skips strictly: malformed tokens, control characters and lone surrogates are found. What
it does not see in skipped parts (UTF-8, numbers beyond a double, depth) is for `strict_json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from batchwright.domain.errors import BatchwrightError
from batchwright.domain.strict_json import BadJson, check_bounds, check_utf8
from batchwright.domain.usage import NO_USAGE, TOKENS_MAX, Usage, clamped

EXCERPT_BYTES_MAX = 2048
ERROR_BODY_BYTES_MAX = 64 * 1024  # a larger error answer is reduced to an excerpt


class BadAnswer(BatchwrightError):
    """A 200 whose body is no answer: never a success line. `reason` is short and holds no data."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CheckedAnswer(msgspec.Struct, frozen=True, gc=False):
    """An answer that passed the check."""

    body: bytes  # one line, ready to be spliced into a result line
    usage: Usage


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Tokens(msgspec.Struct, gc=False):
    """`usage` in the names of chat completions and embeddings, or of responses."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Object(msgspec.Struct):
    """An answer of any endpoint."""

    error: Any = None
    usage: _Tokens | None = None


class _Choices(_Object, kw_only=True):
    choices: list[msgspec.Raw]


class _Data(_Object, kw_only=True):
    data: list[msgspec.Raw]


class _Results(_Object, kw_only=True):
    results: list[msgspec.Raw]


class _Response(_Object, kw_only=True):
    output: list[msgspec.Raw]
    status: str | None = None


class _Told(msgspec.Struct):
    """What tells a usage: an answer, or an event of a streamed one."""

    usage: _Tokens | None = None
    response: _Object | None = None  # in the events of a response


class _State(msgspec.Struct):
    """What a response object says of itself, of whatever type."""

    status: Any = None


@dataclass(frozen=True, slots=True)
class _Shape:
    decoder: msgspec.json.Decoder[Any]
    array: str | None  # the key that must hold an array


def _shape(kind: type[_Object], array: str | None) -> _Shape:
    return _Shape(msgspec.json.Decoder(kind), array)


_ANY = _shape(_Object, None)
_RESPONSE = _shape(_Response, "output")
_SHAPES = {
    "/v1/chat/completions": _shape(_Choices, "choices"),
    "/v1/completions": _shape(_Choices, "choices"),
    "/v1/embeddings": _shape(_Data, "data"),
    "/v1/moderations": _shape(_Results, "results"),
    "/v1/responses": _RESPONSE,
}
_FAILED = "failed"
_decode_told = msgspec.json.Decoder(_Told).decode
_decode_state = msgspec.json.Decoder(_State).decode
_WHOLE: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_LF, _CR = b"\n\r"  # as numbers: looked for in bytes they take a tenth of the time


def check_answer(url: str, body: bytes) -> CheckedAnswer:
    """Check the body of a 200 of the endpoint `url` (`/v1/…`), strictly, and read its usage.

    An endpoint that is not known may answer any object. Figures of usage that make no sense
    count as 0 and do not spoil the answer. Raises `BadAnswer`.
    """
    shape = _SHAPES.get(url, _ANY)
    is_ascii = body.isascii()
    if not is_ascii:
        _require(check_utf8, body)
    try:
        answer = shape.decoder.decode(body)
        usage = _usage(answer.usage)
    except msgspec.ValidationError:
        answer, usage = _read_leniently(shape, body)
    except (msgspec.DecodeError, RecursionError) as cause:
        raise _malformed(body) from cause
    if answer.error is not None and not _is_failed_response(answer):
        raise BadAnswer("an error inside an answer with status 200")
    _require(check_bounds, body)
    if not is_ascii or _LF in body or _CR in body:
        body = _single_line(body)
    return CheckedAnswer(body, usage)


def told_usage(text: bytes) -> Usage:
    """The usage that an answer, or an event of a streamed one, tells; nothing else is checked.

    `NO_USAGE` where it tells none, or cannot be read.
    """
    try:
        told = _decode_told(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NO_USAGE
    return _usage(told.usage if told.response is None else told.response.usage)


def says_it_failed(url: str, body: bytes) -> bool:
    """Whether an answer that passed the check is a response object that says that it failed."""
    return _SHAPES.get(url) is _RESPONSE and _decode_state(body).status == _FAILED


def error_body(status: int, body: bytes, location: str | None = None) -> bytes:
    """The `{"error": {message, type, param, code}}` of a result line for an answer other than 2xx.

    An upstream body of that shape is kept as it came, on one line. Anything else is wrapped: its
    first 2 KiB become the message. Of a redirect's `location` the host alone is named.
    """
    if len(body) <= ERROR_BODY_BYTES_MAX and _is_error_object(body):
        return _single_line(body)
    message = f"HTTP {status}: {_redirect(location) or excerpt(body) or 'the body is empty'}"
    error = {"message": message, "type": "upstream_error", "param": None, "code": None}
    return _single_line(msgspec.json.encode({"error": error}))


def excerpt(body: bytes) -> str:
    """The first 2 KiB of a body as text, for a message; what is no UTF-8 shows as `\\ufffd`."""
    return body[:EXCERPT_BYTES_MAX].decode("utf-8", "replace").strip()


def _redirect(location: str | None) -> str | None:
    if location is None:
        return None
    try:
        host = urlsplit(location).hostname or "the same host"
    except ValueError:
        host = "an unreadable address"
    return f"a redirect to {host}, which is not followed"


def _require(check: Callable[[bytes], None], body: bytes) -> None:
    try:
        check(body)
    except BadJson as cause:
        # What stands behind the colon may be data.
        raise BadAnswer(f"the body is {cause.reason.partition(':')[0]}") from cause


def _malformed(body: bytes) -> BadAnswer:
    if not body.strip():
        return BadAnswer("the body is empty")
    if body.lstrip()[:1] == b"<":
        return BadAnswer("the body is HTML or XML, not JSON")
    return BadAnswer("the body is not valid JSON")


def _usage(tokens: _Tokens | None) -> Usage:
    if tokens is None:
        return NO_USAGE
    inputs = tokens.prompt_tokens_details or tokens.input_tokens_details
    outputs = tokens.completion_tokens_details or tokens.output_tokens_details
    given = tokens.prompt_tokens or tokens.input_tokens or 0
    cached = inputs.cached_tokens or 0 if inputs is not None else 0
    made = tokens.completion_tokens or tokens.output_tokens or 0
    reasoned = outputs.reasoning_tokens or 0 if outputs is not None else 0
    is_sound = 0 <= given <= TOKENS_MAX and 0 <= made <= TOKENS_MAX
    if is_sound and 0 <= cached <= TOKENS_MAX and 0 <= reasoned <= TOKENS_MAX:
        return Usage(given, cached, made, reasoned)
    return Usage(clamped(given), clamped(cached), clamped(made), clamped(reasoned))


def _read_leniently(shape: _Shape, body: bytes) -> tuple[_Object, Usage]:
    """The typed decode refused a type: find out whether only the usage is at fault."""
    whole = _decode_whole(body)
    if not isinstance(whole, dict):
        raise BadAnswer("the body is JSON, but no object")
    if shape.array is not None and not isinstance(whole.get(shape.array), list):
        raise BadAnswer(f"the body has no array `{shape.array}`")
    usage = _usage(_lenient_tokens(whole.get("usage")))
    if shape is _RESPONSE:
        status = whole.get("status")
        return _Response(error=whole.get("error"), output=[], status=status), usage
    return _Object(error=whole.get("error")), usage


def _lenient_tokens(usage: object) -> _Tokens | None:
    if not isinstance(usage, dict):
        return None
    known: dict[str, Any] = {
        name: clamped(usage.get(name))
        for name in ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
    }
    for side in ("prompt", "completion", "input", "output"):
        details = usage.get(f"{side}_tokens_details")
        if isinstance(details, dict):
            known[f"{side}_tokens_details"] = _Details(
                clamped(details.get("cached_tokens")), clamped(details.get("reasoning_tokens"))
            )
    return _Tokens(**known)


def _is_failed_response(answer: _Object) -> bool:
    # A response object that says of itself that it failed is a whole answer, and was billed:
    # success is the HTTP status, not the content.
    return isinstance(answer, _Response) and answer.status == _FAILED


def _decode_whole(body: bytes) -> Any:
    try:
        return _WHOLE.decode(body)
    except msgspec.ValidationError as cause:
        raise BadAnswer("the body is not finite") from cause
    except (msgspec.DecodeError, RecursionError) as cause:
        raise _malformed(body) from cause


def _single_line(body: bytes) -> bytes:
    """The same JSON value without any character that some reader takes for the end of a line.

    Raw `\\n` and `\\r` stand between tokens only (a string may not hold them), the others in
    strings only.
    """
    if _LF in body or _CR in body:
        body = body.replace(b"\r", b" ").replace(b"\n", b" ").strip()
    if body.isascii():
        return body
    if b"\xe2\x80" in body:
        body = body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return body.replace(b"\xc2\x85", b"\\u0085")


def _is_error_object(body: bytes) -> bool:
    try:
        check_utf8(body)
        whole = _WHOLE.decode(body)
        check_bounds(body)
    except (BadJson, msgspec.DecodeError, RecursionError):
        return False
    error = whole.get("error") if isinstance(whole, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str)
