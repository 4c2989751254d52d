"""The simulated disk: what a crash leaves, and faults on demand."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.errors import NoSpace, StorageError


async def content(blobs: MemoryBlobs, key: str) -> bytes:
    return b"".join([piece async for piece in blobs.read(key)])


async def crash_within_append(
    blobs: MemoryBlobs, random: Random, synced: bytes, unsynced: bytes, *, power_cut: bool
) -> bytes:
    """Crash after `synced` was acknowledged and while the append of `unsynced` waits."""
    reached, never = asyncio.Event(), asyncio.Event()

    async def stall() -> None:
        reached.set()
        await never.wait()

    await blobs.create(["segment"])
    await blobs.append([("segment", [synced])])
    blobs.pause = stall
    dying = asyncio.create_task(blobs.append([("segment", [unsynced])]))
    await reached.wait()
    blobs.crash(random, power_cut=power_cut)
    blobs.pause = None
    never.set()
    with pytest.raises(StorageError, match="dead"):
        await dying
    return await content(blobs, "segment")


@pytest.mark.parametrize("seed", range(50))
async def test_a_power_cut_keeps_what_was_acknowledged_and_may_tear_the_rest(seed: int) -> None:
    left = await crash_within_append(
        MemoryBlobs(), Random(seed), b"synced", b"written", power_cut=True
    )

    assert left.startswith(b"synced")


async def test_power_cuts_lose_tear_keep_and_soil_the_unsynced_tail() -> None:
    tails = [
        (await crash_within_append(MemoryBlobs(), Random(seed), b"", b"tail", power_cut=True))
        for seed in range(200)
    ]

    assert b"" in tails
    assert b"ta" in tails
    assert b"tail" in tails
    assert any(not b"tail".startswith(tail[:4]) or len(tail) > 4 for tail in tails)


@pytest.mark.parametrize("seed", range(20))
async def test_a_kill_leaves_a_beginning_of_the_tail_and_no_garbage(seed: int) -> None:
    left = await crash_within_append(MemoryBlobs(), Random(seed), b"a", b"bcdef", power_cut=False)

    assert b"abcdef".startswith(left)
    assert left.startswith(b"a")


async def test_what_a_kill_left_unsynced_is_lost_to_a_power_cut_unless_it_is_synced_first() -> None:
    lost = kept = 0
    for seed in range(40):
        for is_synced in (False, True):
            blobs, random = MemoryBlobs(), Random(seed)
            left = await crash_within_append(blobs, random, b"", b"tail", power_cut=False)
            if is_synced:
                await blobs.append([("segment", ())])
            blobs.crash(random, power_cut=True)
            after = await content(blobs, "segment")
            kept += is_synced and after == left
            lost += not is_synced and after != left

    assert kept == 40
    assert lost > 0


async def test_one_seed_gives_one_disk() -> None:
    def crashed(seed: int) -> object:
        return crash_within_append(
            MemoryBlobs(), Random(seed), b"synced", b"written", power_cut=True
        )

    assert [await crashed(seed) for seed in range(20)] == [
        await crashed(seed) for seed in range(20)
    ]


async def test_an_unfinished_writer_vanishes_in_a_crash() -> None:
    blobs = MemoryBlobs()
    writer = await blobs.open_writer("files/file-1")
    await writer.write(b"x")

    blobs.crash(Random(1), power_cut=False)

    with pytest.raises(StorageError, match="dead"):
        await writer.finish()
    assert await blobs.keys("") == []


async def test_a_mapped_file_outlives_a_kill_but_not_a_power_cut() -> None:
    blobs = MemoryBlobs()
    blobs.map("slots", 4)[:] = b"line"

    blobs.crash(Random(1), power_cut=False)
    assert await content(blobs, "slots") == b"line"

    blobs.crash(Random(1), power_cut=True)
    assert await blobs.size("slots") is None


async def test_a_dead_process_view_of_a_mapped_file_reaches_nothing() -> None:
    blobs = MemoryBlobs()
    view = blobs.map("slots", 4)
    blobs.crash(Random(1), power_cut=False)

    view[:] = b"late"

    assert await content(blobs, "slots") == bytes(4)


async def test_an_injected_failure_hits_one_append_and_poisons_its_file() -> None:
    blobs = MemoryBlobs()
    await blobs.create(["one", "two"])
    blobs.fail_next_append(StorageError("sync failed"))

    with pytest.raises(StorageError, match="sync failed"):
        await blobs.append([("one", [b"x"])])
    with pytest.raises(StorageError, match="failed before"):
        await blobs.append([("one", [b"x"])])
    await blobs.append([("two", [b"x"])])


async def test_a_full_disk_takes_a_part_of_an_append_and_refuses_the_rest() -> None:
    blobs = MemoryBlobs(capacity_bytes=10)
    await blobs.create(["segment"])

    with pytest.raises(NoSpace):
        await blobs.append([("segment", [b"x" * 11])])

    assert await blobs.size("segment") == 10
    assert blobs.free_bytes() == 0


async def test_a_full_disk_refuses_a_blob_and_a_mapped_file() -> None:
    blobs = MemoryBlobs(capacity_bytes=10)
    writer = await blobs.open_writer("files/file-1")

    with pytest.raises(NoSpace):
        await writer.write(b"x" * 11)
    with pytest.raises(NoSpace):
        blobs.map("slots", 11)


async def test_reads_appends_and_finishes_wait_where_a_disk_would() -> None:
    waits: list[None] = []

    async def pause() -> None:
        waits.append(None)

    blobs = MemoryBlobs(pause=pause)
    await blobs.create(["segment"])
    await blobs.append([("segment", [b"x"])])
    await content(blobs, "segment")
    await (await blobs.open_writer("file")).finish()

    assert len(waits) == 4
