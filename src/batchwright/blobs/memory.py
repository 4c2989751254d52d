"""Blobs in memory, and the disk of the simulation.

Each file knows its synced bytes from those that were only written. `crash` then does what a machine
does: the synced bytes stay, the rest is lost, torn or followed by garbage, and writers that were
not finished have left nothing. All that is random comes from the generator that the caller gives,
so one seed gives one disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from batchwright.blobs.base import CHUNK_BYTES, Range
from batchwright.blobs.keys import checked_key, checked_prefix
from batchwright.domain.errors import Damaged, NoSpace, StorageError

T = TypeVar("T")

_GARBAGE_BYTES_MAX = 64


@dataclass(slots=True)
class _Stored:
    """A file: `data[:synced_bytes]` is on the medium, the rest only in the system's cache."""

    data: bytearray = field(default_factory=bytearray)
    synced_bytes: int = 0
    is_mapped: bool = False


class MemoryBlobs:
    """Blobs in dicts.

    `pause` is awaited within every read, append, create and finish, where a real disk would wait;
    between the writing and the syncing of an append too. `capacity_bytes` is the size of the disk;
    both may be set at any time.
    """

    def __init__(
        self,
        *,
        pause: Callable[[], Awaitable[None]] | None = None,
        capacity_bytes: int = 1 << 50,
    ) -> None:
        self.pause = pause
        self.capacity_bytes = capacity_bytes
        self._files: dict[str, _Stored] = {}
        self._poisoned: set[str] = set()
        self._append_failures: list[Exception] = []
        self._lives = 0  # crashes survived; tells a dead process's calls from the living one's

    async def open_writer(self, key: str) -> MemoryWriter:
        """Nothing is visible under the key until the writer's `finish` returns."""
        return MemoryWriter(self, checked_key(key), self._lives)

    async def read(
        self, key: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Sees what was written, synced or not, as a file system shows it."""
        life = self._lives
        data = self._existing(key).data
        stop = len(data) if length is None else offset + length
        if max(offset, stop) > len(data):
            raise Damaged(f"{key} has {len(data)} bytes, byte {max(offset, stop)} was expected")
        while offset < stop:
            await self._wait(life)
            piece = bytes(data[offset : min(stop, offset + CHUNK_BYTES)])
            offset += len(piece)
            yield piece

    async def read_ranges(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """Sees what was written, synced or not."""
        await self._wait(self._lives)
        data = self._existing(key).data
        for offset, length in ranges:
            if offset + length > len(data):
                raise Damaged(f"{key} has {len(data)} bytes, {offset + length} were expected")
        return [bytes(data[offset : offset + length]) for offset, length in ranges]

    async def size(self, key: str) -> int | None:
        """Bytes of a file; None if there is none."""
        stored = self._files.get(checked_key(key))
        return None if stored is None else len(stored.data)

    async def delete(self, key: str) -> None:
        """Delete a file, or all below a prefix that ends in `/`."""
        if not checked_prefix(key):
            raise StorageError("refusing to delete every blob")
        for name in await self.keys(key) if key.endswith("/") else [key]:
            self._files.pop(name, None)

    async def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted."""
        checked_prefix(prefix)
        return sorted(key for key in self._files if key.startswith(prefix))

    async def create(self, keys: Sequence[str]) -> None:
        """Create empty append-only files; they survive a power cut when it returns."""
        for key in keys:
            self._require_absent(checked_key(key))
        await self._wait(self._lives)
        for key in keys:
            self._files[key] = _Stored()

    async def append(self, writes: Iterable[tuple[str, Sequence[bytes]]]) -> None:
        """Write everything, wait, sync everything. A failure poisons all of `writes`' files.

        No pieces only sync the file, also what a process that was killed had written to it.
        """
        given = list(writes)
        life, keys = self._lives, [key for key, _ in given]
        for key in keys:
            if key in self._poisoned:
                raise StorageError(f"{key} failed before; what is on the disk is unknown")
        try:
            for key, pieces in given:
                self._write(key, b"".join(pieces))
            await self._wait(life)
            if self._append_failures:
                raise self._append_failures.pop(0)
        except Exception:
            if life == self._lives:
                self._poisoned.update(keys)
            raise
        for key in keys:
            self._files[key].synced_bytes = len(self._files[key].data)

    async def release(self, keys: Sequence[str]) -> None:
        """Nothing is held open here."""

    async def require_room(self, size_bytes: int) -> None:
        """Raises `NoSpace` where less is left."""
        await self._wait(self._lives)
        self._require_space("room for answers", size_bytes)

    def map(self, key: str, size_bytes: int) -> memoryview:
        """A zero-filled file; outlives a kill, not a power cut."""
        self._require_absent(checked_key(key))
        self._require_space(key, size_bytes)
        stored = _Stored(bytearray(size_bytes), synced_bytes=size_bytes, is_mapped=True)
        self._files[key] = stored
        return memoryview(stored.data)

    def unmap(self, key: str) -> None:
        """Nothing to close: the caller's view keeps its bytes."""

    async def offload(self, function: Callable[[], T]) -> T:
        """Run the function at once: a simulation has no threads."""
        return function()

    def free_bytes(self) -> int:
        """What is left of `capacity_bytes`."""
        used_bytes = sum(len(stored.data) for stored in self._files.values())
        return max(0, self.capacity_bytes - used_bytes)

    async def close(self) -> None:
        """Nothing is held open here."""

    def fail_next_append(self, error: Exception) -> None:
        """Let one more append to come fail with `error`, between its writing and its sync."""
        self._append_failures.append(error)

    def crash(self, random: Random, *, power_cut: bool) -> None:
        """The process dies at this moment; the object then is the disk that the next one finds.

        Of what was not synced a random beginning stays. After a kill it is still not synced; a
        power cut may leave garbage after it, and takes the mapped files. Calls of the
        dead process that are still under way raise `StorageError` and change nothing.
        """
        self._lives += 1
        self._poisoned.clear()
        self._append_failures.clear()
        for key in sorted(self._files):
            stored = self._files[key]
            if stored.is_mapped and power_cut:
                del self._files[key]
            else:
                self._files[key] = _after_crash(stored, random, power_cut=power_cut)

    def _write(self, key: str, data: bytes) -> None:
        stored = self._existing(key)
        fitting = data[: self.free_bytes()]
        stored.data += fitting
        if len(fitting) < len(data):
            raise NoSpace(f"{key}: no space left")

    def _finish(self, key: str, data: bytearray) -> None:
        self._require_absent(key)
        self._require_space(key, len(data))
        self._files[key] = _Stored(data, synced_bytes=len(data))

    def _existing(self, key: str) -> _Stored:
        stored = self._files.get(checked_key(key))
        if stored is None:
            raise Damaged(f"{key} is missing")
        return stored

    def _require_absent(self, key: str) -> None:
        if key in self._files:
            raise StorageError(f"{key} exists already")

    def _require_space(self, key: str, size_bytes: int) -> None:
        if size_bytes > self.free_bytes():
            raise NoSpace(f"{key}: no space left")

    async def _wait(self, life: int) -> None:
        if self.pause is not None:
            await self.pause()
        self._require_alive(life)

    def _require_alive(self, life: int) -> None:
        if life != self._lives:
            raise StorageError("the process that made this call is dead")


class MemoryWriter:
    """A blob on its way in; a crash leaves nothing of it."""

    def __init__(self, blobs: MemoryBlobs, key: str, life: int) -> None:
        self._blobs = blobs
        self._key = key
        self._life = life
        self._data = bytearray()
        self._is_open = True

    async def write(self, data: bytes) -> None:
        """Raises `NoSpace` as soon as the disk cannot hold what was written."""
        self._require_open()
        self._data += data
        self._blobs._require_space(self._key, len(self._data))

    async def finish(self) -> tuple[int, str]:
        """Make the blob visible and durable. Returns (bytes, SHA-256 in hex)."""
        self._require_open()
        self._is_open = False
        await self._blobs._wait(self._life)
        self._blobs._finish(self._key, self._data)
        return len(self._data), hashlib.sha256(self._data).hexdigest()

    async def abort(self) -> None:
        """Drop what was written; a no-op when finished or aborted before."""
        self._is_open = False

    def _require_open(self) -> None:
        self._blobs._require_alive(self._life)
        if not self._is_open:
            raise StorageError(f"the writer of {self._key} is closed")


def _after_crash(stored: _Stored, random: Random, *, power_cut: bool) -> _Stored:
    """What the next process finds of a file. A copy: the dead one's views reach nothing."""
    kept = random.randint(stored.synced_bytes, len(stored.data))
    data = bytearray(stored.data[:kept])
    if power_cut and len(stored.data) > stored.synced_bytes and random.random() < 0.5:
        data += random.randbytes(random.randint(1, _GARBAGE_BYTES_MAX))
    synced_bytes = len(data) if power_cut else stored.synced_bytes
    return _Stored(data, synced_bytes=synced_bytes, is_mapped=stored.is_mapped)
