"""Batches of embedding requests whose calls are shared, in the simulated world."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from batchwright.domain.batch import Batch, Status
from batchwright.domain.errors import Ambiguous
from batchwright.engine.lane import LaneLimits
from batchwright.engine.packing import EMBEDDINGS_URL
from batchwright.engine.recorder import Recorder
from batchwright.engine.settings import EngineSettings
from batchwright.providers.base import Answer, Call
from simulation import ScriptedNetwork, World, embedding_lines, simulate, texts_of

TEXTS = [f"text {number}" for number in range(400)]


class CountingNetwork(ScriptedNetwork):
    """Keeps what was asked call by call; `answer` replaces the answers of all calls."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.calls: list[list[str]] = []

    async def send(self, call: Call) -> Answer:
        self.calls.append(texts_of(call.body))
        return self.altered(self.calls[-1], await super().send(call))

    def altered(self, texts: list[str], answer: Answer) -> Answer:
        return answer


class StubbornNetwork(CountingNetwork):
    """Answers every call of more than one request with `status`."""

    status = 503

    def altered(self, texts: list[str], answer: Answer) -> Answer:
        return Answer(self.status, {}, b"{}") if len(texts) > 1 else answer


class LosingNetwork(CountingNetwork):
    """Loses the first answer on its way."""

    def altered(self, texts: list[str], answer: Answer) -> Answer:
        if len(self.calls) == 1:
            raise Ambiguous("connection reset")
        return answer


class TwistingNetwork(CountingNetwork):
    """Changes the `data` of every answer to more than two texts."""

    def twist(self, data: list[Any]) -> list[Any]:
        raise NotImplementedError

    def altered(self, texts: list[str], answer: Answer) -> Answer:
        if len(texts) < 3:
            return answer
        whole = json.loads(answer.body)
        whole["data"] = self.twist(whole["data"])
        return Answer(200, {}, json.dumps(whole).encode())


def world_of(
    network: type[CountingNetwork] = CountingNetwork, concurrency: int = 4, **settings: Any
) -> tuple[World, CountingNetwork]:
    world = World(
        1,
        limits=LaneLimits(max_concurrency=concurrency),
        settings=EngineSettings(reserve_bytes=0, **settings),
    )
    world.network = made = network(world.random)
    return world, made


async def started(world: World, texts: list[str]) -> Batch:
    await world.boot()
    return await world.create_batch(embedding_lines(texts), endpoint=EMBEDDINGS_URL)


async def ended(world: World, batch_id: str) -> tuple[Batch, dict[str, Any], dict[str, Any]]:
    """The batch at its end, and its output and error lines by `custom_id`; each once."""
    assert world.engine is not None
    await world.engine.wait(batch_id)
    batch = await world.get_batch(batch_id)
    output = await lines_of(world, batch.output_file_id)
    errors = await lines_of(world, batch.error_file_id)
    assert not output.keys() & errors.keys()
    (lane,) = world.engine.router.lanes
    assert (lane.in_flight, lane._slots_taken) == (0, 0)
    return batch, output, errors


