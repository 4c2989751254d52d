"""The interface to bytes: whole blobs, and the append-only files of journals.

Keys are relative paths of server-made names (`files/file-…`, `batches/batch_…/3/output`).
Threads live behind this interface only: nothing here blocks the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from batchwright.domain.file import Extent

T = TypeVar("T")

Range = tuple[int, int]
"""Offset and length in bytes."""

CHUNK_BYTES = 1 << 20  # how much a read yields at a time


class BlobWriter(Protocol):
    """A blob on its way in. Nothing is visible until `finish` returns."""

    async def write(self, data: bytes) -> None: ...

    async def finish(self) -> tuple[int, str]:
        """Sync, make visible under its key, sync the name. Returns (bytes, SHA-256 in hex)."""
        ...

    async def abort(self) -> None:
        """Drop what was written. Safe twice and after `finish` (then a no-op)."""
        ...


class Blobs(Protocol):
    """Where bytes lie. Failures raise `StorageError`; a full disk `NoSpace`."""

    async def open_writer(self, key: str) -> BlobWriter: ...

    def read(self, key: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream a range in pieces of about `CHUNK_BYTES`. Raises `Damaged` if it ends early."""
        ...

    async def read_ranges(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """Read many ranges at once, given by rising offset: what they hold together must fit into
        memory. Raises `Damaged` where one is not there."""
        ...

    async def size(self, key: str) -> int | None:
        """Bytes of a blob or segment file; None if there is none."""
        ...

    async def delete(self, key: str) -> None:
        """Delete a blob, or all below a prefix that ends in `/`. No-op if there is none."""
        ...

    async def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix, sorted; to find orphans."""
        ...

    async def create(self, keys: Sequence[str]) -> None:
        """Create empty append-only files, durably. Raises `StorageError` if one exists.

        A failure leaves none of them open or behind.
        """
        ...

    async def append(self, writes: Iterable[tuple[str, Sequence[bytes]]]) -> None:
        """Append pieces to files made by `create`, and sync them all. Durable when it returns.

        `writes` is gone through once, when the files are at hand, perhaps on another thread: what
        it yields can be decided then.

        After a failure the files must not be appended to again: what is on the disk is unknown.
        """
        ...

    async def release(self, keys: Sequence[str]) -> None:
        """Close the handles that `append` keeps open."""
        ...

    async def require_room(self, size_bytes: int) -> None:
        """Raises `NoSpace` unless so much can be written and synced now, also under a quota."""
        ...

    def map(self, key: str, size_bytes: int) -> memoryview:
        """A writable, zero-filled file in memory, shared with the system's page cache:
        what is stored in it survives the process, not the machine. Closed by `unmap`, once the
        caller has released its views. A failure leaves nothing behind."""
        ...

    def unmap(self, key: str) -> None: ...

    async def offload(self, function: Callable[[], T]) -> T:
        """Run a function that takes long, off the event loop."""
        ...

    def free_bytes(self) -> int:
        """Free space where blobs are written."""
        ...

    async def close(self) -> None:
        """Let go of files and threads. Safe twice."""
        ...


async def read_extents(blobs: Blobs, extents: Sequence[Extent]) -> AsyncIterator[bytes]:
    """Stream the bytes of a file, extent after extent."""
    for extent in extents:
        async for chunk in blobs.read(extent.key, extent.offset, extent.length):
            yield chunk


async def read_extent_ranges(
    blobs: Blobs, extents: Sequence[Extent], ranges: Sequence[Range]
) -> list[bytes]:
    """The bytes of each range of a file, given by rising offset."""
    found = [b""] * len(ranges)
    start = 0  # of the extent in the file
    for extent in extents:
        end = start + extent.length
        inside = [
            (place, max(offset, start), min(offset + length, end))
            for place, (offset, length) in enumerate(ranges)
            if offset < end and offset + length > start
        ]
        if inside:
            shift = extent.offset - start
            parts = [(first + shift, last - first) for _, first, last in inside]
            texts = await blobs.read_ranges(extent.key, parts)
            for (place, _, _), text in zip(inside, texts, strict=True):
                found[place] += text
        start = end
    return found
