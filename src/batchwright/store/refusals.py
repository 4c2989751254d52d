"""What a store says when it refuses, the same words for every implementation."""

from __future__ import annotations

from batchwright.domain.batch import Batch
from batchwright.domain.errors import Conflict, NotFound, StorageError, Superseded
from batchwright.domain.upload import Upload


def no_file(file_id: str) -> NotFound:
    """In OpenAI's words (batch-api reference, "Errors")."""
    return NotFound(f"No such File object: {file_id}", param="id")


def no_batch(batch_id: str) -> NotFound:
    return NotFound(f"No batch found with id '{batch_id}'.")


def no_upload(upload_id: str) -> NotFound:
    return NotFound(f"No such Upload object: {upload_id}", param="id")


def no_key(key_id: str) -> NotFound:
    return NotFound(f"No such key: {key_id}")


def not_pending(upload: Upload) -> Conflict:
    return Conflict(f"Upload {upload.id} is {upload.status}; only a pending one can be changed.")


def idempotency_key_reused() -> Conflict:
    return Conflict(
        "This Idempotency-Key was used before, for another request. Send a new one.",
        code="idempotency_key_reused",
    )


def superseded(batch: Batch) -> Superseded:
    return Superseded(
        f"batch {batch.id} is no longer {batch.status} in epoch {batch.epoch}:"
        " another writer has changed it"
    )


def unknown_segment(batch_id: str, epoch: int) -> StorageError:
    return StorageError(f"batch {batch_id} has no open segment of epoch {epoch}")


def open_segment(batch_id: str) -> StorageError:
    return StorageError(f"batch {batch_id} has an open segment of an older epoch")
