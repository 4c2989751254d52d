"""Copies: result lines that are made of those of other requests.

A copy takes over the `response` and the `error` of its source as they stand there, under its own
`id` and `custom_id`, with a mark that tells what it is a copy of. It is a result like any other: a
line and a record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple
from zlib import crc32

import msgspec

from batchwright.blobs.base import Blobs
from batchwright.domain.errors import Damaged
from batchwright.domain.result import copied_line, head_prefix, line_head
from batchwright.engine.account import Record
from batchwright.engine.journal import Journal
from batchwright.engine.recorder import Recorder

SLICE_LINES = 2_000  # copied at a time
SLICE_BYTES = 4 * 2**20  # read for it; a slice has one copy at least


class Copy(NamedTuple):
    """A result that is to be copied to a line."""

    source: Record
    key: str  # where the text of the source lies
    line: int
    mark: bytes  # a member of a JSON object
    size_bytes: int = 0  # of the source and of the line in the input

    @property
    def place(self) -> tuple[str, int]:
        """Where the text of the source lies."""
        return self.key, self.source.offset


Texts = Mapping[tuple[str, int], bytes]
"""Result lines by their `Copy.place`."""


def slices(copies: Iterable[Copy]) -> Iterator[list[Copy]]:
    """Copies, some megabytes at a time."""
    part: list[Copy] = []
    size_bytes = 0
    for copy in copies:
        part.append(copy)
        size_bytes += copy.size_bytes
        if len(part) >= SLICE_LINES or size_bytes >= SLICE_BYTES:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part


class CopyWriter:
    """Writes copies into the journal of one batch."""

    def __init__(
        self, batch_id: str, *, blobs: Blobs, journal: Journal, recorder: Recorder
    ) -> None:
        self.moved = asyncio.Event()
        """Something has become durable, or nothing more will. One task at a time waits for it."""
        self._blobs = blobs
        self._journal = journal
        self._recorder = recorder
        self._prefix = head_prefix(batch_id)

    async def read_sources(self, copies: Sequence[Copy]) -> Texts:
        """The texts that are to be copied. Raises `Damaged` for one that does not check."""
        texts: dict[tuple[str, int], bytes] = {}
        wanted = {copy.place: copy.source for copy in copies}
        for key, places in groupby(sorted(wanted), key=itemgetter(0)):
            sources = [wanted[place] for place in places]
            ranges = [(source.offset, source.length) for source in sources]
            found = await self._blobs.read_ranges(key, ranges)
            for source, text in zip(sources, found, strict=True):
                if crc32(text) != source.line_crc:
                    raise Damaged(f"{key}: the result line at byte {source.offset} is damaged")
                texts[key, source.offset] = text
        return texts

    async def write(
        self,
        copies: Sequence[Copy],
        texts: Texts,
        lines: Mapping[int, bytes],
        is_stopping: Callable[[], bool],
    ) -> None:
        """Write copies; they are durable when this returns, but for a stop.

        `lines` are those of the input, by number. Raises the failure of the journal.
        """
        rendered = await self._blobs.offload(partial(_render, copies, texts, lines, self._prefix))
        for copy, text in rendered:
            self._recorder.copied(copy.line, text, copy.source)
        is_done, last = self._journal.tally.is_done, rendered[-1][0].line
        while not is_done(last) and not is_stopping():
            if self._journal.failure is not None:
                raise self._journal.failure
            self.moved.clear()
            await self.moved.wait()
        self.moved.set()  # more may be durable than was waited for


class _Ours(msgspec.Struct):
    route: msgspec.Raw
    mode: msgspec.Raw


class _Source(msgspec.Struct):
    """What of a result line its copies take over."""

    response: msgspec.Raw
    error: msgspec.Raw
    batchwright: _Ours


class _Response(msgspec.Struct):
    body: msgspec.Raw


class _Own(msgspec.Struct):
    custom_id: str


_decode_source = msgspec.json.Decoder(_Source).decode
_decode_response = msgspec.json.Decoder(_Response).decode
_decode_own = msgspec.json.Decoder(_Own).decode


def route_of(text: bytes) -> bytes:
    """The route of a result line, as JSON."""
    return bytes(_decode_source(text).batchwright.route)


def body_of(text: bytes) -> bytes:
    """The body of the answer in a result line of success."""
    return bytes(_decode_response(_decode_source(text).response).body)


def _render(
    copies: Sequence[Copy], texts: Texts, lines: Mapping[int, bytes], prefix: bytes
) -> list[tuple[Copy, bytes]]:
    """The copies with their result lines, in the order of the input: so what is read in that order
    later lies together."""
    rendered = []
    for _, same in groupby(copies, key=attrgetter("source")):
        of_source = list(same)
        first = of_source[0]
        result = _decode_source(texts[first.place])
        ours = b'{"route":%b,"mode":%b,"attempts":0,"cost_usd":0,%b}' % (
            bytes(result.batchwright.route),
            bytes(result.batchwright.mode),
            first.mark,
        )
        response, error = bytes(result.response), bytes(result.error)
        for copy in of_source:
            custom_id = _decode_own(lines[copy.line]).custom_id
            head = line_head(prefix, copy.line)
            rendered.append((copy, copied_line(head, custom_id, response, error, ours)))
    rendered.sort(key=lambda made: made[0].line)
    return rendered
