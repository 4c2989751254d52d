"""The data directory: made private, owned by one process at a time, with its private files.

Rules: the folder is 0700 and files are 0600; a folder that
others can write to, or that another user owns, is refused. The lock is advisory (`flock`) and ends
with its process however that ends; the epochs of the batches fence what a lock cannot, such as
a copied folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from batchwright.domain.errors import ConfigError, Damaged, Locked, StorageError

LOCK_NAME = "lock"
PEPPER_NAME = "pepper"
ADMIN_KEY_NAME = "admin.key"
DATABASE_NAME = "batchwright.db"
BLOBS_NAME = "blobs"
PEPPER_BYTES = 32

_OPEN_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def rehearsal_of(folder: Path) -> Path:
    """Where a server rehearses that else keeps its data in `folder`.

    A folder of its own, so that no rehearsal ends a real batch with answers that are made up, and
    no batch of a rehearsal goes on at a provider that is paid.
    """
    return folder.with_name(f"{folder.name}-rehearsal")


def prepare(folder: Path) -> Path:
    """Make the folder if there is none, and check who can change it; returns its absolute path.

    Raises `ConfigError` for one that others own or can write to, and for one with other content.
    """
    folder = Path(os.path.abspath(folder))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"data_dir: expected a folder, got the file {folder}") from None
    except OSError as error:
        raise StorageError(f"cannot make the data directory {folder}: {error.strerror}") from error
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"data_dir: expected a folder of the user {os.geteuid()}, "
            f"got {folder} of the user {found.st_uid}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"data_dir: expected a folder that only its owner can write to, got {folder} with "
            f"mode {stat.S_IMODE(found.st_mode):o}; run: chmod 700 '{folder}'"
        )
    if not (folder / LOCK_NAME).exists() and any(folder.iterdir()):
        raise ConfigError(
            f"data_dir: expected an empty folder or one of batchwright's, got {folder}, "
            "which holds other things"
        )
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Own the folder until the end. Raises `Locked`, which names the owner, at once."""
    try:
        descriptor = os.open(folder / LOCK_NAME, _OPEN_LOCK, 0o600)
    except OSError as error:
        raise StorageError(f"cannot lock {folder}: {error.strerror}") from error
    try:
        _take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(f"{folder} is in use by {_holder(descriptor)}") from None
    except OSError as error:
        raise StorageError(f"cannot lock {folder}: {error.strerror}") from error
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)


def owned_since_ns(folder: Path) -> int | None:
    """When the living process that owns the folder took it (Unix time); None where none does."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _is_over(descriptor):
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.fstat(descriptor).st_mtime_ns  # its name was written as it took the lock
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _is_over(descriptor: int) -> bool:
    """Whether the process named in the lock has ended for certain: then the lock is not even tried,
    which could be in the way of one that is just about to take it."""
    try:
        holder = json.loads(os.pread(descriptor, 1024, 0))
        if holder["host"] == socket.gethostname():
            os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return False


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 1024, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has the lock, and is just writing its name


def pepper(folder: Path) -> bytes:
    """The secret that key digests are made with, made with the folder and never again.

    Raises `Damaged` where it is gone but the database is there: no key would be known any more.
    """
    path = folder / PEPPER_NAME
    found = read_private(path)
    if found is None:
        if (folder / DATABASE_NAME).exists():
            raise Damaged(f"{path} is gone; without it no API key is known: restore it")
        found = secrets.token_bytes(PEPPER_BYTES)
        write_private(path, found)
    if len(found) != PEPPER_BYTES:
        raise Damaged(f"{path} has {len(found)} bytes instead of {PEPPER_BYTES}: restore it")
    return found


def read_private(path: Path) -> bytes | None:
    """The bytes of a file; None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def write_private(path: Path, content: bytes) -> None:
    """Write a file with mode 0600, whole and durable, in place of one that may be there."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, _NEW_FILE, 0o600), "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        temporary.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
