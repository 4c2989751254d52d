"""The parts of an upload, put in order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from batchwright.domain.errors import UsageError
from batchwright.domain.upload import Part, Upload
from batchwright.server.uploads import ordered_parts

COUNT = 10_000


class Ids(list[str]):
    """Counts the copies that are made of it: one for each part would be quadratic."""

    copies = 0

    def __getitem__(self, at: Any) -> Any:
        self.copies += isinstance(at, slice)
        return super().__getitem__(at)


def context_of(parts: list[Part]) -> Any:
    async def get_parts(tenant: str, upload_id: str) -> list[Part]:
        return parts

    return SimpleNamespace(tenant="t", tenants=SimpleNamespace(get_parts=get_parts))


async def test_many_parts_are_looked_at_once_each_and_one_named_twice_is_found() -> None:
    upload = Upload("upload_1", "t", "batch", "f", "x", COUNT, "pending", 0.0, 1.0, None, None)
    parts = [Part(f"part_{at}", upload.id, f"key {at}", 1, 0.0) for at in range(COUNT)]
    context = context_of(parts)
    ids = Ids(part.id for part in parts)

    assert await ordered_parts(context, upload, ids) == parts
    assert ids.copies == 0
    with pytest.raises(UsageError) as refused:
        await ordered_parts(context, upload, [*ids[:-1], ids[0]])
    assert refused.value.param == f"part_ids[{COUNT - 1}]"
