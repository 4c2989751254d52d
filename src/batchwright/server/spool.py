"""From the body of an upload to a blob: streamed, bounded, and gone again if anything fails."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from batchwright.blobs.base import CHUNK_BYTES, BlobWriter
from batchwright.domain.errors import UsageError
from batchwright.server.body import body_chunks, too_large
from batchwright.server.context import Context
from batchwright.server.multipart import FORM_BYTES_MAX, FormReader

HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Spooled:
    """A blob that an upload form has become. `head` is how its content begins."""

    key: str
    filename: str
    fields: Mapping[str, str]
    size_bytes: int
    sha256: str
    head: bytes


@asynccontextmanager
async def spooled_form(
    context: Context, key: str, *, file_field: str, bytes_max: int
) -> AsyncIterator[Spooled]:
    """The file of the upload form in the body, as the blob `key`.

    The caller makes the blob known to the store before it leaves; if it leaves with an error,
    the blob is deleted.
    """
    request = context.request
    form = FormReader(request.headers.get("content-type", ""), file_field=file_field)
    head = Head()
    size_bytes = 0
    blobs = context.engine.blobs
    writer = WriteAhead(await blobs.open_writer(key))
    try:
        limit = bytes_max + FORM_BYTES_MAX
        async for chunk in body_chunks(request, limit, context.engine.runtime.monotonic):
            context.engine.check_room()
            for piece in form.feed(chunk):
                size_bytes += len(piece)
                if size_bytes > bytes_max:
                    raise too_large(bytes_max)
                head.feed(piece)
                await writer.write(piece)
        form.finish()
        written, sha256 = await writer.finish()
    finally:
        await writer.abort()
    context.services.metrics.uploaded.inc(written)
    try:
        yield Spooled(key, form.filename or "", form.fields, written, sha256, head.content)
    except BaseException:
        await blobs.delete(key)
        raise


class WriteAhead:
    """Writes a blob while its next block gathers: disk and network do not wait in turn."""

    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._writing: asyncio.Task[None] | None = None

    async def write(self, piece: bytes) -> None:
        """Raises what an earlier write met."""
        self._gathered.append(piece)
        self._gathered_bytes += len(piece)
        if self._gathered_bytes >= CHUNK_BYTES:
            await self._flush()

    async def finish(self) -> tuple[int, str]:
        """As `BlobWriter.finish`."""
        await self._flush()
        await self._settle()
        return await self._writer.finish()

    async def abort(self) -> None:
        """As `BlobWriter.abort`."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._writer.abort()

    async def _flush(self) -> None:
        block = b"".join(self._gathered)
        self._gathered, self._gathered_bytes = [], 0
        await self._settle()
        self._writing = asyncio.ensure_future(self._writer.write(block))

    async def _settle(self) -> None:
        if self._writing is not None:
            await self._writing


class Head:
    """The beginning of a file, without the blank lines before its first content."""

    def __init__(self) -> None:
        self.content = b""

    def feed(self, piece: bytes) -> None:
        """Take a piece; once the head is full this costs nothing."""
        if len(self.content) < HEAD_BYTES:
            if not self.content:
                piece = piece.lstrip()
            self.content += piece[: HEAD_BYTES - len(self.content)]


_OBJECT_LINE = re.compile(rb"^(?:\xef\xbb\xbf)?[ \t]*\{[ \t]*[\"}]", re.MULTILINE)


def check_is_jsonl(head: bytes) -> None:
    """Raises for a file that is no JSONL at all: none of its first lines begins an object.

    What is wrong with single lines is for validation to tell, line by line.
    """
    if not _OBJECT_LINE.search(head):
        what = "is empty" if not head.strip(b"\xef\xbb\xbf \t\r\n") else "has no JSON object"
        raise UsageError(
            "Invalid file format for Batch API. Must be .jsonl: one JSON object on each line, "
            f"but the file {what}."
        )
