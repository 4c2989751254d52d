"""`/v1/files`: upload, list, look, download, delete."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from batchwright.domain.errors import UsageError
from batchwright.domain.file import Extent, File
from batchwright.server.context import Context, UserContext
from batchwright.server.downloads import download
from batchwright.server.errors import BodyTooLarge
from batchwright.server.fields import page_limit, required_text, ttl_s, wrong_value
from batchwright.server.settings import ServerSettings
from batchwright.server.spool import Spooled, check_is_jsonl, spooled_form
from batchwright.server.wire import file_wire, list_wire, reply

FILES_PER_PAGE_MAX = 10_000

router = APIRouter(prefix="/v1/files")


@router.post("")
async def create_file(context: UserContext) -> Response:
    """Take a file in. It is visible, durable and whole when the answer goes out."""
    engine, settings = context.engine, context.settings
    engine.check_room()
    idempotency_key = context.idempotency_key()
    draft = engine.new_file(context.tenant, purpose="", filename="", size_bytes=0, sha256=None)
    bytes_max = max(settings.file_bytes_max, settings.other_file_bytes_max)
    async with spooled_form(
        context, f"files/{draft.id}", file_field="file", bytes_max=bytes_max
    ) as spooled:
        made, ttl = _file(context, draft.id, spooled)
        claim = context.idempotency(idempotency_key, _fingerprint(made, ttl))
        if claim is None or await context.tenants.find_claimed_file(context.tenant, claim) is None:
            await context.check_stored(made.size_bytes)
        extents = [Extent(spooled.key, 0, spooled.size_bytes)]
        file = await context.tenants.create_file(context.tenant, made, extents, claim)
    if file.id != made.id:
        await engine.blobs.delete(spooled.key)
    return reply(file_wire(file))


@router.get("")
async def list_files(
    context: UserContext,
    after: str | None = None,
    limit: int | None = None,
    order: str = "desc",
    purpose: str | None = None,
) -> Response:
    """A page of files by time of creation."""
    if order not in ("asc", "desc"):
        raise wrong_value("order", order, "'asc' and 'desc'")
    page = await context.tenants.list_files(
        context.tenant,
        after=after,
        limit=page_limit(limit, FILES_PER_PAGE_MAX, FILES_PER_PAGE_MAX),
        ascending=order == "asc",
        purpose=purpose,
        now=context.engine.runtime.now(),
    )
    return reply(list_wire([file_wire(file) for file in page.items], page.has_more))


@router.get("/{file_id}")
async def get_file(file_id: str, context: UserContext) -> Response:
    return reply(file_wire(await visible_file(context, file_id)))


@router.delete("/{file_id}")
async def delete_file(file_id: str, context: UserContext) -> Response:
    """Hide a file at once; its bytes go when nothing uses them any more."""
    now = context.engine.runtime.now()
    await context.tenants.delete_file(context.tenant, file_id, now=now)
    return reply({"id": file_id, "object": "file", "deleted": True})


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file whose bytes stay while they are sent."""

    file: File
    extents: tuple[Extent, ...]


async def _held_file(file_id: str, context: UserContext) -> AsyncIterator[HeldFile]:
    """Holds a file's bytes until the answer is out (FastAPI then runs what follows `yield`)."""
    extents = await context.tenants.get_extents(context.tenant, file_id)
    async with context.engine.reading(extents):
        # Looked at only now: a file that was hidden before the hold may be pruned already.
        yield HeldFile(await visible_file(context, file_id), extents)


@router.api_route("/{file_id}/content", methods=["GET", "HEAD"])
async def get_content(
    held: Annotated[HeldFile, Depends(_held_file)], context: UserContext
) -> Response:
    """The bytes of a file, or one range of them."""
    return download(context.request, held.file, held.extents, context.engine.read_file)


async def visible_file(context: Context, file_id: str) -> File:
    """A file that has not expired. Raises `NotFound`."""
    now = context.engine.runtime.now()
    return await context.tenants.get_file(context.tenant, file_id, now=now)


def check_purpose(purpose: str, settings: ServerSettings) -> None:
    """Raises for a purpose that may not be uploaded."""
    if purpose not in settings.purposes:
        supported = ", ".join(f"'{name}'" for name in settings.purposes)
        raise wrong_value("purpose", purpose, supported)


def purpose_bytes_max(purpose: str, settings: ServerSettings) -> int:
    """How large a file of a purpose may be."""
    if purpose == "batch":
        return settings.file_bytes_max
    return max(settings.file_bytes_max, settings.other_file_bytes_max)


def _file(context: Context, file_id: str, spooled: Spooled) -> tuple[File, int | None]:
    """The file that an upload form describes, and the life that it asks for."""
    purpose = required_text(spooled.fields, "purpose")
    check_purpose(purpose, context.settings)
    ttl = ttl_s(_expires_after(spooled.fields), "expires_after")
    bytes_max = purpose_bytes_max(purpose, context.settings)
    if spooled.size_bytes > bytes_max:
        raise BodyTooLarge(f"The file is larger than the {bytes_max:,} bytes that are allowed.")
    if purpose == "batch":
        check_is_jsonl(spooled.head)
    made = context.engine.new_file(
        context.tenant,
        purpose=purpose,
        filename=spooled.filename,
        size_bytes=spooled.size_bytes,
        sha256=spooled.sha256,
        ttl_s=ttl,
    )
    return replace(made, id=file_id), ttl


def _expires_after(fields: Mapping[str, str]) -> dict[str, Any] | None:
    """`expires_after[seconds]` of the form, or `expires_after.seconds` as Azure's clients send."""
    found: dict[str, Any] = {}
    for part in ("anchor", "seconds"):
        value = fields.get(f"expires_after[{part}]", fields.get(f"expires_after.{part}"))
        if value is not None:
            found[part] = value
    if "seconds" in found:
        found["seconds"] = _whole_number(found["seconds"])
    return found or None


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise UsageError(
            f"Invalid 'expires_after.seconds': expected a whole number, but got '{text[:50]}'.",
            param="expires_after.seconds",
            code="invalid_type",
        )
    return int(text)


def _fingerprint(file: File, ttl: int | None) -> str:
    """What makes two uploads the same request."""
    parts = (file.purpose, file.filename, str(file.sha256), str(ttl))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
