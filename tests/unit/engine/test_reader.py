"""Reading ahead: no lane holds up another, whatever the order of the lines."""

from __future__ import annotations

import asyncio
import json
from random import Random

import pytest

from batchwright.domain.batch import Batch, Status
from batchwright.domain.errors import NotSent
from batchwright.engine.dispatch import WAITING_MAX, BatchRun
from batchwright.engine.engine import Engine
from batchwright.engine.lane import Lane, LaneLimits
from batchwright.engine.reader import Reader
from batchwright.engine.routing import Account, Router
from batchwright.engine.settings import EngineSettings
from batchwright.providers.base import Answer, Call
from mortal import WideWorld
from simulation import TENANT, ScriptedNetwork, ScriptedProvider, World, chat_lines, simulate


class OneBadLane(ScriptedNetwork):
    """Model `n` hangs, or is out of order; model `m` answers."""

    def __init__(self, random: Random, *, is_hung: bool) -> None:
        super().__init__(random)
        self.is_hung = is_hung
        self.is_mended = asyncio.Event()

    async def send(self, call: Call) -> Answer:
        if json.loads(call.body)["model"] == "n" and not self.is_mended.is_set():
            if self.is_hung:
                await self.is_mended.wait()
            else:
                return Answer(429, {"retry-after": "3000"}, b'{"error":{"message":"later"}}')
        return await super().send(call)


def orders() -> dict[str, bytes]:
    bad, good = chat_lines(2_000, "n").replace(b"r-", b"n-"), chat_lines(2_000, "m")
    mixed = zip(bad.splitlines(True), good.splitlines(True), strict=True)
    return {"first": bad + good, "mixed": b"".join(a + b for a, b in mixed)}


@pytest.mark.parametrize("is_hung", [True, False], ids=["hung", "refusing"])
@pytest.mark.parametrize("order", ["first", "mixed"])
def test_a_lane_that_stands_still_holds_up_no_other(order: str, is_hung: bool) -> None:
    async def held_up() -> None:
        world = WideWorld(1, settings=EngineSettings(reserve_bytes=0, max_attempts=50))
        world.network = network = OneBadLane(world.random, is_hung=is_hung)
        world.side_limits = LaneLimits(max_concurrency=2_000)
        engine = await world.boot()
        batch = await world.create_batch(orders()[order])
        await asyncio.sleep(100)
        assert len(network.ledger) == 2_000

        supervisor = engine.supervisor(batch.id)
        assert supervisor is not None
        assert supervisor.current is not None
        flows = supervisor.current._flows
        assert all(len(flow.ready) <= BatchRun.READY_MAX + WAITING_MAX for flow in flows.values())
        assert all(
            flow.waiting <= WAITING_MAX + BatchRun.READY_MAX + 2_000 for flow in flows.values()
        )

        network.is_mended.set()
        await engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert (batch.status, batch.counts.completed) == (Status.COMPLETED, 4_000)
        assert len(network.ledger) == 4_000

    simulate(held_up())


@pytest.mark.parametrize("is_hung", [True, False], ids=["hung", "refusing"])
@pytest.mark.parametrize("order", ["first", "mixed"])
def test_by_prefix_too_a_lane_that_stands_still_holds_up_no_other(
    order: str, is_hung: bool
) -> None:
    async def held_up() -> None:
        world = WideWorld(9, settings=EngineSettings(reserve_bytes=0, max_attempts=50))
        world.network = network = OneBadLane(world.random, is_hung=is_hung)
        world.side_limits = LaneLimits(max_concurrency=100)
        engine = await world.boot()
        data = prompted(orders()[order], prompts=70)
        batch = await world.create_batch(data, options={"order": "prefix"})
        await asyncio.sleep(100)
        assert len(network.ledger) == 2_000

        network.is_mended.set()
        await engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert (batch.status, batch.counts.completed) == (Status.COMPLETED, 4_000)
        assert len(network.ledger) == 4_000

    simulate(held_up())


def prompted(data: bytes, prompts: int) -> bytes:
    """Each line begins with one of so many long prompts, by its number."""
    lines = []
    for number, line in enumerate(data.splitlines(True)):
        prompt = f"prompt {number // 3 % prompts} ".ljust(1_500, ".").encode()
        lines.append(line.replace(b"request", prompt + b"request"))
    return b"".join(lines)


def test_a_provider_that_is_not_heard_yet_holds_up_no_other() -> None:
    async def unheard() -> None:
        world = WideWorld(2)
        batch = await halfway(world, orders()["first"])
        engine = await with_unheard(world)
        await asyncio.sleep(100)
        assert sum("request" in text for text in world.network.ledger) >= 2_000
        engine.router.learn("sidestream", ["n"])
        await engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert (batch.status, batch.counts.completed) == (Status.COMPLETED, 4_000)

    simulate(unheard())


async def with_unheard(world: World) -> Engine:
    """A start at which the second provider does not say what it serves."""
    main = Lane("upstream", limits=world.limits, runtime=world.runtime)
    side = Lane("sidestream", limits=world.limits, runtime=world.runtime)
    other = Unheard(world.network)
    accounts = [
        Account(ScriptedProvider(world.network), main, models=("m",)),
        Account(other, side),
    ]
    world.engine = Engine(
        tenants=world.store,
        store=world.store,
        blobs=world.blobs,
        runtime=world.runtime,
        router=Router(accounts),
        settings=world.settings,
    )
    await world.engine.start()
    return world.engine


