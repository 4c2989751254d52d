"""The bodies of an input by their hashes, so that what is the same is found.

Bodies are compared byte for byte, by their 128-bit hash (BLAKE2b): of ten million bodies the chance
that two that differ are taken for one is below 10⁻²⁴. A hash with its line takes 20 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from struct import Struct

from batchwright.blobs.base import Blobs
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line
from batchwright.engine.input import input_lines, read_request
from batchwright.engine.preparation import Preparation

BUCKETS = 256
_ENTRY = Struct("<16sI")


class Bodies:
    """The hash of each body with its line, in buckets by the first byte of the hash.

    Equals share a bucket, so that one bucket at a time has to be searched for them.
    """

    def __init__(self, endpoint: str) -> None:
        self.lines = 0  # the number of the last line
        self._endpoint = endpoint
        self._buckets = [bytearray() for _ in range(BUCKETS)]

    def note(self, lines: Iterator[Line]) -> None:
        """Hash the bodies of more lines. Raises `Damaged` for one that cannot be read."""
        for line in lines:
            self.add(read_request(line, self._endpoint).body, line.number)

    def add(self, body: bytes, line: int) -> None:
        """Hash the body of one line; lines come in their order."""
        hashed = blake2b(body, digest_size=16).digest()
        self._buckets[hashed[0]] += _ENTRY.pack(hashed, line)
        self.lines = line

    def bucket(self, number: int) -> Iterator[tuple[bytes, int]]:
        """(hash, line) of a bucket, in the order of the input."""
        return _ENTRY.iter_unpack(self._buckets[number])

    def forget(self, number: int) -> None:
        """Let go of a bucket."""
        self._buckets[number] = bytearray()


async def read_bodies(
    extents: Sequence[Extent],
    *,
    endpoint: str,
    blobs: Blobs,
    preparation: Preparation,
    is_stopping: Callable[[], bool],
) -> Bodies | None:
    """Read an input, in slices and off the event loop; None where a stop came before its end.

    What was read is noted in the step of `preparation` that is under way.
    Raises `Damaged` for a line that cannot be read.
    """
    bodies = Bodies(endpoint)
    async for lines in input_lines(blobs, extents):
        before = bodies.lines
        await blobs.offload(partial(bodies.note, lines))
        preparation.note(bodies.lines - before)
        if is_stopping():
            return None
    return bodies
