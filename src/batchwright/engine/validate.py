"""Validation of an input file: every rule, every bad line, in one pass over its chunks.

The rules are those of section 3.1 to 3.3 of the Batch API contract: the envelope of a line
(`custom_id`, `method`, `url`, `body`), what the endpoint requires of the body, limits of the
file, and models that somebody serves. A line has one error at most, the first that it meets.
Only where requests go and what they are called is ours to judge; the rest of a body is the
provider's and goes out as it came.

A line is looked at twice only if need be. The quick look knows one form, that of nearly all
lines, and passes what is surely good: a pattern for all before the body, one decode of the body,
cheap bounds for the rest, over all lines of a chunk at once. It never finds a fault: what it does
not pass is looked at from the start with every check in its order, so that the fault that is named
does not depend on it.

A `Validator` is plain state and does no I/O. `feed` is called with chunks of about 1 MiB from a
thread: no step holds the interpreter longer than a walk over one line takes.
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Raw

from batchwright.domain.batch_error import BatchError
from batchwright.domain.lines import LINE_BYTES_MAX, Line, LineSplitter
from batchwright.domain.strict_json import (
    BadJson,
    DuplicateKey,
    check_walked,
    doubtful_lines,
    members,
    outside_strings,
    read,
)

CUSTOM_ID_BYTES_MAX: Final = 512
ERRORS_MAX: Final = 1_000

ResolveModel = Callable[[str, str], str | None]
"""Given a model and an endpoint: None where somebody serves it there, else what is wrong."""


@dataclass(frozen=True, slots=True)
class ValidationRules:
    """What a file must keep to, beside the form of its lines. None: no limit."""

    endpoint: str  # as in the batch: `/v1/chat/completions`
    requests_max: int | None = 50_000
    embedding_inputs_max: int | None = 50_000  # over all lines of a batch of embeddings
    line_bytes_max: int = LINE_BYTES_MAX
    one_model_per_file: bool = False


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What one pass over the file found. The file is valid where `errors` is empty."""

    errors: tuple[BatchError, ...]  # of the file, then of its lines in order, 1,000 at most
    total: int  # requests
    lines: int  # physical lines, blank ones included
    model: str | None  # the only model, None where there are several
    estimated_input_bytes: int  # of all bodies together


