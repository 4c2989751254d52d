"""Requests that alone are refused among others that are answered, and a key, an account or a quota
for which everything is."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from batchwright.domain.batch import Batch, Status
from batchwright.engine.dispatch import REFUSALS_MAX
from batchwright.engine.engine import Engine
from batchwright.engine.lane import PROBE_EVERY_S, LaneLimits
from batchwright.engine.packing import EMBEDDINGS_URL
from batchwright.providers.base import Answer, Call
from simulation import ScriptedNetwork, World, chat_lines, embedding_lines, simulate, texts_of

REFUSED = b'{"error":{"message":"not that one"}}'
HOUR_S = 3_600.0


class PickyNetwork(ScriptedNetwork):
    """Refuses some texts and answers the others; and all of them while `is_shut`."""

    def __init__(self, random: Random, refused: set[str], status: int = 403) -> None:
        super().__init__(random)
        self.refused = refused
        self.status = status
        self.is_shut = False
        self.refusal_s = 0.05
        self.accepted_at: list[float] = []

    async def send(self, call: Call) -> Answer:
        if self.is_shut or not self.refused.isdisjoint(texts_of(call.body)):
            self.ledger += texts_of(call.body)
            await asyncio.sleep(self.refusal_s)
            return Answer(self.status, {}, REFUSED)
        answer = await super().send(call)
        self.accepted_at.append(asyncio.get_running_loop().time())
        return answer

    def longest_gap_s(self) -> float:
        """The longest time without an answer."""
        at = [0.0, *self.accepted_at]
        return max(late - early for early, late in pairwise(at))


def world_of(
    refused: list[int], *, status: int = 403, concurrency: int = 50
) -> tuple[World, PickyNetwork]:
    world = World(1, limits=LaneLimits(max_concurrency=concurrency))
    names = {f"request {number}" for number in refused}
    world.network = network = PickyNetwork(world.random, names, status)
    return world, network


async def ended(world: World, batch: Batch, *, within_s: float) -> tuple[Batch, dict[str, Any]]:
    """The batch at its end, and its error lines by `custom_id`."""
    assert world.engine is not None
    async with asyncio.timeout(within_s):
        await world.engine.wait(batch.id)
    batch = await world.get_batch(batch.id)
    errors = (await world.read_file(batch.error_file_id)).splitlines()
    assert batch.status is Status.COMPLETED
    assert batch.counts.completed + batch.counts.failed == batch.counts.total
    return batch, {line["custom_id"]: line for line in map(json.loads, errors)}


def lane_of(engine: Engine) -> Any:
    (lane,) = engine.router.lanes
    return lane


PLACES = {
    "one": [77],
    "the first": [0],
    "the last": [199],
    "every tenth": list(range(3, 200, 10)),
    "the first tenth": list(range(20)),
    "the last tenth": list(range(180, 200)),
    "the first and the last": [0, 1, 2, 198, 199],
    "a row of them": list(range(80, 100)),
}


@pytest.mark.parametrize(("concurrency", "status"), [(1, 403), (50, 401), (500, 402)])
@pytest.mark.parametrize("refused", PLACES.values(), ids=PLACES)
def test_requests_that_alone_are_refused_end_with_what_the_provider_said(
    refused: list[int], concurrency: int, status: int
) -> None:
    async def history() -> None:
        world, network = world_of(refused, status=status, concurrency=concurrency)
        await world.boot()
        _, errors = await ended(world, await world.create_batch(chat_lines(200)), within_s=900)
        assert sorted(errors) == sorted(f"r-{number}" for number in refused)
        for line in errors.values():
            assert line["response"]["status_code"] == status
            assert line["response"]["body"] == json.loads(REFUSED)
        assert network.longest_gap_s() < 10

    simulate(history())


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_refused_exactly_that_ends_and_the_rest_is_answered(seed: int) -> None:
    async def history() -> None:
        random = Random(seed)
        count = random.choice([30, 200, 1_000])
        refused = random.sample(range(count), count // random.choice([10, 15, 30]))
        world, network = world_of(refused, concurrency=random.choice([1, 3, 50, 2_000]))
        network.latency_s = random.choice([0.1, 1.0, 30.0])
        network.refusal_s = network.latency_s * random.choice([0.01, 1.0, 2.0])
        await world.boot()
        batch = await world.create_batch(chat_lines(count))
        batch, errors = await ended(world, batch, within_s=24 * HOUR_S)
        assert sorted(errors) == sorted(f"r-{number}" for number in refused)

    simulate(history())


@pytest.mark.parametrize(("lines", "status"), [(1, 401), (5, 403), (700, 402)])
def test_with_a_wrong_key_nothing_is_lost_however_long_it_lasts(lines: int, status: int) -> None:
    async def history() -> None:
        world, network = world_of([], status=status)
        network.is_shut = True
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(lines))
        await asyncio.sleep(20)
        assert lane_of(engine).tripped_by == "credential"
        asked = len(network.ledger)
        await asyncio.sleep(12 * HOUR_S)
        assert len(network.ledger) - asked <= 12 * HOUR_S / PROBE_EVERY_S
        network.is_shut = False
        _, errors = await ended(world, batch, within_s=60 + lines)
        assert not errors

    simulate(history())


@pytest.mark.parametrize(
    ("lines", "concurrency", "latency_s"),
    [(9_000, 2_000, 0.2), (9_000, 2_000, 20.0), (1_000, 50, 0.2), (1_000, 50, 20.0), (40, 3, 1.0)],
)
def test_a_key_that_is_revoked_in_the_middle_costs_no_request(
    lines: int, concurrency: int, latency_s: float
) -> None:
    async def history() -> None:
        world, network = world_of([], concurrency=concurrency)
        network.latency_s = latency_s
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(lines))
        while len(network.accepted_at) < lines / 2:
            await asyncio.sleep(0.01)
        network.is_shut = True
        await asyncio.sleep(latency_s + 200)
        assert lane_of(engine).tripped_by == "credential"
        await asyncio.sleep(5 * HOUR_S)
        network.is_shut = False
        _, errors = await ended(world, batch, within_s=HOUR_S)
        assert not errors

    simulate(history())


def test_a_key_that_fails_again_and_again_costs_no_request() -> None:
    async def history() -> None:
        world, network = world_of([], concurrency=1)
        await world.boot()
        batch = await world.create_batch(chat_lines(400))
        for _ in range(8):
            await asyncio.sleep(30)
            network.is_shut = True
            await asyncio.sleep(HOUR_S)
            network.is_shut = False
        _, errors = await ended(world, batch, within_s=HOUR_S)
        assert not errors

    simulate(history())


def test_a_small_batch_of_a_key_that_was_revoked_while_nothing_was_sent_loses_nothing() -> None:
    async def history() -> None:
        world, network = world_of([])
        engine = await world.boot()
        await ended(world, await world.create_batch(chat_lines(200)), within_s=HOUR_S)
        await asyncio.sleep(HOUR_S)
        network.is_shut = True
        batch = await world.create_batch(chat_lines(3))
        await asyncio.sleep(HOUR_S)
        assert lane_of(engine).tripped_by == "credential"
        network.is_shut = False
        _, errors = await ended(world, batch, within_s=HOUR_S)
        assert errors == {}

    simulate(history())


def test_a_lane_whose_credential_was_stopped_goes_on_as_it_was() -> None:
    async def history() -> None:
        world, network = world_of([])
        await world.boot()
        batch = await world.create_batch(chat_lines(2_000))
        await asyncio.sleep(5)
        network.is_shut = True
        await asyncio.sleep(100)
        network.is_shut = False
        before = len(network.accepted_at)
        await asyncio.sleep(PROBE_EVERY_S + 10)
        assert len(network.accepted_at) - before > 200
        await ended(world, batch, within_s=200)

    simulate(history())


def test_live_calls_go_on_beside_a_batch_of_which_some_are_refused() -> None:
    async def history() -> None:
        refused = [*range(10), *range(290, 300)]
        world, _ = world_of(refused)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines(300))
        route = engine.router.find("m")
        body = b'{"model":"m","messages":[{"role":"user","content":"live"}]}'
        for _ in range(150):
            await asyncio.sleep(1)
            call = route.provider.prepare("/v1/chat/completions", body)
            assert (await engine.gateway.call(route, call)).status == 200
        _, errors = await ended(world, batch, within_s=1)
        assert len(errors) == len(refused)

    simulate(history())


# Calls of many


@pytest.mark.parametrize("refused", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("lines", "concurrency"), [(200, 1), (200, 50), (2_000, 4)])
def test_a_refused_request_in_a_packed_call_ends_alone(
    refused: list[int], lines: int, concurrency: int
) -> None:
    async def history() -> None:
        world, network = world_of([], concurrency=concurrency)
        texts = [f"text {number}" for number in range(lines)]
        network.refused = {f"text {number}" for number in refused}
        await world.boot()
        batch = await world.create_batch(embedding_lines(texts), endpoint=EMBEDDINGS_URL)
        _, errors = await ended(world, batch, within_s=900)
        assert errors.keys() == network.refused
        assert network.longest_gap_s() < 20

    simulate(history())


def test_packed_calls_with_a_wrong_key_lose_nothing_and_are_packed_afterwards() -> None:
    async def history() -> None:
        world, network = world_of([], status=401)
        network.is_shut = True
        engine = await world.boot()
        texts = [f"text {number}" for number in range(3_000)]
        batch = await world.create_batch(embedding_lines(texts), endpoint=EMBEDDINGS_URL)
        await asyncio.sleep(HOUR_S)
        assert lane_of(engine).tripped_by == "credential"
        network.is_shut = False
        _, errors = await ended(world, batch, within_s=300)
        assert not errors
        assert len(network.accepted_at) < 300

    simulate(history())


# 429


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("concurrency", [1, 50])
def test_a_quota_that_is_silent_for_long_costs_no_request(
    concurrency: int, is_packed: bool
) -> None:
    async def history() -> None:
        world, network = world_of([], status=429, concurrency=concurrency)
        await world.boot()
        texts = [f"request {number}" for number in range(300)]
        data = embedding_lines(texts) if is_packed else chat_lines(300)
        network.is_shut = is_packed or concurrency == 1  # from the start
        batch = await world.create_batch(
            data, endpoint=EMBEDDINGS_URL if is_packed else "/v1/chat/completions"
        )
        await asyncio.sleep(3)
        network.is_shut = True
        await asyncio.sleep(5 * HOUR_S)
        network.is_shut = False
        await asyncio.sleep(HOUR_S)
        counts = (await world.get_batch(batch.id)).counts
        assert counts.completed > 0
        assert counts.failed == 0

    simulate(history())


def test_a_request_that_is_refused_while_others_are_let_in_ends_at_last() -> None:
    async def history() -> None:
        world, network = world_of([77], status=429)
        await world.boot()
        batch = await world.create_batch(chat_lines(20_000))
        _, errors = await ended(world, batch, within_s=2 * HOUR_S)
        assert list(errors) == ["r-77"]
        assert network.ledger.count("request 77") >= REFUSALS_MAX

    simulate(history())
