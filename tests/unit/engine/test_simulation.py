"""The whole engine in a world of faults and crashes, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from batchwright.domain.batch import Batch, Status
from batchwright.domain.errors import StorageError
from batchwright.engine.lane import LaneLimits
from batchwright.engine.settings import EngineSettings
from simulate_many import simulate_seed
from simulation import World, chat_lines, digest, simulate

LINES = 1_000


def ids_of(data: bytes) -> list[str]:
    return [json.loads(line)["custom_id"] for line in data.splitlines()]


async def ended(world: World, batch_id: str) -> Batch:
    assert world.engine is not None
    await world.engine.wait(batch_id)
    return await world.get_batch(batch_id)


async def history(
    seed: int,
    crash_times: tuple[float, ...],
    data: bytes = chat_lines(LINES),
    **options: Any,
) -> tuple[World, Batch, str]:
    """One batch with 20 % faults and a crash at each of the times."""
    world = World(seed, fault_rate=0.2)
    await world.boot()
    batch = await world.create_batch(data, options=options)
    for number, at in enumerate(crash_times):
        await asyncio.sleep(at)
        await world.crash(power_cut=number % 2 == 1)
        await world.boot()
    batch = await ended(world, batch.id)
    output = await world.read_file(batch.output_file_id)
    errors = await world.read_file(batch.error_file_id)
    assert world.engine is not None
    await world.engine.stop()
    history = digest(output, errors, repr(batch).encode(), "\n".join(world.network.ledger).encode())
    assert sorted(ids_of(output) + ids_of(errors)) == sorted(f"r-{i}" for i in range(LINES))
    assert batch.counts.completed == len(output.splitlines())
    assert batch.counts.failed == len(errors.splitlines())
    return world, batch, history


def test_one_seed_gives_one_history_to_the_byte() -> None:
    first = simulate(history(7, (5.0, 6.0)))
    second = simulate(history(7, (5.0, 6.0)))
    assert first[2] == second[2]


@pytest.mark.parametrize("seed", range(20))
def test_each_line_ends_once_whatever_happens(seed: int) -> None:
    world, batch, _ = simulate(history(seed, (1.0 + seed % 5, 2.0 + seed % 3)))
    assert batch.status is Status.COMPLETED
    assert batch.counts.completed > LINES * 0.95
    assert world.network.in_flight_max <= 50


def prompts_alike(count: int, prompts: int) -> bytes:
    """Request i begins with prompt i modulo `prompts`, which is long."""
    lines = chat_lines(count).splitlines(True)
    for i, line in enumerate(lines):
        prompt = f"prompt {i % prompts} ".ljust(1500, ".").encode()
        lines[i] = line.replace(b"request", prompt + b" request")
    return b"".join(lines)


@pytest.mark.parametrize("seed", range(8))
def test_by_prefix_too_each_line_ends_once_whatever_happens(seed: int) -> None:
    crash_times = (1.0 + seed % 5, 2.0 + seed % 3)
    data = prompts_alike(LINES, 30)
    world, batch, first = simulate(history(seed, crash_times, data, order="prefix"))
    assert batch.status is Status.COMPLETED
    assert batch.counts.completed > LINES * 0.95
    assert world.network.in_flight_max <= 50
    if seed == 0:
        assert simulate(history(seed, crash_times, data, order="prefix"))[2] == first


@pytest.mark.parametrize("seed", range(4))
def test_what_is_the_same_is_sent_once_by_prefix_too(seed: int) -> None:
    lines = prompts_alike(LINES, 30).splitlines(True)
    bodies = [line.partition(b'"body"') for line in lines]
    data = b"".join(
        head + name + bodies[i // 60 * 60 + i % 30][2] for i, (head, name, _) in enumerate(bodies)
    )
    options = {"order": "prefix", "dedupe": True}
    world, batch, _ = simulate(history(seed, (2.0, 3.0 + seed), data, **options))
    assert batch.status is Status.COMPLETED
    asked = dict.fromkeys(line.partition(b'"body"')[2] for line in data.splitlines())
    assert len(dict.fromkeys(world.network.ledger)) == len(asked) == 510


def test_what_begins_alike_goes_out_together_also_after_a_crash() -> None:
    async def grouped() -> list[str]:
        world = World(21)
        await world.boot()
        batch = await world.create_batch(prompts_alike(2_000, 10), options={"order": "prefix"})
        await asyncio.sleep(15)
        await world.crash()
        await world.boot()
        batch = await ended(world, batch.id)
        assert batch.counts.completed == 2_000
        return [" ".join(text.split()[:2]) for text in world.network.ledger]

    prompts = simulate(grouped())
    changes = sum(a != b for a, b in pairwise(prompts))
    # Ten groups, each with a forerunner, and what was in flight once more.
    assert changes < 4 * 10
    assert len(prompts) >= 2_000


def test_without_faults_each_request_is_sent_once() -> None:
    async def calm() -> None:
        world = World(1)
        await world.boot()
        batch = await ended(world, (await world.create_batch(chat_lines(300))).id)
        assert batch.status is Status.COMPLETED
        assert set(Counter(world.network.ledger).values()) == {1}
        assert len(world.network.ledger) == 300

    simulate(calm())


def test_calls_repeated_after_a_kill_are_at_most_the_slots_and_each_is_listed() -> None:
    async def killed_often() -> None:
        world = World(3)
        await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        for number in range(4):
            await asyncio.sleep(1.3 + number)
            await world.crash()
            await world.boot()
        batch = await ended(world, batch.id)
        calls = Counter(world.network.ledger)
        repeated = sorted(int(text.split()[1]) + 1 for text, n in calls.items() if n > 1)
        slots = world.limits.max_concurrency + 256
        assert 0 < len(repeated) <= 4 * slots
        assert set(repeated) <= set(batch.closing.possibly_paid_twice_lines)
        assert batch.closing.possibly_paid_twice == len(batch.closing.possibly_paid_twice_lines)
        assert batch.counts.completed == LINES

    simulate(killed_often())


def test_an_answer_that_was_recorded_is_never_bought_again() -> None:
    async def killed_once() -> None:
        world = World(5)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        await asyncio.sleep(8)
        page = await engine.results("default", batch.id, cursor=None, limit=LINES)
        recorded = {f"request {i[2:]}" for i in ids_of(b"".join(page.lines))}
        sent_before = len(world.network.ledger)
        await world.crash(power_cut=True)
        await world.boot()
        await ended(world, batch.id)
        assert len(recorded) > 100
        assert not recorded & set(world.network.ledger[sent_before:])

    simulate(killed_once())


def test_cancel_keeps_every_answer_and_writes_a_line_for_each_request_not_run() -> None:
    async def cancelled() -> None:
        world = World(11)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        await asyncio.sleep(5)
        batch = await engine.cancel_batch("default", batch.id)
        assert batch.status is Status.CANCELLING
        sent = len(world.network.ledger)
        batch = await ended(world, batch.id)
        assert batch.status is Status.CANCELLED
        assert len(world.network.ledger) == sent
        assert batch.counts.completed == sent
        errors = [json.loads(x) for x in (await world.read_file(batch.error_file_id)).splitlines()]
        assert len(errors) == LINES - sent == batch.counts.failed
        assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
        assert batch.closing.codes == {"batch_cancelled": LINES - sent}

    simulate(cancelled())


def test_a_cancel_survives_a_crash() -> None:
    async def cancelled_and_killed() -> None:
        world = World(12)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        await asyncio.sleep(5)
        await engine.cancel_batch("default", batch.id)
        await world.crash(power_cut=True)
        await world.boot()
        batch = await ended(world, batch.id)
        assert batch.status is Status.CANCELLED
        assert batch.counts.completed + batch.counts.failed == LINES

    simulate(cancelled_and_killed())


def test_a_batch_past_its_window_ends_as_expired_with_what_it_has() -> None:
    async def expired() -> None:
        world = World(13, limits=LaneLimits(max_concurrency=4))
        await world.boot()
        batch = await ended(world, (await world.create_batch(chat_lines(LINES), "1m")).id)
        assert batch.status is Status.EXPIRED
        assert batch.expired_at is not None
        assert batch.expires_at is not None
        assert batch.expires_at <= batch.expired_at <= batch.expires_at + 60
        assert 100 < batch.counts.completed < LINES
        assert batch.counts.completed + batch.counts.failed == LINES

    simulate(expired())


def test_a_stop_leaves_the_batch_resumable_and_repeats_nothing() -> None:
    async def stopped() -> None:
        world = World(14)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        await asyncio.sleep(5)
        await engine.stop()
        await world.boot()
        batch = await ended(world, batch.id)
        assert batch.status is Status.COMPLETED
        assert len(world.network.ledger) == LINES
        assert batch.closing.possibly_paid_twice == 0

    simulate(stopped())


def test_a_full_disk_stops_the_sending_and_room_resumes_it() -> None:
    async def full() -> None:
        world = World(16, settings=EngineSettings(reserve_bytes=100_000))
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        await asyncio.sleep(5)
        world.blobs.capacity_bytes = world.used_bytes() + 50_000
        await asyncio.sleep(10)
        sent = len(world.network.ledger)
        await asyncio.sleep(100)
        assert len(world.network.ledger) == sent < LINES
        assert engine.is_short_of_space
        world.blobs.capacity_bytes = 1 << 40
        batch = await ended(world, batch.id)
        assert batch.counts.completed == LINES

    simulate(full())


def test_a_disk_that_is_really_full_makes_the_batch_wait_and_loses_nothing() -> None:
    async def overfull() -> None:
        world = World(19)
        await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        await asyncio.sleep(5)
        world.blobs.capacity_bytes = world.used_bytes() + 500
        await asyncio.sleep(60)
        world.blobs.capacity_bytes = 1 << 40
        batch = await ended(world, batch.id)
        assert batch.counts.completed == LINES

    simulate(overfull())


def test_a_failed_sync_is_the_end_of_the_engine_and_loses_nothing_recorded() -> None:
    async def failed() -> None:
        world = World(17)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(LINES))
        await asyncio.sleep(5)
        world.blobs.fail_next_append(StorageError("input/output error"))
        await engine.failed.wait()
        assert "input/output error" in str(engine.failure)
        sent = len(world.network.ledger)
        await asyncio.sleep(10)
        assert len(world.network.ledger) == sent
        await world.crash(power_cut=True)
        await world.boot()
        batch = await ended(world, batch.id)
        assert batch.counts.completed == LINES

    simulate(failed())


@pytest.mark.parametrize("seed", range(40))
def test_a_random_history_keeps_every_promise(seed: int) -> None:
    """Limits, fairness, packing and dedupe with faults, crashes, full disks and cancels."""
    assert simulate_seed(seed).lines


def test_models_may_be_mixed_and_a_file_with_bad_lines_sends_nothing() -> None:
    async def bad() -> None:
        world = World(18)
        await world.boot()
        data = chat_lines(3) + b'{"custom_id": 1}\n' + chat_lines(1, model="nobody")
        batch = await ended(world, (await world.create_batch(data)).id)
        assert batch.status is Status.FAILED
        assert [error.line for error in batch.errors] == [4, 5]
        assert world.network.ledger == []

    simulate(bad())
