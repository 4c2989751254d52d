"""Multi-part uploads: OpenAI's Upload and Part objects."""

from __future__ import annotations

from dataclasses import dataclass

UPLOAD_TTL_S = 3_600
UPLOAD_BYTES_MAX = 8 * 2**30
PART_BYTES_MAX = 64 * 2**20  # the part size of the official SDKs, which the documentation rounds


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that arrives in parts. `status` is `pending`, `completed`, `cancelled`; one that is
    pending past `expires_at` reads as `expired`."""

    id: str
    tenant: str
    purpose: str
    filename: str
    mime_type: str
    size_bytes: int  # announced
    status: str
    created_at: float
    expires_at: float
    file_id: str | None
    file_ttl_s: int | None  # `expires_after.seconds` of the file to come

    def status_at(self, now: float) -> str:
        return "expired" if self.status == "pending" and now >= self.expires_at else self.status


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an upload; its bytes are the blob `key`."""

    id: str
    upload_id: str
    key: str
    size_bytes: int
    created_at: float
