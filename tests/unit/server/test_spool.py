"""What is taken for JSONL, and writing ahead."""

from __future__ import annotations

import pytest

from batchwright.domain.errors import NoSpace, UsageError
from batchwright.server.spool import HEAD_BYTES, Head, WriteAhead, check_is_jsonl


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b'{"a": NaN}',
        b'\xef\xbb\xbf{"a": 1}',
        b'garbage\n{"custom_id": 1}\n',
        b"\n" * 200_000 + b'{"a": 1}',
        b'{"a": "' + b"x" * 100_000 + b'"}',
        b'{"a": "\xff"}',
    ],
)
def test_one_line_that_begins_an_object_is_enough(content: bytes) -> None:
    head = Head()
    for start in range(0, len(content), 1000):
        head.feed(content[start : start + 1000])

    check_is_jsonl(head.content)
    assert len(head.content) <= HEAD_BYTES


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"\xef\xbb\xbf \r\n", "empty"), (b"[{}]", "no JSON"), (b"{\n", "no JSON")],
)
def test_anything_else_is_told(content: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_is_jsonl(content)


class Writer:
    """A blob writer that notes what it is told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.content = b""
        self.is_aborted = False
        self._failure = failure

    async def write(self, data: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        self.content += data

    async def finish(self) -> tuple[int, str]:
        return len(self.content), "hash"

    async def abort(self) -> None:
        self.is_aborted = True


async def test_blocks_are_written_in_order() -> None:
    writer = Writer()
    ahead = WriteAhead(writer)
    pieces = [bytes([at]) * 300_000 for at in range(9)]

    for piece in pieces:
        await ahead.write(piece)

    assert await ahead.finish() == (2_700_000, "hash")
    assert writer.content == b"".join(pieces)


async def test_a_failed_write_is_raised_and_can_be_aborted() -> None:
    writer = Writer(NoSpace("full"))
    ahead = WriteAhead(writer)
    await ahead.write(b"x" * 2**20)

    with pytest.raises(NoSpace):
        await ahead.finish()
    await ahead.abort()

    assert writer.is_aborted
