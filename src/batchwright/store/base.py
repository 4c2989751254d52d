"""The interface to metadata, in two halves.

`TenantStore` is what a request handler may reach: every method takes the tenant, so that a handler
cannot forget it. `EngineStore` is what the engine needs across tenants.
There is no row per request: what is done is told by the journals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from batchwright.domain.batch import Batch
from batchwright.domain.file import Extent, File
from batchwright.domain.key import Key
from batchwright.domain.segment import Segment
from batchwright.domain.upload import Part, Upload

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `has_more` tells that another follows the last of `items`."""

    items: list[T]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An `Idempotency-Key` and the fingerprint of the request that it came with."""

    key: str
    fingerprint: str
    created_at: float  # Unix seconds; kept for at least 24 h


class TenantStore(Protocol):
    """Metadata of one tenant. Each method is one transaction, durable when it returns.

    Another tenant's object is `NotFound`, exactly as one that never was.
    """

    async def create_file(
        self,
        tenant: str,
        file: File,
        extents: Sequence[Extent],
        idempotency: Idempotency | None = None,
    ) -> File:
        """Make a file visible. With an idempotency key that was used before for the same request,
        nothing is changed and the file of then is returned; for another request: `Conflict`.

        A key whose file was deleted or has expired is as new.
        """
        ...

    async def find_claimed_file(self, tenant: str, idempotency: Idempotency) -> File | None:
        """The file that an idempotency key has made; None if it made none, or that is gone.

        Raises `Conflict` if it was for another request.
        """
        ...

    async def get_file(self, tenant: str, file_id: str, *, now: float | None = None) -> File:
        """Raises `NotFound` for an unknown or deleted file, and for one that has expired at
        `now`; without `now`, for one that `EngineStore.expire` has hidden."""
        ...

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
        """Ordered by (created_at, id). An `after` that names nothing gives an empty page.
        `now` as in `get_file`."""
        ...

    async def get_extents(
        self, tenant: str, file_id: str, *, now: float | None = None
    ) -> tuple[Extent, ...]:
        """The bytes of a file, in order. Raises as `get_file`."""
        ...

    async def delete_file(self, tenant: str, file_id: str, *, now: float | None = None) -> None:
        """Hide a file at once; its bytes go later (`EngineStore.unreferenced`).
        Raises as `get_file`, the second time too."""
        ...

    async def stored_bytes(self, tenant: str, now: float) -> int:
        """The bytes of all files that are visible at `now`, and of the parts of pending uploads."""
        ...

    async def create_upload(self, tenant: str, upload: Upload) -> None: ...

    async def get_upload(self, tenant: str, upload_id: str) -> Upload:
        """Raises `NotFound`."""
        ...

    async def add_part(self, tenant: str, part: Part) -> None:
        """Raises `NotFound` for an unknown upload, `Conflict` for one that is not pending."""
        ...

    async def get_parts(self, tenant: str, upload_id: str) -> list[Part]:
        """All parts in order of creation."""
        ...

    async def sum_parts(self, tenant: str, upload_id: str) -> tuple[int, int]:
        """How many parts an upload has, and their bytes together."""
        ...

    async def complete_upload(
        self, tenant: str, upload_id: str, file: File, extents: Sequence[Extent]
    ) -> Upload:
        """Turn the parts into a file, in one transaction. Raises `Conflict` if not pending."""
        ...

    async def cancel_upload(self, tenant: str, upload_id: str) -> Upload:
        """Raises `NotFound`; `Conflict` if it is neither pending nor cancelled."""
        ...

    async def create_batch(
        self, tenant: str, batch: Batch, idempotency: Idempotency | None = None
    ) -> Batch:
        """As `create_file` for the idempotency key."""
        ...

    async def find_claimed_batch(self, tenant: str, idempotency: Idempotency) -> Batch | None:
        """The batch that an idempotency key has made; None if it made none yet.

        Raises `Conflict` if it was for another request.
        """
        ...

    async def get_batch(self, tenant: str, batch_id: str) -> Batch: ...

    async def list_batches(self, tenant: str, *, after: str | None, limit: int) -> Page[Batch]:
        """Newest first, by (created_at, id)."""
        ...

    async def create_key(self, tenant: str, key: Key) -> None:
        """Store a key of `key.tenant`; `tenant` is the admin's who asks."""
        ...

    async def list_keys(self, tenant: str) -> list[Key]:
        """All keys of all tenants, oldest first: only an admin's handler calls this."""
        ...

    async def revoke_key(self, tenant: str, key_id: str, at: float) -> Key:
        """Raises `NotFound`. Revoking twice keeps the first time."""
        ...


class EngineStore(Protocol):
    """Metadata across tenants. Each method is one transaction, durable when it returns."""

    async def find_key(self, key_id: str) -> Key | None:
        """A key by its public id, revoked or not."""
        ...

    async def put_key(self, key: Key) -> None:
        """Insert or replace a key: the admin key of the first start."""
        ...

    async def unfinished_batches(self) -> list[Batch]:
        """Every batch that is not terminal, oldest first."""
        ...

    async def ended_batches(
        self, tenant: str, *, endpoint: str, option: str, since: float, limit: int
    ) -> list[Batch]:
        """The last batches of a tenant for an endpoint that were given `option`, ended at `since`
        or later and have an output file, the newest first by (created_at, id); its file may be
        hidden since."""
        ...

    async def save_batch(self, batch: Batch, *, was: Batch) -> None:
        """Replace the row of a batch if its epoch and status are still those of `was`.

        Raises `Superseded` otherwise, having changed nothing.
        """
        ...

    async def take_over(self, batch: Batch, frozen: Sequence[Segment]) -> Batch:
        """Give a batch a new writer: raise its epoch by one, set the lengths of its open segments
        to those of `frozen`, and add the open segment of the new epoch, in one transaction.

        Returns the batch with its new epoch. Raises `Superseded` if its epoch has moved.
        """
        ...

    async def segments(self, batch_id: str) -> list[Segment]:
        """By epoch, lowest first."""
        ...

    async def publish(
        self,
        batch: Batch,
        *,
        was: Batch,
        closed: Segment | None,
        files: Sequence[tuple[File, Sequence[Extent]]],
    ) -> None:
        """End a batch: freeze its last segment, make its result files visible and save its row,
        in one transaction, guarded as `save_batch`."""
        ...

    async def engine_file(
        self, tenant: str, file_id: str, *, hidden: bool = False, now: float | None = None
    ) -> tuple[File, tuple[Extent, ...]] | None:
        """A visible file with its bytes; None if there is none. `now` as in `get_file`.

        With `hidden` also one that was deleted while a batch uses it.
        """
        ...

    async def expire(self, now: float) -> int:
        """Hide files past their `expires_at`, drop idempotency keys older than 48 h, and cancel
        uploads past theirs. Returns how many objects it changed."""
        ...

    async def unreferenced(self, limit: int) -> list[str]:
        """Blob keys that no visible file, pending upload or unfinished batch uses any more.

        Hidden files whose bytes an unfinished batch reads do not count.
        """
        ...

    async def unknown(self, keys: Sequence[str]) -> list[str]:
        """Which of these blob keys no row names: bytes whose writer died before their row."""
        ...

    async def forget(self, keys: Sequence[str]) -> None:
        """Drop the rows behind blob keys that `unreferenced` named and that have been deleted."""
        ...

    async def close(self) -> None:
        """Let go of the database. Safe twice."""
        ...
