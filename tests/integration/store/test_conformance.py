"""What every store does, as a handler and as the engine see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchwright.domain.batch import Batch, Closing, Counts, Status, advance
from batchwright.domain.batch_error import BatchError
from batchwright.domain.errors import Conflict, NotFound, StorageError, Superseded
from batchwright.domain.file import Extent, File
from batchwright.domain.key import Key
from batchwright.domain.priority import Priority
from batchwright.domain.segment import Segment, SegmentLengths
from batchwright.domain.upload import Part, Upload
from batchwright.domain.usage import Usage
from batchwright.store.base import Idempotency
from batchwright.store.memory import MemoryStore
from batchwright.store.sql import SqlStore

Store = SqlStore | MemoryStore
T = "acme"


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore()
    if request.param == "sqlite":
        made = await SqlStore.open(f"sqlite:///{tmp_path / 'batchwright.db'}")
    yield made
    await made.close()


def a_file(file_id: str, *, at: float = 0.0, **changes: object) -> File:
    file = File(file_id, T, "batch", "in.jsonl", 10, at, None, "00" * 32)
    return replace(file, **changes)  # type: ignore[arg-type]


def a_batch(batch_id: str = "batch_1", *, at: float = 0.0, file_id: str = "file-in") -> Batch:
    return Batch(
        id=batch_id,
        tenant=T,
        endpoint="/v1/chat/completions",
        input_file_id=file_id,
        completion_window="24h",
        created_at=at,
        expires_at=at + 86_400,
    )


def an_upload(upload_id: str = "upload_1", **changes: object) -> Upload:
    upload = Upload(
        *(upload_id, T, "batch", "in.jsonl", "application/jsonl", 4, "pending"),
        *(0.0, 3_600.0, None, None),
    )
    return replace(upload, **changes)  # type: ignore[arg-type]


def a_key(key_id: str, *, at: float = 0.0) -> Key:
    return Key(key_id, T, "user", "ci", b"\x00digest", at)


def extents_of(*keys: str) -> list[Extent]:
    return [Extent(key, 0, 10) for key in keys]


async def running(
    store: Store,
    batch_id: str = "batch_1",
    file_id: str = "file-in",
    options: Mapping[str, Any] | None = None,
) -> Batch:
    """A batch in progress in its first epoch."""
    made = replace(a_batch(batch_id, file_id=file_id), options=options or {})
    batch = await store.create_batch(T, made)
    batch = await store.take_over(batch, [])
    after = advance(batch, Status.IN_PROGRESS, 1.0, counts=Counts(2))
    await store.save_batch(after, was=batch)
    return after


async def completed(
    store: Store,
    batch_id: str,
    *,
    output: str | None,
    error: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Batch:
    """A batch that ended, with its result files over the segment of epoch 1."""
    batch = await running(store, batch_id, options=options)
    finalizing = advance(batch, Status.FINALIZING, 2.0)
    await store.save_batch(finalizing, was=batch)
    ended = advance(finalizing, Status.COMPLETED, 3.0, output_file_id=output, error_file_id=error)
    named = [(output, "output"), (error, "error")]
    files = [
        (a_file(file_id, purpose="batch_output"), extents_of(f"batches/{batch_id}/1/{kind}"))
        for file_id, kind in named
        if file_id is not None
    ]
    closed = Segment(batch_id, 1, SegmentLengths(10, 10, 64))
    await store.publish(ended, was=finalizing, closed=closed, files=files)
    return ended


class TestFiles:
    async def test_a_file_is_read_back_with_its_extents_in_order(self, store: Store) -> None:
        file = a_file("file-1", at=1.5, expires_at=2.25)
        extents = (Extent("b", 5, 3), Extent("a", 0, 2**40), Extent("b", 0, 5))

        assert await store.create_file(T, file, extents) == file

        assert await store.get_file(T, "file-1") == file
        assert await store.get_extents(T, "file-1") == extents

    async def test_a_file_without_bytes_has_no_extents(self, store: Store) -> None:
        await store.create_file(T, a_file("file-1", size_bytes=0), [])

        assert await store.get_extents(T, "file-1") == ()

    async def test_another_tenant_s_file_is_as_one_that_never_was(self, store: Store) -> None:
        await store.create_file(T, a_file("file-1"), extents_of("a"))

        for file_id, tenant in [("file-1", "other"), ("file-2", T)]:
            with pytest.raises(NotFound, match=f"No such File object: {file_id}") as refused:
                await store.get_file(tenant, file_id)
            assert refused.value.param == "id"
            with pytest.raises(NotFound):
                await store.get_extents(tenant, file_id)
            with pytest.raises(NotFound):
                await store.delete_file(tenant, file_id)
            assert await store.engine_file(tenant, file_id) is None
        assert (await store.list_files("other", after=None, limit=10)).items == []

    async def test_the_tenant_of_the_call_is_the_owner(self, store: Store) -> None:
        created = await store.create_file("other", a_file("file-1"), [])

        assert created.tenant == "other"
        assert (await store.get_file("other", "file-1")).tenant == "other"

    async def test_a_deleted_file_is_gone_at_once_and_cannot_be_deleted_again(
        self, store: Store
    ) -> None:
        await store.create_file(T, a_file("file-1"), extents_of("a"))

        await store.delete_file(T, "file-1")

        for method in (store.get_file, store.get_extents, store.delete_file):
            with pytest.raises(NotFound):
                await method(T, "file-1")
        assert await store.engine_file(T, "file-1") is None
        assert (await store.list_files(T, after=None, limit=10)).items == []

    async def test_the_engine_may_still_read_a_hidden_file(self, store: Store) -> None:
        file, extents = a_file("file-1"), tuple(extents_of("a"))
        await store.create_file(T, file, extents)
        assert await store.engine_file(T, "file-1") == (file, extents)

        await store.delete_file(T, "file-1")

        assert await store.engine_file(T, "file-1", hidden=True) == (file, extents)

    async def test_an_id_is_given_once(self, store: Store) -> None:
        await store.create_file(T, a_file("file-1"), extents_of("a"))

        with pytest.raises(StorageError):
            await store.create_file("other", a_file("file-1"), extents_of("b"))

        assert await store.get_extents(T, "file-1") == tuple(extents_of("a"))


class TestLists:
    @pytest.fixture
    async def filled(self, store: Store) -> Store:
        """Files a to g; b, c and d were made in the same moment, out of order."""
        for file_id, at in zip("dcbagfe", [2, 2, 2, 1, 5, 4, 3], strict=True):
            purpose = "batch" if file_id in "aceg" else "evals"
            await store.create_file(T, a_file(file_id, at=at, purpose=purpose), [])
        await store.create_file("other", a_file("x", at=2), [])
        return store

    async def test_newest_come_first_and_ids_break_ties(self, filled: Store) -> None:
        page = await filled.list_files(T, after=None, limit=100)

        assert "".join(file.id for file in page.items) == "gfedcba"
        assert not page.has_more

    async def test_ascending_is_the_other_way_round(self, filled: Store) -> None:
        page = await filled.list_files(T, after=None, limit=100, ascending=True)

        assert "".join(file.id for file in page.items) == "abcdefg"

    @pytest.mark.parametrize("limit", [1, 2, 3, 7])
    @pytest.mark.parametrize("ascending", [False, True])
    async def test_pages_follow_one_another_without_gap_or_repeat(
        self, filled: Store, limit: int, ascending: bool
    ) -> None:
        seen, after, has_more = "", None, True
        while has_more:
            page = await filled.list_files(T, after=after, limit=limit, ascending=ascending)
            seen += "".join(file.id for file in page.items)
            after, has_more = page.items[-1].id, page.has_more

        assert seen == ("abcdefg" if ascending else "gfedcba")

    async def test_a_purpose_filters(self, filled: Store) -> None:
        page = await filled.list_files(T, after="f", limit=2, purpose="batch")

        assert [file.id for file in page.items] == ["e", "c"]
        assert page.has_more
        assert (await filled.list_files(T, after=None, limit=9, purpose="none")).items == []

    @pytest.mark.parametrize("after", ["nothing", "x"])
    async def test_an_after_that_names_nothing_of_the_tenant_gives_an_empty_page(
        self, filled: Store, after: str
    ) -> None:
        page = await filled.list_files(T, after=after, limit=10)

        assert page.items == []
        assert not page.has_more

    async def test_a_client_may_delete_what_it_lists(self, filled: Store) -> None:
        page = await filled.list_files(T, after=None, limit=3)
        for file in page.items:
            await filled.delete_file(T, file.id)

        following = await filled.list_files(T, after=page.items[-1].id, limit=3)

        assert "".join(file.id for file in following.items) == "dcb"

    async def test_batches_are_listed_newest_first_in_pages(self, store: Store) -> None:
        for number in (2, 1, 3):
            await store.create_batch(T, a_batch(f"batch_{number}", at=number))
        await store.create_batch("other", a_batch("batch_9"))

        first = await store.list_batches(T, after=None, limit=2)
        second = await store.list_batches(T, after="batch_2", limit=2)

        assert [batch.id for batch in first.items] == ["batch_3", "batch_2"]
        assert [batch.id for batch in second.items] == ["batch_1"]
        assert (first.has_more, second.has_more) == (True, False)
        assert (await store.list_batches(T, after="batch_9", limit=2)).items == []


class TestIdempotency:
    async def test_the_same_request_gives_the_object_of_then(self, store: Store) -> None:
        claim = Idempotency("key", "print", 0.0)
        first = await store.create_file(T, a_file("file-1"), extents_of("a"), claim)

        again = await store.create_file(T, a_file("file-2"), extents_of("b"), claim)

        assert again == first
        with pytest.raises(NotFound):
            await store.get_file(T, "file-2")

    async def test_another_request_with_the_same_key_is_a_conflict(self, store: Store) -> None:
        await store.create_batch(T, a_batch("batch_1"), Idempotency("key", "print", 0.0))

        with pytest.raises(Conflict, match="Idempotency-Key"):
            await store.create_batch(T, a_batch("batch_2"), Idempotency("key", "other", 0.0))

        assert [b.id for b in (await store.list_batches(T, after=None, limit=9)).items] == [
            "batch_1"
        ]

    async def test_keys_of_tenants_and_of_kinds_are_apart(self, store: Store) -> None:
        claim = Idempotency("key", "print", 0.0)
        await store.create_file(T, a_file("file-1"), [], claim)

        assert (await store.create_file("other", a_file("file-2"), [], claim)).id == "file-2"
        assert (await store.create_batch(T, a_batch(), claim)).id == "batch_1"

    async def test_the_batch_of_then_comes_in_its_present_state(self, store: Store) -> None:
        claim = Idempotency("key", "print", 0.0)
        batch = await store.create_batch(T, a_batch(), claim)
        await store.save_batch(advance(batch, Status.CANCELLING, 1.0), was=batch)

        again = await store.create_batch(T, a_batch("batch_2"), claim)

        assert (again.id, again.status) == ("batch_1", Status.CANCELLING)

    async def test_twenty_tasks_with_one_key_make_one_object(self, store: Store) -> None:
        claim = Idempotency("key", "print", 0.0)

        made = await asyncio.gather(
            *(store.create_batch(T, a_batch(f"batch_{n}"), claim) for n in range(20))
        )

        assert len({batch.id for batch in made}) == 1
        assert len((await store.list_batches(T, after=None, limit=100)).items) == 1

    async def test_a_key_whose_file_is_gone_is_as_new(self, store: Store) -> None:
        await store.create_file(
            T, a_file("file-1"), extents_of("a"), Idempotency("key", "print", 0.0)
        )
        assert await store.find_claimed_file(T, Idempotency("key", "print", 0.0)) is not None
        with pytest.raises(Conflict):
            await store.find_claimed_file(T, Idempotency("key", "other", 0.0))
        await store.delete_file(T, "file-1")
        assert await store.find_claimed_file(T, Idempotency("key", "other", 0.0)) is None

        again = await store.create_file(
            T, a_file("file-2", expires_at=5.0), [], Idempotency("key", "other", 1.0)
        )
        early = await store.create_file(T, a_file("file-3"), [], Idempotency("key", "other", 4.9))
        late = await store.create_file(T, a_file("file-3"), [], Idempotency("key", "other", 5.0))

        assert (again.id, early.id, late.id) == ("file-2", "file-2", "file-3")

    async def test_an_old_key_is_forgotten(self, store: Store) -> None:
        claim = Idempotency("key", "print", 0.0)
        await store.create_file(T, a_file("file-1"), [], claim)
        assert await store.expire(48 * 3_600 - 1) == 0
        assert (await store.create_file(T, a_file("file-2"), [], claim)).id == "file-1"

        assert await store.expire(48 * 3_600) == 1
        assert (await store.create_file(T, a_file("file-2"), [], claim)).id == "file-2"

    async def test_the_batch_of_a_key_can_be_asked_for(self, store: Store) -> None:
        claim = Idempotency("key", "print", 0.0)
        await store.create_file(T, a_file("file-1"), [], claim)
        assert await store.find_claimed_batch(T, claim) is None

        batch = await store.create_batch(T, a_batch(), claim)

        assert await store.find_claimed_batch(T, claim) == batch
        assert await store.find_claimed_batch("other", claim) is None
        with pytest.raises(Conflict, match="Idempotency-Key"):
            await store.find_claimed_batch(T, replace(claim, fingerprint="other"))


class TestUploads:
    async def test_parts_become_a_file(self, store: Store) -> None:
        upload = an_upload()
        await store.create_upload(T, upload)
        parts = [Part(f"part_{n}", "upload_1", f"uploads/{n}", 2, n) for n in (2, 1)]
        for part in parts:
            await store.add_part(T, part)

        assert await store.get_upload(T, "upload_1") == upload
        assert await store.get_parts(T, "upload_1") == parts[::-1]

        done = await store.complete_upload(
            T, "upload_1", a_file("file-1"), extents_of("uploads/2", "uploads/1")
        )

        assert done == replace(upload, status="completed", file_id="file-1")
        assert await store.get_upload(T, "upload_1") == done
        assert await store.get_extents(T, "file-1") == tuple(extents_of("uploads/2", "uploads/1"))

    async def test_an_upload_that_ended_takes_no_more(self, store: Store) -> None:
        await store.create_upload(T, an_upload("upload_1"))
        await store.create_upload(T, an_upload("upload_2"))
        await store.complete_upload(T, "upload_1", a_file("file-1"), [])
        await store.cancel_upload(T, "upload_2")

        for number, status in ((1, "completed"), (2, "cancelled")):
            with pytest.raises(Conflict, match=status):
                await store.add_part(T, Part("part_1", f"upload_{number}", "k", 1, 0.0))
            with pytest.raises(Conflict, match=status):
                await store.complete_upload(T, f"upload_{number}", a_file("file-2"), [])
        with pytest.raises(NotFound):
            await store.get_file(T, "file-2")

    async def test_cancelling_is_harmless_twice_and_refused_when_completed(
        self, store: Store
    ) -> None:
        await store.create_upload(T, an_upload("upload_1"))
        await store.create_upload(T, an_upload("upload_2"))
        await store.complete_upload(T, "upload_2", a_file("file-1"), [])

        first = await store.cancel_upload(T, "upload_1")

        assert first.status == "cancelled"
        assert await store.cancel_upload(T, "upload_1") == first
        with pytest.raises(Conflict):
            await store.cancel_upload(T, "upload_2")

    async def test_another_tenant_s_upload_is_not_found(self, store: Store) -> None:
        await store.create_upload(T, an_upload())

        for waiting in (
            store.get_upload("other", "upload_1"),
            store.get_parts("other", "upload_1"),
            store.cancel_upload("other", "upload_1"),
            store.add_part("other", Part("part_1", "upload_1", "k", 1, 0.0)),
            store.complete_upload("other", "upload_1", a_file("file-1"), []),
        ):
            with pytest.raises(NotFound):
                await waiting

    async def test_twenty_completions_at_once_make_one_file(self, store: Store) -> None:
        await store.create_upload(T, an_upload())

        ends = await asyncio.gather(
            *(store.complete_upload(T, "upload_1", a_file(f"file-{n}"), []) for n in range(20)),
            return_exceptions=True,
        )

        assert sum(isinstance(end, Conflict) for end in ends) == 19
        assert len((await store.list_files(T, after=None, limit=100)).items) == 1


class TestKeys:
    async def test_keys_are_found_listed_and_revoked(self, store: Store) -> None:
        await store.create_key("admin", a_key("k2", at=2))
        await store.create_key("admin", a_key("k1", at=1))

        assert await store.find_key("k1") == a_key("k1", at=1)
        assert await store.find_key("none") is None
        assert [key.id for key in await store.list_keys("admin")] == ["k1", "k2"]

        revoked = await store.revoke_key("admin", "k1", 5.0)

        assert revoked.revoked_at == 5.0
        assert await store.find_key("k1") == revoked
        assert await store.revoke_key("admin", "k1", 9.0) == revoked
        with pytest.raises(NotFound):
            await store.revoke_key("admin", "none", 9.0)

    async def test_a_key_is_put_again_but_not_created_again(self, store: Store) -> None:
        await store.put_key(a_key("k1"))
        changed = replace(a_key("k1"), digest=b"new", role="admin")

        await store.put_key(changed)

        assert await store.find_key("k1") == changed
        with pytest.raises(StorageError):
            await store.create_key("admin", a_key("k1"))


class TestBatches:
    async def test_every_field_is_read_back(self, store: Store) -> None:
        batch = replace(
            a_batch(at=1.25),
            expires_at=None,
            model="gpt-5-mini",
            errors=(
                BatchError("invalid_json_line", "not JSON", None, 3),
                BatchError("x", "ü", "p"),
            ),
            in_progress_at=2.5,
            counts=Counts(10, 6, 3),
            closing=Closing(
                usage=Usage(5, 4, 3, 2),
                cost_nano=2**53 + 1,
                codes={"rate_limit": 2},
                attempts=12,
                possibly_paid_twice=2,
                possibly_paid_twice_lines=(4, 7),
            ),
            metadata={"team": "data", "quote": "\"'; DROP TABLE batches"},
            output_ttl_s=3_600,
            options={"priority": 1, "nested": {"list": [1, 2.5, None, "x"]}},
            status=Status.IN_PROGRESS,
        )
        await store.create_batch(T, batch)

        assert await store.get_batch(T, "batch_1") == batch

    async def test_no_metadata_and_empty_metadata_are_two_things(self, store: Store) -> None:
        await store.create_batch(T, a_batch("batch_1"))
        await store.create_batch(T, replace(a_batch("batch_2"), metadata={}))

        assert (await store.get_batch(T, "batch_1")).metadata is None
        assert (await store.get_batch(T, "batch_2")).metadata == {}

    async def test_another_tenant_s_batch_is_not_found(self, store: Store) -> None:
        await store.create_batch(T, a_batch())

        with pytest.raises(NotFound, match="batch_1"):
            await store.get_batch("other", "batch_1")
        with pytest.raises(NotFound):
            await store.get_batch(T, "batch_2")

    async def test_unfinished_batches_come_oldest_first(self, store: Store) -> None:
        await completed(store, "batch_9", output=None)
        for number in (3, 1, 2):
            await store.create_batch(T, a_batch(f"batch_{number}", at=number))

        found = [batch.id for batch in await store.unfinished_batches()]

        assert found == ["batch_1", "batch_2", "batch_3"]

    async def test_ended_batches_with_an_option_and_an_output_come_newest_first(
        self, store: Store
    ) -> None:
        options = {"cache": {"max_age_s": 5}, "dedupe": True}
        for number in (3, 1, 2):
            name = f"batch_{number}"
            await completed(store, name, output=f"file-{number}", options=options)
        await completed(store, "batch_4", output=None, options=options)
        await running(store, "batch_5", options=options)
        await completed(store, "batch_6", output="file-6")
        await completed(store, "batch_7", output="file-7", options={"x": "cache"})

        async def found(tenant: str = T, **changes: Any) -> list[str]:
            asked = {
                "endpoint": "/v1/chat/completions",
                "option": "cache",
                "since": 3.0,
                "limit": 10,
            } | changes
            return [batch.id for batch in await store.ended_batches(tenant, **asked)]

        assert await found() == ["batch_3", "batch_2", "batch_1"]
        assert await found(limit=2) == ["batch_3", "batch_2"]
        assert await found(since=3.5) == []
        assert await found(endpoint="/v1/embeddings") == []
        assert await found(option="x") == ["batch_7"]
        assert await found(tenant="other") == []

    async def test_a_batch_is_saved_only_over_the_state_that_was_read(self, store: Store) -> None:
        batch = await store.create_batch(T, a_batch())
        cancelling = advance(batch, Status.CANCELLING, 1.0)
        await store.save_batch(cancelling, was=batch)

        with pytest.raises(Superseded, match="batch_1"):
            await store.save_batch(advance(batch, Status.IN_PROGRESS, 2.0), was=batch)

        assert await store.get_batch(T, "batch_1") == cancelling

    async def test_a_batch_is_not_saved_under_an_older_epoch(self, store: Store) -> None:
        batch = await store.create_batch(T, a_batch())
        newer = await store.take_over(batch, [])

        with pytest.raises(Superseded):
            await store.save_batch(advance(batch, Status.IN_PROGRESS, 2.0), was=batch)

        assert await store.get_batch(T, "batch_1") == newer

    async def test_priority_and_pause_are_kept_and_stay_with_a_new_writer(
        self, store: Store
    ) -> None:
        batch = await store.create_batch(T, replace(a_batch(), priority=Priority.LOW))
        assert await store.get_batch(T, batch.id) == batch

        changed = replace(batch, priority=Priority.HIGH, paused_at=5.5)
        await store.save_batch(changed, was=batch)

        assert await store.unfinished_batches() == [changed]
        assert await store.take_over(changed, []) == replace(changed, epoch=1)

    async def test_saving_a_batch_that_never_was_is_refused(self, store: Store) -> None:
        with pytest.raises(Superseded):
            await store.save_batch(a_batch(), was=a_batch())

    async def test_of_twenty_writers_one_wins(self, store: Store) -> None:
        batch = await store.create_batch(T, a_batch())

        ends = await asyncio.gather(
            *(
                store.save_batch(advance(batch, Status.IN_PROGRESS, float(n)), was=batch)
                for n in range(20)
            ),
            return_exceptions=True,
        )

        assert sum(end is None for end in ends) == 1
        assert sum(isinstance(end, Superseded) for end in ends) == 19

    @pytest.mark.parametrize(
        "changes",
        [
            {"status": Status.COMPLETED},
            {"completed_at": 1.0},
            {"status": Status.FAILED, "failed_at": 1.0, "expired_at": 1.0},
            {"counts": Counts(1, 1, 1)},
            {"counts": Counts(5, -1, 1)},
            {"status": Status.CANCELLING, "paused_at": 1.0},
        ],
    )
    async def test_an_impossible_batch_is_refused(
        self, store: Store, changes: dict[str, object]
    ) -> None:
        batch = await store.create_batch(T, a_batch())
        impossible = replace(batch, **changes)  # type: ignore[arg-type]

        with pytest.raises(StorageError):
            await store.save_batch(impossible, was=batch)
        with pytest.raises(StorageError):
            await store.create_batch(T, replace(impossible, id="batch_2"))

        assert await store.get_batch(T, "batch_1") == batch


class TestTakeOver:
    async def test_the_first_writer_gets_epoch_one_and_an_open_segment(self, store: Store) -> None:
        batch = await store.create_batch(T, a_batch())

        taken = await store.take_over(batch, [])

        assert taken == replace(batch, epoch=1)
        assert await store.get_batch(T, "batch_1") == taken
        assert await store.segments("batch_1") == [Segment("batch_1", 1, None)]

    async def test_the_next_writer_freezes_the_segments_before(self, store: Store) -> None:
        first = await store.take_over(await store.create_batch(T, a_batch()), [])
        frozen = Segment("batch_1", 1, SegmentLengths(100, 20, 64))

        second = await store.take_over(first, [frozen])

        assert second.epoch == 2
        assert await store.segments("batch_1") == [frozen, Segment("batch_1", 2, None)]

    async def test_frozen_lengths_never_move(self, store: Store) -> None:
        first = await store.take_over(await store.create_batch(T, a_batch()), [])
        frozen = Segment("batch_1", 1, SegmentLengths(100, 20, 64))
        second = await store.take_over(first, [frozen])
        longer = Segment("batch_1", 1, SegmentLengths(999, 999, 999))
        of_second = Segment("batch_1", 2, SegmentLengths(5, 0, 64))

        await store.take_over(second, [longer, of_second])

        assert (await store.segments("batch_1"))[:2] == [frozen, of_second]

    async def test_a_writer_that_is_late_is_superseded_and_changes_nothing(
        self, store: Store
    ) -> None:
        first = await store.take_over(await store.create_batch(T, a_batch()), [])
        await store.take_over(first, [Segment("batch_1", 1, SegmentLengths(1, 1, 1))])
        before = await store.segments("batch_1")

        with pytest.raises(Superseded):
            await store.take_over(first, [Segment("batch_1", 2, SegmentLengths(9, 9, 9))])

        assert await store.segments("batch_1") == before
        assert (await store.get_batch(T, "batch_1")).epoch == 2

    async def test_no_open_segment_may_be_left_behind(self, store: Store) -> None:
        first = await store.take_over(await store.create_batch(T, a_batch()), [])

        with pytest.raises(StorageError, match="open segment"):
            await store.take_over(first, [])

        assert await store.get_batch(T, "batch_1") == first
        assert await store.segments("batch_1") == [Segment("batch_1", 1, None)]

    async def test_a_state_that_was_changed_meanwhile_is_kept(self, store: Store) -> None:
        batch = await store.create_batch(T, a_batch())
        await store.save_batch(advance(batch, Status.CANCELLING, 1.0), was=batch)

        assert (await store.take_over(batch, [])).status == Status.CANCELLING

    async def test_of_twenty_takers_one_wins(self, store: Store) -> None:
        batch = await store.create_batch(T, a_batch())

        ends = await asyncio.gather(
            *(store.take_over(batch, []) for _ in range(20)), return_exceptions=True
        )

        assert sum(isinstance(end, Batch) for end in ends) == 1
        assert len(await store.segments("batch_1")) == 1


class TestPublish:
    async def test_files_segment_and_batch_change_together(self, store: Store) -> None:
        ended = await completed(store, "batch_1", output="file-out", error="file-err")

        assert await store.get_batch(T, "batch_1") == ended
        assert await store.get_extents(T, "file-out") == tuple(
            extents_of("batches/batch_1/1/output")
        )
        assert await store.get_extents(T, "file-err") == tuple(
            extents_of("batches/batch_1/1/error")
        )
        assert await store.segments("batch_1") == [
            Segment("batch_1", 1, SegmentLengths(10, 10, 64))
        ]
        assert await store.unfinished_batches() == []

    async def test_a_superseded_writer_publishes_nothing(self, store: Store) -> None:
        batch = await running(store)
        lengths = SegmentLengths(1, 1, 1)
        await store.take_over(batch, [Segment("batch_1", 1, lengths)])

        with pytest.raises(Superseded):
            await store.publish(
                advance(batch, Status.EXPIRED, 9.0),
                was=batch,
                closed=Segment("batch_1", 1, SegmentLengths(9, 9, 9)),
                files=[(a_file("file-out"), extents_of("k"))],
            )

        assert (await store.segments("batch_1"))[0].lengths == lengths
        assert await store.engine_file(T, "file-out") is None

    @pytest.mark.parametrize("broken", ["file", "segment", "batch"])
    async def test_all_of_it_is_refused_if_one_step_is(self, store: Store, broken: str) -> None:
        await store.create_file(T, a_file("file-err"), extents_of("k"))
        batch = await running(store)
        ended = advance(batch, Status.EXPIRED, 9.0)
        if broken == "batch":
            ended = replace(ended, counts=Counts(0, 5, 0))
        second = "file-err" if broken == "file" else "file-err-2"
        epoch = 7 if broken == "segment" else 1

        with pytest.raises(StorageError):
            await store.publish(
                ended,
                was=batch,
                closed=Segment("batch_1", epoch, SegmentLengths(9, 9, 9)),
                files=[(a_file("file-out"), []), (a_file(second), [])],
            )

        assert await store.get_batch(T, "batch_1") == batch
        assert await store.segments("batch_1") == [Segment("batch_1", 1, None)]
        assert await store.engine_file(T, "file-out") is None

    async def test_a_batch_without_segment_or_files_ends_too(self, store: Store) -> None:
        batch = await store.create_batch(T, a_batch())
        failed = advance(batch, Status.FAILED, 1.0, errors=(BatchError("empty_file", "empty"),))

        await store.publish(failed, was=batch, closed=None, files=[])

        assert await store.get_batch(T, "batch_1") == failed


class TestExpiry:
    async def test_files_past_their_time_are_hidden(self, store: Store) -> None:
        await store.create_file(T, a_file("file-1", expires_at=10.0), [])
        await store.create_file(T, a_file("file-2", expires_at=10.5), [])
        await store.create_file(T, a_file("file-3"), [])

        assert await store.expire(10.0) == 1
        assert await store.expire(10.0) == 0

        left = (await store.list_files(T, after=None, limit=9, ascending=True)).items
        assert [file.id for file in left] == ["file-2", "file-3"]

    async def test_a_file_past_its_time_is_gone_before_it_is_hidden(self, store: Store) -> None:
        file = await store.create_file(T, a_file("file-1", expires_at=10.0), extents_of("a"))

        assert await store.get_file(T, "file-1", now=9.9) == file
        assert await store.engine_file(T, "file-1", now=9.9) == (file, tuple(extents_of("a")))
        assert await store.engine_file(T, "file-1", now=10.0) is None
        assert await store.engine_file(T, "file-1", now=10.0, hidden=True) is not None
        assert (await store.list_files(T, after=None, limit=9, now=9.9)).items == [file]
        assert (await store.list_files(T, after=None, limit=9, now=10.0)).items == []
        for read in (store.get_file, store.get_extents, store.delete_file):
            with pytest.raises(NotFound):
                await read(T, "file-1", now=10.0)
        await store.delete_file(T, "file-1", now=9.9)

    async def test_what_a_tenant_stores_is_its_visible_files_and_pending_parts(
        self, store: Store
    ) -> None:
        await store.create_file(T, a_file("file-1", size_bytes=2**40), [])
        await store.create_file(T, a_file("file-2", size_bytes=20, expires_at=5.0), [])
        await store.create_file(T, a_file("file-3", size_bytes=300), [])
        await store.delete_file(T, "file-3")
        await store.create_file("other", a_file("file-4", size_bytes=4_000), [])
        await store.create_upload(T, an_upload("upload_1", expires_at=10.0))
        await store.add_part(T, Part("part_1", "upload_1", "k1", 50_000, 0.0))
        await store.add_part(T, Part("part_2", "upload_1", "k2", 600_000, 0.0))
        await store.create_upload(T, an_upload("upload_2"))
        await store.add_part(T, Part("part_3", "upload_2", "k3", 7, 0.0))
        await store.cancel_upload(T, "upload_2")

        assert await store.sum_parts(T, "upload_1") == (2, 650_000)
        assert await store.stored_bytes(T, 4.9) == 2**40 + 20 + 650_000
        assert await store.stored_bytes(T, 5.0) == 2**40 + 650_000
        assert await store.stored_bytes(T, 10.0) == 2**40
        assert await store.stored_bytes("nobody", 0.0) == 0

    async def test_pending_uploads_past_their_time_are_cancelled(self, store: Store) -> None:
        await store.create_upload(T, an_upload("upload_1", expires_at=10.0))
        await store.create_upload(T, an_upload("upload_2", expires_at=11.0))
        await store.create_upload(T, an_upload("upload_3", expires_at=10.0))
        await store.complete_upload(T, "upload_3", a_file("file-1"), [])

        assert await store.expire(10.0) == 1

        states = [(await store.get_upload(T, f"upload_{n}")).status for n in (1, 2, 3)]
        assert states == ["cancelled", "pending", "completed"]


class TestUnreferenced:
    async def unused(self, store: Store) -> list[str]:
        return await store.unreferenced(100)

    async def test_bytes_of_a_visible_file_are_used(self, store: Store) -> None:
        await store.create_file(T, a_file("file-1"), extents_of("a", "b"))
        assert await self.unused(store) == []

        await store.delete_file(T, "file-1")

        assert await self.unused(store) == ["a", "b"]
        assert await store.unreferenced(1) == ["a"]

    async def test_bytes_shared_with_a_visible_file_are_used(self, store: Store) -> None:
        await store.create_file(T, a_file("file-1"), extents_of("a", "b"))
        await store.create_file(T, a_file("file-2"), extents_of("b", "c"))

        await store.delete_file(T, "file-1")

        assert await self.unused(store) == ["a"]

    async def test_a_hidden_input_is_used_until_its_batch_ends(self, store: Store) -> None:
        await store.create_file(T, a_file("file-in"), extents_of("in"))
        batch = await store.create_batch(T, a_batch())
        await store.delete_file(T, "file-in")
        assert await self.unused(store) == []

        await store.publish(advance(batch, Status.FAILED, 1.0), was=batch, closed=None, files=[])

        assert await self.unused(store) == ["in"]

    async def test_segments_of_a_running_batch_are_used(self, store: Store) -> None:
        await running(store)

        assert await self.unused(store) == []

    async def test_the_index_of_an_ended_batch_stays_as_long_as_one_of_its_results(
        self, store: Store
    ) -> None:
        await completed(store, "batch_1", output="file-out", error="file-err")
        assert await self.unused(store) == []

        await store.delete_file(T, "file-out")
        assert await self.unused(store) == ["batches/batch_1/1/output"]

        await store.delete_file(T, "file-err")
        kinds = ("account", "error", "output", "slots")
        assert await self.unused(store) == [f"batches/batch_1/1/{kind}" for kind in kinds]

    async def test_lines_that_no_result_file_shows_are_unused_at_once(self, store: Store) -> None:
        await completed(store, "batch_1", output="file-out")

        assert await self.unused(store) == ["batches/batch_1/1/error"]

    async def test_parts_are_used_by_a_pending_upload_and_by_the_file_made_of_them(
        self, store: Store
    ) -> None:
        await store.create_upload(T, an_upload())
        for name in "abc":
            await store.add_part(T, Part(f"part_{name}", "upload_1", name, 2, 0.0))
        assert await self.unused(store) == []

        await store.complete_upload(T, "upload_1", a_file("file-1"), extents_of("a", "c"))
        assert await self.unused(store) == ["b"]

        await store.delete_file(T, "file-1")
        assert await self.unused(store) == ["a", "b", "c"]

    async def test_parts_of_a_cancelled_upload_are_unused(self, store: Store) -> None:
        await store.create_upload(T, an_upload())
        await store.add_part(T, Part("part_1", "upload_1", "a", 2, 0.0))

        await store.cancel_upload(T, "upload_1")

        assert await self.unused(store) == ["a"]

    async def test_what_is_forgotten_is_named_no_more(self, store: Store) -> None:
        await completed(store, "batch_1", output="file-out", error="file-err")
        await store.create_file(T, a_file("file-in"), extents_of("in"))
        await store.create_upload(T, an_upload())
        await store.add_part(T, Part("part_1", "upload_1", "part", 2, 0.0))
        await store.cancel_upload(T, "upload_1")
        for file_id in ("file-in", "file-out"):
            await store.delete_file(T, file_id)

        await store.forget(await self.unused(store))

        assert await self.unused(store) == []
        assert [segment.epoch for segment in await store.segments("batch_1")] == [1]

        await store.delete_file(T, "file-err")
        await store.forget(await self.unused(store))

        assert await self.unused(store) == []
        assert await store.segments("batch_1") == []

    async def test_forgetting_spares_what_is_in_use(self, store: Store) -> None:
        await store.create_file(T, a_file("file-1"), extents_of("a"))
        await store.create_upload(T, an_upload())
        await store.add_part(T, Part("part_1", "upload_1", "a", 2, 0.0))

        await store.forget(["a", "never-was"])

        assert await store.get_extents(T, "file-1") == tuple(extents_of("a"))
        assert len(await store.get_parts(T, "upload_1")) == 1

    async def test_thousands_of_keys_are_forgotten_at_once(self, store: Store) -> None:
        names = [f"blob-{number:04}" for number in range(1_200)]
        await store.create_file(T, a_file("file-1"), extents_of(*names))
        await store.delete_file(T, "file-1")

        assert await store.unreferenced(5_000) == names
        await store.forget(names)

        assert await self.unused(store) == []

    async def test_a_forgotten_file_is_dropped_when_it_is_next_tidied(self, store: Store) -> None:
        await store.create_file(T, a_file("file-1"), extents_of("a"))
        await store.delete_file(T, "file-1")
        await store.forget(["a"])
        assert await store.engine_file(T, "file-1", hidden=True) is not None

        assert await store.expire(0.0) == 0

        assert await store.engine_file(T, "file-1", hidden=True) is None
