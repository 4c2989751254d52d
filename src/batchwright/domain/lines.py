"""Physical lines of a file that arrives in chunks.

A line ends with the byte `\\n` and with nothing else: U+2028, U+0085, VT and a lone CR are
content. One CR before the `\\n` and one byte-order mark at the start of the file are dropped.
Lines of white space alone are skipped but counted, so that numbers are those of an editor.
The last line needs no end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

LINE_BYTES_MAX = 16 * 2**20
_SHORT_BYTES = 512  # a line, on average
_SAMPLE_BYTES = 16 * 2**10
_BOM = b"\xef\xbb\xbf"
# What a line may have beside its content: the mark before it and the CR behind it.
_FRAME_BYTES = len(_BOM) + 1


class Line(NamedTuple):
    """One line: `number` from 1, `offset` of the first byte of its `content` in the file.

    `content` is None where the line is longer than the limit; `offset` is then where it starts.
    """

    number: int
    offset: int
    content: bytes | None


class LineSplitter:
    """Cuts chunks of any size into lines; holds one line at most, never one over the limit.

    To start inside a file, give the `offset` of the start of a line and its `number`.
    `count` is the number of lines begun so far (after `finish`: of all lines).
    """

    __slots__ = ("_next_number", "_offset", "_pending", "_pending_bytes", "line_bytes_max")

    def __init__(
        self, *, line_bytes_max: int = LINE_BYTES_MAX, offset: int = 0, number: int = 1
    ) -> None:
        self.line_bytes_max = line_bytes_max
        self._offset = offset
        self._next_number = number
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    @property
    def next_number(self) -> int:
        """The number of the line that the next byte stands in."""
        return self._next_number

    @property
    def count(self) -> int:
        """The number of the last line begun; 0 before the first byte."""
        return self._next_number - (0 if self._pending_bytes else 1)

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that `chunk` completes; run it to its end before the next call."""
        end = chunk.find(b"\n")
        if end < 0:
            self._hold(chunk)
            return
        self._hold(chunk[:end])
        yield from self._release(1)
        stop = chunk.rfind(b"\n")
        if end < stop:
            yield from self._whole_lines(chunk, end + 1, stop)
        self._hold(chunk[stop + 1 :])

    def _whole_lines(self, chunk: bytes, start: int, stop: int) -> Iterator[Line]:
        """The lines from `start` to the line feed at `stop`."""
        offset, number = self._offset, self._next_number
        has_frames = b"\r" in chunk or len(chunk) > self.line_bytes_max
        make = tuple.__new__  # a third of the time of a call of the class
        for content in _cut(chunk, start, stop):
            if content and not content.isspace():
                if has_frames:
                    yield self._line(number, offset, offset, content)
                else:
                    yield make(Line, (number, offset, content))
            offset += len(content) + 1
            number += 1
        self._offset, self._next_number = offset, number

    def finish(self) -> Iterator[Line]:
        """Yield the last line where no `\\n` ended it."""
        if self._pending_bytes:
            yield from self._release(0)

    def _hold(self, part: bytes) -> None:
        self._pending_bytes += len(part)
        if self._pending_bytes > self.line_bytes_max + _FRAME_BYTES:
            self._pending.clear()
        elif part:
            self._pending.append(part)

    def _release(self, end_bytes: int) -> Iterator[Line]:
        if self._pending_bytes > self.line_bytes_max + _FRAME_BYTES:
            yield Line(self._next_number, self._offset, None)
        else:
            content = b"".join(self._pending)
            offset = self._offset
            if offset == 0 and content.startswith(_BOM):
                content = content[len(_BOM) :]
                offset = len(_BOM)
            if content and not content.isspace():
                yield self._line(self._next_number, self._offset, offset, content)
        self._offset += self._pending_bytes + end_bytes
        self._next_number += 1
        self._pending.clear()
        self._pending_bytes = 0

    def _line(self, number: int, start: int, offset: int, content: bytes) -> Line:
        """The line that begins at `start`, its content (with a CR perhaps) at `offset`."""
        content = content.removesuffix(b"\r")
        if len(content) > self.line_bytes_max:
            return Line(number, start, None)
        return Line(number, offset, content)


def _cut(chunk: bytes, start: int, stop: int) -> Iterable[bytes]:
    """The contents of the lines between `start` and `stop`, where the last one ends.

    Short ones at once. Long ones one at a time, each in the memory of the one before: several
    times as fast as a list of them in fresh memory.
    """
    sampled = min(stop, start + _SAMPLE_BYTES)  # a count of all takes as long as the cutting
    if chunk.count(b"\n", start, sampled) * _SHORT_BYTES > sampled - start:
        return chunk[start:stop].split(b"\n")
    return _cut_one_by_one(chunk, start, stop)


def _cut_one_by_one(chunk: bytes, start: int, stop: int) -> Iterator[bytes]:
    while start <= stop:
        end = chunk.find(b"\n", start)
        yield chunk[start:end]
        start = end + 1
