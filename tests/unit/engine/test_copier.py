"""Batches in which requests with the same body are sent once, in the simulated world."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from batchwright.domain.batch import Batch, Savings, Status
from batchwright.domain.errors import Conflict
from batchwright.domain.usage import Usage
from batchwright.engine.packing import EMBEDDINGS_URL
from batchwright.providers.base import Answer, Call
from simulation import (
    TENANT,
    ScriptedNetwork,
    World,
    chat_lines_saying,
    embedding_lines,
    simulate,
    texts_of,
)

DEDUPE = {"dedupe": True}


class TalkingNetwork(ScriptedNetwork):
    """Does what a text asks for: `fails` with a status, `slow`, `deadly`."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.killed = asyncio.Event()

    async def send(self, call: Call) -> Answer:
        (text,) = texts_of(call.body)
        if text == "deadly":
            self.ledger.append(text)
            await asyncio.sleep(0.3)
            self.killed.set()
            await asyncio.Future()
        if text == "slow":
            await asyncio.sleep(500)
        answer = await super().send(call)
        if text.startswith("fails"):
            return Answer(int(text.split()[1]), {}, b'{"error":{"message":"no"}}')
        return answer


def talking(seed: int = 1, **given: Any) -> World:
    world = World(seed, **given)
    world.network = TalkingNetwork(world.random)
    return world


async def created(world: World, texts: list[str]) -> str:
    return (await world.create_batch(chat_lines_saying(texts), options=DEDUPE)).id


async def ended(world: World, batch_id: str) -> tuple[Batch, list[Any]]:
    """The batch, and its results in the order of the lines."""
    assert world.engine is not None
    await world.engine.wait(batch_id)
    batch = await world.get_batch(batch_id)
    data = await world.read_file(batch.output_file_id) + await world.read_file(batch.error_file_id)
    results = [json.loads(line) for line in data.splitlines()]
    return batch, sorted(results, key=lambda result: int(result["id"].rpartition("_")[2]))


def copied_from(results: list[Any]) -> list[int | None]:
    """For each result the line that it is a copy of."""
    copied = [result["batchwright"].get("copied_from") for result in results]
    return [None if each is None else each["line"] for each in copied]


def said(results: list[Any]) -> list[str]:
    return [
        result["response"]["body"]["choices"][0]["message"]["content"].removeprefix("echo: ")
        for result in results
    ]


def test_each_body_is_sent_once_and_each_line_has_its_answer_marked_so() -> None:
    async def deduped() -> None:
        world = talking()
        await world.boot()
        texts = ["a", "b", "a", "c", "b", "a"]
        batch, results = await ended(world, await created(world, texts))
        assert sorted(world.network.ledger) == ["a", "b", "c"]
        assert said(results) == texts
        assert [result["custom_id"] for result in results] == [f"r-{n}" for n in range(6)]
        assert copied_from(results) == [None, None, 1, None, 2, 1]
        assert results[2]["batchwright"] == {
            "route": "upstream/m",
            "mode": "realtime",
            "attempts": 0,
            "cost_usd": 0,
            "copied_from": {"line": 1},
        }
        assert len({result["id"] for result in results}) == 6
        assert batch.counts.completed == 6

    simulate(deduped())


def test_only_what_was_bought_is_used_and_the_rest_is_saved() -> None:
    async def deduped() -> None:
        world = talking()
        await world.boot()
        batch, _ = await ended(world, await created(world, ["a", "b", "a", "a"]))
        assert batch.closing.usage == Usage(10, 0, 4, 0)
        assert batch.closing.attempts == 2
        assert batch.closing.savings == Savings(2, Usage(10, 0, 4, 0), 0, unpriced=2)
        assert batch.closing.savings.cost_usd is None

    simulate(deduped())


def test_without_the_option_each_line_is_sent() -> None:
    async def plain() -> None:
        world = talking()
        await world.boot()
        batch_id = (await world.create_batch(chat_lines_saying(["a", "a"]))).id
        batch, results = await ended(world, batch_id)
        assert world.network.ledger == ["a", "a"]
        assert copied_from(results) == [None, None]
        assert batch.closing.savings.requests == 0

    simulate(plain())


