"""Deaths of the process: what a request caused is found, what none caused costs none."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random

import pytest

from batchwright.domain.batch import Batch
from batchwright.domain.errors import NoSpace
from batchwright.engine.lane import LaneLimits
from batchwright.providers.base import Answer, Call
from mortal import MortalWorld
from simulation import ScriptedNetwork, World, chat_lines, simulate


class DeadlyNetwork(ScriptedNetwork):
    """Some requests kill the process that sends them, shortly after it has."""

    def __init__(self, random: Random, deadly: tuple[str, ...]) -> None:
        super().__init__(random)
        self.deadly = deadly
        self.killed = asyncio.Event()

    async def send(self, call: Call) -> Answer:
        if json.loads(call.body)["messages"][0]["content"] in self.deadly:
            self.ledger.append("deadly")
            await asyncio.sleep(0.3)
            self.killed.set()
            await asyncio.Future()
        return await super().send(call)


async def ended(world: World, *batch_ids: str) -> list[Batch]:
    assert world.engine is not None
    for batch_id in batch_ids:
        await world.engine.wait(batch_id)
    return [await world.get_batch(batch_id) for batch_id in batch_ids]


async def through_deaths(world: World, network: DeadlyNetwork, *batch_ids: str) -> int:
    """Start again after each death until the batches have ended; returns the deaths."""
    deaths = 0
    while True:
        killed = asyncio.ensure_future(network.killed.wait())
        ending = asyncio.ensure_future(ended(world, *batch_ids))
        await asyncio.wait((killed, ending), return_when=asyncio.FIRST_COMPLETED)
        if not network.killed.is_set():
            killed.cancel()
            return deaths
        deaths += 1
        await world.crash()
        network.killed.clear()
        await world.boot()


@pytest.mark.parametrize("deadly", [("request 0",), ("request 77",), ("request 5", "request 399")])
def test_a_request_that_kills_the_process_is_lost_alone(deadly: tuple[str, ...]) -> None:
    async def deadly_batch() -> None:
        world = World(15)
        world.network = network = DeadlyNetwork(world.random, deadly)
        await world.boot()
        batch_id = (await world.create_batch(chat_lines(400))).id
        deaths = await through_deaths(world, network, batch_id)
        [batch] = await ended(world, batch_id)
        assert batch.closing.codes == {"worker_lost": len(deadly)}
        assert batch.counts.completed == 400 - len(deadly)
        assert deaths <= 10 * len(deadly)  # 2 + log2(50) + 2

    simulate(deadly_batch())


def test_one_of_ten_batches_of_one_line_that_kills_the_process_is_found() -> None:
    async def ten() -> None:
        world = World(16)
        world.network = network = DeadlyNetwork(world.random, ("request 0",))
        network.latency_s = 2.0
        await world.boot()
        deadly = (await world.create_batch(chat_lines(1))).id
        others = []
        for number in range(1, 10):
            line = chat_lines(1).replace(b"request 0", b"number %d" % number)
            others.append((await world.create_batch(line)).id)
        deaths = await through_deaths(world, network, deadly, *others)
        found = await ended(world, deadly, *others)
        assert [batch.counts.failed for batch in found] == [1, *[0] * 9]
        assert deaths <= 9

    simulate(ten())


def test_ten_batches_of_one_line_killed_together_lose_nothing() -> None:
    async def ten() -> None:
        world = World(17)
        await world.boot()
        world.network.latency_s = 1e6
        batches = [(await world.create_batch(chat_lines(1))).id for _ in range(10)]
        for _ in range(10):
            await asyncio.sleep(2)
            await world.crash()
            await world.boot()
        world.network.latency_s = 1.0
        for batch in await ended(world, *batches):
            assert batch.counts.completed == 1
            assert batch.closing.possibly_paid_twice == 1

    simulate(ten())


@pytest.mark.parametrize("seed", range(6))
def test_fifteen_quick_deaths_that_no_request_caused_cost_none(seed: int) -> None:
    async def killed_often() -> None:
        world, random = World(seed), Random(seed)
        await world.boot()
        batch_id = (await world.create_batch(chat_lines(3_000))).id
        world.network.latency_s = random.choice([1.0, 5.0, 1e6])
        for _ in range(15):
            await asyncio.sleep(random.choice([0.1, 1.5, 6.0]) * random.random())
            await world.crash()
            await world.boot()
        world.network.latency_s = 1.0
        [batch] = await ended(world, batch_id)
        assert batch.counts.completed == 3_000
        sent = Counter(world.network.ledger)
        again = sum(1 for count in sent.values() if count > 1)
        assert batch.closing.possibly_paid_twice >= again
        assert batch.closing.attempts == len(world.network.ledger)

    simulate(killed_often())


def test_suspects_are_sent_many_at_once_and_not_one_by_one() -> None:
    async def slow() -> None:
        world = World(18, limits=LaneLimits(max_concurrency=64))
        await world.boot()
        batch_id = (await world.create_batch(chat_lines(640))).id
        world.network.latency_s = 600.0
        for _ in range(2):
            await asyncio.sleep(30)
            await world.crash()
            await world.boot()
        started = world.runtime.monotonic()
        [batch] = await ended(world, batch_id)
        assert batch.counts.completed == 640
        assert world.runtime.monotonic() - started < 14 * 900  # 9 rounds, and 2 of half the width

    simulate(slow())


def test_a_death_while_the_process_stops_is_held_against_nothing() -> None:
    async def stopped() -> None:
        world = World(19)
        await world.boot()
        batch_id = (await world.create_batch(chat_lines(1))).id
        world.network.latency_s = 1e6
        for _ in range(8):
            await asyncio.sleep(2)
            assert world.engine is not None
            stopping = asyncio.ensure_future(world.engine.stop())
            await asyncio.sleep(1)  # of the grace; then a second Ctrl-C
            await world.crash()
            assert stopping.done()
            await world.boot()
        world.network.latency_s = 1.0
        [batch] = await ended(world, batch_id)
        assert batch.counts.completed == 1
        assert batch.closing.possibly_paid_twice == 1

    simulate(stopped())


def test_pausing_a_batch_of_suspects_lets_those_of_others_pass() -> None:
    async def paused() -> None:
        world = World(20)
        await world.boot()
        batches = [(await world.create_batch(chat_lines(3))).id for _ in range(2)]
        world.network.latency_s = 1e6
        for _ in range(2):
            await asyncio.sleep(2)
            await world.crash()
            engine = await world.boot()
        world.network.latency_s = 1.0
        await engine.pause_batch("default", batches[0])
        [other] = await ended(world, batches[1])
        assert other.counts.completed == 3
        await engine.resume_batch("default", batches[0])
        [batch] = await ended(world, batches[0])
        assert batch.counts.completed == 3

    simulate(paused())


class FailingOnceNetwork(ScriptedNetwork):
    """The first call fails on the provider's side."""

    async def send(self, call: Call) -> Answer:
        answer = await super().send(call)
        return Answer(500, {}, b"{}") if len(self.ledger) == 1 else answer