class Validator:
    """Takes a file chunk by chunk, then gives the report."""

    __slots__ = (
        "_counts_inputs",
        "_custom_ids",
        "_embedding_inputs",
        "_endpoint",
        "_errors",
        "_errors_left_out",
        "_input_bytes",
        "_models",
        "_plain_urls",
        "_requests_max",
        "_resolve_model",
        "_resolved",
        "_rules",
        "_splitter",
        "_total",
        "_urls",
    )

    def __init__(self, rules: ValidationRules, resolve_model: ResolveModel) -> None:
        self._rules = rules
        self._endpoint = _ENDPOINTS.get(rules.endpoint, _Endpoint())
        self._counts_inputs = rules.endpoint == _EMBEDDINGS
        # Azure's clients leave the version out.
        self._urls = frozenset((rules.endpoint, rules.endpoint.removeprefix("/v1")))
        self._plain_urls = frozenset(url.encode() for url in self._urls)
        self._requests_max = math.inf if rules.requests_max is None else rules.requests_max
        self._resolve_model = resolve_model
        self._resolved: dict[bytes, BatchError | None] = {}
        self._models: list[str] = []  # the first two
        self._splitter = LineSplitter(line_bytes_max=rules.line_bytes_max)
        self._custom_ids = SeenIds()
        self._errors: list[BatchError] = []
        self._errors_left_out = 0
        self._total = 0
        self._embedding_inputs = 0
        self._input_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Validate the lines that `chunk` completes."""
        first = self._splitter.next_number
        doubtful = doubtful_lines(chunk)
        for line in self._splitter.feed(chunk):
            self._take(line, line.number - first in doubtful)

    def finish(self) -> ValidationReport:
        """Validate the last line and report on the whole file."""
        for line in self._splitter.finish():
            self._take(line, is_doubtful=True)
        return ValidationReport(
            errors=(*self._file_errors(), *self._errors, *self._summary()),
            total=self._total,
            lines=self._splitter.count,
            model=self._models[0] if len(self._models) == 1 else None,
            estimated_input_bytes=self._input_bytes,
        )

    # One line

    def _take(self, line: Line, is_doubtful: bool) -> None:
        self._total += 1
        if self._total > self._requests_max:
            return  # the file is refused; no memory for the ids of an endless one
        try:
            self._check_line(line.content, is_doubtful)
        except _LineError as error:
            self._note(error, line.number)

    def _note(self, error: _LineError, line: int) -> None:
        if len(self._errors) < ERRORS_MAX:
            self._errors.append(BatchError(error.code, error.message, error.param, line))
        else:
            self._errors_left_out += 1

    def _check_line(self, content: bytes | None, is_doubtful: bool) -> None:
        if content is None:
            limit = self._rules.line_bytes_max
            raise _LineError("line_too_long", f"This line is longer than {limit:,} bytes.")
        request = self._read_plain(content, is_doubtful) or self._read_any(content)
        custom_id, body_bytes, body = request
        self._input_bytes += body_bytes
        self._check_body(body)
        # Last, so that a line with another fault does not also take its id away.
        if not self._custom_ids.add(custom_id):
            raise _LineError(
                "duplicate_custom_id",
                f"The custom_id {_shown(custom_id.decode())} stands on an earlier line too. "
                "It must be unique in a batch.",
                "custom_id",
            )

    def _read_plain(self, content: bytes, is_doubtful: bool) -> _Request | None:
        """A line of the usual form without a fault; None for what needs another look."""
        head = _PLAIN_HEAD.match(content)
        if head is None or content[-2:] != b"}}":
            return None
        custom_id, method, url = head.groups()
        if custom_id is None or method is None or url not in self._plain_urls:
            return None
        text = content[head.end() : -1]  # one object if it decodes: nothing follows the body
        try:
            body = _plain_body(content, text, is_doubtful)
        except (BadJson, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return custom_id, len(text), body

    def _read_any(self, content: bytes) -> _Request:
        """The same with every check in its order. Raises `_LineError`."""
        line = _read_line(content)
        custom_id = _custom_id(line)
        self._check_target(line)
        text = bytes(_required(line, "body"))
        return custom_id, len(text), _read_body(text)

    def _check_target(self, envelope: Mapping[str, Raw]) -> None:
        if bytes(_required(envelope, "method")) != b'"POST"':
            method = _string(envelope["method"], "method")
            if method != "POST":
                raise _LineError(
                    "invalid_method", f"The method must be 'POST', not {_shown(method)}.", "method"
                )
        url = _string(_required(envelope, "url"), "url")
        if url not in self._urls:
            raise _LineError(
                "invalid_url",
                f"The url must be the endpoint of the batch, {self._rules.endpoint!r}, "
                f"not {_shown(url)}.",
                "url",
            )

    # Its body

    def _check_body(self, body: Mapping[str, Raw]) -> None:
        self._check_model(body)
        self._endpoint.check(body)
        stream = body.get("stream")
        if stream is not None and bytes(stream) not in _NOT_STREAMING:
            raise _LineError(
                "streaming_unsupported",
                "A batch does not stream: remove 'stream' or set it to false.",
                "body.stream",
            )
        if self._counts_inputs:
            self._embedding_inputs += count_inputs(bytes(body["input"]))

    def _check_model(self, body: Mapping[str, Raw]) -> None:
        model = body.get("model")
        if model is None:
            raise _missing("body.model")
        text = bytes(model)
        try:
            error = self._resolved[text]
        except KeyError:
            error = self._judge_model(text)
            if len(text) <= _MODEL_BYTES_CACHED and len(self._resolved) < _MODELS_CACHED:
                self._resolved[text] = error
        if error is not None:
            raise _LineError(error.code, error.message, error.param)

    def _judge_model(self, text: bytes) -> BatchError | None:
        model = _string(Raw(text), "body.model")
        message = self._resolve_model(model, self._rules.endpoint)
        if message is not None:
            return BatchError("model_not_found", message, "body.model")
        if model not in self._models and len(self._models) < 2:
            if self._models and self._rules.one_model_per_file:
                return BatchError(
                    "mismatched_model",
                    f"The model is {_shown(model)}, but the file began with "
                    f"{_shown(self._models[0])}. A file may have one model.",
                    "body.model",
                )
            self._models.append(model)
        return None

    # The whole file

    def _file_errors(self) -> list[BatchError]:
        errors = []
        if self._total == 0:
            errors.append(BatchError("empty_file", "The file has no request."))
        if self._total > self._requests_max:
            errors.append(
                BatchError(
                    "too_many_tasks",
                    f"The file has {self._total:,} requests. "
                    f"A batch may have {self._rules.requests_max:,}.",
                )
            )
        limit = self._rules.embedding_inputs_max
        if limit is not None and self._embedding_inputs > limit:
            errors.append(
                BatchError(
                    "too_many_inputs",
                    f"The file has {self._embedding_inputs:,} inputs to embed. "
                    f"A batch may have {limit:,}.",
                    "body.input",
                )
            )
        return errors

    def _summary(self) -> list[BatchError]:
        if not self._errors_left_out:
            return []
        count = len(self._errors) + self._errors_left_out
        message = f"{count:,} lines are wrong. The first {ERRORS_MAX:,} are listed."
        return [BatchError("too_many_errors", message)]


class SeenIds:
    """A set of byte strings that takes about 9 bytes for each, whatever their length.

    It keeps 64 bits of a hash, in one of 4,096 sorted arrays which another hash chooses: among a
    million ids the chance that two are taken for one is below 10⁻¹¹. The hashes are Python's own,
    keyed anew in each process, so that nobody can prepare ids that fall together.
    """

    __slots__ = ("_arrays",)

    def __init__(self) -> None:
        self._arrays = [array("q") for _ in range(_ID_ARRAYS)]

    def add(self, value: bytes) -> bool:
        """Add `value`; False where it is there already."""
        hashed = hash(value)
        found = self._arrays[hash(value + b"\0") % _ID_ARRAYS]
        place = bisect_left(found, hashed)
        if place < len(found) and found[place] == hashed:
            return False
        found.insert(place, hashed)
        return True


def count_inputs(text: bytes) -> int:
    """How many inputs the checked JSON `text` of an embeddings request's `input` holds.

    A string is one, and so is a list of token numbers; any other list has one for each item.
    """
    if text[:1] != b"[":
        return 1
    items = text[1:-1].strip()
    if not items:
        return 0
    if items[:1] == b'"':
        return outside_strings(items).count(b",") + 1
    if items[:1] not in b"[{":
        return 1
    count = depth = 0
    for byte in outside_strings(items).translate(None, _NO_BRACKETS):
        if byte in b"[{":
            count += depth == 0
            depth += 1
        else:
            depth -= 1
    return count


class _LineError(Exception):
    """The first fault of a line."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


