"""Lines of one batch whose bodies are the same, byte for byte.

The first line with a body is the *leader*, every later one a *follower* of it. Bodies are compared
by their 128-bit hash (BLAKE2b): of ten million bodies the chance that two that differ are taken for
one is below 10⁻²⁴.

Found anew in each epoch by reading the input, so nothing of it is stored. While the hashes are
compared they take 20 bytes a line; after that a follower is found by 16 bytes a line, and by none
where no two bodies are the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from struct import Struct

from batchwright.blobs.base import Blobs
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line
from batchwright.engine.input import input_lines, read_request

HASH_BYTES = 16
_NUMBER = Struct("<I")
_ENTRY_BYTES = HASH_BYTES + _NUMBER.size
_BUCKETS = 256  # by the first byte of the hash: searched one at a time


class Duplicates:
    """Leaders, their followers, and where those lie in the input."""

    def __init__(self) -> None:
        self.count = 0  # of followers
        self._next = array("I")  # by line: the next line with the same body; 0: none
        self._is_follower = bytearray()  # one bit per line
        self._offsets = array("Q")  # by line; filled for followers alone
        self._lengths = array("I")

    def is_follower(self, line: int) -> bool:
        byte = line >> 3
        return byte < len(self._is_follower) and bool(self._is_follower[byte] >> (line & 7) & 1)

    def followers(self, line: int) -> Iterator[int]:
        """The followers of a leader in the order of the input; none of any other line."""
        if line >= len(self._next) or self.is_follower(line):
            return
        while line := self._next[line]:
            yield line

    def place(self, follower: int) -> tuple[int, int]:
        """Offset and length of a follower's line in the input."""
        return self._offsets[follower], self._lengths[follower]

    def _link(self, earlier: int, later: int, lines: int) -> None:
        if not self.count:  # by repetition: from bytes, each would be there twice for a moment
            self._next = array("I", [0]) * (lines + 1)
            self._is_follower = bytearray((lines >> 3) + 1)
        self.count += 1
        self._next[earlier] = later
        self._is_follower[later >> 3] |= 1 << (later & 7)

    def _make_places(self) -> None:
        self._offsets = array("Q", [0]) * len(self._next)
        self._lengths = array("I", [0]) * len(self._next)

    def _note_places(self, lines: Iterator[Line]) -> None:
        for number, offset, content in lines:
            if self.is_follower(number):
                self._offsets[number] = offset
                self._lengths[number] = len(content or b"")


async def find_duplicates(
    extents: Sequence[Extent],
    *,
    endpoint: str,
    blobs: Blobs,
    is_stopping: Callable[[], bool],
) -> Duplicates | None:
    """Read an input, in slices and off the event loop; None where a stop came before its end.

    Raises `Damaged` for a line that cannot be read.
    """
    bodies = _Bodies(endpoint)
    async for lines in input_lines(blobs, extents):
        await blobs.offload(partial(bodies.note, lines))
        if is_stopping():
            return None
    found = await blobs.offload(bodies.duplicates)
    if found.count:
        found._make_places()
        async for lines in input_lines(blobs, extents):
            await blobs.offload(partial(found._note_places, lines))
            if is_stopping():
                return None
    return found


class _Bodies:
    """The hash of each body with its line, in buckets."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        self._lines = 0

    def note(self, lines: Iterator[Line]) -> None:
        endpoint, buckets, number_of = self._endpoint, self._buckets, _NUMBER.pack
        for line in lines:
            body = read_request(line, endpoint).body
            hashed = blake2b(body, digest_size=HASH_BYTES).digest()
            buckets[hashed[0]] += hashed + number_of(line.number)
            self._lines = line.number

    def duplicates(self) -> Duplicates:
        """What is the same, without its places. Gives up a bucket after the other."""
        found = Duplicates()
        while self._buckets:
            self._link(self._buckets.pop(), found)
        return found

    def _link(self, entries: bytearray, found: Duplicates) -> None:
        bucket, last = memoryview(entries), dict[bytes, int]()
        for start in range(0, len(bucket), _ENTRY_BYTES):
            hashed = bytes(bucket[start : start + HASH_BYTES])
            (line,) = _NUMBER.unpack_from(bucket, start + HASH_BYTES)
            if hashed in last:
                found._link(last[hashed], line, self._lines)
            last[hashed] = line
