"""What every request of one kind begins with, made once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from batchwright.domain.errors import NotSent
from batchwright.providers.base import Call

_BODILESS = {"POST": False, "GET": True}  # to `HEAD` the parser would await a body
_FIRST_LINE = "{method} {path} HTTP/1.1\r\nhost: {host}\r\n"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110, section 5.6.2
_OUR_HEADERS = {"user-agent": "batchwright", "accept": "*/*", "accept-encoding": "gzip"}


class Address(NamedTuple):  # quicker to look up than a dataclass
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Head:
    """What every request of a method, a URL and a mapping of headers begins with."""

    address: Address
    start: bytes  # up to the value of `content-length`
    is_bodiless: bool
    headers: Mapping[str, str]  # held, so that its id stays its own

    @classmethod
    def made(cls, call: Call) -> Head:
        """Raises `NotSent` for what cannot be sent, without repeating it: it may hold a key."""
        try:
            parts = urlsplit(call.url)
            port = parts.port
        except ValueError as error:
            raise NotSent("the call cannot be built: not a URL") from error
        if call.method not in _BODILESS:
            raise NotSent("the call cannot be built: neither GET nor POST")
        if parts.scheme != "http" or not parts.hostname:
            raise NotSent("the call cannot be built: not a URL of plain HTTP")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = parts.netloc.rpartition("@")[2]
        lines = {**_OUR_HEADERS, **{name.lower(): value for name, value in call.headers.items()}}
        lines.pop("content-length", None)  # ours is the last
        is_bodiless = _BODILESS[call.method]
        if not is_bodiless:
            lines["content-length"] = ""
        start = _FIRST_LINE.format(method=call.method, path=path, host=host)
        for name, value in lines.items():
            if not (_NAME.fullmatch(name) and _is_sendable(value, " ")):
                raise NotSent("the call cannot be built: a header that cannot be sent")
        if not (_is_sendable(path) and _is_sendable(host)):
            raise NotSent("the call cannot be built: a URL that cannot be sent")
        start += "\r\n".join(f"{name}: {value}" for name, value in lines.items())
        ends = "\r\n\r\n" if is_bodiless else ""
        address = Address(parts.hostname, 80 if port is None else port)
        return cls(address, (start + ends).encode("ascii"), is_bodiless, call.headers)

    def of(self, body: bytes) -> bytes:
        """The head of the request that has this body."""
        if not self.is_bodiless:
            return b"%b%d\r\n\r\n" % (self.start, len(body))
        if body:
            raise NotSent("the call cannot be built: a GET has no body")
        return self.start


def _is_sendable(text: str, spaces: str = "") -> bool:
    kept = text.translate(dict.fromkeys(map(ord, spaces)))
    return kept.isascii() and kept.isprintable() and " " not in kept