_Request = tuple[bytes, int, Mapping[str, Raw]]
"""The custom_id of a line, the bytes of its body, and the members of its body."""


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """What a body must have beside `model`: one of `keys`, beginning with one of `starts`."""

    keys: tuple[str, ...] = ()
    starts: bytes = b""
    expected: str = ""

    def check(self, body: Mapping[str, Raw]) -> None:
        """Raise `_LineError` where the body has none of the keys or the first has another type."""
        if not self.keys:
            return
        for key in self.keys:
            if key in body:
                break
        else:
            raise _missing(f"body.{self.keys[0]}")
        if self.starts and memoryview(body[key])[0] not in self.starts:
            raise _LineError(
                "invalid_request", f"'body.{key}' must be {self.expected}.", f"body.{key}"
            )


_EMBEDDINGS = "/v1/embeddings"
_ENDPOINTS: Mapping[str, _Endpoint] = {
    "/v1/chat/completions": _Endpoint(("messages",), b"[", "a list of messages"),
    # A stored prompt or an earlier response may stand in for input.
    "/v1/responses": _Endpoint(("input", "prompt", "previous_response_id", "conversation")),
    _EMBEDDINGS: _Endpoint(("input",), b'"[', "a string or a list"),
    "/v1/completions": _Endpoint(("prompt",), b'"[', "a string or a list"),
    "/v1/moderations": _Endpoint(("input",), b'"[', "a string or a list"),
    "/v1/images/generations": _Endpoint(("prompt",), b'"', "a string"),
    "/v1/images/edits": _Endpoint(("prompt",), b'"', "a string"),
    "/v1/videos": _Endpoint(("prompt",), b'"', "a string"),
}
_NOT_STREAMING = (b"false", b"null")
_ID_ARRAYS = 4_096
_MODELS_CACHED = 1_024
_MODEL_BYTES_CACHED = 512
_SHOWN_CHARS = 64
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
# The start of a line as nearly all are: three keys in any order, no escape, and then the body.
# Each group that matched took one of three turns: where all did, no key stands there twice.
_PLAIN_HEAD = re.compile(
    rb'\{\s*+(?:"(?:'
    rb'custom_id"\s*+:\s*+"([^"\\\x00-\x1f]{1,512}+)'
    rb'|method"\s*+:\s*+"(POST)'
    rb'|url"\s*+:\s*+"([^"\\\x00-\x1f]*+)'
    rb')"\s*+,\s*+){3}"body"\s*+:\s*+(?=\{)'
)
_decode_raw = msgspec.json.Decoder(Raw).decode
_decode_text = msgspec.json.Decoder(str).decode


