"""The input of a run, which must not change while it is read.

It is read more than once: to hash it, to make its requests, and to write its rows beside their
answers. An answer would come to stand beside another row if the file changed in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from batchwright.domain.errors import UsageError
from batchwright.local.errors import InputChanged
from batchwright.tables import hash_file

T = TypeVar("T")


class _Mark(NamedTuple):
    """What tells a file from a later state of it without reading it."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Source:
    """An input file as it was when the run was planned. Made by `Source.read`."""

    path: Path
    size_bytes: int
    sha256: str  # hex
    mark: _Mark

    @classmethod
    def read(cls, path: Path) -> Source:
        """Raises `UsageError` where it cannot be read, `InputChanged` where it is written to."""
        mark = _mark_of(path)
        size_bytes, sha256 = hash_file(path)
        if _mark_of(path) != mark:
            raise InputChanged(f"{path} is being written to: run the command again when it is done")
        return cls(path, size_bytes, sha256, mark)

    def unchanged(self, pieces: Iterable[T], *, advice: str) -> Iterator[T]:
        """`pieces` of what is read from the file.

        Raises `InputChanged` with `advice` unless its content is that of the plan, at once, and
        unless nobody wrote to it meanwhile, behind the last piece.
        """
        mark = self._require_same(advice)
        return self._until_the_end(pieces, mark, advice)

    def _require_same(self, advice: str) -> _Mark:
        mark = _mark_of(self.path)
        if mark != self.mark:  # touched, or put back: what counts is the content
            found = hash_file(self.path)
            if found != (self.size_bytes, self.sha256) or _mark_of(self.path) != mark:
                raise self._changed(advice)
        return mark

    def _until_the_end(self, pieces: Iterable[T], mark: _Mark, advice: str) -> Iterator[T]:
        yield from pieces
        if _mark_of(self.path) != mark:
            raise self._changed(advice)

    def _changed(self, advice: str) -> InputChanged:
        return InputChanged(f"{self.path} has changed since the run began: {advice}")


def _mark_of(path: Path) -> _Mark:
    try:
        found = path.stat()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    return _Mark(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
