"""From what things are to what they look like on the wire, key for key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from batchwright.domain.batch import Batch, Status
from batchwright.domain.file import File
from batchwright.domain.key import Key
from batchwright.domain.upload import Part, Upload

Wire = dict[str, Any]

_encode = msgspec.json.Encoder().encode


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(_encode(value), status, headers, "application/json")


def seconds(at: float | None) -> int | None:
    """A point in time on the wire: whole Unix seconds."""
    return None if at is None else int(at)


def file_wire(file: File) -> Wire:
    """OpenAI's File object. A file is processed when it is visible."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": seconds(file.created_at),
        "expires_at": seconds(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_wire(batch: Batch, extension: Wire) -> Wire:
    """OpenAI's Batch object, with `extension` under our own key."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": _errors(batch),
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": seconds(batch.created_at),
        "in_progress_at": seconds(batch.in_progress_at),
        "expires_at": seconds(batch.expires_at),
        "finalizing_at": seconds(batch.finalizing_at),
        "completed_at": seconds(batch.completed_at),
        "failed_at": seconds(batch.failed_at),
        "expired_at": seconds(batch.expired_at),
        "cancelling_at": seconds(batch.cancelling_at),
        "cancelled_at": seconds(batch.cancelled_at),
        "request_counts": {
            "total": batch.counts.total,
            "completed": batch.counts.completed,
            "failed": batch.counts.failed,
        },
        "usage": None if batch.status is Status.VALIDATING else batch.closing.usage.to_wire(),
        "metadata": batch.metadata,
        "batchwright": extension,
    }


def upload_wire(upload: Upload, now: float, file: File | None) -> Wire:
    """OpenAI's Upload object; `file` once it is completed."""
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": seconds(upload.created_at),
        "expires_at": seconds(upload.expires_at),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status_at(now),
        "file": None if file is None else file_wire(file),
    }


def part_wire(part: Part) -> Wire:
    """OpenAI's Part object."""
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": seconds(part.created_at),
        "upload_id": part.upload_id,
    }


def key_wire(key: Key) -> Wire:
    """A key as an admin sees it, without its text."""
    return {
        "id": key.id,
        "object": "batchwright.key",
        "tenant": key.tenant,
        "name": key.name,
        "role": key.role,
        "created_at": seconds(key.created_at),
        "revoked_at": seconds(key.revoked_at),
    }


def model_wire(model: str, provider: str) -> Wire:
    """OpenAI's Model object. Nobody tells when a model was made, so `created` is 0."""
    return {"id": model, "object": "model", "created": 0, "owned_by": provider}


def list_wire(items: Sequence[Wire], has_more: bool) -> Wire:
    """A page of a list; the ids are null where it is empty."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def _errors(batch: Batch) -> Wire | None:
    if not batch.errors:
        return None
    data = [
        {"code": error.code, "message": error.message, "param": error.param, "line": error.line}
        for error in batch.errors
    ]
    return {"object": "list", "data": data}