def test_a_suspect_whose_wait_ends_in_a_paused_batch_lets_those_of_others_pass() -> None:
    async def paused() -> None:
        world = World(21)
        await world.boot()
        world.network.latency_s = 1e6
        batches = [(await world.create_batch(chat_lines(1))).id for _ in range(2)]
        await asyncio.sleep(2)
        await world.crash()
        await world.boot()
        await asyncio.sleep(2)
        await world.crash()
        world.network = FailingOnceNetwork(world.random)
        engine = await world.boot()
        while not world.network.in_flight:
            await asyncio.sleep(0.1)
        [(failing, _)] = engine._gate.out
        batches.remove(failing)
        for batch_id in (*batches, failing):
            await engine.pause_batch("default", batch_id)
        await asyncio.sleep(60)
        await engine.resume_batch("default", *batches)
        async with asyncio.timeout(60):
            [other] = await ended(world, *batches)
        await engine.resume_batch("default", failing)
        [batch] = await ended(world, failing)
        assert (other.counts.completed, batch.counts.completed) == (1, 1)

    simulate(paused())


# Full disks


def test_a_disk_that_is_full_again_and_again_loses_nothing_and_blames_nobody() -> None:
    async def full() -> None:
        world = World(21, limits=LaneLimits(max_concurrency=5))
        await world.boot()
        batch_id = (await world.create_batch(chat_lines(60))).id
        for _ in range(6):
            world.blobs.fail_next_append(NoSpace("no space left on device"))
            await asyncio.sleep(12)
        [batch] = await ended(world, batch_id)
        assert batch.counts.completed == 60

    simulate(full())


def test_a_quota_buys_nothing_that_cannot_be_stored() -> None:
    """There is room by the numbers, and none to write to."""

    async def quota() -> None:
        world = World(22, limits=LaneLimits(max_concurrency=5))
        engine = await world.boot()
        batch_id = (await world.create_batch(chat_lines(200))).id
        await asyncio.sleep(5)
        real = world.blobs.require_room

        async def refused(size_bytes: int) -> None:
            raise NoSpace("disk quota exceeded")

        world.blobs.require_room = refused  # type: ignore[method-assign]
        world.blobs.fail_next_append(NoSpace("disk quota exceeded"))
        await asyncio.sleep(60)
        sent, files = len(world.network.ledger), len(await world.blobs.keys(""))
        await asyncio.sleep(3_600)
        assert len(world.network.ledger) == sent
        assert len(await world.blobs.keys("")) == files
        supervisor = engine.supervisor(batch_id)
        assert supervisor is not None
        assert "disk quota exceeded" in str(supervisor.problem)
        world.blobs.require_room = real  # type: ignore[method-assign]
        [batch] = await ended(world, batch_id)
        assert batch.counts.completed == 200
        again = [text for text, count in Counter(world.network.ledger).items() if count > 1]
        assert len(again) == batch.closing.possibly_paid_twice

    simulate(quota())


def test_a_stop_does_not_wait_for_room() -> None:
    async def stopped() -> None:
        world = World(23)
        engine = await world.boot()
        batch_id = (await world.create_batch(chat_lines(200))).id
        await asyncio.sleep(2)
        world.blobs.capacity_bytes = world.used_bytes()
        await asyncio.sleep(100)
        now = world.runtime.monotonic()
        await engine.stop()
        assert world.runtime.monotonic() - now < 1
        await world.crash()  # the end of the process
        world.blobs.capacity_bytes = 1 << 40
        await world.boot()
        [batch] = await ended(world, batch_id)
        assert batch.counts.completed == 200

    simulate(stopped())


@pytest.mark.parametrize("method", ["save_batch", "take_over", "publish"])
def test_a_database_without_room_makes_the_batch_wait(method: str) -> None:
    async def full() -> None:
        world = MortalWorld(24)
        engine = await world.boot()
        real = getattr(world.store.inner, method)
        failures = 2

        async def failing(*args: object, **options: object) -> object:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise NoSpace("database or disk is full")
            return await real(*args, **options)

        setattr(world.store.inner, method, failing)
        batch_id = (await world.create_batch(chat_lines(20))).id
        [batch] = await ended(world, batch_id)
        assert engine.failure is None
        assert batch.counts.completed == 20
        assert len(world.network.ledger) == 20

    simulate(full())
