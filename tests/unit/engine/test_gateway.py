"""Live calls through the engine: before all batch work, and never sent for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from batchwright.domain.errors import Ambiguous, LongWait, NotSent, TransportError
from batchwright.engine.engine import Engine
from batchwright.engine.lane import LaneLimits
from batchwright.engine.limiter import Declared
from batchwright.engine.routing import Route
from batchwright.providers.base import Answer, Call, StreamedAnswer
from simulation import ScriptedNetwork, World, chat_lines, simulate

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


def test_an_error_of_ours_costs_the_live_call_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def failing() -> None:
        world = World(6)
        engine = await world.boot()
        with monkeypatch.context() as patch:
            patch.setattr(engine.gateway, "_note_live", _break)
            with pytest.raises(ZeroDivisionError):
                await engine.gateway.call(*asked(engine, b"first"))
        assert (await engine.gateway.call(*asked(engine, b"second"))).status == 200
        assert not engine.failed.is_set()

    simulate(failing())


def _break(*_: object) -> None:
    raise ZeroDivisionError


# A wait that the provider asked for


@pytest.mark.parametrize("is_streamed", [False, True])
def test_live_calls_that_would_wait_for_long_are_refused_with_the_wait(is_streamed: bool) -> None:
    async def refused() -> None:
        world = World(7, limits=LaneLimits(max_concurrency=1))
        world.network = network = OneReply(429, b'{"error":{"message":"later"}}')
        network.headers = {"retry-after": "3600"}
        engine = await world.boot()
        first = asyncio.create_task(call_once(engine, b"first", is_streamed=is_streamed))
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(engine.gateway.call(*asked(engine, b"waiting")))
        await first
        with pytest.raises(LongWait) as told:
            await waiting
        assert told.value.wait_s == pytest.approx(3600, abs=2)
        await asyncio.sleep(10)
        with pytest.raises(LongWait) as told:
            async with engine.gateway.stream(*asked(engine, b"later")):
                pass
        assert told.value.wait_s == pytest.approx(3590, abs=2)

    simulate(refused())


def test_live_calls_are_refused_with_the_wait_where_a_day_is_used_up() -> None:
    async def refused() -> None:
        declared = Declared(requests_per_day=1)
        world = World(9, limits=LaneLimits(max_concurrency=1, declared=declared))
        engine = await world.boot()
        first = asyncio.create_task(call_once(engine, b"first", is_streamed=False))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(engine.gateway.call(*asked(engine, b"waiting")))
        await first
        with pytest.raises(LongWait) as told:
            await waiting
        assert told.value.wait_s == pytest.approx(3_600, abs=5)  # and a day in fact
        with pytest.raises(LongWait):
            await engine.gateway.call(*asked(engine, b"later"))

    simulate(refused())


def test_a_live_call_waits_out_a_short_wait_that_the_provider_asked_for() -> None:
    async def answered() -> None:
        world = World(8)
        world.network = network = OneReply(429, b"{}")
        network.headers = {"retry-after": "20"}
        engine = await world.boot()
        await call_once(engine, b"first", is_streamed=False)
        network.status, network.headers = 200, {}
        began_at = asyncio.get_running_loop().time()
        assert (await engine.gateway.call(*asked(engine, b"second"))).status == 200
        assert 19 < asyncio.get_running_loop().time() - began_at < 23

    simulate(answered())


# What a live call takes of a token limit

IMAGE = 1_300_000 * b"x"  # no text: far fewer tokens than a quarter of its bytes
USAGE = b'"usage":{"prompt_tokens":900,"completion_tokens":100}'
EVENTS = (
    b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n',
    b'data: {"choices":[],"usa',  # an event may come in pieces
    b'ge":{"prompt_tokens":900,"completion_tokens":100}}\n\ndata: [DONE]\n\n',
)


class OneReply(ScriptedNetwork):
    """It answers every call alike, after a second."""

    def __init__(self, status: int, *chunks: bytes, failure: TransportError | None = None) -> None:
        super().__init__(Random(1))
        self.status = status
        self.headers: dict[str, str] = {}
        self._chunks = chunks
        self._failure = failure

    async def send(self, call: Call) -> Answer:
        await asyncio.sleep(1)
        if self._failure is not None:
            raise self._failure
        return Answer(self.status, self.headers, b"".join(self._chunks))

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedAnswer]:
        await asyncio.sleep(1)
        if self._failure is not None:
            raise self._failure
        yield self

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


async def booted(network: ScriptedNetwork) -> Engine:
    world = World(5, limits=LaneLimits(declared=Declared(tokens_per_minute=30_000)))
    world.network = network
    return await world.boot()


async def call_once(engine: Engine, content: bytes, *, is_streamed: bool) -> None:
    try:
        if not is_streamed:
            await engine.gateway.call(*asked(engine, content))
            return
        async with engine.gateway.stream(*asked(engine, content)) as answer:
            assert b"".join([chunk async for chunk in answer.chunks()])
    except TransportError:
        pass


async def wait_after(network: ScriptedNetwork, *, is_streamed: bool) -> float:
    """How long a small call takes, latency and all, after one with an image."""
    engine = await booted(network)
    await call_once(engine, IMAGE, is_streamed=is_streamed)
    began_at = asyncio.get_running_loop().time()
    await call_once(engine, b"small", is_streamed=False)
    return asyncio.get_running_loop().time() - began_at


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    "network",
    [
        OneReply(200, b'{"choices":[],', USAGE, b"}"),
        OneReply(400, b'{"error":{"message":"no"}}'),
        OneReply(401, b'{"error":{"message":"no"}}'),
        OneReply(500, b"oops"),
        OneReply(0, failure=NotSent("no connection")),
    ],
    ids=["answered", "refused", "key", "failed", "not sent"],
)
def test_a_live_call_gives_back_the_tokens_that_it_did_not_use(
    network: OneReply, is_streamed: bool
) -> None:
    assert simulate(wait_after(network, is_streamed=is_streamed)) < 5


def test_a_streamed_call_uses_what_its_last_event_tells() -> None:
    assert simulate(wait_after(OneReply(200, *EVENTS), is_streamed=True)) < 5


def test_a_live_call_that_tells_no_usage_holds_the_others_back_for_a_minute_at_most() -> None:
    network = OneReply(200, b'{"choices":[]}')
    assert simulate(wait_after(network, is_streamed=True)) < 62


def test_live_calls_are_estimated_by_what_earlier_ones_have_used() -> None:
    async def estimated() -> None:
        engine = await booted(OneReply(200, b'{"choices":[],', USAGE, b"}"))
        for _ in range(3):
            await call_once(engine, IMAGE, is_streamed=False)
        network = engine.router.find("m").provider.transport
        assert isinstance(network, OneReply)
        network._chunks = (b'{"choices":[]}',)  # it says no more what was used
        began_at = asyncio.get_running_loop().time()
        for _ in range(5):
            await call_once(engine, IMAGE, is_streamed=False)
        assert asyncio.get_running_loop().time() - began_at < 5 * 1_000 / 500 + 5

    simulate(estimated())
