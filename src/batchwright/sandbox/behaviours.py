"""How an upstream can misbehave, by name: for `model: "sandbox/NAME"` or header `x-sandbox: NAME`.

A name that ends in `-N` takes a number. `once-` before a name makes only the first try of a body
misbehave; the next gets the ordinary answer.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from batchwright.sandbox.answers import encode, error_payload
from batchwright.sandbox.replies import HOLD, Ending, Hold, Ordinary, Reply, Step, streamed, whole
from batchwright.sandbox.streams import error_event
from batchwright.sandbox.wire import LAST_CHUNK, answer_head, chunk

PREFIX = "sandbox/"
ONCE = "once-"
DRIP_PAUSE_S = 0.05
BOMB_BYTES = 256 * 1024 * 1024  # decoded

Act = Callable[[Ordinary, int], Reply]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One way to misbehave."""

    summary: str
    act: Act
    tries_until_fine: Callable[[int], int] | None = None  # of one body; None: never fine


@dataclass(frozen=True, slots=True)
class Chosen:
    """A behaviour with its number, as a request named it."""

    act: Act
    number: int
    bad_tries: int | None  # how many tries of one body misbehave; None: all

    def reply(self, ordinary: Ordinary, attempt: int) -> Reply:
        """The reply to the `attempt`-th try, counted from 1."""
        if self.bad_tries is not None and attempt > self.bad_tries:
            return ordinary.reply()
        return self.act(ordinary, self.number)


def find(name: str) -> Chosen | None:
    """The behaviour of this name (without `sandbox/`), or None."""
    is_once = name.startswith(ONCE)
    plain, number = name.removeprefix(ONCE), 0
    behaviour = BEHAVIOURS.get(plain)
    if behaviour is None and (match := _NUMBERED.fullmatch(plain)):
        behaviour, number = BEHAVIOURS.get(f"{match[1]}-N"), int(match[2])
    if behaviour is None:
        return None
    bad_tries = behaviour.tries_until_fine(number) if behaviour.tries_until_fine else None
    return Chosen(behaviour.act, number, 1 if is_once else bad_tries)


def model_names() -> list[str]:
    """The models that misbehave, for GET /v1/models; `N` is left as it stands."""
    return [PREFIX + name for name in BEHAVIOURS]


def refusal(status: int, headers: Mapping[str, str]) -> Reply:
    """OpenAI's error answer of a status; a 429 or 503 names no time to wait."""
    kind, code, message = _ERRORS.get(status, ("server_error", None, "Something went wrong."))
    if status not in _ERRORS and status < 500:
        kind = "invalid_request_error"
    body = encode(error_payload(f"{message} (sandbox)", kind=kind, code=code))
    return whole(status, headers, b"" if status in (204, 304) else body)


