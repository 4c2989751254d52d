"""Pause, resume and priority of a running batch, across stops, crashes and every other end."""

from __future__ import annotations

import asyncio

import pytest

from batchwright.domain.batch import Batch, Status
from batchwright.domain.errors import Conflict, NotFound
from batchwright.domain.priority import Priority
from batchwright.engine.engine import Engine
from batchwright.engine.lane import LaneLimits
from simulation import TENANT, World, chat_lines, simulate

SLOW = LaneLimits(max_concurrency=3)


async def halfway(world: World, lines: int = 100, window: str = "24h") -> tuple[Engine, Batch]:
    """A batch of which some requests are done and three are in flight."""
    engine = await world.boot()
    batch = await world.create_batch(chat_lines(lines), window)
    await asyncio.sleep(5)
    assert 0 < (await world.get_batch(batch.id)).counts.completed < lines
    return engine, batch


async def check_all_once(world: World, batch_id: str, lines: int) -> None:
    assert world.engine is not None
    await world.engine.wait(batch_id)
    batch = await world.get_batch(batch_id)
    assert (batch.status, batch.paused_at) == (Status.COMPLETED, None)
    assert batch.counts.completed == lines
    assert len(world.network.ledger) == len(dict.fromkeys(world.network.ledger)) == lines


def test_a_paused_batch_sends_nothing_and_keeps_what_is_in_flight() -> None:
    async def paused() -> None:
        world = World(1, limits=SLOW)
        engine, batch = await halfway(world)

        batch = await engine.pause_batch(TENANT, batch.id)
        sent = len(world.network.ledger)
        assert (batch.status, batch.paused_at) == (Status.IN_PROGRESS, world.runtime.now())
        await asyncio.sleep(3_600)
        assert len(world.network.ledger) == sent
        assert (await world.get_batch(batch.id)).counts.completed == sent

        assert (await engine.resume_batch(TENANT, batch.id)).paused_at is None
        await check_all_once(world, batch.id, 100)

    simulate(paused())


def test_pausing_and_resuming_twice_changes_nothing_the_second_time() -> None:
    async def twice() -> None:
        world = World(2, limits=SLOW)
        engine, batch = await halfway(world)
        first = await engine.pause_batch(TENANT, batch.id)
        await asyncio.sleep(10)
        assert await engine.pause_batch(TENANT, batch.id) == first
        await engine.resume_batch(TENANT, batch.id)
        await engine.resume_batch(TENANT, batch.id)
        await check_all_once(world, batch.id, 100)

    simulate(twice())


@pytest.mark.parametrize("is_crash", [False, True])
def test_a_restart_keeps_the_pause_and_the_priority(is_crash: bool) -> None:
    async def restarted() -> None:
        world = World(3, limits=SLOW)
        engine, batch = await halfway(world)
        await engine.pause_batch(TENANT, batch.id)
        await engine.set_priority(TENANT, batch.id, Priority.HIGH)
        await asyncio.sleep(30)  # what was in flight ends
        await (world.crash() if is_crash else engine.stop())
        sent = len(world.network.ledger)

        engine = await world.boot()
        await asyncio.sleep(3_600)
        batch = await world.get_batch(batch.id)
        assert batch.paused_at is not None
        assert batch.priority is Priority.HIGH
        assert len(world.network.ledger) == sent == batch.counts.completed

        await engine.resume_batch(TENANT, batch.id)
        await check_all_once(world, batch.id, 100)

    simulate(restarted())


def test_a_request_to_be_tried_again_waits_out_the_pause() -> None:
    async def refused() -> None:
        world = World(4, limits=SLOW, fault_rate=0.5)
        engine, batch = await halfway(world, 40)
        await engine.pause_batch(TENANT, batch.id)
        await asyncio.sleep(5)
        sent = len(world.network.ledger)
        await asyncio.sleep(600)
        assert len(world.network.ledger) == sent

        world.network.fault_rate = 0.0
        await engine.resume_batch(TENANT, batch.id)
        await engine.wait(batch.id)
        counts = (await world.get_batch(batch.id)).counts
        assert counts.completed + counts.failed == 40

    simulate(refused())


def test_a_batch_paused_before_it_runs_sends_nothing() -> None:
    async def early() -> None:
        world = World(5)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(10))
        paused = await engine.pause_batch(TENANT, batch.id)
        assert paused.status is Status.VALIDATING
        await asyncio.sleep(60)
        assert (await world.get_batch(batch.id)).status is Status.IN_PROGRESS
        assert world.network.ledger == []
        await engine.resume_batch(TENANT, batch.id)
        await check_all_once(world, batch.id, 10)

    simulate(early())


def test_a_paused_batch_expires_in_time() -> None:
    async def expired() -> None:
        world = World(6, limits=SLOW)
        engine, batch = await halfway(world, window="1m")
        await engine.pause_batch(TENANT, batch.id)
        await engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert (batch.status, batch.paused_at) == (Status.EXPIRED, None)
        assert batch.expired_at is not None
        assert 60 <= batch.expired_at - batch.created_at < 62
        assert batch.counts.completed == len(world.network.ledger)

    simulate(expired())


def test_a_paused_batch_can_be_cancelled() -> None:
    async def cancelled() -> None:
        world = World(7, limits=SLOW)
        engine, batch = await halfway(world)
        await engine.pause_batch(TENANT, batch.id)
        assert (await engine.cancel_batch(TENANT, batch.id)).paused_at is None
        await engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert batch.status is Status.CANCELLED
        assert batch.counts.completed + batch.counts.failed == 100

    simulate(cancelled())


def test_a_batch_whose_last_answers_come_during_its_pause_completes() -> None:
    async def last() -> None:
        world = World(8)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(5))
        while world.network.in_flight < 5:
            await asyncio.sleep(0.01)
        await engine.pause_batch(TENANT, batch.id)
        await check_all_once(world, batch.id, 5)

    simulate(last())


def test_where_nothing_is_sent_any_more_steering_is_refused() -> None:
    async def refused() -> None:
        world = World(9, limits=SLOW)
        engine, batch = await halfway(world)

        async def check(status: Status) -> None:
            for steering in (
                engine.pause_batch(TENANT, batch.id),
                engine.resume_batch(TENANT, batch.id),
                engine.set_priority(TENANT, batch.id, Priority.LOW),
            ):
                with pytest.raises(Conflict, match=f"a batch with status '{status}'"):
                    await steering

        await engine.cancel_batch(TENANT, batch.id)
        await check(Status.CANCELLING)
        await engine.wait(batch.id)
        await check(Status.CANCELLED)
        for steering in (
            engine.pause_batch("other", batch.id),
            engine.resume_batch(TENANT, "batch_x"),
        ):
            with pytest.raises(NotFound):
                await steering

    simulate(refused())


@pytest.mark.parametrize("steps", range(0, 60, 3))
def test_pausing_at_any_moment_loses_and_repeats_nothing(steps: int) -> None:
    async def any_moment() -> None:
        world = World(10, limits=LaneLimits(max_concurrency=4))
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(20))
        await asyncio.sleep(steps * 0.1)
        try:
            await engine.pause_batch(TENANT, batch.id)
            await asyncio.sleep(100)
            await engine.resume_batch(TENANT, batch.id)
        except Conflict:
            assert (await world.get_batch(batch.id)).is_terminal
        await check_all_once(world, batch.id, 20)

    simulate(any_moment())