async def lines_of(world: World, file_id: str | None) -> dict[str, Any]:
    lines = [json.loads(line) for line in (await world.read_file(file_id)).splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len(lines)
    return by_id


def vector(line: Any) -> str:
    (only,) = line["response"]["body"]["data"]
    assert only["index"] == 0
    return str(only["embedding"])


def are_right(output: dict[str, Any]) -> bool:
    return all(vector(line) == f"echo: {name}" for name, line in output.items())


def test_requests_share_calls_and_each_gets_its_own_embedding_and_share_of_the_usage() -> None:
    async def whole() -> None:
        world, network = world_of()
        batch, output, errors = await ended(world, (await started(world, TEXTS)).id)
        assert (batch.status, len(errors)) == (Status.COMPLETED, 0)
        assert sorted(output) == sorted(TEXTS)
        assert are_right(output)
        assert sorted(text for call in network.calls for text in call) == sorted(TEXTS)
        assert len(network.calls) < len(TEXTS) / 10
        assert batch.closing.usage.input_tokens == 5 * len(TEXTS)

    simulate(whole())


def test_the_setting_turns_it_off() -> None:
    async def whole() -> None:
        world, network = world_of(pack_embeddings=False)
        _, output, _ = await ended(world, (await started(world, TEXTS)).id)
        assert are_right(output)
        assert [len(call) for call in network.calls] == [1] * len(TEXTS)

    simulate(whole())


def test_an_input_that_the_provider_refuses_ends_alone_and_its_neighbours_succeed() -> None:
    async def whole() -> None:
        world, network = world_of()
        texts = [*TEXTS]
        texts[7] = "refused 7"
        texts[300] = "refused 300"
        batch, output, errors = await ended(world, (await started(world, texts)).id)
        assert sorted(errors) == ["refused 300", "refused 7"]
        assert {line["response"]["status_code"] for line in errors.values()} == {400}
        assert (batch.counts.completed, batch.counts.failed) == (398, 2)
        assert are_right(output)
        assert batch.closing.possibly_paid_twice == 0
        assert len(network.calls) < 80

    simulate(whole())


@pytest.mark.parametrize(
    "twist",
    [
        lambda data: data[1:],
        lambda data: [*data, data[0]],
        lambda data: [data[0], *data[:-1]],
        lambda data: [{**data[0], "index": 10**6}, *data[1:]],
        lambda data: "none",
    ],
    ids=["fewer", "more", "repeated", "misnumbered", "no list"],
)
def test_an_answer_that_cannot_be_told_apart_is_split_and_gives_nobody_anothers(
    twist: Any,
) -> None:
    async def whole() -> None:
        kind = type("Twisting", (TwistingNetwork,), {"twist": staticmethod(twist)})
        world, _ = world_of(kind)
        batch, output, errors = await ended(world, (await started(world, TEXTS[:48])).id)
        assert (len(output), len(errors)) == (48, 0)
        assert are_right(output)
        # What was answered wrongly has been paid for.
        assert set(batch.closing.possibly_paid_twice_lines) == set(range(1, 49))

    simulate(whole())


def test_a_pack_that_used_up_its_attempts_is_split_and_each_half_gets_one_more() -> None:
    async def whole() -> None:
        world, network = world_of(StubbornNetwork, max_attempts=2)
        _, output, errors = await ended(world, (await started(world, TEXTS[:8])).id)
        assert (len(output), len(errors)) == (8, 0)
        assert [len(call) for call in network.calls if len(call) == 8] == [8, 8]
        assert [len(call) for call in network.calls if len(call) == 4] == [4, 4]
        assert {line["batchwright"]["attempts"] for line in output.values()} == {5}

    simulate(whole())


def test_what_is_said_of_the_call_and_not_of_an_input_ends_all_of_it() -> None:
    async def whole() -> None:
        kind = type("NotFound", (StubbornNetwork,), {"status": 404})
        world, network = world_of(kind)
        _, output, errors = await ended(world, (await started(world, TEXTS[:8])).id)
        assert (len(output), len(errors), len(network.calls)) == (0, 8, 1)

    simulate(whole())


def test_a_provider_that_refuses_for_ever_takes_no_pack_for_ever() -> None:
    async def whole() -> None:
        kind = type("Refusing", (StubbornNetwork,), {"status": 429})
        world, network = world_of(kind)
        _, output, errors = await ended(world, (await started(world, TEXTS[:4])).id)
        assert (len(output), len(errors)) == (4, 0)
        assert len([call for call in network.calls if len(call) == 4]) == 100

    simulate(whole())


def test_a_lost_answer_is_listed_for_every_request_of_its_call() -> None:
    async def whole() -> None:
        world, network = world_of(LosingNetwork)
        batch, output, _ = await ended(world, (await started(world, TEXTS[:10])).id)
        assert [sorted(call) for call in network.calls] == [TEXTS[:10]] * 2
        assert set(batch.closing.possibly_paid_twice_lines) == set(range(1, 11))
        assert are_right(output)

    simulate(whole())


@pytest.mark.parametrize("is_power_cut", [False, True])
def test_a_crash_in_flight_loses_and_doubles_nothing_and_lists_each_line(
    is_power_cut: bool,
) -> None:
    async def whole() -> None:
        world, network = world_of()
        batch = await started(world, TEXTS)
        await asyncio.sleep(1.6)
        await world.crash(power_cut=is_power_cut)
        await world.boot()
        ended_batch, output, errors = await ended(world, batch.id)
        assert (sorted(output), len(errors)) == (sorted(TEXTS), 0)
        assert are_right(output)
        sent = Counter(text for call in network.calls for text in call)
        repeated = {TEXTS.index(text) + 1 for text, times in sent.items() if times > 1}
        assert repeated
        if not is_power_cut:
            assert repeated <= set(ended_batch.closing.possibly_paid_twice_lines)

    simulate(whole())


def test_after_two_crashes_the_requests_of_a_pack_go_alone_and_none_is_blamed() -> None:
    async def whole() -> None:
        world, network = world_of()
        batch = await started(world, TEXTS[:10])
        for _ in range(2):
            await asyncio.sleep(0.2)
            await world.crash()
            await world.boot()
        before = len(network.calls)
        _, output, errors = await ended(world, batch.id)
        assert (len(output), len(errors)) == (10, 0)
        assert {len(call) for call in network.calls[before:]} == {1}

    simulate(whole())


def test_a_cancel_keeps_what_came_back_and_writes_a_line_for_each_of_the_rest() -> None:
    async def whole() -> None:
        world, _ = world_of(concurrency=1)
        batch = await started(world, TEXTS)
        await asyncio.sleep(2)
        assert world.engine is not None
        await world.engine.cancel_batch("default", batch.id)
        batch, output, errors = await ended(world, batch.id)
        assert batch.status is Status.CANCELLED
        assert 0 < len(output) < len(TEXTS)
        assert sorted([*output, *errors]) == sorted(TEXTS)

    simulate(whole())


def test_a_call_given_up_at_a_stop_is_listed_for_all_of_its_requests() -> None:
    async def whole() -> None:
        world, network = world_of(grace_s=0.1)
        network.latency_s = 100.0
        batch = await started(world, TEXTS[:10])
        await asyncio.sleep(1)
        assert world.engine is not None
        await world.engine.cancel_batch("default", batch.id)
        await world.engine.wait(batch.id)
        batch = await world.get_batch(batch.id)
        assert set(batch.closing.possibly_paid_twice_lines) == set(range(1, 11))
        errors = await lines_of(world, batch.error_file_id)
        assert sorted(errors) == sorted(TEXTS[:10])

    simulate(whole())


def test_bodies_that_cannot_share_a_call_go_alone_beside_those_that_can() -> None:
    async def whole() -> None:
        world, network = world_of()
        await world.boot()
        lines = embedding_lines(TEXTS[:20]).splitlines()
        for at in (3, 9):
            line = json.loads(lines[at])
            line["body"]["user"] = f"user {at}"
            lines[at] = json.dumps(line).encode()
        batch = await world.create_batch(b"\n".join(lines), endpoint=EMBEDDINGS_URL)
        _, output, _ = await ended(world, batch.id)
        assert are_right(output)
        assert [TEXTS[3]] in network.calls
        assert [TEXTS[9]] in network.calls

    simulate(whole())


def test_an_error_of_ours_in_a_call_costs_the_request_that_meets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepare(self: Any, url: str, body: bytes) -> Call:
        if "text 5" in texts_of(body):
            raise ZeroDivisionError
        return Call("POST", "http://upstream" + url, {}, body, 600.0, 1 << 24)

    monkeypatch.setattr("simulation.ScriptedProvider.prepare", prepare)

    async def whole() -> None:
        world, _ = world_of()
        _, output, errors = await ended(world, (await started(world, TEXTS[:16])).id)
        assert list(errors) == ["text 5"]
        assert len(output) == 15
        assert are_right(output)

    simulate(whole())


def test_an_error_of_ours_in_a_line_costs_that_line_and_sends_nobody_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    success = Recorder.success

    def failing(self: Recorder, pending: Any, *rest: Any) -> None:
        if pending.request.custom_id in ("text 0", "text 5", "text 15"):
            raise ZeroDivisionError
        success(self, pending, *rest)

    monkeypatch.setattr(Recorder, "success", failing)

    async def whole() -> None:
        world, network = world_of()
        _, output, errors = await ended(world, (await started(world, TEXTS[:16])).id)
        assert sorted(errors) == ["text 0", "text 15", "text 5"]
        assert len(output) == 13
        assert len(network.calls) == 1

    simulate(whole())


def test_what_is_held_in_memory_is_given_back() -> None:
    async def whole() -> None:
        world, _ = world_of()
        texts = [*TEXTS, "refused"]
        batch = await started(world, texts)
        assert world.engine is not None
        supervisor = world.engine.supervisor(batch.id)
        assert supervisor is not None
        while supervisor.current is None:
            await asyncio.sleep(0.01)
        run = supervisor.current
        await ended(world, batch.id)
        assert run._budget.held_bytes == 0
        assert not run._slots._joined

    simulate(whole())
