"""What a live call has used, overheard from its answer while that is handed on."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping

from batchwright.domain.answers import told_usage
from batchwright.domain.usage import NO_USAGE, Usage
from batchwright.providers.base import StreamedAnswer

TAIL_BYTES = 64 * 2**10  # of a stream that are looked at: usage is in one of the last events


class Overheard:
    """A streamed answer whose end is kept as it passes. It is a `StreamedAnswer` itself."""

    def __init__(self, answer: StreamedAnswer) -> None:
        self._answer = answer
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.chunks():
            self._keep(chunk[-TAIL_BYTES:])
            yield chunk

    def usage(self) -> Usage:
        """That of the last event that names any, as far as the stream has passed: OpenAI sends it
        where `stream_options.include_usage` is set, and always at the end of a response."""
        for line in reversed(b"".join(self._tail).splitlines()):
            if b'"usage"' in line:
                usage = told_usage(line.removeprefix(b"data:"))
                if usage.input_tokens:
                    return usage
        return NO_USAGE

    def _keep(self, chunk: bytes) -> None:
        self._tail.append(chunk)
        self._tail_bytes += len(chunk)
        while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
