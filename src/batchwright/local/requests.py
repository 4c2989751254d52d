"""Request lines into the engine's storage, and the failed ones out of it again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from batchwright.blobs.base import CHUNK_BYTES
from batchwright.domain.file import Extent, File
from batchwright.domain.key import DEFAULT_TENANT
from batchwright.domain.lines import Line
from batchwright.engine.input import input_lines
from batchwright.wiring import Node

FILE_NAME = "requests.jsonl"


class Written(NamedTuple):
    """A request file in the store."""

    file: File
    lines: int  # physical ones


class Chunk(NamedTuple):
    """Some lines with their ends."""

    content: bytes
    lines: int


async def write_requests(node: Node, lines: Iterator[bytes]) -> Written:
    """Store request lines as a file for batches, in bounded memory.

    It is whole and visible, or not there: a crash in between leaves nothing that counts.
    """
    return await _store(node, _chunks(node, lines))


async def write_chosen(node: Node, file_id: str, is_chosen: Callable[[int], bool]) -> Written:
    """Store the chosen lines of a request file as another, under their old numbers.

    The lines in between are blank, so that a number means the same request in both.
    """
    return await _store(node, _chosen(node, file_id, is_chosen))


async def _store(node: Node, chunks: AsyncIterator[Chunk]) -> Written:
    made = node.engine.new_file(
        DEFAULT_TENANT, purpose="batch", filename=FILE_NAME, size_bytes=0, sha256=None
    )
    key = f"files/{made.id}"
    writer = await node.blobs.open_writer(key)
    lines = 0
    try:
        async for chunk, count in chunks:
            lines += count
            await writer.write(chunk)
        size_bytes, sha256 = await writer.finish()
    finally:
        await writer.abort()
    # A run may take longer than files are kept.
    file = replace(made, size_bytes=size_bytes, sha256=sha256, expires_at=None)
    await node.store.create_file(DEFAULT_TENANT, file, [Extent(key, 0, size_bytes)])
    return Written(file, lines)


async def _chunks(node: Node, lines: Iterator[bytes]) -> AsyncIterator[Chunk]:
    while (chunk := await node.blobs.offload(partial(take_chunk, lines))).lines:
        yield chunk


def take_chunk(lines: Iterator[bytes]) -> Chunk:
    """The next lines with their ends, about `CHUNK_BYTES` of them; empty at the end."""
    gathered: list[bytes] = []
    size_bytes = 0
    for line in lines:
        gathered.append(line)
        size_bytes += len(line) + 1
        if size_bytes >= CHUNK_BYTES:
            break
    count = len(gathered)
    gathered.append(b"")
    return Chunk(b"\n".join(gathered), count)


async def _chosen(
    node: Node, file_id: str, is_chosen: Callable[[int], bool]
) -> AsyncIterator[Chunk]:
    chooser = _Chooser(is_chosen)
    extents = await node.store.get_extents(DEFAULT_TENANT, file_id)
    async for lines in input_lines(node.blobs, extents):
        chunk = await node.blobs.offload(partial(chooser.choose, lines))
        yield Chunk(chunk, chunk.count(b"\n"))


class _Chooser:
    """Keeps chosen lines and puts blank ones in the place of the others before them."""

    def __init__(self, is_chosen: Callable[[int], bool]) -> None:
        self._is_chosen = is_chosen
        self._written = 0  # lines

    def choose(self, lines: Iterator[Line]) -> bytes:
        pieces: list[bytes] = []
        for line in lines:
            if line.content is not None and self._is_chosen(line.number):
                pieces.append(b"\n" * (line.number - self._written - 1))
                pieces.append(line.content + b"\n")
                self._written = line.number
        return b"".join(pieces)