_NUMBERED = re.compile(r"(.+)-(\d{1,9})")
_ERRORS: dict[int, tuple[str, str | None, str]] = {
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", None, "You are not allowed to use this model."),
    404: ("invalid_request_error", "model_not_found", "This model or behaviour does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached."),
    500: ("server_error", None, "The server had an error while processing your request."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
}


# --- connections that break ----------------------------------------------------------------


def _hang(ordinary: Ordinary, number: int) -> Reply:
    return Reply(None, b"", ending=Ending.HANG)


def _reset(ordinary: Ordinary, number: int) -> Reply:
    return Reply(None, b"", ending=Ending.RESET)


def _close(ordinary: Ordinary, number: int) -> Reply:
    return Reply(None, b"", ending=Ending.CLOSE)


def _truncate(ordinary: Ordinary, number: int) -> Reply:
    """Half of the body, then the end of the connection; of a stream all but the last event."""
    reply = ordinary.reply()
    if ordinary.events is not None:
        return Reply(None, reply.data, _without_end(reply.steps or iter(())), Ending.CLOSE)
    body = encode(ordinary.payload)
    return Reply(None, reply.data[: -(len(body) + 1) // 2], ending=Ending.CLOSE)


def _without_end(steps: Iterator[Step]) -> Iterator[Step]:
    """All but the last two: the closing event and the closing chunk."""
    yield from list(steps)[:-2]


def _early_close(ordinary: Ordinary, number: int) -> Reply:
    """A good answer, then the connection ends without having said so."""
    return msgspec.structs.replace(ordinary.reply(), ending=Ending.CLOSE)


# --- bodies that do not check --------------------------------------------------------------


def _fixed_200(body: bytes, content_type: str = "application/json") -> Act:
    def act(ordinary: Ordinary, number: int) -> Reply:
        return whole(200, ordinary.headers, body, content_type)

    return act


def _error_in_200(ordinary: Ordinary, number: int) -> Reply:
    payload = error_payload("The upstream failed. (sandbox)", kind="server_error")
    if ordinary.events is None:
        return whole(200, ordinary.headers, encode(payload))
    return streamed(ordinary.headers, iter([next(ordinary.events), error_event(payload)]))


def _invalid_utf8(ordinary: Ordinary, number: int) -> Reply:
    return whole(200, ordinary.headers, encode(ordinary.payload).replace(b"sandbox", b"\xff\xfe"))


def _cut_json(ordinary: Ordinary, number: int) -> Reply:
    """Half of the JSON under a length that fits it: complete as HTTP, broken as an answer."""
    body = encode(ordinary.payload)
    return whole(200, ordinary.headers, body[: len(body) // 2])


# --- bodies that check, and are awkward ----------------------------------------------------


def _pretty(ordinary: Ordinary, number: int) -> Reply:
    body = msgspec.json.format(encode(ordinary.payload), indent=2).replace(b"\n", b"\r\n")
    return whole(ordinary.status, ordinary.headers, body)


def _u2028(ordinary: Ordinary, number: int) -> Reply:
    """Raw U+2028, U+2029 and U+0085 inside every text that names the sandbox."""
    marked = "sandbox\u2028\u2029\u0085".encode()
    return whole(
        200, ordinary.headers, encode(ordinary.payload).replace(b"[sandbox", b"[" + marked)
    )


# --- bodies and heads without measure ------------------------------------------------------


def _huge(ordinary: Ordinary, number: int) -> Reply:
    return _endless(ordinary, {}, _forever(chunk(b"a" * 65536)))


def _gzip_bomb(ordinary: Ordinary, number: int) -> Reply:
    return _endless(ordinary, {"content-encoding": "gzip"}, _bomb())


def _endless(ordinary: Ordinary, extra: dict[str, str], steps: Iterator[Step]) -> Reply:
    headers = {"content-type": "application/json", **extra, **ordinary.headers}
    return Reply(None, answer_head(200, headers, None), steps)


def _forever(piece: bytes) -> Iterator[Step]:
    yield chunk(b'{"id":"')
    while True:
        yield piece


def _bomb() -> Iterator[Step]:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    spaces = b" " * 1024 * 1024
    for _ in range(BOMB_BYTES // len(spaces)):
        if piece := packer.compress(spaces):
            yield chunk(piece)
    yield chunk(packer.flush())
    yield LAST_CHUNK


def _many_headers(ordinary: Ordinary, number: int) -> Reply:
    extra = {f"x-filler-{i}": "sandbox" for i in range(1000)}
    return whole(200, {**ordinary.headers, **extra}, encode(ordinary.payload))


def _big_header(ordinary: Ordinary, number: int) -> Reply:
    extra = {"x-filler": "s" * 1024 * 1024}
    return whole(200, {**ordinary.headers, **extra}, encode(ordinary.payload))


# --- time ----------------------------------------------------------------------------------


def _drip(ordinary: Ordinary, number: int) -> Reply:
    """The body byte by byte."""
    body = encode(ordinary.payload)
    headers = {"content-type": "application/json", **ordinary.headers}
    return Reply(200, answer_head(200, headers, len(body)), _dripping(body))


def _dripping(body: bytes) -> Iterator[Step]:
    for byte in body:
        yield DRIP_PAUSE_S
        yield bytes([byte])


def _wait(ordinary: Ordinary, number: int) -> Reply:
    reply = ordinary.reply()
    return Reply(reply.status, b"", _after(number / 1000, reply), reply.ending)


def _hold(ordinary: Ordinary, number: int) -> Reply:
    """Silent until the release; a stream sends its first event before."""
    if ordinary.events is not None:
        return streamed(ordinary.headers, _held(ordinary.events))
    reply = ordinary.reply()
    return Reply(reply.status, b"", _after(HOLD, reply), reply.ending)


def _after(pause: Step, reply: Reply) -> Iterator[Step]:
    yield pause
    yield reply.data
    yield from reply.steps or ()


def _held(events: Iterator[bytes]) -> Iterator[bytes | Hold]:
    yield next(events)
    yield HOLD
    yield from events


# --- statuses ------------------------------------------------------------------------------


def _status(ordinary: Ordinary, number: int) -> Reply:
    return refusal(min(max(number, 200), 999), ordinary.headers)


def _flaky(ordinary: Ordinary, number: int) -> Reply:
    return refusal(500, ordinary.headers)


def _retry_after(ordinary: Ordinary, number: int) -> Reply:
    return refusal(429, {**ordinary.headers, "retry-after": str(number)})


def _redirect(ordinary: Ordinary, number: int) -> Reply:
    return whole(307, {**ordinary.headers, "location": "/redirected"}, b"")


def _no_money(ordinary: Ordinary, number: int) -> Reply:
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more "
        "information on this error, read the docs: "
        "https://platform.openai.com/docs/guides/error-codes/api-errors."
    )
    payload = error_payload(message, kind="insufficient_quota", code="insufficient_quota")
    return whole(429, ordinary.headers, encode(payload))


BEHAVIOURS: dict[str, Behaviour] = {
    "hang": Behaviour("takes the request and never answers", _hang),
    "reset": Behaviour("resets the connection (TCP RST) instead of an answer", _reset),
    "close": Behaviour("closes the connection instead of an answer", _close),
    "truncate": Behaviour("closes the connection in the middle of the body", _truncate),
    "early-close": Behaviour("answers, then closes without having said so", _early_close),
    "html-200": Behaviour(
        "200 with an HTML page", _fixed_200(b"<html><body>Bad gateway</body></html>", "text/html")
    ),
    "empty-200": Behaviour("200 with no body", _fixed_200(b"")),
    "null-200": Behaviour("200 with `null`", _fixed_200(b"null")),
    "wrong-shape-200": Behaviour("200 with JSON of another shape", _fixed_200(b'{"ok":true}')),
    "nan-200": Behaviour("200 with NaN in it", _fixed_200(b'{"object":"list","data":[NaN]}')),
    "error-in-200": Behaviour(
        "200 with an error object, or an error event in a stream", _error_in_200
    ),
    "invalid-utf8-200": Behaviour("200 with bytes that are not UTF-8", _invalid_utf8),
    "cut-json-200": Behaviour("200 with half of the JSON, complete as HTTP", _cut_json),
    "pretty": Behaviour("a good answer, indented, with CRLF", _pretty),
    "u2028": Behaviour("a good answer with raw U+2028, U+2029 and U+0085", _u2028),
    "huge": Behaviour("200 with a body that never ends", _huge),
    "gzip-bomb": Behaviour("200 with 256 MiB of spaces in 256 KiB of gzip", _gzip_bomb),
    "many-headers": Behaviour("a good answer with 1,000 headers", _many_headers),
    "big-header": Behaviour("a good answer with a header of 1 MiB", _big_header),
    "drip": Behaviour("a good answer at 20 bytes a second", _drip),
    "wait-N": Behaviour("a good answer after N milliseconds", _wait),
    "hold": Behaviour("a good answer after POST /sandbox/release; a stream starts before", _hold),
    "status-N": Behaviour("an error of HTTP status N", _status),
    "flaky-N": Behaviour(
        "500 to the first N tries of a body, then a good answer", _flaky, lambda number: number
    ),
    "retry-after-N": Behaviour("429 with `retry-after: N`", _retry_after),
    "redirect": Behaviour("307 to /redirected", _redirect),
    "no-money": Behaviour("429 that means an empty account", _no_money),
}
