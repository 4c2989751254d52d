"""The half of the store that the engine uses, across tenants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import (
    ColumnElement,
    Select,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    union,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from batchwright.domain.batch import TERMINAL, Batch
from batchwright.domain.file import Extent, File
from batchwright.domain.key import Key
from batchwright.domain.segment import RESULT_LINES, Segment, SegmentKeys
from batchwright.store import refusals
from batchwright.store.schema import (
    batches,
    extents,
    files,
    idempotency,
    keys,
    parts,
    segment_blobs,
    segments,
    uploads,
)
from batchwright.store.sql.database import SqlPart, reading, transaction
from batchwright.store.sql.rows import (
    KEY,
    batch_of,
    batch_values,
    length_values,
    segment_of,
    values_of,
)
from batchwright.store.sql.tenant import file_extents, find_file, insert_file

IDEMPOTENCY_TTL_S = 48 * 3_600

_KEYS_PER_STATEMENT = 500  # databases bound the number of parameters
_TERMINAL = [status.value for status in TERMINAL]


class SqlEngineStore(SqlPart):
    """See `EngineStore`; each public method is one transaction."""

    @reading
    async def find_key(self, connection: AsyncConnection, key_id: str) -> Key | None:
        row = (await connection.execute(select(*KEY).where(keys.c.id == key_id))).one_or_none()
        return None if row is None else Key(*row)

    @transaction
    async def put_key(self, connection: AsyncConnection, key: Key) -> None:
        await connection.execute(delete(keys).where(keys.c.id == key.id))
        await connection.execute(insert(keys).values(values_of(key)))

    @reading
    async def unfinished_batches(self, connection: AsyncConnection) -> list[Batch]:
        query = select(batches).where(_is_unfinished()).order_by(batches.c.created_at, batches.c.id)
        return [batch_of(row) for row in await connection.execute(query)]

    @reading
    async def ended_batches(
        self,
        connection: AsyncConnection,
        tenant: str,
        *,
        endpoint: str,
        option: str,
        since: float,
        limit: int,
    ) -> list[Batch]:
        row = batches.c
        ended_at = func.coalesce(row.completed_at, row.expired_at, row.cancelled_at)
        query = (
            select(batches)
            .where(row.tenant == tenant, row.endpoint == endpoint)
            .where(row.options[option].as_string().is_not(None))
            .where(row.output_file_id.is_not(None), ended_at >= since)
            .order_by(row.created_at.desc(), row.id.desc())
            .limit(limit)
        )
        return [batch_of(found) for found in await connection.execute(query)]

    @transaction
    async def save_batch(self, connection: AsyncConnection, batch: Batch, *, was: Batch) -> None:
        await _replace_batch(connection, batch, was)

    @transaction
    async def take_over(
        self, connection: AsyncConnection, batch: Batch, frozen: Sequence[Segment]
    ) -> Batch:
        raised = await connection.execute(
            update(batches)
            .where(batches.c.id == batch.id, batches.c.epoch == batch.epoch)
            .values(epoch=batch.epoch + 1)
        )
        if raised.rowcount == 0:
            raise refusals.superseded(batch)
        for segment in frozen:
            await _freeze(connection, segment)
        await _require_no_open_segment(connection, batch.id)
        await _open_segment(connection, batch.id, batch.epoch + 1)
        row = await connection.execute(select(batches).where(batches.c.id == batch.id))
        return batch_of(row.one())

    @reading
    async def segments(self, connection: AsyncConnection, batch_id: str) -> list[Segment]:
        query = select(segments).where(segments.c.batch_id == batch_id).order_by(segments.c.epoch)
        return [segment_of(row) for row in await connection.execute(query)]

    @transaction
    async def publish(
        self,
        connection: AsyncConnection,
        batch: Batch,
        *,
        was: Batch,
        closed: Segment | None,
        files: Sequence[tuple[File, Sequence[Extent]]],
    ) -> None:
        await _replace_batch(connection, batch, was)
        if closed is not None and not await _freeze(connection, closed):
            raise refusals.unknown_segment(closed.batch_id, closed.epoch)
        for file, of_file in files:
            await insert_file(connection, file, of_file)

    @reading
    async def engine_file(
        self,
        connection: AsyncConnection,
        tenant: str,
        file_id: str,
        *,
        hidden: bool = False,
        now: float | None = None,
    ) -> tuple[File, tuple[Extent, ...]] | None:
        """With `hidden`, a hidden file too: a batch goes on with an input that was deleted."""
        file = await find_file(connection, tenant, file_id, hidden=hidden, now=now)
        return None if file is None else (file, await file_extents(connection, file_id))

    @transaction
    async def expire(self, connection: AsyncConnection, now: float) -> int:
        hidden = await connection.execute(
            update(files)
            .where(files.c.expires_at <= now, ~files.c.is_hidden)
            .values(is_hidden=True)
        )
        cancelled = await connection.execute(
            update(uploads)
            .where(uploads.c.status == "pending", uploads.c.expires_at <= now)
            .values(status="cancelled")
        )
        dropped = await connection.execute(
            delete(idempotency).where(idempotency.c.created_at <= now - IDEMPOTENCY_TTL_S)
        )
        await _forget_empty_files(connection)
        return hidden.rowcount + cancelled.rowcount + dropped.rowcount

    @reading
    async def unreferenced(self, connection: AsyncConnection, limit: int) -> list[str]:
        candidates = union(
            _hidden_extents(), _ended_upload_parts(), _ended_segment_blobs()
        ).subquery("candidates")
        key = candidates.c.key
        query = (
            select(key)
            .where(~_visible(key), ~_read_by_unfinished_batch(key), ~_in_pending_upload(key))
            .order_by(key)
            .limit(limit)
        )
        return list((await connection.execute(query)).scalars())

    @transaction
    async def unknown(self, connection: AsyncConnection, keys: Sequence[str]) -> list[str]:
        named: set[str] = set()
        for some in _slices(keys):
            for column in (extents.c.key, parts.c.key, segment_blobs.c.key):
                named.update(await connection.scalars(select(column).where(column.in_(some))))
        return [key for key in keys if key not in named]

    @transaction
    async def forget(self, connection: AsyncConnection, keys: Sequence[str]) -> None:
        for some in _slices(keys):
            of_hidden = select(files.c.id).where(files.c.is_hidden)
            of_ended = select(uploads.c.id).where(uploads.c.status != "pending")
            for statement in (
                delete(extents).where(extents.c.key.in_(some), extents.c.file_id.in_(of_hidden)),
                delete(parts).where(parts.c.key.in_(some), parts.c.upload_id.in_(of_ended)),
            ):
                await connection.execute(statement)
            await _forget_segment_blobs(connection, some)


async def _replace_batch(connection: AsyncConnection, batch: Batch, was: Batch) -> None:
    replaced = await connection.execute(
        update(batches)
        .where(
            batches.c.id == was.id,
            batches.c.epoch == was.epoch,
            batches.c.status == was.status.value,
        )
        .values(batch_values(batch))
    )
    if replaced.rowcount == 0:
        raise refusals.superseded(was)


async def _freeze(connection: AsyncConnection, segment: Segment) -> bool:
    """Set the lengths of an open segment; False, and no change, if it is not open."""
    if segment.lengths is None:
        return False
    frozen = await connection.execute(
        update(segments)
        .where(
            segments.c.batch_id == segment.batch_id,
            segments.c.epoch == segment.epoch,
            segments.c.output_bytes.is_(None),
        )
        .values(length_values(segment.lengths))
    )
    return frozen.rowcount == 1


async def _require_no_open_segment(connection: AsyncConnection, batch_id: str) -> None:
    open_ones = select(func.count()).where(
        segments.c.batch_id == batch_id, segments.c.output_bytes.is_(None)
    )
    if (await connection.execute(open_ones)).scalar_one():
        raise refusals.open_segment(batch_id)


async def _open_segment(connection: AsyncConnection, batch_id: str, epoch: int) -> None:
    segment = {"batch_id": batch_id, "epoch": epoch}
    await connection.execute(insert(segments).values(segment))
    blobs = [
        segment | {"key": key, "kind": kind}
        for kind, key in SegmentKeys.of(batch_id, epoch)._asdict().items()
    ]
    await connection.execute(insert(segment_blobs), blobs)


async def _forget_segment_blobs(connection: AsyncConnection, keys: Sequence[str]) -> None:
    """Drop the rows of blobs, and those of segments that have none left."""
    query = select(segment_blobs.c.batch_id, segment_blobs.c.epoch).where(
        segment_blobs.c.key.in_(keys)
    )
    touched = sorted({(row.batch_id, row.epoch) for row in await connection.execute(query)})
    await connection.execute(delete(segment_blobs).where(segment_blobs.c.key.in_(keys)))
    for batch_id, epoch in touched:
        has_blob = exists().where(
            segment_blobs.c.batch_id == batch_id, segment_blobs.c.epoch == epoch
        )
        await connection.execute(
            delete(segments).where(
                segments.c.batch_id == batch_id, segments.c.epoch == epoch, ~has_blob
            )
        )


async def _forget_empty_files(connection: AsyncConnection) -> None:
    """Drop hidden files whose bytes are gone."""
    has_bytes = exists().where(extents.c.file_id == files.c.id)
    await connection.execute(delete(files).where(files.c.is_hidden, ~has_bytes))


def _is_unfinished() -> ColumnElement[bool]:
    return batches.c.status.not_in(_TERMINAL)


def _hidden_extents() -> Select[str]:
    return select(extents.c.key).join(files).where(files.c.is_hidden)


def _ended_upload_parts() -> Select[str]:
    return select(parts.c.key).join(uploads).where(uploads.c.status != "pending")


def _ended_segment_blobs() -> Select[str]:
    """Blobs of ended batches; those that index the results only when no result is visible."""
    has_result = exists().where(
        files.c.id.in_([batches.c.output_file_id, batches.c.error_file_id]), ~files.c.is_hidden
    )
    return (
        select(segment_blobs.c.key)
        .join(batches, batches.c.id == segment_blobs.c.batch_id)
        .where(~_is_unfinished(), or_(segment_blobs.c.kind.in_(RESULT_LINES), ~has_result))
    )


def _visible(key: ColumnElement[str]) -> ColumnElement[bool]:
    return exists().where(extents.c.key == key, extents.c.file_id == files.c.id, ~files.c.is_hidden)


def _read_by_unfinished_batch(key: ColumnElement[str]) -> ColumnElement[bool]:
    return exists().where(
        extents.c.key == key, extents.c.file_id == batches.c.input_file_id, _is_unfinished()
    )


def _in_pending_upload(key: ColumnElement[str]) -> ColumnElement[bool]:
    return exists().where(
        parts.c.key == key, parts.c.upload_id == uploads.c.id, uploads.c.status == "pending"
    )


def _slices(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        yield keys[start : start + _KEYS_PER_STATEMENT]
