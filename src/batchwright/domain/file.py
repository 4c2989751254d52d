"""Files, and where their bytes lie."""

from __future__ import annotations

from dataclasses import dataclass

FILE_TTL_S = 30 * 86_400  # files with purpose `batch` and result files, by OpenAI's default

UPLOAD_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""What a client may upload (OpenAI reference, "Upload file")."""

RESULT_PURPOSE = "batch_output"


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes of a file: `length` bytes of the blob `key` from `offset` on."""

    key: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class File:
    """A file of a tenant; the wire form is OpenAI's File object."""

    id: str
    tenant: str
    purpose: str
    filename: str
    size_bytes: int
    created_at: float  # Unix seconds
    expires_at: float | None
    sha256: str | None  # hex; None where the bytes were never read as one (result files)


def slice_extents(extents: tuple[Extent, ...], start: int, stop: int) -> list[Extent]:
    """The extents that hold bytes `start` (included) to `stop` (excluded) of the file."""
    found, position = [], 0
    for extent in extents:
        low, high = max(start, position), min(stop, position + extent.length)
        if low < high:
            found.append(Extent(extent.key, extent.offset + low - position, high - low))
        position += extent.length
    return found
