"""The pruner: what has expired is hidden, and bytes go when nobody needs them."""

from __future__ import annotations

import asyncio

import pytest

from batchwright.domain.errors import NotFound, StorageError
from batchwright.engine.engine import Engine
from batchwright.engine.recovery import BLOCK_RECORDS
from simulation import TENANT, VirtualLoop, World, chat_lines, simulate

DAY_S = 86_400.0


def booted(world: World) -> Engine:
    assert world.engine is not None
    return world.engine


async def next_round(world: World) -> None:
    await asyncio.sleep(booted(world).settings.prune_every_s + 1)


async def later(world: World, elapsed_s: float) -> None:
    """Let time pass at one stroke, and a round of pruning after it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.elapsed_s += elapsed_s
    await next_round(world)


def test_a_deleted_input_stays_while_its_batch_runs_and_goes_afterwards() -> None:
    async def deleted() -> None:
        world = World(1)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(5_000))
        await asyncio.sleep(5)
        await world.store.delete_file(TENANT, batch.input_file_id)
        await next_round(world)
        key = f"files/{batch.input_file_id}"
        assert await world.blobs.size(key)
        await world.crash()
        engine = await world.boot()
        await engine.wait(batch.id)
        assert (await world.get_batch(batch.id)).counts.completed == 5_000
        await next_round(world)
        assert await world.blobs.size(key) is None

    simulate(deleted())


def test_bytes_stay_while_somebody_downloads_them() -> None:
    async def downloaded() -> None:
        world = World(2)
        engine = await world.boot()
        file_id = await world.upload(b"x" * 1000)
        extents = await world.store.get_extents(TENANT, file_id)
        async with engine.reading(extents), engine.reading(extents):
            await world.store.delete_file(TENANT, file_id)
            await next_round(world)
            assert await world.blobs.size(extents[0].key) == 1000
        assert engine.readers == {}
        await next_round(world)
        assert await world.blobs.size(extents[0].key) is None

    simulate(downloaded())


def test_a_download_of_results_goes_on_when_the_file_is_deleted_meanwhile() -> None:
    async def downloaded() -> None:
        world = World(2)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(BLOCK_RECORDS + 10))
        await engine.wait(batch.id)
        file_id = (await world.get_batch(batch.id)).output_file_id or ""
        extents = await world.store.get_extents(TENANT, file_id)
        async with engine.reading(extents):
            pieces = engine.read_file(extents)
            read = await anext(pieces)
            await world.store.delete_file(TENANT, file_id)
            await next_round(world)
            read += b"".join([piece async for piece in pieces])
        assert len(read.splitlines()) == BLOCK_RECORDS + 10
        assert engine.readers == {}
        await next_round(world)
        assert await world.blobs.keys(f"batches/{batch.id}/") == []

    simulate(downloaded())


def test_files_and_results_go_after_their_retention() -> None:
    async def aged() -> None:
        world = World(3)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(20))
        await engine.wait(batch.id)
        ended = await world.get_batch(batch.id)
        await later(world, 29 * DAY_S)
        assert len(await world.read_file(ended.output_file_id)) > 0
        await later(world, 1.1 * DAY_S)
        for file_id in (ended.input_file_id, ended.output_file_id):
            assert file_id is not None
            with pytest.raises(NotFound):
                await world.store.get_file(TENANT, file_id)
        await next_round(world)
        assert await world.blobs.keys("") == []
        assert await engine.get_batch(TENANT, batch.id) == ended

    simulate(aged())


def test_a_batch_may_say_how_long_its_results_stay() -> None:
    async def chosen() -> None:
        world = World(4)
        engine = await world.boot()
        file_id = await world.upload(chat_lines(5))
        batch = await engine.create_batch(
            TENANT,
            endpoint="/v1/chat/completions",
            input_file_id=file_id,
            completion_window="24h",
            output_ttl_s=3_600,
        )
        await engine.wait(batch.id)
        ended = await world.get_batch(batch.id)
        await later(world, 3_400)
        assert await world.read_file(ended.output_file_id)
        await later(world, 200)
        with pytest.raises(NotFound):
            await world.read_file(ended.output_file_id)
        assert await world.store.get_file(TENANT, file_id)

    simulate(chosen())


def test_a_disk_that_fails_once_does_not_end_the_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing() -> None:
        world = World(5)
        await world.boot()
        file_id = await world.upload(b"x")
        await world.store.delete_file(TENANT, file_id)
        delete, calls = world.blobs.delete, []

        async def delete_badly(key: str) -> None:
            calls.append(key)
            if len(calls) == 1:
                raise StorageError("input/output error")
            await delete(key)

        monkeypatch.setattr(world.blobs, "delete", delete_badly)
        await next_round(world)
        assert await world.blobs.keys("files/")
        await next_round(world)
        assert await world.blobs.keys("files/") == []
        assert not booted(world).failed.is_set()

    simulate(failing())


def test_bytes_whose_writer_died_before_their_row_go_at_the_next_start() -> None:
    async def orphaned() -> None:
        world = World(9)
        await world.boot()
        kept = await world.upload(b"kept")
        writer = await world.blobs.open_writer("files/file-orphan")
        await writer.write(b"nobody knows me")
        await writer.finish()
        await world.crash()
        await world.boot()
        assert await world.blobs.keys("files/") == [f"files/{kept}"]

    simulate(orphaned())
