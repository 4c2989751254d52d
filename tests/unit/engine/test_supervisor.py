"""The supervisor: every state, and whatever may cross a change of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random

import pytest

from batchwright.domain.batch import Batch, Status
from batchwright.domain.errors import Conflict
from batchwright.engine.lane import LaneLimits
from batchwright.engine.limiter import Declared
from mortal import MortalWorld
from simulate_many import simulate_seed
from simulation import EPOCH_AT, TENANT, VirtualRuntime, World, chat_lines, simulate

DAY_S = 86_400.0


async def ended(world: World, batch_id: str) -> Batch:
    assert world.engine is not None
    await world.engine.wait(batch_id)
    return await world.get_batch(batch_id)


async def result_ids(world: World, batch: Batch) -> Counter[str]:
    data = await world.read_file(batch.output_file_id) + await world.read_file(batch.error_file_id)
    return Counter(json.loads(line)["custom_id"] for line in data.splitlines())


async def check_whole(world: World, batch: Batch, lines: int) -> None:
    assert await result_ids(world, batch) == Counter(f"r-{i}" for i in range(lines))
    assert batch.counts.completed + batch.counts.failed == batch.counts.total == lines
    times = [batch.completed_at, batch.failed_at, batch.expired_at, batch.cancelled_at]
    assert sum(at is not None for at in times) == 1


# Cancel and stop, crossing every step


async def cross(act: str, steps: int, lines: int = 12) -> Batch | None:
    """Cancel or stop at the n-th step of the disk or the store; None once that is past the end."""
    world = MortalWorld(1, limits=LaneLimits(max_concurrency=5))
    engine = await world.boot()
    batch_id = (await world.create_batch(chat_lines(lines))).id
    fate = world.fate
    at, reached = fate.steps + steps, asyncio.Event()
    real = fate.step

    async def step() -> None:
        await real()
        if fate.steps == at:
            reached.set()
            await asyncio.sleep(0)  # what waits for this step acts now

    fate.step = world.blobs.pause = step  # type: ignore[method-assign]
    ending = asyncio.ensure_future(engine.wait(batch_id))
    reaching = asyncio.ensure_future(reached.wait())
    await asyncio.wait((ending, reaching), return_when=asyncio.FIRST_COMPLETED)
    if not reached.is_set():
        return None
    if act == "cancel":
        try:
            await engine.cancel_batch(TENANT, batch_id)
        except Conflict:
            assert (await world.get_batch(batch_id)).status is Status.COMPLETED
    else:
        await engine.stop()
        assert engine.failure is None
        await world.boot()
    batch = await ended(world, batch_id)
    await check_whole(world, batch, lines)
    assert len(world.network.ledger) == len(dict.fromkeys(world.network.ledger)) <= lines
    assert world.engine is not None
    assert world.engine.failure is None
    return batch


def test_a_cancel_at_any_moment_ends_as_cancelled_or_comes_too_late() -> None:
    seen: Counter[str] = Counter()
    for steps in range(1, 1_000):
        batch = simulate(cross("cancel", steps))
        if batch is None:
            break
        seen[batch.status] += 1
        assert batch.status in (Status.CANCELLED, Status.COMPLETED)
        assert (batch.cancelled_at is None) == (batch.status is Status.COMPLETED)
    assert seen[Status.CANCELLED] > 20
    assert seen[Status.COMPLETED] >= 1


def test_a_stop_at_any_moment_repeats_nothing_and_loses_nothing() -> None:
    for steps in range(1, 1_000):
        batch = simulate(cross("stop", steps))
        if batch is None:
            break
        assert batch.status is Status.COMPLETED
        assert batch.closing.possibly_paid_twice == 0
    assert steps > 40


# Calls that do not come back


def test_calls_that_hang_at_a_cancel_get_their_grace_and_are_then_listed() -> None:
    async def hanging() -> None:
        world = World(1, limits=LaneLimits(max_concurrency=7))
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(60))
        await asyncio.sleep(3)
        before = (await world.get_batch(batch.id)).counts.completed
        world.network.latency_s = 300.0
        await asyncio.sleep(10)
        sent, now = len(world.network.ledger), world.runtime.monotonic()
        await engine.cancel_batch(TENANT, batch.id)
        batch = await ended(world, batch.id)
        assert batch.status is Status.CANCELLED
        assert 30 <= world.runtime.monotonic() - now < 31
        assert batch.counts.completed >= before
        lost = sent - batch.counts.completed
        assert lost == 7
        assert batch.closing.possibly_paid_twice == lost
        assert batch.closing.codes == {"batch_cancelled": 60 - batch.counts.completed}
        await check_whole(world, batch, 60)
        await asyncio.sleep(1_000)  # the late answers come
        assert await world.get_batch(batch.id) == batch
        assert engine.failure is None

    simulate(hanging())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_cancel_waits_for_the_calls_in_flight_also_after_a_lull(concurrency: int) -> None:
    async def lull() -> None:
        world = World(2, limits=LaneLimits(concurrency, Declared(requests_per_minute=30)))
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(30))
        await asyncio.sleep(21)
        while not world.network.in_flight:
            await asyncio.sleep(0.01)
        await engine.cancel_batch(TENANT, batch.id)
        batch = await ended(world, batch.id)
        assert batch.counts.completed == len(world.network.ledger)
        assert batch.closing.possibly_paid_twice == 0
        await check_whole(world, batch, 30)

    simulate(lull())


def test_a_stop_with_calls_that_hang_is_no_crash() -> None:
    async def hanging() -> None:
        world = World(3)
        await world.boot()
        batch = await world.create_batch(chat_lines(5))
        for _ in range(4):
            world.network.latency_s = 1e6
            await asyncio.sleep(1)
            assert world.engine is not None
            await world.engine.stop()
            await world.boot()
        world.network.latency_s = 1.0
        await asyncio.sleep(0.5)
        assert world.engine is not None
        await world.engine.stop()
        await world.boot()
        batch = await ended(world, batch.id)
        assert batch.counts.completed == 5
        assert batch.closing.possibly_paid_twice == 5

    simulate(hanging())


# Time


class SteppedRuntime(VirtualRuntime):
    """A machine whose wall clock is set."""

    step_s = 0.0

    def now(self) -> float:
        return super().now() + self.step_s


@pytest.mark.parametrize("step_s", [DAY_S * 2, -DAY_S * 2])
def test_a_step_of_the_wall_clock_expires_nothing_and_holds_nothing_up(step_s: float) -> None:
    async def stepped() -> None:
        world = World(4)
        world.runtime = SteppedRuntime(Random(4))
        await world.boot()
        batch = await world.create_batch(chat_lines(400))
        await asyncio.sleep(3)
        world.runtime.step_s = step_s
        batch = await ended(world, batch.id)
        assert batch.status is Status.COMPLETED
        assert world.runtime.monotonic() < 60

    simulate(stepped())


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_batch_ends_within_seconds_of_its_deadline_in_any_state(concurrency: int) -> None:
    async def expiring() -> None:
        world = World(5, limits=LaneLimits(max_concurrency=concurrency))
        await world.boot()
        batch = await ended(world, (await world.create_batch(chat_lines(600), "1m")).id)
        assert batch.status is Status.EXPIRED
        assert batch.expired_at is not None
        assert 60 <= batch.expired_at - batch.created_at <= 92
        await check_whole(world, batch, 600)
        assert batch.counts.completed == len(world.network.ledger)

    simulate(expiring())


def test_small_batches_have_half_of_the_lane_beside_a_large_one_that_has_time_to_spare() -> None:
    async def beside() -> None:
        limits = LaneLimits(max_concurrency=50, declared=Declared(requests_per_minute=60))
        world = World(5, limits=limits)
        await world.boot()
        large = await world.create_batch(chat_lines(2_500), "1h")  # 5,000 s at half of the lane
        await asyncio.sleep(60)
        for _ in range(8):
            began_at = world.runtime.monotonic()
            await ended(world, (await world.create_batch(chat_lines(20), "1h")).id)
            assert world.runtime.monotonic() - began_at < 45  # 20 alone
        assert (await ended(world, large.id)).status is Status.COMPLETED

    simulate(beside())


def test_a_deadline_that_passed_while_the_process_was_down_expires_at_the_start() -> None:
    async def late() -> None:
        world = World(6, limits=LaneLimits(max_concurrency=2))
        await world.boot()
        batch = await world.create_batch(chat_lines(300), "1m")
        await asyncio.sleep(20)
        await world.crash()
        sent = len(world.network.ledger)
        await asyncio.sleep(100)
        await world.boot()
        batch = await ended(world, batch.id)
        assert batch.status is Status.EXPIRED
        assert len(world.network.ledger) == sent
        await check_whole(world, batch, 300)

    simulate(late())


def test_a_window_that_ends_while_the_file_is_validated_expires_the_whole_batch() -> None:
    async def slow() -> None:
        world = World(7)
        await world.boot()
        is_slow = True

        async def pause() -> None:
            await asyncio.sleep(100 if is_slow else 0.001)

        data = chat_lines(20)
        file_id = await world.upload(data)
        world.blobs.pause = pause
        assert world.engine is not None
        batch = await world.engine.create_batch(
            TENANT, endpoint="/v1/chat/completions", input_file_id=file_id, completion_window="1m"
        )
        await asyncio.sleep(90)
        is_slow = False
        batch = await ended(world, batch.id)
        assert batch.status is Status.EXPIRED
        assert world.network.ledger == []
        assert batch.closing.codes == {"batch_expired": 20}
        await check_whole(world, batch, 20)

    simulate(slow())


def test_a_cancel_while_the_batch_expires_ends_in_one_state() -> None:
    async def both() -> None:
        world = World(8, limits=LaneLimits(max_concurrency=3))
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(300), "1m")
        world.network.latency_s = 20.0
        await asyncio.sleep(65)
        assert (await world.get_batch(batch.id)).status is Status.IN_PROGRESS
        await engine.cancel_batch(TENANT, batch.id)
        batch = await ended(world, batch.id)
        assert batch.status is Status.CANCELLED
        await check_whole(world, batch, 300)

    simulate(both())


def test_a_cancel_during_validation_of_a_bad_file_keeps_what_was_wrong_to_itself() -> None:
    async def bad() -> None:
        world = World(9)
        engine = await world.boot()
        batch = await world.create_batch(b"{}\n")
        await engine.cancel_batch(TENANT, batch.id)
        batch = await ended(world, batch.id)
        assert batch.status is Status.CANCELLED
        assert (batch.output_file_id, batch.error_file_id) == (None, None)
        assert world.network.ledger == []

    simulate(bad())


def test_an_input_that_was_deleted_before_it_was_validated_fails_the_batch() -> None:
    async def gone() -> None:
        world = World(10)
        engine = await world.boot()
        file_id = await world.upload(chat_lines(3))
        await world.store.delete_file(TENANT, file_id)
        batch = await engine.create_batch(
            TENANT, endpoint="/v1/chat/completions", input_file_id=file_id, completion_window="24h"
        )
        batch = await ended(world, batch.id)
        assert batch.status is Status.FAILED
        assert file_id in batch.errors[0].message

    simulate(gone())


def test_an_outage_of_hours_is_not_held_against_the_requests() -> None:
    async def outage() -> None:
        world = World(11, fault_rate=1.0)
        await world.boot()
        world.network._random.randrange = lambda *_: 0  # type: ignore[method-assign]
        batch = await world.create_batch(chat_lines(100))
        await asyncio.sleep(6 * 3_600)
        counts = (await world.get_batch(batch.id)).counts
        assert (counts.completed, world.network.ledger) == (0, [])
        world.network.fault_rate = 0.0
        batch = await ended(world, batch.id)
        assert batch.status is Status.COMPLETED
        assert batch.counts.completed + batch.counts.failed == 100
        assert batch.counts.completed >= 80
        assert world.runtime.now() - EPOCH_AT < 7 * 3_600

    simulate(outage())


# Random histories


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_random_histories_keep_every_promise(first: int) -> None:
    for seed in range(first, first + 20):
        simulate_seed(seed)
