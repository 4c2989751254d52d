"""Reading results: page by page while a batch runs, and by line."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from batchwright.domain.errors import Damaged, NoSpace, UsageError
from batchwright.domain.segment import SegmentKeys
from batchwright.engine import results
from batchwright.engine.lane import LaneLimits
from batchwright.engine.results import ResultIndex, results_page
from batchwright.providers.base import Answer, Call
from simulation import TENANT, World, chat_lines, simulate

LINES = 300


async def read_on(
    world: World, batch_id: str, cursor: str | None, limit: int
) -> tuple[str, list[bytes]]:
    """All pages there are after a cursor."""
    assert world.engine is not None
    lines: list[bytes] = []
    while True:
        page = await world.engine.results(TENANT, batch_id, cursor=cursor, limit=limit)
        assert len(page.lines) <= limit
        lines += page.lines
        cursor = page.cursor
        if not page.has_more:
            return cursor, lines


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_a_reader_that_follows_a_batch_sees_each_line_once_over_all_epochs(limit: int) -> None:
    async def followed() -> None:
        world = World(1, fault_rate=0.2)
        await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        cursor, seen = None, []
        for number in range(6):
            await asyncio.sleep(1.5)
            if number in (2, 4):
                await world.crash(power_cut=number == 4)
                await world.boot()
            if number == 3:
                world.blobs.fail_next_append(NoSpace("full"))
            cursor, lines = await read_on(world, batch.id, cursor, limit)
            seen += lines
        assert world.engine is not None
        await world.engine.wait(batch.id)
        cursor, lines = await read_on(world, batch.id, cursor, limit)
        ended = await world.get_batch(batch.id)
        output = await world.read_file(ended.output_file_id)
        errors = await world.read_file(ended.error_file_id)
        assert sorted(seen + lines) == sorted((output + errors).splitlines(keepends=True))
        assert await read_on(world, batch.id, cursor, limit) == (cursor, [])

    simulate(followed())


def test_a_page_holds_only_what_is_durable() -> None:
    async def half_way() -> None:
        world = World(2)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        for _ in range(50):
            await asyncio.sleep(0.11)
            before = (await world.get_batch(batch.id)).counts
            page = await engine.results(TENANT, batch.id, cursor=None, limit=LINES)
            after = (await world.get_batch(batch.id)).counts
            assert before.completed <= len(page.lines) <= after.completed

    simulate(half_way())


def test_a_batch_that_has_no_results_yet_has_an_empty_page_to_go_on_from() -> None:
    async def fresh() -> None:
        world = World(3)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(3))
        page = await engine.results(TENANT, batch.id, cursor=None, limit=10)
        assert (page.lines, page.has_more) == ([], False)
        await engine.wait(batch.id)
        later = await engine.results(TENANT, batch.id, cursor=page.cursor, limit=10)
        assert len(later.lines) == 3

    simulate(fresh())


def test_large_answers_end_a_page_early(monkeypatch: pytest.MonkeyPatch) -> None:
    async def heavy() -> None:
        world = World(4)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(20))
        await engine.wait(batch.id)
        page = await engine.results(TENANT, batch.id, cursor=None, limit=1000)
        assert (len(page.lines), page.has_more) == (1, True)
        _, lines = await read_on(world, batch.id, None, 1000)
        assert len(lines) == 20

    monkeypatch.setattr(results, "PAGE_BYTES_MAX", 10)
    simulate(heavy())


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "1", "1.", ".0", "a.b", "1.13", "-1.0", "1.0.0", "1.٣", "².0", "1.0\n"),
        "9" * 5_000 + ".0",
        "1." + "0" * 5_000,
    ],
)
async def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        await results_page([], World(1).blobs, cursor=cursor, limit=10)


def test_a_damaged_line_is_never_handed_out() -> None:
    async def damaged() -> None:
        world = World(5)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(10))
        await engine.wait(batch.id)
        world.blobs._files[SegmentKeys.of(batch.id, 1).output].data[30] ^= 1
        with pytest.raises(Damaged, match="result line"):
            await engine.results(TENANT, batch.id, cursor=None, limit=100)

    simulate(damaged())


def test_the_results_of_a_deleted_file_are_gone_and_the_others_are_not() -> None:
    async def deleted() -> None:
        world = World(7)
        engine = await world.boot()
        answer = world.network.send

        async def send(call: Call) -> Answer:
            return Answer(400, {}, b"no") if b"request 3" in call.body else await answer(call)

        world.network.send = send  # type: ignore[method-assign]
        batch = await world.create_batch(chat_lines(10))
        await engine.wait(batch.id)
        ended = await world.get_batch(batch.id)
        assert ended.output_file_id is not None
        assert ended.error_file_id is not None
        errors = await world.read_file(ended.error_file_id)
        assert b'"r-3"' in errors
        await world.store.delete_file(TENANT, ended.output_file_id)
        for _ in range(2):
            _, lines = await read_on(world, batch.id, None, 3)
            assert b"".join(lines) == errors
            await asyncio.sleep(2 * engine.settings.prune_every_s)
        await world.store.delete_file(TENANT, ended.error_file_id)
        for _ in range(2):
            assert (await read_on(world, batch.id, None, 3))[1] == []
            await asyncio.sleep(2 * engine.settings.prune_every_s)

    simulate(deleted())


def test_the_index_finds_the_result_of_each_line_over_all_epochs() -> None:
    async def indexed() -> None:
        world = World(6, fault_rate=0.4, limits=LaneLimits(max_concurrency=20))
        await world.boot()
        data = b"\n\n".join(chat_lines(LINES).splitlines())
        batch = await world.create_batch(data)
        await asyncio.sleep(5)
        await world.crash(power_cut=True)
        engine = await world.boot()
        await engine.wait(batch.id)
        lines = 2 * LINES - 1
        index = await ResultIndex.build(await engine.segments(batch.id), world.blobs, lines)
        found = await index.places(1, lines)
        assert [line for *_, line in found] == list(range(1, lines + 1, 2))
        for key, offset, length, line in found:
            text = b"".join([chunk async for chunk in world.blobs.read(key, offset, length)])
            assert b'"custom_id":"r-%d"' % (line // 2) in text
            assert text.endswith(b"}\n")

    simulate(indexed())


async def test_the_index_takes_four_bytes_a_line() -> None:
    lines = 1_000_000
    blobs = World(1).blobs
    tracemalloc.start()
    index = await ResultIndex.build([], blobs, lines)
    size_bytes, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert await index.places(1, 3) == []
    assert size_bytes < 4.1 * lines
    assert peak_bytes < 4.1 * lines
