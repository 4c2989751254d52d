"""The two stores give the same answers to the same random history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batchwright.domain.batch import TRANSITIONS, Batch, Counts, advance
from batchwright.domain.errors import BatchwrightError
from batchwright.domain.file import Extent, File
from batchwright.domain.priority import Priority
from batchwright.domain.segment import Segment, SegmentLengths
from batchwright.domain.upload import Part, Upload
from batchwright.store.base import Idempotency
from batchwright.store.memory import MemoryStore
from batchwright.store.sql import SqlStore

TENANTS = ("a", "b")


class History:
    """Random calls with values from a small world, so that they meet often."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = 0.0
        self.seen: list[Batch] = []

    def next_call(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        self.now += self.random.choice([0.0, 1.0, 50_000.0])
        names = [name for name in dir(self) if name.startswith("call_")]
        name = self.random.choice(names)
        args, kwargs = getattr(self, name)()
        return name.removeprefix("call_"), args, kwargs

    def maybe_now(self) -> float | None:
        return self.random.choice([None, self.now])

    def tenant(self) -> str:
        return self.random.choice(TENANTS)

    def one_of(self, kind: str) -> str:
        return f"{kind}-{self.random.randrange(8)}"

    def file(self, file_id: str, tenant: str) -> File:
        expires_at = self.random.choice([None, self.now + 60_000])
        return File(file_id, tenant, "batch", "f", 1, self.now, expires_at, None)

    def extents(self) -> list[Extent]:
        return [Extent(self.one_of("blob"), 0, 1) for _ in range(self.random.randrange(3))]

    def claim(self) -> Idempotency | None:
        number = self.random.randrange(6)
        return Idempotency(f"key{number}", f"print{number % 4}", self.now) if number < 4 else None

    def batch(self) -> Batch | None:
        return self.random.choice(self.seen) if self.seen else None

    def call_create_file(self) -> Any:
        tenant = self.tenant()
        file = self.file(self.one_of("file"), tenant)
        return (tenant, file, self.extents(), self.claim()), {}

    def call_delete_file(self) -> Any:
        return (self.tenant(), self.one_of("file")), {"now": self.maybe_now()}

    def call_get_extents(self) -> Any:
        return (self.tenant(), self.one_of("file")), {"now": self.maybe_now()}

    def call_stored_bytes(self) -> Any:
        return (self.tenant(), self.now), {}

    def call_engine_file(self) -> Any:
        hidden = self.random.random() < 0.5
        return (self.tenant(), self.one_of("file")), {"hidden": hidden, "now": self.maybe_now()}

    def call_list_files(self) -> Any:
        after = self.random.choice([None, self.one_of("file")])
        ascending = self.random.random() < 0.5
        now = self.maybe_now()
        return (self.tenant(),), {"after": after, "limit": 2, "ascending": ascending, "now": now}

    def call_list_batches(self) -> Any:
        after = self.random.choice([None, self.one_of("batch")])
        return (self.tenant(),), {"after": after, "limit": 2}

    def call_ended_batches(self) -> Any:
        since = self.now - self.random.choice([0, 50_000, 200_000])
        asked = {"endpoint": "/v1/x", "option": "cache", "since": since, "limit": 2}
        return (self.tenant(),), asked

    def call_create_upload(self) -> Any:
        upload_id, ends = self.one_of("upload"), self.now + 60_000
        upload = Upload(upload_id, "", "batch", "f", "x", 1, "pending", self.now, ends, None, None)
        return (self.tenant(), upload), {}

    def call_add_part(self) -> Any:
        part = Part(self.one_of("part"), self.one_of("upload"), self.one_of("blob"), 1, self.now)
        return (self.tenant(), part), {}

    def call_complete_upload(self) -> Any:
        tenant = self.tenant()
        file = self.file(self.one_of("file"), tenant)
        return (tenant, self.one_of("upload"), file, self.extents()), {}

    def call_cancel_upload(self) -> Any:
        return (self.tenant(), self.one_of("upload")), {}

    def call_create_batch(self) -> Any:
        tenant, batch_id = self.tenant(), self.one_of("batch")
        batch = Batch(batch_id, tenant, "/v1/x", self.one_of("file"), "24h", self.now, None)
        options = self.random.choice([{}, {"cache": {"max_age_s": 9}}])
        return (tenant, replace(batch, options=options), self.claim()), {}

    def call_take_over(self) -> Any:
        batch = self.batch() or Batch("none", "a", "/v1/x", "f", "24h", 0.0, None)
        lengths = SegmentLengths(*(self.random.randrange(9) for _ in range(3)))
        epochs = range(1, batch.epoch + self.random.randrange(2))
        return (batch, [Segment(batch.id, epoch, lengths) for epoch in epochs]), {}

    def call_save_batch(self) -> Any:
        was = self.batch() or Batch("none", "a", "/v1/x", "f", "24h", 0.0, None)
        following = TRANSITIONS[was.status]
        after = advance(was, self.random.choice(following), self.now) if following else was
        counts = Counts(*(self.random.randrange(-1, 4) for _ in range(3)))
        paused_at = self.random.choice([None, None, self.now])
        priority = self.random.choice(list(Priority))
        after = replace(after, counts=counts, paused_at=paused_at, priority=priority)
        return (after,), {"was": was}

    def call_publish(self) -> Any:
        was = self.batch() or Batch("none", "a", "/v1/x", "f", "24h", 0.0, None)
        following = TRANSITIONS[was.status]
        after = advance(was, following[-1], self.now) if following else was
        if after.is_terminal:
            after = replace(after, output_file_id=self.one_of("file"))
        key = f"batches/{was.id}/{was.epoch}/output"
        file = self.file(after.output_file_id or self.one_of("file"), was.tenant)
        closed = Segment(was.id, was.epoch, SegmentLengths(1, 2, 3)) if was.epoch else None
        return (after,), {"was": was, "closed": closed, "files": [(file, [Extent(key, 0, 1)])]}

    def call_expire(self) -> Any:
        return (self.now,), {}

    def call_forget(self) -> Any:
        return ([self.one_of("blob"), self.one_of("blob")],), {}

    def call_segments(self) -> Any:
        return (self.one_of("batch"),), {}


async def answer(store: SqlStore | MemoryStore, call: tuple[str, Any, Any]) -> Any:
    name, args, kwargs = call
    try:
        return await getattr(store, name)(*args, **kwargs)
    except BatchwrightError as error:
        return type(error)


@pytest.mark.parametrize("seed", range(2))
async def test_one_history_gives_the_same_answers(tmp_path: Path, seed: int) -> None:
    history = History(Random(seed))
    sql, memory = await SqlStore.open(f"sqlite:///{tmp_path}/db"), MemoryStore()
    refused = 0

    for step in range(250):
        call = history.next_call()
        given = await answer(memory, call)
        refused += isinstance(given, type)

        assert await answer(sql, call) == given, (step, call)
        assert await sql.unreferenced(100) == await memory.unreferenced(100), (step, call)
        if step % 10 == 0:
            history.seen = await memory.unfinished_batches()
            assert await sql.unfinished_batches() == history.seen

    assert 0 < refused < 240
    await sql.close()
