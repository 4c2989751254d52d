"""`/v1/uploads`: files that arrive in parts. A completed one is its parts in order, not a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from batchwright.blobs.base import read_extents
from batchwright.domain.errors import Conflict, NotFound, UsageError
from batchwright.domain.file import Extent, File
from batchwright.domain.upload import UPLOAD_TTL_S, Part, Upload
from batchwright.engine.runtime import new_id
from batchwright.server.context import Context, UserContext
from batchwright.server.fields import (
    required,
    required_text,
    text,
    ttl_s,
    whole_number,
    wrong_type,
)
from batchwright.server.files import check_purpose, purpose_bytes_max
from batchwright.server.multipart import clean_filename
from batchwright.server.spool import HEAD_BYTES, Head, check_is_jsonl, spooled_form
from batchwright.server.wire import part_wire, reply, upload_wire

PARTS_MAX = 10_000
SENT_TIMES_MAX = 2  # so often may the announced bytes be sent: parts are repeated

router = APIRouter(prefix="/v1/uploads")


@router.post("")
async def create_upload(context: UserContext) -> Response:
    """Announce a file that will come in parts, within an hour."""
    upload = _announced(context, await context.read_object())
    await context.check_stored(upload.size_bytes)
    await context.tenants.create_upload(context.tenant, upload)
    return reply(upload_wire(upload, upload.created_at, None))


@router.post("/{upload_id}/parts")
async def add_part(upload_id: str, context: UserContext) -> Response:
    """Take one part in; parts may come side by side and in any order."""
    engine = context.engine
    engine.check_room()
    upload = await context.tenants.get_upload(context.tenant, upload_id)
    status = upload.status_at(engine.runtime.now())
    if status != "pending":
        raise UsageError(f"The upload {upload_id} is {status}; only a pending one takes parts.")
    await _check_takes(context, upload, 1)
    part_id = new_id(engine.runtime, "part_")
    async with spooled_form(
        context,
        f"files/{part_id}",
        file_field="data",
        bytes_max=min(context.settings.part_bytes_max, upload.size_bytes),
    ) as spooled:
        await _check_takes(context, upload, spooled.size_bytes)
        part = Part(part_id, upload_id, spooled.key, spooled.size_bytes, engine.runtime.now())
        await context.tenants.add_part(context.tenant, part)
    return reply(part_wire(part))


@router.post("/{upload_id}/complete")
async def complete_upload(upload_id: str, context: UserContext) -> Response:
    """Make a file of the parts, in the order that is given; the same again is the same file."""
    body = await context.read_object()
    part_ids = _part_ids(body)
    upload = await context.tenants.get_upload(context.tenant, upload_id)
    if upload.file_id is not None:
        file = await _file_of(context, upload, upload.file_id, part_ids)
        return reply(upload_wire(upload, context.engine.runtime.now(), file))
    _check_not_ended(context, upload)
    extents = _extents(await ordered_parts(context, upload, part_ids))
    await _check_content(context, upload, extents, body.get("md5"))
    file = context.engine.new_file(
        context.tenant,
        purpose=upload.purpose,
        filename=upload.filename,
        size_bytes=upload.size_bytes,
        sha256=None,
        ttl_s=upload.file_ttl_s,
    )
    done = await context.tenants.complete_upload(context.tenant, upload_id, file, extents)
    return reply(upload_wire(done, context.engine.runtime.now(), file))


@router.post("/{upload_id}/cancel")
async def cancel_upload(upload_id: str, context: UserContext) -> Response:
    """Give an upload up; its parts are dropped. Doing so twice is once."""
    upload = await context.tenants.get_upload(context.tenant, upload_id)
    if upload.status != "cancelled":
        _check_not_ended(context, upload)
    upload = await context.tenants.cancel_upload(context.tenant, upload_id)
    return reply(upload_wire(upload, context.engine.runtime.now(), None))


def _announced(context: Context, body: Mapping[str, Any]) -> Upload:
    settings, runtime = context.settings, context.engine.runtime
    for name in ("filename", "purpose", "bytes", "mime_type"):
        required(body, name)
    purpose = required_text(body, "purpose")
    check_purpose(purpose, settings)
    size_bytes = whole_number(body["bytes"], "bytes")
    most = settings.upload_bytes_max
    if purpose == "batch":
        most = min(most, purpose_bytes_max(purpose, settings))
    if not 0 < size_bytes <= most:
        raise UsageError(
            f"Invalid 'bytes': expected 1 to {most}, but got {size_bytes}.",
            param="bytes",
            code="invalid_value",
        )
    now = runtime.now()
    return Upload(
        id=new_id(runtime, "upload_"),
        tenant=context.tenant,
        purpose=purpose,
        filename=clean_filename(required_text(body, "filename").encode()),
        mime_type=required_text(body, "mime_type")[:255],
        size_bytes=size_bytes,
        status="pending",
        created_at=now,
        expires_at=now + UPLOAD_TTL_S,
        file_id=None,
        file_ttl_s=ttl_s(body.get("expires_after"), "expires_after"),
    )


def _check_not_ended(context: Context, upload: Upload) -> None:
    status = upload.status_at(context.engine.runtime.now())
    if status != "pending":
        raise Conflict(f"The upload {upload.id} is {status}; only a pending one takes this.")


async def _check_takes(context: Context, upload: Upload, size_bytes: int) -> None:
    """Raises where a part more would keep much more than was announced: some may be sent twice."""
    count, kept_bytes = await context.tenants.sum_parts(context.tenant, upload.id)
    if count >= PARTS_MAX:
        raise UsageError(f"The upload {upload.id} has {PARTS_MAX:,} parts; it takes no more.")
    if kept_bytes + size_bytes > SENT_TIMES_MAX * upload.size_bytes:
        raise UsageError(
            f"The parts of the upload {upload.id} would pass {SENT_TIMES_MAX} times the "
            f"{upload.size_bytes} bytes that were announced.",
            param="data",
            code="invalid_value",
        )
    await context.check_stored(size_bytes)


async def _file_of(context: Context, upload: Upload, file_id: str, part_ids: Sequence[str]) -> File:
    """The file that an upload became. Raises `Conflict` unless it became it of these parts."""
    ended = Conflict(f"The upload {upload.id} is completed, with other parts or a deleted file.")
    parts = {part.id: part for part in await context.tenants.get_parts(upload.tenant, upload.id)}
    if not all(part_id in parts for part_id in part_ids):
        raise ended
    try:
        now = context.engine.runtime.now()
        file = await context.tenants.get_file(upload.tenant, file_id, now=now)
        extents = await context.tenants.get_extents(upload.tenant, file_id)
    except NotFound:
        raise ended from None
    if list(extents) != _extents([parts[part_id] for part_id in part_ids]):
        raise ended
    return file


def _extents(parts: Sequence[Part]) -> list[Extent]:
    return [Extent(part.key, 0, part.size_bytes) for part in parts if part.size_bytes]


def _part_ids(body: Mapping[str, Any]) -> list[str]:
    given = required(body, "part_ids")
    if not isinstance(given, list):
        raise wrong_type("part_ids", "an array", given)
    return [text(part_id, f"part_ids[{at}]") for at, part_id in enumerate(given)]


async def ordered_parts(context: Context, upload: Upload, ids: Sequence[str]) -> list[Part]:
    """The parts of an upload in the order of `ids`; together they have the announced size."""
    known = {part.id: part for part in await context.tenants.get_parts(context.tenant, upload.id)}
    parts: dict[str, Part] = {}
    for at, part_id in enumerate(ids):
        if part_id not in known or part_id in parts:
            raise UsageError(
                f"'{part_id[:100]}' is no part of this upload, or is named twice.",
                param=f"part_ids[{at}]",
                code="invalid_value",
            )
        parts[part_id] = known[part_id]
    size_bytes = sum(part.size_bytes for part in parts.values())
    if size_bytes != upload.size_bytes:
        raise UsageError(
            f"The parts have {size_bytes} bytes, but {upload.size_bytes} were announced.",
            param="part_ids",
            code="invalid_value",
        )
    return list(parts.values())


async def _check_content(
    context: Context, upload: Upload, extents: Sequence[Extent], md5: Any
) -> None:
    if upload.purpose == "batch":
        check_is_jsonl(await _head(context, extents))
    if md5 is not None and await _md5(context, extents) != text(md5, "md5").lower():
        raise UsageError("The bytes that came have another MD5.", param="md5", code="invalid_value")


async def _head(context: Context, extents: Sequence[Extent]) -> bytes:
    head = Head()
    async for chunk in read_extents(context.engine.blobs, extents):
        head.feed(chunk)
        if len(head.content) >= HEAD_BYTES:
            break
    return head.content


async def _md5(context: Context, extents: Sequence[Extent]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    blobs = context.engine.blobs
    async for chunk in read_extents(blobs, extents):
        await blobs.offload(partial(digest.update, chunk))
    return digest.hexdigest()
