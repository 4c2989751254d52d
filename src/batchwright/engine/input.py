"""The lines of an input file that has passed validation.

Its readers put no limit on the length of a line: the limit may have been lowered since. A line
that does not read is damage, and stops its batch alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec

from batchwright.blobs.base import Blobs, read_extents
from batchwright.domain.errors import Damaged
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line, LineSplitter
from batchwright.domain.request import Request, parse_request

_NO_LIMIT = 2**63 - 1


async def input_lines(
    blobs: Blobs, extents: Sequence[Extent], start: Line | None = None
) -> AsyncIterator[Iterator[Line]]:
    """The lines of a file from `start` on, an iterator for each piece that is read.

    Run each to its end before the next, on any thread: what it yields is cut out line by line.
    """
    offset, number = (0, 1) if start is None else (start.offset, start.number)
    splitter = LineSplitter(line_bytes_max=_NO_LIMIT, offset=offset, number=number)
    async for chunk in read_extents(blobs, _from(extents, offset)):
        yield splitter.feed(chunk)
    yield splitter.finish()


def _from(extents: Sequence[Extent], offset: int) -> list[Extent]:
    """What of a file lies behind its first `offset` bytes."""
    rest = []
    for extent in extents:
        skipped = min(offset, extent.length)
        offset -= skipped
        if skipped < extent.length:
            rest.append(Extent(extent.key, extent.offset + skipped, extent.length - skipped))
    return rest


def read_request(line: Line, endpoint: str, model: str | None = None) -> Request:
    """The request of a line, for the endpoint of its batch, and for its model if it has only one.

    Raises `Damaged`.
    """
    number, _, content = line
    try:
        return parse_request(number, content or b"", endpoint, model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(f"line {number} of the input file cannot be read: {error}") from error
