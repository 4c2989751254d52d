"""Blobs as files in a folder.

Rules:

- Acknowledged means synced: file, then name, then every folder up to the root.
- A blob is written under a hidden name and renamed when it is whole; a dead process's leftovers
  are known by their lock being free, and removed at the next start.
- A failed write or sync is never repeated on the same file: the system may have dropped the
  pages and marked them clean, so a second sync would lie. The file is poisoned instead.
- Appends have their own threads: neither a download nor a validation delays a commit.
- A cancelled caller leaves only when its thread is done with the file, so no descriptor is closed
  (and its number given to another file) under a running call.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from batchwright.blobs.base import CHUNK_BYTES, Range
from batchwright.blobs.keys import checked_key, checked_prefix
from batchwright.domain.errors import Damaged, NoSpace, StorageError

T = TypeVar("T")

_APPEND_THREADS = 2  # two batches can sync at the same time
_FILE_THREADS = 4
_OFFLOAD_THREADS = 2

_PIECES_MAX = 1024  # of one write: IOV_MAX of Linux and macOS
_GAP_BYTES = 4096  # read along where it saves a read
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_INCOMING = ".incoming"  # no key starts with a dot
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_NOFOLLOW | os.O_CLOEXEC


class LocalBlobs:
    """Blobs below the folder `root`, which is made if there is none. Close with `close`."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._incoming = self._root / _INCOMING
        self._handles: dict[str, int] = {}
        self._poisoned: set[str] = set()
        self._maps: dict[str, tuple[mmap.mmap, memoryview]] = {}
        self._append_pool = ThreadPoolExecutor(_APPEND_THREADS, "blobs-append")
        self._file_pool = ThreadPoolExecutor(_FILE_THREADS, "blobs-file")
        self._offload_pool = ThreadPoolExecutor(_OFFLOAD_THREADS, "offload")
        with _translated(str(self._root)):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._incoming.mkdir(mode=0o700, exist_ok=True)
            _remove_leftovers(self._incoming)

    async def open_writer(self, key: str) -> LocalWriter:
        """Nothing is visible under the key until the writer's `finish` returns."""
        target = self._path(key)
        temporary = self._incoming / secrets.token_hex(16)
        descriptor = await self._in_thread(key, lambda: _open_locked(temporary))
        return LocalWriter(self, key, target, temporary, descriptor)

    async def read(
        self, key: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Raises `Damaged` before the first piece where the range is known not to be there."""
        path = self._path(key)
        descriptor, stop = await self._in_thread(key, lambda: _open_range(path, offset, length))
        try:
            while offset < stop:
                wanted = min(CHUNK_BYTES, stop - offset)
                piece = await self._in_thread(key, partial(os.pread, descriptor, wanted, offset))
                if not piece:
                    raise Damaged(f"{key} ends at byte {offset}, {stop} were expected")
                offset += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    async def read_ranges(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """One thread hop; ranges that lie close together are one read."""
        path = self._path(key)
        return await self._in_thread(key, lambda: _read_ranges(path, ranges))

    async def size(self, key: str) -> int | None:
        """Bytes of a file; None if there is none."""
        path = self._path(key)
        return await self._in_thread(key, lambda: _size_of(path))

    async def delete(self, key: str) -> None:
        """Delete a file, or all below a prefix that ends in `/`."""
        path = self._root / checked_prefix(key)
        if path == self._root:
            raise StorageError("refusing to delete every blob")
        remove = _remove_tree if key.endswith("/") else _remove_file
        await self._in_thread(key, lambda: remove(path, self._root))

    async def keys(self, prefix: str) -> list[str]:
        """The keys that start with `prefix`, sorted."""
        folder = self._root / checked_prefix(prefix).rpartition("/")[0]
        found = await self._in_thread(prefix, lambda: _walk(folder, self._root))
        return sorted(key for key in found if key.startswith(prefix))

    async def create(self, keys: Sequence[str]) -> None:
        """Create empty append-only files; their names survive a power cut when it returns."""
        paths = {key: self._path(key) for key in keys}
        await self._in_thread(
            "/".join(keys[:1]), lambda: self._create(paths), pool=self._append_pool
        )

    async def append(self, writes: Iterable[tuple[str, Sequence[bytes]]]) -> None:
        """Write everything, then sync every file: one thread hop.

        No pieces only sync the file, also what a process that was killed had written to it.
        A failure poisons all of `writes`' files: every later append to them raises `StorageError`.
        """
        await _finished(
            asyncio.get_running_loop().run_in_executor(self._append_pool, self._append, writes)
        )

    async def release(self, keys: Sequence[str]) -> None:
        """Close the handles that `append` keeps open."""
        await _finished(
            asyncio.get_running_loop().run_in_executor(self._append_pool, self._release, keys)
        )

    async def require_room(self, size_bytes: int) -> None:
        """Writes it: free space says nothing of a quota, nor of a limit on the size of a file."""
        temporary = self._incoming / secrets.token_hex(16)
        await self._in_thread("room for answers", lambda: _write_zeros(temporary, size_bytes))

    def map(self, key: str, size_bytes: int) -> memoryview:
        """The blocks are reserved at once: a full disk is an error here, not a signal later."""
        path = self._path(key)
        with _translated(key):
            _make_folders(path.parent, self._root)
            descriptor = os.open(path, _NEW_FILE | os.O_RDWR, 0o600)
            try:
                _reserve(descriptor, size_bytes)
                mapped = mmap.mmap(descriptor, size_bytes)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)
        view = memoryview(mapped)
        self._maps[key] = mapped, view
        return view

    def unmap(self, key: str) -> None:
        """Close a mapped file; a no-op for one that is not mapped."""
        mapped, view = self._maps.pop(key, (None, None))
        if mapped is None or view is None:
            return
        with suppress(BufferError):  # a slice of the view still lives; it holds the mapping
            view.release()
            mapped.close()

    async def offload(self, function: Callable[[], T]) -> T:
        """Run a function that takes long in a thread of its own pool.

        A cancelled caller leaves at once; the function runs to its end.
        """
        return await asyncio.get_running_loop().run_in_executor(self._offload_pool, function)

    def free_bytes(self) -> int:
        """What an ordinary user may still write to the file system of `root`."""
        with _translated(str(self._root)):
            status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    async def close(self) -> None:
        """Close all handles and maps and end the threads. Safe twice."""
        for key in list(self._maps):
            self.unmap(key)
        for pool in (self._offload_pool, self._file_pool, self._append_pool):
            await asyncio.to_thread(pool.shutdown)
        self._release(list(self._handles))

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    async def _in_thread(
        self, key: str, function: Callable[[], T], *, pool: ThreadPoolExecutor | None = None
    ) -> T:
        future = asyncio.get_running_loop().run_in_executor(pool or self._file_pool, function)
        with _translated(key):
            return await _finished(future)

    def _create(self, paths: dict[str, Path]) -> None:
        made: list[str] = []
        try:
            for key, path in paths.items():
                _make_folders(path.parent, self._root)
                self._handles[key] = os.open(path, _NEW_FILE | os.O_WRONLY | os.O_APPEND, 0o600)
                made.append(key)
            for folder in dict.fromkeys(path.parent for path in paths.values()):
                _sync_folders(folder, self._root)
        except BaseException:
            self._release(made)
            for key in made:
                paths[key].unlink(missing_ok=True)
            raise

    def _append(self, given: Iterable[tuple[str, Sequence[bytes]]]) -> None:
        writes = list(given)
        keys = [key for key, _ in writes]
        for key in keys:
            if key in self._poisoned:
                raise StorageError(f"{key} failed before; what is on the disk is unknown")
        try:
            with _translated(keys[0] if keys else ""):
                for key, pieces in writes:
                    _write_pieces(self._handle(key), pieces)
                for key in dict.fromkeys(keys):
                    _sync(self._handles[key])
        except BaseException:
            self._poisoned.update(keys)
            self._release(keys)
            raise

    def _handle(self, key: str) -> int:
        descriptor = self._handles.get(key)
        if descriptor is None:
            flags = _OLD_FILE | os.O_WRONLY | os.O_APPEND
            descriptor = self._handles[key] = os.open(self._path(key), flags)
        return descriptor

    def _release(self, keys: Sequence[str]) -> None:
        for key in keys:
            descriptor = self._handles.pop(key, None)
            if descriptor is not None:
                os.close(descriptor)


class LocalWriter:
    """A file on its way in, under a hidden name. Not for two tasks at once."""

    def __init__(
        self, blobs: LocalBlobs, key: str, target: Path, temporary: Path, descriptor: int
    ) -> None:
        self._blobs = blobs
        self._key = key
        self._target = target
        self._temporary = temporary
        self._descriptor: int | None = descriptor
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0

    async def write(self, data: bytes) -> None:
        """Gathers up to `CHUNK_BYTES` before it goes to a thread."""
        self._require_open()
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= CHUNK_BYTES:
            await self._in_thread(self._flush)

    async def finish(self) -> tuple[int, str]:
        """Sync, rename, sync the folders. Returns (bytes, SHA-256 in hex)."""
        self._require_open()
        await self._in_thread(self._publish)
        return self._size_bytes, self._digest.hexdigest()

    async def abort(self) -> None:
        """Drop what was written; a no-op when finished or aborted before."""
        if self._descriptor is not None:
            await self._in_thread(self._drop)

    def _require_open(self) -> int:
        if self._descriptor is None:
            raise StorageError(f"the writer of {self._key} is closed")
        return self._descriptor

    async def _in_thread(self, step: Callable[[], None]) -> None:
        await self._blobs._in_thread(self._key, step)

    def _flush(self) -> None:
        data = b"".join(self._gathered)
        self._gathered, self._gathered_bytes = [], 0
        self._digest.update(data)
        _write_all(self._require_open(), data)
        self._size_bytes += len(data)

    def _publish(self) -> None:
        root = self._blobs._root
        try:
            self._flush()
            _sync(self._require_open())
            _make_folders(self._target.parent, root)
            if self._target.exists():
                raise StorageError(f"{self._key} exists already")
            self._temporary.rename(self._target)
        except BaseException:
            self._drop()
            raise
        self._close()
        _sync_folders(self._target.parent, root)

    def _drop(self) -> None:
        self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


async def _finished(future: asyncio.Future[T]) -> T:
    """The result of a thread's work; a cancelled caller leaves only when the thread is done."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen: the cancellation is what the caller hears of
        raise


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """Turn the system's errors into ours, with the key that they are about."""
    try:
        yield
    except FileNotFoundError as error:
        raise Damaged(f"{key} is missing") from error
    except OSError as error:
        kind = NoSpace if error.errno in _NO_SPACE else StorageError
        raise kind(f"{key}: {error.strerror or error}") from error


def _write_pieces(descriptor: int, pieces: Sequence[bytes]) -> None:
    """Write them one behind the other; they are not copied together, for they may be long."""
    for start in range(0, len(pieces), _PIECES_MAX):
        part = pieces[start : start + _PIECES_MAX]
        written = os.writev(descriptor, part)
        if written < sum(map(len, part)):
            _write_all(descriptor, b"".join(part)[written:])


def _write_all(descriptor: int, data: bytes) -> None:
    """Write until all is written: a write may be short (signal, quota, almost full disk)."""
    written = os.write(descriptor, data) if data else 0
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def _sync(descriptor: int) -> None:
    """Bring a file's bytes to the medium. On macOS a plain sync stops at the drive's cache."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def _write_zeros(path: Path, size_bytes: int) -> None:
    """Write and sync so much, and remove it again."""
    descriptor = _open_locked(path)
    try:
        piece = bytes(min(size_bytes, CHUNK_BYTES))
        for start in range(0, size_bytes, CHUNK_BYTES):
            _write_all(descriptor, piece[: size_bytes - start])
        _sync(descriptor)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _reserve(descriptor: int, size_bytes: int) -> None:
    """Give a new file its size and, where the system can, its blocks."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size_bytes)
    else:
        os.ftruncate(descriptor, size_bytes)


def _make_folders(folder: Path, root: Path) -> None:
    """Make a folder below `root`, each new one for the owner alone."""
    for part in (*reversed(folder.relative_to(root).parents), folder.relative_to(root)):
        with suppress(FileExistsError):
            (root / part).mkdir(mode=0o700)


def _sync_folders(folder: Path, root: Path) -> None:
    """Sync a folder and all above it up to `root`.

    All, each time: an older process may have made one and died before it was synced. The sync of
    an unchanged folder is cheap.
    """
    while True:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if folder == root:
            return
        folder = folder.parent


def _open_locked(path: Path) -> int:
    """A new file, locked for as long as it is open, so that a start knows it is in use."""
    descriptor = os.open(path, _NEW_FILE | os.O_WRONLY, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_leftovers(incoming: Path) -> None:
    """Remove what a dead process was writing: nobody holds its lock."""
    for path in incoming.iterdir():
        descriptor = os.open(path, _OLD_FILE | os.O_WRONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _open_range(path: Path, offset: int, length: int | None) -> tuple[int, int]:
    """Open a file to read from `offset`; returns its descriptor and where the range stops."""
    descriptor = os.open(path, _OLD_FILE | os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    stop = size if length is None else offset + length
    if offset > size or stop > size:
        os.close(descriptor)
        raise Damaged(f"{path.name} has {size} bytes, byte {max(offset, stop)} was expected")
    return descriptor, stop


def _read_ranges(path: Path, ranges: Sequence[Range]) -> list[bytes]:
    found: list[bytes] = []
    descriptor = os.open(path, _OLD_FILE | os.O_RDONLY)
    try:
        for run in _runs(ranges):
            start, end = run[0][0], max([offset + length for offset, length in run])
            data = _read_all(descriptor, start, end - start, path.name)
            found += [data[offset - start : offset - start + length] for offset, length in run]
    finally:
        os.close(descriptor)
    return found


def _runs(ranges: Sequence[Range]) -> Iterator[list[Range]]:
    """Ranges that lie close together, so that one read gets them."""
    run: list[Range] = []
    end = 0
    for offset, length in ranges:
        if run and offset - end > _GAP_BYTES:
            yield run
            run = []
        run.append((offset, length))
        end = max(end, offset + length)
    if run:
        yield run


def _read_all(descriptor: int, offset: int, length: int, name: str) -> bytes:
    """Read until all is read: a read may be short."""
    pieces: list[bytes] = []
    while length:
        piece = os.pread(descriptor, length, offset)
        if not piece:
            raise Damaged(f"{name} ends at byte {offset}, {offset + length} were expected")
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _remove_file(path: Path, root: Path) -> None:
    path.unlink(missing_ok=True)
    _remove_empty_folders(path.parent, root)


def _remove_tree(path: Path, root: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
    _remove_empty_folders(path.parent, root)


def _remove_empty_folders(folder: Path, root: Path) -> None:
    """Folders directly below the root stay: another task may be about to write into one."""
    while folder != root and folder.parent != root:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:  # not empty
            return
        folder = folder.parent


def _walk(folder: Path, root: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(parent).relative_to(root)
        found += [(relative / name).as_posix() for name in files]
    return found
