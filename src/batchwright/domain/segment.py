"""Segments: the parts of a journal, and where their files lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class SegmentKeys(NamedTuple):
    """The blob keys of one segment's files and of its slot table."""

    output: str
    error: str
    account: str
    slots: str

    @classmethod
    def of(cls, batch_id: str, epoch: int) -> SegmentKeys:
        return cls(*(f"batches/{batch_id}/{epoch}/{name}" for name in cls._fields))

    @staticmethod
    def place_of(key: str) -> tuple[str, int] | None:
        """Batch and epoch of the segment that a blob is part of; None for any other blob."""
        match key.split("/"):
            case ["batches", batch_id, epoch, _]:
                return batch_id, int(epoch)
        return None


RESULT_LINES = ("output", "error")
"""The files that extents of result files point into; the others index them."""


@dataclass(frozen=True, slots=True)
class SegmentLengths:
    """The valid lengths in bytes of a segment's three files."""

    output: int
    error: int
    account: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a journal that one writer wrote in one epoch; `lengths` None while it writes."""

    batch_id: str
    epoch: int
    lengths: SegmentLengths | None