def _read_line(content: bytes) -> dict[str, Raw]:
    try:
        found = read(content)
    except DuplicateKey as error:
        raise _LineError("invalid_request", f"This line is {error.reason}.", error.key) from None
    except BadJson as error:
        raise _LineError("invalid_json_line", f"This line is {error.reason}.") from None
    if found is None:
        raise _LineError("invalid_request", "This line must be a JSON object.")
    return found


def _plain_body(content: bytes, text: bytes, is_doubtful: bool) -> Mapping[str, Raw]:
    try:
        body = members(text) or {}
    except BadJson:
        # A look at the keys of a line that has millions in its body takes seconds; these do not.
        _decode_raw(content)
        check_walked(content)
        return _read_body(text)
    if is_doubtful:
        check_walked(content)
    return body


def _read_body(text: bytes) -> dict[str, Raw]:
    try:
        body = members(text)
    except DuplicateKey as error:
        path = f"body.{error.key}"
        raise _LineError("invalid_request", f"The body is {error.reason}.", path) from None
    except BadJson as error:
        raise _LineError("invalid_request", f"The body is {error.reason}.", "body") from None
    if body is None:
        raise _LineError("invalid_request", "The body must be a JSON object.", "body")
    return body


def _custom_id(envelope: Mapping[str, Raw]) -> bytes:
    custom_id = _string(_required(envelope, "custom_id"), "custom_id").encode()
    if not custom_id:
        raise _LineError("invalid_request", "The custom_id must not be empty.", "custom_id")
    if len(custom_id) > CUSTOM_ID_BYTES_MAX:
        message = (
            f"The custom_id has {len(custom_id):,} bytes. "
            f"It may have {CUSTOM_ID_BYTES_MAX} bytes of UTF-8."
        )
        raise _LineError("invalid_request", message, "custom_id")
    return custom_id


def _required(found: Mapping[str, Raw], key: str, param: str = "") -> Raw:
    value = found.get(key)
    if value is None:
        raise _missing(param or key)
    return value


def _missing(param: str) -> _LineError:
    return _LineError(
        "missing_required_parameter", f"Missing required parameter: '{param}'.", param
    )


def _string(value: Raw, param: str) -> str:
    try:
        return _decode_text(value)
    except msgspec.ValidationError:
        raise _LineError("invalid_request", f"'{param}' must be a string.", param) from None


def _shown(text: str) -> str:
    """The text as it may stand in a message: short, with its control characters escaped."""
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")
