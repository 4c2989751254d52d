"""Where the files of a segment lie, as every store has to know to tell which are still used."""

from __future__ import annotations

from collections.abc import Mapping

SEGMENT_FILES = ("output", "error", "account", "slots")

RESULT_LINES = ("output", "error")
"""The files that extents of result files point into; the others index them."""


def segment_keys(batch_id: str, epoch: int) -> Mapping[str, str]:
    """The blob keys of a segment, by the kind of file."""
    return {kind: f"batches/{batch_id}/{epoch}/{kind}" for kind in SEGMENT_FILES}
