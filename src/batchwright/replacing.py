"""Files that appear whole or not at all.

What is written goes to a temporary file beside its target, is synced, and takes the target's place
in one step: a reader sees the old file or the whole new one, also after a power cut.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from batchwright.domain.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place, synced, if all went well.

    A symbolic link stays one: the file that it points to is replaced.
    Raises `StorageError` where no file can be made there.
    """
    target = Path(os.path.realpath(path))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(_mode_of(target))
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@asynccontextmanager
async def replacing_async(path: Path) -> AsyncIterator[Path]:
    """`replacing` for a coroutine: the disk is waited for in a thread."""
    manager = replacing(path)
    temporary = await asyncio.to_thread(manager.__enter__)
    try:
        yield temporary
    except BaseException:
        manager.__exit__(*sys.exc_info())
        raise
    await asyncio.to_thread(manager.__exit__, None, None, None)


def _mode_of(path: Path) -> int:
    """The permissions of the file that is replaced, else those of any new file."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
