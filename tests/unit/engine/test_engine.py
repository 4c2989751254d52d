"""The engine as its callers meet it: batches, files, idempotency, start and stop."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from batchwright.domain.batch import Status
from batchwright.domain.errors import Conflict, NoSpace, NotFound, NotSent, StorageError
from batchwright.engine.engine import Engine
from batchwright.engine.routing import Route
from batchwright.engine.settings import EngineSettings
from batchwright.providers.base import Call
from batchwright.store.base import Idempotency
from mortal import MortalWorld
from simulation import TENANT, World, chat_lines, simulate

BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}'


def asked(engine: Engine, content: bytes) -> tuple[Route, Call]:
    route = engine.router.find("m")
    return route, route.provider.prepare("/v1/chat/completions", BODY % content)


# Batches


def test_the_same_idempotency_key_makes_one_batch() -> None:
    async def twice() -> None:
        world = World(5)
        engine = await world.boot()
        file_id = await world.upload(chat_lines(10))
        made = [
            await engine.create_batch(
                TENANT,
                endpoint="/v1/chat/completions",
                input_file_id=file_id,
                completion_window="24h",
                idempotency=Idempotency("key", "fingerprint", 0.0),
            )
            for _ in range(2)
        ]
        assert made[0].id == made[1].id
        await engine.wait(made[0].id)
        assert len(world.network.ledger) == 10

    simulate(twice())


def test_counts_never_go_down_and_never_above_the_total() -> None:
    async def watched() -> None:
        world = World(6, fault_rate=0.2)
        await world.boot()
        batch = await world.create_batch(chat_lines(400))
        seen = 0
        for number in range(120):
            await asyncio.sleep(0.1)
            if number in (30, 70):
                await world.crash(power_cut=number == 70)
                await world.boot()
            if number == 50:
                world.blobs.fail_next_append(NoSpace("full"))
            counts = (await world.get_batch(batch.id)).counts
            assert seen <= counts.completed + counts.failed <= 400
            seen = counts.completed + counts.failed
        assert seen > 100

    simulate(watched())


def test_another_tenants_batch_is_not_there() -> None:
    async def other() -> None:
        world = World(7)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(5))
        for act in (engine.get_batch, engine.cancel_batch):
            with pytest.raises(NotFound):
                await act("somebody", batch.id)
        with pytest.raises(NotFound):
            await engine.results("somebody", batch.id, cursor=None, limit=1)

    simulate(other())


def test_a_cancel_that_crosses_the_end_is_refused_in_plain_words() -> None:
    async def crossing() -> None:
        world = MortalWorld(8)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(5))
        stale = await world.get_batch(batch.id)
        await engine.wait(batch.id)
        real, reads = world.store.inner.get_batch, []

        async def read_late(tenant: str, batch_id: str) -> object:
            reads.append(batch_id)
            return stale if len(reads) == 1 else await real(tenant, batch_id)

        world.store.inner.get_batch = read_late
        with pytest.raises(Conflict, match="completed"):
            await engine.cancel_batch(TENANT, batch.id)

    simulate(crossing())


def test_cancelling_twice_is_answered_twice() -> None:
    async def twice() -> None:
        world = World(9)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(500))
        await asyncio.sleep(3)
        first = await engine.cancel_batch(TENANT, batch.id)
        second = await engine.cancel_batch(TENANT, batch.id)
        assert first.status is second.status is Status.CANCELLING
        assert first.cancelling_at == second.cancelling_at
        await engine.wait(batch.id)
        assert (await engine.cancel_batch(TENANT, batch.id)).status is Status.CANCELLED

    simulate(twice())


# Life


def test_start_and_stop_are_safe_twice_and_stop_before_start() -> None:
    async def lived() -> None:
        world = World(10)
        engine = await world.boot()
        await engine.start()
        batch = await world.create_batch(chat_lines(20))
        await asyncio.sleep(1)
        await engine.stop()
        await engine.stop()
        engine = await world.boot()
        await engine.wait(batch.id)
        assert len(world.network.ledger) == 20

    simulate(lived())


def test_a_start_does_not_wait_for_room_on_a_full_disk() -> None:
    async def full() -> None:
        world = World(11)
        await world.boot()
        batch = await world.create_batch(chat_lines(200))
        await asyncio.sleep(2)
        await world.crash()
        world.blobs.capacity_bytes = world.used_bytes()
        async with asyncio.timeout(60):
            engine = await world.boot()
        supervisor = engine.supervisor(batch.id)
        assert supervisor is not None
        assert "disk space" in str(supervisor.problem)
        world.blobs.capacity_bytes = 1 << 40
        await engine.wait(batch.id)
        assert (await world.get_batch(batch.id)).counts.completed == 200

    simulate(full())


def test_one_large_answer_raises_the_reserve_for_an_hour_and_not_for_good() -> None:
    async def history() -> None:
        world = World(13, settings=EngineSettings(reserve_bytes=1))
        engine = await world.boot()
        lane = engine.router.lanes[0]
        lane.largest_answer_bytes = 2**24
        batch = await world.create_batch(chat_lines(20))
        await engine.wait(batch.id)
        await asyncio.sleep(1700)
        assert lane.room_bytes > 2**30
        await asyncio.sleep(1900)
        assert lane.room_bytes < 2**20

    simulate(history())


def test_below_the_reserve_nothing_is_taken_in_and_live_calls_still_go() -> None:
    async def short() -> None:
        world = World(12, settings=EngineSettings(reserve_bytes=1_000_000))
        world.blobs.capacity_bytes = 900_000
        engine = await world.boot()
        with pytest.raises(NoSpace):
            engine.check_room()
        assert (await engine.gateway.call(*asked(engine, b"x"))).status == 200
        world.blobs.capacity_bytes = 1 << 40
        await asyncio.sleep(2)
        engine.check_room()

    simulate(short())


def test_a_disk_whose_room_cannot_be_told_counts_as_full(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown() -> None:
        world = World(13)

        def fails() -> int:
            raise StorageError("input/output error")

        monkeypatch.setattr(world.blobs, "free_bytes", fails)
        engine = await world.boot()
        assert engine.is_short_of_space

    simulate(unknown())


def test_a_provider_that_cannot_list_its_models_is_asked_again() -> None:
    async def asked_again() -> None:
        world = World(14)
        engine = await world.boot()
        (account,) = engine.router._accounts.values()
        engine.router._accounts["upstream"] = replace(account, models=())
        engine.router.learn("upstream", ())
        answers: list[list[str] | NotSent] = [NotSent("refused"), ["late"]]

        async def list_models() -> list[str]:
            answer = answers.pop(0)
            if isinstance(answer, NotSent):
                raise answer
            return answer

        account.provider.list_models = list_models  # type: ignore[method-assign]
        await engine.ask_models()
        assert engine.router.explain("late") is not None
        await asyncio.sleep(301)
        assert engine.router.explain("late") is None

    simulate(asked_again())


def test_why_a_provider_does_not_list_its_models_is_logged_once() -> None:
    async def asked_often() -> list[str]:
        world = World(15)
        engine = await world.boot()
        (account,) = engine.router._accounts.values()
        engine.router._accounts["upstream"] = replace(account, models=())
        outcomes: list[list[str] | str] = ["refused", "refused", "refused", "late", ["m"], "late"]

        async def list_models() -> list[str]:
            outcome = outcomes.pop(0)
            if isinstance(outcome, str):
                raise NotSent(outcome)
            return outcome

        account.provider.list_models = list_models  # type: ignore[method-assign]
        with capture_logs() as logged:
            for _ in range(6):
                await engine.ask_models()
        return [entry["reason"] for entry in logged]

    assert simulate(asked_often()) == ["refused", "late", "late"]


@pytest.mark.parametrize(("model", "expected"), [("late", (6, 0)), ("nobodys", (0, 6))])
def test_a_batch_waits_for_what_a_provider_says_that_did_not_answer_at_the_start(
    model: str, expected: tuple[int, int]
) -> None:
    async def unheard() -> None:
        world = World(16)
        engine = await world.boot()
        (account,) = engine.router._accounts.values()
        engine.router._accounts["upstream"] = replace(account, models=())
        engine.router.learn("upstream", ())
        engine.router.unheard.append("upstream")

        async def list_models() -> list[str]:
            if world.runtime.monotonic() < 200:
                raise NotSent("refused")
            return ["late"]

        account.provider.list_models = list_models  # type: ignore[method-assign]
        batch = await world.create_batch(chat_lines(6, model))
        await asyncio.sleep(150)
        assert (await world.get_batch(batch.id)).status is Status.IN_PROGRESS
        await engine.wait(batch.id)
        ended = await world.get_batch(batch.id)
        assert ended.status is Status.COMPLETED
        assert (ended.counts.completed, ended.counts.failed) == expected
        assert ended.closing.codes == ({"model_not_found": 6} if expected[1] else {})

    simulate(unheard())
