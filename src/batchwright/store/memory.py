"""The store in dicts, for simulation and tests. Durable only as long as the object lives.

No method waits, so each is atomic among tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from batchwright.domain.batch import TERMINAL, Batch
from batchwright.domain.errors import StorageError
from batchwright.domain.file import Extent, File
from batchwright.domain.key import Key
from batchwright.domain.segment import RESULT_LINES, Segment, SegmentKeys
from batchwright.domain.upload import Part, Upload
from batchwright.store import refusals
from batchwright.store.base import Idempotency, Page

IDEMPOTENCY_TTL_S = 48 * 3_600


class _Listed(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def tenant(self) -> str: ...

    @property
    def created_at(self) -> float: ...


L = TypeVar("L", bound=_Listed)


@dataclass(frozen=True, slots=True)
class _StoredFile:
    file: File
    extents: tuple[Extent, ...]
    is_hidden: bool = False

    def is_visible(self, now: float | None) -> bool:
        """Neither hidden nor, at `now`, expired."""
        return not (self.is_hidden or (now is not None and _is_past(self.file.expires_at, now)))


@dataclass(frozen=True, slots=True)
class _SegmentBlob:
    batch_id: str
    epoch: int
    kind: str


class MemoryStore:
    """`TenantStore` and `EngineStore` in memory, deterministic."""

    def __init__(self) -> None:
        self._files: dict[str, _StoredFile] = {}
        self._uploads: dict[str, Upload] = {}
        self._parts: dict[str, Part] = {}
        self._batches: dict[str, Batch] = {}
        self._segments: dict[tuple[str, int], Segment] = {}
        self._segment_blobs: dict[str, _SegmentBlob] = {}
        self._keys: dict[str, Key] = {}
        self._idempotency: dict[tuple[str, str, str], tuple[Idempotency, str]] = {}

    async def close(self) -> None:
        """Nothing is held open here."""

    # What a request handler may reach.

    async def create_file(
        self,
        tenant: str,
        file: File,
        extents: Sequence[Extent],
        idempotency: Idempotency | None = None,
    ) -> File:
        if idempotency is not None:
            earlier = await self.find_claimed_file(tenant, idempotency)
            if earlier is not None:
                return earlier
        file = replace(file, tenant=tenant)
        self._insert_files([(file, extents)])
        self._claim(tenant, "file", idempotency, file.id)
        return file

    async def find_claimed_file(self, tenant: str, idempotency: Idempotency) -> File | None:
        if (tenant, "file", idempotency.key) not in self._idempotency:
            return None
        _, file_id = self._idempotency[tenant, "file", idempotency.key]
        stored = self._find_file(tenant, file_id, idempotency.created_at)
        if stored is None:
            return None  # the next claim takes the place of this one
        self._claimed(tenant, "file", idempotency)
        return stored.file

    async def get_file(self, tenant: str, file_id: str, *, now: float | None = None) -> File:
        return self._file(tenant, file_id, now).file

    async def list_files(
        self,
        tenant: str,
        *,
        after: str | None,
        limit: int,
        ascending: bool = False,
        purpose: str | None = None,
        now: float | None = None,
    ) -> Page[File]:
        def is_listed(file: File) -> bool:
            return self._files[file.id].is_visible(now) and purpose in (None, file.purpose)

        everything = [stored.file for stored in self._files.values()]
        return _page(everything, tenant, after, limit, ascending, is_listed)

    async def get_extents(
        self, tenant: str, file_id: str, *, now: float | None = None
    ) -> tuple[Extent, ...]:
        return self._file(tenant, file_id, now).extents

    async def delete_file(self, tenant: str, file_id: str, *, now: float | None = None) -> None:
        stored = self._file(tenant, file_id, now)
        self._files[file_id] = replace(stored, is_hidden=True)

    async def stored_bytes(self, tenant: str, now: float) -> int:
        of_files = (
            stored.file.size_bytes
            for stored in self._files.values()
            if stored.file.tenant == tenant and stored.is_visible(now)
        )
        of_parts = (
            part.size_bytes
            for part in self._parts.values()
            if (upload := self._uploads[part.upload_id]).tenant == tenant
            and upload.status == "pending"
            and not _is_past(upload.expires_at, now)
        )
        return sum(of_files) + sum(of_parts)

    async def create_upload(self, tenant: str, upload: Upload) -> None:
        _require_new(upload.id, self._uploads)
        self._uploads[upload.id] = replace(upload, tenant=tenant)

    async def get_upload(self, tenant: str, upload_id: str) -> Upload:
        upload = self._uploads.get(upload_id)
        if upload is None or upload.tenant != tenant:
            raise refusals.no_upload(upload_id)
        return upload

    async def add_part(self, tenant: str, part: Part) -> None:
        await self._pending_upload(tenant, part.upload_id)
        _require_new(part.id, self._parts)
        self._parts[part.id] = part

    async def get_parts(self, tenant: str, upload_id: str) -> list[Part]:
        await self.get_upload(tenant, upload_id)
        found = [part for part in self._parts.values() if part.upload_id == upload_id]
        return sorted(found, key=lambda part: (part.created_at, part.id))

    async def sum_parts(self, tenant: str, upload_id: str) -> tuple[int, int]:
        parts = await self.get_parts(tenant, upload_id)
        return len(parts), sum(part.size_bytes for part in parts)

    async def complete_upload(
        self, tenant: str, upload_id: str, file: File, extents: Sequence[Extent]
    ) -> Upload:
        upload = await self._pending_upload(tenant, upload_id)
        self._insert_files([(replace(file, tenant=tenant), extents)])
        self._uploads[upload_id] = replace(upload, status="completed", file_id=file.id)
        return self._uploads[upload_id]

    async def cancel_upload(self, tenant: str, upload_id: str) -> Upload:
        upload = await self.get_upload(tenant, upload_id)
        if upload.status == "completed":
            raise refusals.not_pending(upload)
        self._uploads[upload_id] = replace(upload, status="cancelled")
        return self._uploads[upload_id]

    async def create_batch(
        self, tenant: str, batch: Batch, idempotency: Idempotency | None = None
    ) -> Batch:
        if idempotency is not None:
            earlier = await self.find_claimed_batch(tenant, idempotency)
            if earlier is not None:
                return earlier
        batch = replace(batch, tenant=tenant)
        _require_new(batch.id, self._batches)
        _require_sound(batch)
        self._batches[batch.id] = batch
        self._claim(tenant, "batch", idempotency, batch.id)
        return batch

    async def find_claimed_batch(self, tenant: str, idempotency: Idempotency) -> Batch | None:
        batch_id = self._claimed(tenant, "batch", idempotency)
        return None if batch_id is None else await self.get_batch(tenant, batch_id)

    async def get_batch(self, tenant: str, batch_id: str) -> Batch:
        batch = self._batches.get(batch_id)
        if batch is None or batch.tenant != tenant:
            raise refusals.no_batch(batch_id)
        return batch

    async def list_batches(self, tenant: str, *, after: str | None, limit: int) -> Page[Batch]:
        everything = list(self._batches.values())
        return _page(everything, tenant, after, limit, False, lambda batch: True)

    async def create_key(self, tenant: str, key: Key) -> None:
        _require_new(key.id, self._keys)
        self._keys[key.id] = key

    async def list_keys(self, tenant: str) -> list[Key]:
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))

    async def revoke_key(self, tenant: str, key_id: str, at: float) -> Key:
        key = self._keys.get(key_id)
        if key is None:
            raise refusals.no_key(key_id)
        if key.revoked_at is None:
            self._keys[key_id] = replace(key, revoked_at=at)
        return self._keys[key_id]

    # What the engine uses, across tenants.

    async def find_key(self, key_id: str) -> Key | None:
        return self._keys.get(key_id)

    async def put_key(self, key: Key) -> None:
        self._keys[key.id] = key

    async def unfinished_batches(self) -> list[Batch]:
        found = [batch for batch in self._batches.values() if not batch.is_terminal]
        return sorted(found, key=_place)

    async def ended_batches(
        self, tenant: str, *, endpoint: str, option: str, since: float, limit: int
    ) -> list[Batch]:
        found = [
            batch
            for batch in self._batches.values()
            if batch.tenant == tenant
            and batch.endpoint == endpoint
            and batch.options.get(option) is not None
            and batch.output_file_id is not None
            and batch.ended_at is not None
            and batch.ended_at >= since
        ]
        return sorted(found, key=_place, reverse=True)[:limit]

    async def save_batch(self, batch: Batch, *, was: Batch) -> None:
        self._require_current(was)
        _require_sound(batch)
        self._batches[was.id] = batch

    async def take_over(self, batch: Batch, frozen: Sequence[Segment]) -> Batch:
        current = self._batches.get(batch.id)
        if current is None or current.epoch != batch.epoch:
            raise refusals.superseded(batch)
        closing = {segment.epoch: segment for segment in frozen if self._can_freeze(segment)}
        for segment in await self.segments(batch.id):
            if segment.lengths is None and segment.epoch not in closing:
                raise refusals.open_segment(batch.id)
        for segment in closing.values():
            self._segments[segment.batch_id, segment.epoch] = segment
        self._open_segment(batch.id, current.epoch + 1)
        self._batches[batch.id] = replace(current, epoch=current.epoch + 1)
        return self._batches[batch.id]

    async def segments(self, batch_id: str) -> list[Segment]:
        found = [segment for segment in self._segments.values() if segment.batch_id == batch_id]
        return sorted(found, key=lambda segment: segment.epoch)

    async def publish(
        self,
        batch: Batch,
        *,
        was: Batch,
        closed: Segment | None,
        files: Sequence[tuple[File, Sequence[Extent]]],
    ) -> None:
        self._require_current(was)
        _require_sound(batch)
        if closed is not None and not self._can_freeze(closed):
            raise refusals.unknown_segment(closed.batch_id, closed.epoch)
        self._insert_files(files)
        if closed is not None:
            self._segments[closed.batch_id, closed.epoch] = closed
        self._batches[was.id] = batch

    async def engine_file(
        self, tenant: str, file_id: str, *, hidden: bool = False, now: float | None = None
    ) -> tuple[File, tuple[Extent, ...]] | None:
        """With `hidden`, a hidden file too: a batch goes on with an input that was deleted."""
        stored = self._find_file(tenant, file_id, now, hidden=hidden)
        return None if stored is None else (stored.file, stored.extents)

    async def expire(self, now: float) -> int:
        changed = 0
        for file_id, stored in self._files.items():
            if not stored.is_hidden and _is_past(stored.file.expires_at, now):
                self._files[file_id] = replace(stored, is_hidden=True)
                changed += 1
        for upload_id, upload in self._uploads.items():
            if upload.status == "pending" and upload.expires_at <= now:
                self._uploads[upload_id] = replace(upload, status="cancelled")
                changed += 1
        for name, (claim, _) in list(self._idempotency.items()):
            if claim.created_at <= now - IDEMPOTENCY_TTL_S:
                del self._idempotency[name]
                changed += 1
        self._forget_empty_files()
        return changed

    async def unreferenced(self, limit: int) -> list[str]:
        used = dict.fromkeys(self._used_keys())
        return [key for key in sorted(dict.fromkeys(self._unused())) if key not in used][:limit]

    async def unknown(self, keys: Sequence[str]) -> list[str]:
        named = {extent.key for stored in self._files.values() for extent in stored.extents}
        named |= {part.key for part in self._parts.values()} | self._segment_blobs.keys()
        return [key for key in keys if key not in named]

    async def forget(self, keys: Sequence[str]) -> None:
        gone = dict.fromkeys(keys)
        for file_id, stored in self._files.items():
            if stored.is_hidden:
                left = tuple(extent for extent in stored.extents if extent.key not in gone)
                self._files[file_id] = replace(stored, extents=left)
        for part in list(self._parts.values()):
            if part.key in gone and self._uploads[part.upload_id].status != "pending":
                del self._parts[part.id]
        for key in gone:
            self._segment_blobs.pop(key, None)
        alive = {(blob.batch_id, blob.epoch): None for blob in self._segment_blobs.values()}
        for place in list(self._segments):
            if place not in alive:
                del self._segments[place]

    # Steps of the above.

    def _find_file(
        self, tenant: str, file_id: str, now: float | None, *, hidden: bool = False
    ) -> _StoredFile | None:
        stored = self._files.get(file_id)
        if stored is None or stored.file.tenant != tenant:
            return None
        return stored if hidden or stored.is_visible(now) else None

    def _file(self, tenant: str, file_id: str, now: float | None) -> _StoredFile:
        stored = self._find_file(tenant, file_id, now)
        if stored is None:
            raise refusals.no_file(file_id)
        return stored

    def _insert_files(self, files: Sequence[tuple[File, Sequence[Extent]]]) -> None:
        for file, _ in files:
            _require_new(file.id, self._files)
        for file, extents in files:
            self._files[file.id] = _StoredFile(file, tuple(extents))

    async def _pending_upload(self, tenant: str, upload_id: str) -> Upload:
        upload = await self.get_upload(tenant, upload_id)
        if upload.status != "pending":
            raise refusals.not_pending(upload)
        return upload

    def _claimed(self, tenant: str, kind: str, claim: Idempotency) -> str | None:
        """The object that an idempotency key has made already."""
        if (tenant, kind, claim.key) not in self._idempotency:
            return None
        earlier, object_id = self._idempotency[tenant, kind, claim.key]
        if earlier.fingerprint != claim.fingerprint:
            raise refusals.idempotency_key_reused()
        return object_id

    def _claim(self, tenant: str, kind: str, claim: Idempotency | None, object_id: str) -> None:
        if claim is not None:
            self._idempotency[tenant, kind, claim.key] = claim, object_id

    def _require_current(self, was: Batch) -> None:
        current = self._batches.get(was.id)
        if current is None or (current.epoch, current.status) != (was.epoch, was.status):
            raise refusals.superseded(was)

    def _can_freeze(self, segment: Segment) -> bool:
        current = self._segments.get((segment.batch_id, segment.epoch))
        return current is not None and current.lengths is None and segment.lengths is not None

    def _open_segment(self, batch_id: str, epoch: int) -> None:
        self._segments[batch_id, epoch] = Segment(batch_id, epoch, None)
        for kind, key in SegmentKeys.of(batch_id, epoch)._asdict().items():
            self._segment_blobs[key] = _SegmentBlob(batch_id, epoch, kind)

    def _forget_empty_files(self) -> None:
        """Drop hidden files whose bytes are gone."""
        for file_id, stored in list(self._files.items()):
            if stored.is_hidden and not stored.extents:
                del self._files[file_id]

    def _unused(self) -> Iterator[str]:
        """Keys that one of their holders has let go of."""
        for stored in self._files.values():
            if stored.is_hidden:
                yield from (extent.key for extent in stored.extents)
        for part in self._parts.values():
            if self._uploads[part.upload_id].status != "pending":
                yield part.key
        for key, blob in self._segment_blobs.items():
            batch = self._batches[blob.batch_id]
            if batch.is_terminal and (blob.kind in RESULT_LINES or not self._has_result(batch)):
                yield key

    def _used_keys(self) -> Iterator[str]:
        """Keys that somebody still needs."""
        inputs = {batch.input_file_id: None for batch in self._batches.values() if _runs(batch)}
        for file_id, stored in self._files.items():
            if not stored.is_hidden or file_id in inputs:
                yield from (extent.key for extent in stored.extents)
        for part in self._parts.values():
            if self._uploads[part.upload_id].status == "pending":
                yield part.key

    def _has_result(self, batch: Batch) -> bool:
        results = (
            self._files.get(id_ or "") for id_ in (batch.output_file_id, batch.error_file_id)
        )
        return any(stored is not None and not stored.is_hidden for stored in results)


def _page(
    everything: Sequence[L],
    tenant: str,
    after: str | None,
    limit: int,
    ascending: bool,
    is_listed: Callable[[L], bool],
) -> Page[L]:
    """One page by (created_at, id). A hidden file is still a place to go on from."""
    own = sorted((one for one in everything if one.tenant == tenant), key=_place)
    if not ascending:
        own.reverse()
    if after is not None:
        places = [one.id for one in own]
        own = own[places.index(after) + 1 :] if after in places else []
    listed = [one for one in own if is_listed(one)]
    return Page(listed[:limit], has_more=len(listed) > limit)


def _place(one: _Listed) -> tuple[float, str]:
    return one.created_at, one.id


def _runs(batch: Batch) -> bool:
    return not batch.is_terminal


def _is_past(expires_at: float | None, now: float) -> bool:
    return expires_at is not None and expires_at <= now


def _require_new(name: str, existing: Mapping[str, object]) -> None:
    if name in existing:
        raise StorageError(f"{name} exists already")


def _require_sound(batch: Batch) -> None:
    """The `CHECK`s of the schema: a bug of ours is refused, not stored."""
    ends = [status for status in TERMINAL if getattr(batch, f"{status}_at") is not None]
    if ends != ([batch.status] if batch.is_terminal else []):
        raise StorageError(f"batch {batch.id} is {batch.status}, its times say {ends}")
    if batch.paused_at is not None and not batch.is_sending:
        raise StorageError(f"batch {batch.id} is {batch.status} and paused")
    counts = batch.counts
    if min(counts.completed, counts.failed) < 0 or counts.completed + counts.failed > counts.total:
        raise StorageError(f"batch {batch.id} counts {counts}")
