"""The sandbox's record of every request that reached it: what a provider's bill would show.

One JSON object a line: `time` (Unix, seconds), `path`, `sha256` of the body, `status` (null where
no whole answer was sent) and `x_request_id`. Lines are written within 20 ms of the request.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

FLUSH_S = 0.02
FLUSH_LINES = 1024

_quoted = msgspec.json.Encoder().encode


class Ledger:
    """Appends to one file; `call_later` is the event loop's."""

    def __init__(self, path: Path, call_later: Callable[[float, Callable[[], None]], object]):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._call_later = call_later
        self._lines: list[bytes] = []

    def record(
        self, time_s: float, path: str, body_sha256: str, status: int | None, request_id: str
    ) -> None:
        """Note a request that was received and the status that it is answered with."""
        shown = "null" if status is None else status
        line = (
            f'{{"time":{time_s:.6f},"path":{_quoted(path).decode()},"sha256":"{body_sha256}",'
            f'"status":{shown},"x_request_id":"{request_id}"}}\n'
        )
        if not self._lines:
            self._call_later(FLUSH_S, self.flush)
        self._lines.append(line.encode())
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        if not self._lines:
            return
        data = memoryview(b"".join(self._lines))
        self._lines.clear()
        while data:
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        os.close(self._file)