class Unheard(ScriptedProvider):
    name = "sidestream"

    async def list_models(self) -> list[str]:
        raise NotSent("no connection")


def test_a_batch_of_one_model_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = count_scans(monkeypatch)

    async def one_model() -> None:
        world = WideWorld(3)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(2_000))
        await engine.wait(batch.id)
        assert (await world.get_batch(batch.id)).counts.completed == 2_000

    simulate(one_model())
    assert scans == [None]


def count_scans(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    scans: list[object] = []
    start = Reader._start_scan

    def counted(self: Reader, line: object, share: object) -> None:
        scans.append(share)
        start(self, line, share)  # type: ignore[arg-type]

    monkeypatch.setattr(Reader, "_start_scan", counted)
    return scans


# Input that was validated under other settings, or is damaged


async def halfway(world: World, data: bytes) -> Batch:
    await world.boot()
    batch = await world.create_batch(data)
    while not world.network.ledger:
        await asyncio.sleep(0.1)
    assert world.engine is not None
    await world.engine.stop()
    return batch


@pytest.mark.parametrize("ends_in", [Status.COMPLETED, Status.CANCELLED])
def test_a_lower_limit_on_lines_does_not_touch_what_was_validated(ends_in: Status) -> None:
    async def lowered() -> None:
        world = World(4, limits=LaneLimits(max_concurrency=2))
        batch = await halfway(world, chat_lines(20))
        world.settings = EngineSettings(reserve_bytes=0, line_bytes_max=10)
        engine = await world.boot()
        if ends_in is Status.CANCELLED:
            await engine.cancel_batch(TENANT, batch.id)
        await engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert (batch.status, batch.counts.completed + batch.counts.failed) == (ends_in, 20)

    simulate(lowered())


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_an_unreadable_line_stops_its_batch_alone(is_cancelled: bool) -> None:
    async def damaged() -> None:
        world = World(5, limits=LaneLimits(max_concurrency=2))
        batch = await halfway(world, chat_lines(20))
        stored = world.blobs._files[f"files/{batch.input_file_id}"].data
        at = stored.rindex(b'{"custom_id"')
        stored[at : at + 5] = b"\xff\xff\xff\xff\xff"
        engine = await world.boot()
        if is_cancelled:
            await engine.cancel_batch(TENANT, batch.id)
        other = await world.create_batch(chat_lines(3))
        await engine.wait(batch.id)
        await engine.wait(other.id)
        supervisor = engine.supervisor(batch.id)
        assert supervisor is not None
        assert "line 20 of the input file cannot be read" in str(supervisor.problem)
        assert engine.failure is None
        assert (await world.get_batch(other.id)).status is Status.COMPLETED

    simulate(damaged())


def test_a_line_that_names_the_endpoint_shorter_is_checked_and_sent_all_the_same() -> None:
    async def shorter() -> None:
        world = World(6)
        engine = await world.boot()
        urls: list[str] = []

        async def send(call: Call) -> Answer:
            urls.append(call.url)
            return Answer(200, {}, b'{"detail":"login first"}')

        world.network.send = send  # type: ignore[method-assign]
        data = chat_lines(1).replace(b'"/v1/chat', b'"/chat')
        batch = await world.create_batch(data)
        await engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert (batch.counts.completed, batch.counts.failed) == (0, 1)
        assert set(urls) == {"http://upstream/v1/chat/completions"}

    simulate(shorter())


# Errors of ours


def test_a_bug_in_one_call_costs_its_request_and_not_the_engine() -> None:
    async def buggy() -> None:
        world = World(7)
        engine = await world.boot()
        send = world.network.send

        async def sometimes(call: Call) -> Answer:
            if b"request 3" in call.body:
                raise RuntimeError("a bug")
            return await send(call)

        world.network.send = sometimes  # type: ignore[method-assign]
        batch = await world.create_batch(chat_lines(8))
        await engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert (batch.status, batch.counts.completed, batch.counts.failed) == ("completed", 7, 1)
        assert engine.failure is None
        error = json.loads(await world.read_file(batch.error_file_id))["error"]
        assert (error["code"], "RuntimeError" in error["message"]) == ("request_failed", True)
        await engine.stop()
        for lane in engine.router.lanes:
            assert (lane.in_flight, lane._slots_taken) == (0, 0)

    simulate(buggy())


def test_many_bugs_stop_their_batch_and_leave_it_resumable() -> None:
    async def buggy() -> None:
        world = World(8)
        engine = await world.boot()
        send = world.network.send

        async def always(call: Call) -> Answer:
            raise RuntimeError("a bug")

        world.network.send = always  # type: ignore[method-assign]
        batch = await world.create_batch(chat_lines(500))
        await engine.wait(batch.id)
        supervisor = engine.supervisor(batch.id)
        assert supervisor is not None
        assert "RuntimeError" in str(supervisor.problem)
        assert engine.failure is None
        for lane in engine.router.lanes:
            assert (lane.in_flight, lane._slots_taken) == (0, 0)

        world.network.send = send  # type: ignore[method-assign]
        await engine.stop()
        engine = await world.boot()
        await engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert batch.status is Status.COMPLETED
        assert batch.counts.completed >= 480

    simulate(buggy())
