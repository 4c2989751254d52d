"""The state of a run: the folder `OUTPUT.batchwright/`, so that the same command goes on.

The folder belongs to one process at a time. It holds the lock, the manifest (what the run is, and
how far) and the engine's own data directory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from batchwright.data_directory import LOCK_NAME, locked, prepare, read_private, write_private
from batchwright.domain.errors import ConfigError, Damaged, Locked, StorageError, UsageError
from batchwright.tables import RunIdentity

SUFFIX = ".batchwright"
_MANIFEST = "run.json"
_ENGINE = "engine"
_VERSION = 1
_READ_BYTES = 2**18


class FileMark(msgspec.Struct, frozen=True, array_like=True):
    """A file as a run wrote or found it.

    It is to show a change that somebody made, who has no reason to hide it: a CRC-32 does, in a
    third of the time of a hash.
    """

    size_bytes: int
    crc32: str  # hex


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is and how far it is."""

    identity: RunIdentity
    version: int = _VERSION
    is_sent: bool = False  # a batch was made: from here on, answers may have been paid for
    batch_id: str | None = None  # the first batch: known from a moment after it was made
    lines: int = 0  # physical lines of the request file
    prefix: str = ""  # of our columns in the output
    is_finished: bool = False  # the output was written
    summary: Mapping[str, Any] = field(default_factory=dict)  # of the last time it was finished
    outputs: Mapping[str, FileMark] = field(default_factory=dict)
    """What may be replaced: the files of the output by their names, as a run of ours wrote them,
    or as they were when the user gave them up with `--force`."""
    engine: str = _ENGINE  # the folder of the engine; a restart has another one

    @property
    def has_failures(self) -> bool:
        """Whether a retry would have something to do."""
        return bool(self.summary.get("failed"))


def state_folder_of(output: Path) -> Path:
    """`out.csv` → `out.csv.batchwright`."""
    return output.with_name(output.name + SUFFIX)


class RunState:
    """The folder of one run, locked for this process. Made by `open_state`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def data_dir(self, manifest: Manifest) -> Path:
        """The engine's folder."""
        return self.folder / manifest.engine

    @property
    def is_begun(self) -> bool:
        """Whether a run was begun here."""
        return (self.folder / _MANIFEST).exists()

    def load(self) -> Manifest | None:
        """The manifest; None where no run was begun.

        Raises `Damaged`, and `StorageError` for one that another version wrote.
        """
        data = read_private(self.folder / _MANIFEST)
        if data is None:
            return None
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Damaged(
                f"{self.folder / _MANIFEST} cannot be read ({error}); "
                "--restart forgets it and begins anew"
            ) from error
        if manifest.version != _VERSION:
            raise StorageError(
                f"{self.folder} was written by another version of batchwright: finish it with "
                "that one, or begin anew with --restart"
            )
        return manifest

    def save(self, manifest: Manifest) -> None:
        """Replace the manifest, whole and durably."""
        write_private(self.folder / _MANIFEST, msgspec.json.encode(manifest))

    def is_saved(self, manifest: Manifest) -> bool:
        """Whether the manifest in the folder is of this run, and not of the one before it."""
        try:
            found = self.load()
        except (Damaged, StorageError):
            return False
        return found is not None and found.engine == manifest.engine

    def new_engine(self) -> str:
        """A name for the folder of another engine, beside those that are there."""
        names = (f"{_ENGINE}-{number}" for number in count(2))
        return next(name for name in names if not (self.folder / name).exists())

    def clear_engine(self, manifest: Manifest) -> None:
        """Drop what the engine of this run keeps."""
        _remove_tree(self.data_dir(manifest))

    def clear_other_engines(self, manifest: Manifest | None) -> None:
        """Drop what the engines of earlier runs kept; of None, what every engine keeps."""
        for folder in self.folder.glob(f"{_ENGINE}*"):
            if manifest is None or folder.name != manifest.engine:
                _remove_tree(folder)

    def remove(self) -> None:
        """Forget the run, and remove the folder itself.

        The manifest goes first, so that half of it is never taken for a run.
        """
        (self.folder / _MANIFEST).unlink(missing_ok=True)
        self.clear_other_engines(None)
        (self.folder / LOCK_NAME).unlink(missing_ok=True)
        with suppress(OSError):  # somebody has put a file of their own into it
            self.folder.rmdir()


def mark_of(path: Path) -> FileMark:
    """The mark of a file as it is now. Raises `UsageError` where it cannot be read."""
    size_bytes = checksum = 0
    view = memoryview(bytearray(_READ_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while length := file.readinto(view):
                size_bytes += length
                checksum = crc32(view[:length], checksum)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    return FileMark(size_bytes, f"{checksum:08x}")


def _remove_tree(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _prepared(folder: Path) -> Path:
    try:
        return prepare(folder)
    except ConfigError as error:
        raise UsageError(
            f"{folder} is where the state of this run belongs, and something else is there: "
            "name another output with -o"
        ) from error
    except StorageError as error:
        raise UsageError(
            f"the state of a run lies beside its output, and {folder} cannot be made there "
            f"({_reason(error)}): name an output in a folder that you may write to"
        ) from error


def _reason(error: StorageError) -> str:
    cause = error.__cause__
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error)


@contextmanager
def open_state(folder: Path) -> Iterator[RunState]:
    """Make the folder if it is new, and hold its lock.

    Raises `UsageError` for a folder that is not ours, and where another process holds it, saying
    which.
    """
    folder = _prepared(folder)
    names = os.listdir(folder)
    if names and LOCK_NAME not in names:
        raise UsageError(f"{folder} is not a state folder of batchwright: name another output")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except Locked as error:
            raise UsageError(
                f"{error}: wait for that run, or name another output with -o"
            ) from error
        state = RunState(folder)
        try:
            yield state
        finally:
            if not state.is_begun:  # refused before it began
                state.remove()