def test_where_all_lines_are_the_same_one_call_is_made() -> None:
    async def same() -> None:
        world = talking()
        await world.boot()
        batch, results = await ended(world, await created(world, ["a"] * 5_000))
        assert world.network.ledger == ["a"]
        assert copied_from(results) == [None, *[1] * 4_999]
        assert batch.closing.savings.requests == 4_999

    simulate(same())


@pytest.mark.parametrize("status", [400, 500])
def test_followers_fail_as_their_leader_did_whatever_it_failed_of(status: int) -> None:
    async def failing() -> None:
        world = talking()
        await world.boot()
        texts = [f"fails {status}", "a", f"fails {status}", f"fails {status}"]
        batch, results = await ended(world, await created(world, texts))
        calls = Counter(world.network.ledger)
        assert calls[f"fails {status}"] == (1 if status == 400 else world.settings.max_attempts)
        assert batch.closing.codes == {str(status): 3}
        assert copied_from(results) == [None, None, 1, 1]
        assert results[2]["response"] == results[0]["response"]
        assert batch.closing.savings.requests == 2

    simulate(failing())


def test_a_leader_that_settles_last_keeps_only_its_own_followers_waiting() -> None:
    async def waiting() -> None:
        world = talking()
        engine = await world.boot()
        texts = ["slow", *["a", "slow"] * 50]
        batch_id = await created(world, texts)
        await asyncio.sleep(100)
        early = await engine.results(TENANT, batch_id, cursor=None, limit=1000)
        assert len(early.lines) == 50
        _, results = await ended(world, batch_id)
        assert said(results) == texts
        assert world.network.ledger == ["a", "slow"]

    simulate(waiting())


@pytest.mark.parametrize("seed", range(12))
def test_crashes_copy_nothing_twice_and_buy_nothing_again_that_is_not_listed(seed: int) -> None:
    async def killed() -> None:
        world, random = World(seed, fault_rate=0.2), Random(seed)
        await world.boot()
        texts = [f"text {random.randrange(150)}" for _ in range(3_000)]
        batch_id = await created(world, texts)
        for _ in range(4):
            await asyncio.sleep(random.uniform(0.01, 3))
            await world.crash()
            await world.boot()
        batch, results = await ended(world, batch_id)
        assert len(results) == 3_000
        first = {text: number for number, text in reversed(list(enumerate(texts, 1)))}
        leaders = [first[text] for text in texts]
        wanted = [None if n == leader else leader for n, leader in enumerate(leaders, 1)]
        assert copied_from(results) == wanted
        for leader, result in zip(leaders, results, strict=True):
            assert result["response"] == results[leader - 1]["response"]
            assert result["error"] == results[leader - 1]["error"]
        assert batch.closing.savings.requests == 3_000 - len(first)
        assert set(batch.closing.possibly_paid_twice_lines) <= set(first.values())

    simulate(killed())


def test_a_batch_killed_while_it_copies_sends_nothing_more() -> None:
    async def killed() -> None:
        world = talking()
        await world.boot()
        batch_id = await created(world, ["a"] * 20_000)
        for _ in range(5):
            await asyncio.sleep(1.53)
            await world.crash(power_cut=True)
            await world.boot()
        batch, _ = await ended(world, batch_id)
        assert batch.counts.completed == 20_000
        assert len(world.network.ledger) <= 2

    simulate(killed())


