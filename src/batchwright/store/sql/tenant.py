"""The half of the store that request handlers reach: every statement names the tenant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from batchwright.domain.batch import Batch
from batchwright.domain.file import Extent, File
from batchwright.domain.key import Key
from batchwright.domain.upload import Part, Upload
from batchwright.store import refusals
from batchwright.store.base import Idempotency, Page
from batchwright.store.schema import batches, extents, files, idempotency, keys, parts, uploads
from batchwright.store.sql.database import SqlPart, reading, transaction
from batchwright.store.sql.rows import (
    EXTENT,
    FILE,
    KEY,
    PART,
    UPLOAD,
    AnyRow,
    batch_of,
    batch_values,
    extent_rows,
    values_of,
)

T = TypeVar("T")


class SqlTenantStore(SqlPart):
    """See `TenantStore`; each public method is one transaction."""

    @transaction
    async def create_file(
        self,
        connection: AsyncConnection,
        tenant: str,
        file: File,
        extents: Sequence[Extent],
        idempotency: Idempotency | None = None,
    ) -> File:
        if idempotency is not None:
            earlier = await _claimed_file(connection, tenant, idempotency)
            if earlier is not None:
                return earlier
            await _claim(connection, tenant, "file", idempotency, file.id)
        file = replace(file, tenant=tenant)
        await insert_file(connection, file, extents)
        return file

    @reading
    async def find_claimed_file(
        self, connection: AsyncConnection, tenant: str, idempotency: Idempotency
    ) -> File | None:
        return await _claimed_file(connection, tenant, idempotency)

    @reading
    async def get_file(
        self, connection: AsyncConnection, tenant: str, file_id: str, *, now: float | None = None
    ) -> File:
        return await _file(connection, tenant, file_id, now)

    @reading
    async def list_files(
        self,
        connection: AsyncConnection,
        tenant: str,
        *,
        after: str | None,
        limit: int,
        ascending: bool = False,
        purpose: str | None = None,
        now: float | None = None,
    ) -> Page[File]:
        query = select(*FILE).where(files.c.tenant == tenant, _is_visible(now))
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        return await _page(
            connection, files, query, tenant, after, limit, ascending, lambda row: File(*row)
        )

    @reading
    async def get_extents(
        self, connection: AsyncConnection, tenant: str, file_id: str, *, now: float | None = None
    ) -> tuple[Extent, ...]:
        await _file(connection, tenant, file_id, now)
        return await file_extents(connection, file_id)

    @transaction
    async def delete_file(
        self, connection: AsyncConnection, tenant: str, file_id: str, *, now: float | None = None
    ) -> None:
        hide = (
            update(files)
            .where(files.c.tenant == tenant, files.c.id == file_id, _is_visible(now))
            .values(is_hidden=True)
        )
        if (await connection.execute(hide)).rowcount == 0:
            raise refusals.no_file(file_id)

    @reading
    async def stored_bytes(self, connection: AsyncConnection, tenant: str, now: float) -> int:
        of_files = select(func.sum(files.c.size_bytes)).where(
            files.c.tenant == tenant, _is_visible(now)
        )
        of_parts = (
            select(func.sum(parts.c.size_bytes))
            .join(uploads)
            .where(
                uploads.c.tenant == tenant,
                uploads.c.status == "pending",
                uploads.c.expires_at > now,
            )
        )
        return sum([await connection.scalar(each) or 0 for each in (of_files, of_parts)])

    @transaction
    async def create_upload(self, connection: AsyncConnection, tenant: str, upload: Upload) -> None:
        await connection.execute(insert(uploads).values(values_of(replace(upload, tenant=tenant))))

    @reading
    async def get_upload(self, connection: AsyncConnection, tenant: str, upload_id: str) -> Upload:
        return await _upload(connection, tenant, upload_id)

    @transaction
    async def add_part(self, connection: AsyncConnection, tenant: str, part: Part) -> None:
        await _pending_upload(connection, tenant, part.upload_id)
        await connection.execute(insert(parts).values(values_of(part)))

    @reading
    async def get_parts(
        self, connection: AsyncConnection, tenant: str, upload_id: str
    ) -> list[Part]:
        await _upload(connection, tenant, upload_id)
        query = (
            select(*PART)
            .where(parts.c.upload_id == upload_id)
            .order_by(parts.c.created_at, parts.c.id)
        )
        return [Part(*row) for row in await connection.execute(query)]

    @reading
    async def sum_parts(
        self, connection: AsyncConnection, tenant: str, upload_id: str
    ) -> tuple[int, int]:
        await _upload(connection, tenant, upload_id)
        query = select(func.count(), func.coalesce(func.sum(parts.c.size_bytes), 0)).where(
            parts.c.upload_id == upload_id
        )
        count, size_bytes = (await connection.execute(query)).one()
        return int(count), int(size_bytes)

    @transaction
    async def complete_upload(
        self,
        connection: AsyncConnection,
        tenant: str,
        upload_id: str,
        file: File,
        extents: Sequence[Extent],
    ) -> Upload:
        upload = await _pending_upload(connection, tenant, upload_id)
        await insert_file(connection, replace(file, tenant=tenant), extents)
        return await _change_upload(
            connection, replace(upload, status="completed", file_id=file.id)
        )

    @transaction
    async def cancel_upload(
        self, connection: AsyncConnection, tenant: str, upload_id: str
    ) -> Upload:
        upload = await _upload(connection, tenant, upload_id)
        if upload.status == "completed":
            raise refusals.not_pending(upload)
        return await _change_upload(connection, replace(upload, status="cancelled"))

    @transaction
    async def create_batch(
        self,
        connection: AsyncConnection,
        tenant: str,
        batch: Batch,
        idempotency: Idempotency | None = None,
    ) -> Batch:
        if idempotency is not None:
            earlier = await _claimed_batch(connection, tenant, idempotency)
            if earlier is not None:
                return earlier
            await _claim(connection, tenant, "batch", idempotency, batch.id)
        batch = replace(batch, tenant=tenant)
        await connection.execute(insert(batches).values(batch_values(batch)))
        return batch

    @reading
    async def find_claimed_batch(
        self, connection: AsyncConnection, tenant: str, idempotency: Idempotency
    ) -> Batch | None:
        return await _claimed_batch(connection, tenant, idempotency)

    @reading
    async def get_batch(self, connection: AsyncConnection, tenant: str, batch_id: str) -> Batch:
        return await _batch(connection, tenant, batch_id)

    @reading
    async def list_batches(
        self, connection: AsyncConnection, tenant: str, *, after: str | None, limit: int
    ) -> Page[Batch]:
        query = select(batches).where(batches.c.tenant == tenant)
        return await _page(connection, batches, query, tenant, after, limit, False, batch_of)

    @transaction
    async def create_key(self, connection: AsyncConnection, tenant: str, key: Key) -> None:
        await connection.execute(insert(keys).values(values_of(key)))

    @reading
    async def list_keys(self, connection: AsyncConnection, tenant: str) -> list[Key]:
        query = select(*KEY).order_by(keys.c.created_at, keys.c.id)
        return [Key(*row) for row in await connection.execute(query)]

    @transaction
    async def revoke_key(
        self, connection: AsyncConnection, tenant: str, key_id: str, at: float
    ) -> Key:
        await connection.execute(
            update(keys)
            .where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
            .values(revoked_at=at)
        )
        row = (await connection.execute(select(*KEY).where(keys.c.id == key_id))).one_or_none()
        if row is None:
            raise refusals.no_key(key_id)
        return Key(*row)


async def insert_file(connection: AsyncConnection, file: File, of_file: Sequence[Extent]) -> None:
    """Make a file visible, with its bytes."""
    await connection.execute(insert(files).values(**values_of(file), is_hidden=False))
    if of_file:
        await connection.execute(insert(extents), extent_rows(file.id, of_file))


async def file_extents(connection: AsyncConnection, file_id: str) -> tuple[Extent, ...]:
    """The bytes of a file, in order."""
    query = select(*EXTENT).where(extents.c.file_id == file_id).order_by(extents.c.position)
    return tuple(Extent(*row) for row in await connection.execute(query))


async def find_file(
    connection: AsyncConnection,
    tenant: str,
    file_id: str,
    *,
    hidden: bool = False,
    now: float | None = None,
) -> File | None:
    """A visible file, or with `hidden` any that still has its row."""
    query = select(*FILE).where(files.c.tenant == tenant, files.c.id == file_id)
    if not hidden:
        query = query.where(_is_visible(now))
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else File(*row)


def _is_visible(now: float | None) -> ColumnElement[bool]:
    """Neither hidden nor, at `now`, expired."""
    if now is None:
        return ~files.c.is_hidden
    return and_(~files.c.is_hidden, or_(files.c.expires_at.is_(None), files.c.expires_at > now))


async def _file(connection: AsyncConnection, tenant: str, file_id: str, now: float | None) -> File:
    file = await find_file(connection, tenant, file_id, now=now)
    if file is None:
        raise refusals.no_file(file_id)
    return file


async def _batch(connection: AsyncConnection, tenant: str, batch_id: str) -> Batch:
    query = select(batches).where(batches.c.tenant == tenant, batches.c.id == batch_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise refusals.no_batch(batch_id)
    return batch_of(row)


async def _upload(connection: AsyncConnection, tenant: str, upload_id: str) -> Upload:
    query = select(*UPLOAD).where(uploads.c.tenant == tenant, uploads.c.id == upload_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise refusals.no_upload(upload_id)
    return Upload(*row)


async def _pending_upload(connection: AsyncConnection, tenant: str, upload_id: str) -> Upload:
    upload = await _upload(connection, tenant, upload_id)
    if upload.status != "pending":
        raise refusals.not_pending(upload)
    return upload


async def _change_upload(connection: AsyncConnection, upload: Upload) -> Upload:
    await connection.execute(
        update(uploads)
        .where(uploads.c.id == upload.id)
        .values(status=upload.status, file_id=upload.file_id)
    )
    return upload


async def _claimed_file(
    connection: AsyncConnection, tenant: str, claim: Idempotency
) -> File | None:
    """The file that an idempotency key has made. A key whose file is gone is as new."""
    earlier = await _find_claim(connection, tenant, "file", claim)
    if earlier is None:
        return None
    file = await find_file(connection, tenant, earlier.object_id, now=claim.created_at)
    if file is None:
        return None
    _require_same_request(earlier, claim)
    return file


async def _claimed_batch(
    connection: AsyncConnection, tenant: str, claim: Idempotency
) -> Batch | None:
    earlier = await _find_claim(connection, tenant, "batch", claim)
    if earlier is None:
        return None
    _require_same_request(earlier, claim)
    return await _batch(connection, tenant, earlier.object_id)


async def _find_claim(
    connection: AsyncConnection, tenant: str, kind: str, claim: Idempotency
) -> AnyRow | None:
    query = select(idempotency.c.fingerprint, idempotency.c.object_id)
    found = await connection.execute(query.where(*_of_claim(tenant, kind, claim)))
    return found.one_or_none()


def _of_claim(tenant: str, kind: str, claim: Idempotency) -> list[ColumnElement[bool]]:
    columns = idempotency.c
    return [columns.tenant == tenant, columns.kind == kind, columns.key == claim.key]


def _require_same_request(earlier: AnyRow, claim: Idempotency) -> None:
    if earlier.fingerprint != claim.fingerprint:
        raise refusals.idempotency_key_reused()


async def _claim(
    connection: AsyncConnection, tenant: str, kind: str, claim: Idempotency, object_id: str
) -> None:
    """Keep an idempotency key for a new object, in place of one whose file is gone."""
    await connection.execute(delete(idempotency).where(*_of_claim(tenant, kind, claim)))
    row = {"tenant": tenant, "kind": kind, "object_id": object_id, **values_of(claim)}
    await connection.execute(insert(idempotency).values(row))


async def _page(
    connection: AsyncConnection,
    table: Table,
    query: Select[*tuple[Any, ...]],
    tenant: str,
    after: str | None,
    limit: int,
    ascending: bool,
    value_of: Callable[[AnyRow], T],
) -> Page[T]:
    """One page by (created_at, id). A hidden file is still a place to go on from, so that a client
    may delete what it lists."""
    place = tuple_(table.c.created_at, table.c.id)
    if after is not None:
        start = await connection.execute(
            select(table.c.created_at, table.c.id).where(
                table.c.tenant == tenant, table.c.id == after
            )
        )
        found = start.one_or_none()
        if found is None:
            return Page([], has_more=False)
        query = query.where(place > tuple_(*found) if ascending else place < tuple_(*found))
    columns = (table.c.created_at, table.c.id)
    order = columns if ascending else tuple(column.desc() for column in columns)
    rows = (await connection.execute(query.order_by(*order).limit(limit + 1))).all()
    return Page([value_of(row) for row in rows[:limit]], has_more=len(rows) > limit)
