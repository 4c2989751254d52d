"""A request: one line of an input file, as it is sent."""

from __future__ import annotations

import re

import msgspec

from batchwright.domain.strict_json import keys


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request of a validated input file."""

    line: int  # 1-based, counts blank lines too
    custom_id: str
    url: str  # the path that it is sent to
    body: bytes  # the JSON object, byte for byte as it stands in the file
    model: str  # empty where the body names none (an endpoint with a default)


class _Envelope(msgspec.Struct, gc=False):
    custom_id: str
    url: str
    body: msgspec.Raw


class _Named(msgspec.Struct, gc=False):
    model: str = ""


class _NamedRaw(msgspec.Struct, gc=False):
    model: msgspec.Raw = msgspec.Raw()


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_named_raw = msgspec.json.Decoder(_NamedRaw).decode
_SPACE = re.compile(rb"[ \t\r\n]*")


def parse_request(
    line_number: int, raw: bytes, endpoint: str | None = None, model: str | None = None
) -> Request:
    """Read a line that has passed validation; raises `msgspec.DecodeError` on any other.

    Its url is `endpoint` where one is given: a line may name the endpoint of its batch shorter.
    `model` is what its body names, where that is known: it is not looked for then.
    """
    envelope = _decode_envelope(raw)
    body = bytes(envelope.body)
    if model is None:
        model = _decode_named(body).model
    return Request(line_number, envelope.custom_id, endpoint or envelope.url, body, model)


def with_model(body: bytes, model: str, new_model: str) -> bytes:
    """`body` with `new_model` as the value of its top-level `model`, every other byte kept.

    `body` is a validated JSON object. It comes back as it is where the names are equal, and
    where it has no `model`.
    """
    if model == new_model:
        return body
    value = bytes(_decode_named_raw(body).model)
    if not value:
        return body
    start = body.find(value) if body.count(value) == 1 else _model_offset(body)
    return body[:start] + msgspec.json.encode(new_model) + body[start + len(value) :]


def _model_offset(body: bytes) -> int:
    """Where the value of the top-level `model` starts."""
    behind_colon = next(offset for key, offset in keys(body) if key == "model")
    space = _SPACE.match(body, behind_colon)
    return space.end() if space else behind_colon