def test_a_stop_leaves_the_copies_to_the_next_start() -> None:
    async def stopped() -> None:
        world = talking()
        engine = await world.boot()
        batch_id = await created(world, ["a"] * 20_000)
        while (await world.get_batch(batch_id)).counts.completed < 2:
            await asyncio.sleep(0.001)
        await engine.stop()
        await world.boot()
        assert 1 < (await world.get_batch(batch_id)).counts.completed < 20_000
        batch, results = await ended(world, batch_id)
        assert len(results) == batch.counts.completed == 20_000
        assert world.network.ledger == ["a"]

    simulate(stopped())


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_cancel_gives_a_follower_the_answer_that_its_leader_has(is_killed: bool) -> None:
    async def cancelled() -> None:
        world = talking()
        engine = await world.boot()
        batch_id = await created(world, ["a", "slow", *["a", "slow"] * 3_000])
        while not world.network.ledger:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.6)
        await engine.cancel_batch(TENANT, batch_id)
        if is_killed:
            await asyncio.sleep(30.01)
            await world.crash()
            await world.boot()
        batch, results = await ended(world, batch_id)
        assert batch.status is Status.CANCELLED
        assert said(results[::2]) == ["a"] * 3_001
        assert copied_from(results[2::2]) == [1] * 3_000
        assert {result["error"]["code"] for result in results[1::2]} == {"batch_cancelled"}
        assert copied_from(results[1::2]) == [None] * 3_001
        assert batch.closing.codes == {"batch_cancelled": 3_001}

    simulate(cancelled())


def test_an_expired_batch_has_the_copies_of_what_was_answered() -> None:
    async def expired() -> None:
        world = talking()
        await world.boot()
        data = chat_lines_saying(["a", "slow", "a", "slow"])
        batch_id = (await world.create_batch(data, "1m", options=DEDUPE)).id
        batch, results = await ended(world, batch_id)
        assert batch.status is Status.EXPIRED
        assert said(results[::2]) == ["a", "a"]
        assert {result["error"]["code"] for result in results[1::2]} == {"batch_expired"}

    simulate(expired())


def test_a_body_that_kills_the_process_is_lost_with_its_followers() -> None:
    async def deadly() -> None:
        world = talking()
        await world.boot()
        batch_id = await created(world, ["deadly", *["a", "deadly"] * 10])
        network = world.network
        assert isinstance(network, TalkingNetwork)
        deaths = 0
        while not (await world.get_batch(batch_id)).is_terminal:
            assert world.engine is not None
            ending = asyncio.ensure_future(world.engine.wait(batch_id))
            killed = asyncio.ensure_future(network.killed.wait())
            await asyncio.wait((ending, killed), return_when=asyncio.FIRST_COMPLETED)
            if network.killed.is_set():
                deaths += 1
                await world.crash()
                network.killed.clear()
                await world.boot()
        batch, _ = await ended(world, batch_id)
        assert batch.closing.codes == {"worker_lost": 11}
        assert batch.counts.completed == 10
        assert deaths <= 4

    simulate(deadly())


def test_a_paused_batch_copies_what_it_has_and_sends_nothing() -> None:
    async def paused() -> None:
        world = talking()
        engine = await world.boot()
        batch_id = await created(world, ["a"] * 100)
        while not world.network.ledger:
            await asyncio.sleep(0.01)
        await engine.pause_batch(TENANT, batch_id)
        batch, _ = await ended(world, batch_id)
        assert batch.counts.completed == 100
        with pytest.raises(Conflict):
            await engine.resume_batch(TENANT, batch_id)

    simulate(paused())


def test_packed_requests_are_deduped_before_they_share_a_call() -> None:
    async def packed() -> None:
        world = World(4)
        await world.boot()
        lines = embedding_lines([f"text {n}" for n in range(100)]).splitlines(True)
        again = [line.replace(b'"custom_id": "', b'"custom_id": "again ') for line in lines]
        batch = await world.create_batch(
            b"".join(lines + again), endpoint=EMBEDDINGS_URL, options=DEDUPE
        )
        batch, results = await ended(world, batch.id)
        assert sorted(world.network.ledger) == sorted(f"text {n}" for n in range(100))
        assert copied_from(results[100:]) == list(range(1, 101))
        assert [each["response"] for each in results[100:]] == [
            each["response"] for each in results[:100]
        ]
        assert batch.closing.usage.input_tokens == 500

    simulate(packed())
