"""Live calls through the engine: before all batch work, and never sent for nobody."""

from __future__ import annotations

import asyncio

import pytest

from batchwright.domain.errors import Ambiguous, NotSent
from batchwright.engine.engine import Engine
from batchwright.engine.lane import LaneLimits
from batchwright.engine.routing import Route
from batchwright.providers.base import Answer, Call
from simulation import World, chat_lines, simulate

BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}'


def asked(engine: Engine, content: bytes) -> tuple[Route, Call]:
    route = engine.router.find("m")
    return route, route.provider.prepare("/v1/chat/completions", BODY % content)


def test_a_live_call_goes_before_a_full_batch() -> None:
    async def live() -> None:
        world = World(1, limits=LaneLimits(max_concurrency=2))
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(50))
        await asyncio.sleep(3)
        before = len(world.network.ledger)
        answer = await engine.gateway.call(*asked(engine, b"hello"))
        assert b"echo: hello" in answer.body
        assert world.network.ledger.index("hello") <= before + 2
        await engine.wait(batch.id)

    simulate(live())


def test_a_live_calls_failure_is_its_callers() -> None:
    async def failing() -> None:
        world = World(2, fault_rate=1.0)
        engine = await world.boot()
        outcomes: dict[str, None] = {}
        for _ in range(40):
            try:
                answer = await engine.gateway.call(*asked(engine, b"x"))
                outcomes[str(answer.status)] = None
            except (NotSent, Ambiguous) as error:
                outcomes[type(error).__name__] = None
        assert sorted(outcomes) == ["200", "429", "500", "Ambiguous", "NotSent"]

    simulate(failing())


def test_a_live_call_whose_client_has_left_before_its_turn_is_not_sent() -> None:
    async def left() -> None:
        world = World(3, limits=LaneLimits(max_concurrency=1))
        engine = await world.boot()
        first = asyncio.create_task(engine.gateway.call(*asked(engine, b"first")))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(engine.gateway.call(*asked(engine, b"second")))
        await asyncio.sleep(0.1)
        second.cancel()
        await first
        await asyncio.sleep(10)
        assert world.network.ledger == ["first"]
        await engine.gateway.call(*asked(engine, b"third"))

    simulate(left())


def test_at_a_stop_a_live_call_under_way_is_answered_and_one_that_waits_is_refused() -> None:
    async def stopped() -> None:
        world = World(4, limits=LaneLimits(max_concurrency=1))
        engine = await world.boot()
        calls = [
            asyncio.create_task(engine.gateway.call(*asked(engine, b"%d" % i))) for i in range(2)
        ]
        await asyncio.sleep(0.1)
        await engine.stop()
        under_way, waiting = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(under_way, Answer)
        assert isinstance(waiting, NotSent)
        with pytest.raises(NotSent):
            await engine.gateway.call(*asked(engine, b"late"))
        assert world.network.ledger == ["0"]

    simulate(stopped())
