"""Results: the one line that each request ends as."""

from __future__ import annotations

from enum import IntEnum

import msgspec

OK = 200
ANSWER_BYTES_MAX = 16 * 2**20  # of one request, decoded; a larger one is `RESPONSE_TOO_LARGE`


class Code(IntEnum):
    """Outcomes without an HTTP answer; in account records they stand beside HTTP statuses."""

    REQUEST_FAILED = 1000  # no answer: refused, broken or timed-out connections
    BATCH_EXPIRED = 1001
    BATCH_CANCELLED = 1002
    WORKER_LOST = 1003  # the process died each time this request was in flight
    RESPONSE_TOO_LARGE = 1004
    INVALID_RESPONSE = 1005  # a 200 whose body is not an answer
    MODEL_NOT_FOUND = 1006  # the route was there at validation and is gone
    LOST_IN_CRASH = 1007  # an attempt in flight when the process died: never a result

    @property
    def wire(self) -> str:
        """The `error.code` of a result line."""
        return self.name.lower()


NOT_RUN = (Code.BATCH_EXPIRED, Code.BATCH_CANCELLED)
"""What requests end as that were never sent, or not heard of in time."""


def code_name(code: int) -> str:
    """The name of an account record's code: `429`, `batch_expired`."""
    return Code(code).wire if code >= Code.REQUEST_FAILED else str(code)


def result_id(batch_id: str, line: int) -> str:
    """`batch_req_` and enough to name batch and line."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{line}"


def answer_line(
    head: bytes, custom_id: str, status: int, request_id: str, body: bytes, ours: bytes
) -> bytes:
    """A result line of a request that a provider answered, with success or not.

    `head` is `line_head(...)`; `body` one JSON object on one line; `ours` the JSON object under
    the key `batchwright`.
    """
    return b"".join(
        (
            head,
            b',"custom_id":',
            _json_string(custom_id),
            b',"response":{"status_code":%d,"request_id":' % status,
            _json_string(request_id),
            b',"body":',
            body,
            b'},"error":null,"batchwright":',
            ours,
            b"}\n",
        )
    )


def failure_line(head: bytes, custom_id: str, code: Code, message: str, ours: bytes) -> bytes:
    """A result line of a request that got no answer."""
    return (
        b'%b,"custom_id":%b,"response":null,"error":{"code":"%b","message":%b},"batchwright":%b}\n'
        % (
            head,
            _json_string(custom_id),
            code.wire.encode(),
            _json_string(message),
            ours,
        )
    )


def copied_line(head: bytes, custom_id: str, response: bytes, error: bytes, ours: bytes) -> bytes:
    """A result line with the `response` and the `error` of another, as they stand there."""
    return b'%b,"custom_id":%b,"response":%b,"error":%b,"batchwright":%b}\n' % (
        head,
        _json_string(custom_id),
        response,
        error,
        ours,
    )


def line_head(prefix: bytes, line: int) -> bytes:
    """The start of a result line; `prefix` is `head_prefix(batch_id)`."""
    return b'%b%d"' % (prefix, line)


def head_prefix(batch_id: str) -> bytes:
    return b'{"id":"' + result_id(batch_id, 0)[:-1].encode()


_encode = msgspec.json.Encoder().encode


def _json_string(text: str) -> bytes:
    """JSON with the line separators escaped on which some clients split."""
    encoded = _encode(text)
    if text.isascii():
        return encoded
    for raw, escaped in _SEPARATORS:
        encoded = encoded.replace(raw, escaped)
    return encoded


_SEPARATORS = tuple(
    (mark.encode(), b"\\u%04x" % ord(mark)) for mark in ("\u0085", "\u2028", "\u2029")
)
