"""Answers of earlier batches of a tenant, in the simulated world."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest

from batchwright.domain.batch import Batch, Status
from batchwright.domain.errors import NotSent, StorageError
from batchwright.engine import answer_cache, bodies
from batchwright.engine.bodies import Bodies
from batchwright.engine.engine import Engine
from batchwright.engine.lane import Lane
from batchwright.engine.routing import Account
from batchwright.providers.base import Answer, Call
from simulation import (
    EPOCH_AT,
    TENANT,
    ScriptedNetwork,
    ScriptedProvider,
    World,
    chat_lines_saying,
    simulate,
    texts_of,
)

DAY = {"cache": {"max_age_s": 86_400}}


class RefusingNetwork(ScriptedNetwork):
    """Refuses what is called bad."""

    async def send(self, call: Call) -> Answer:
        answer = await super().send(call)
        return Answer(400, {}, b"{}") if texts_of(call.body) == ["bad"] else answer


class FailedResponseNetwork(ScriptedNetwork):
    """Answers the first call with a response object that says of itself that it failed."""

    async def send(self, call: Call) -> Answer:
        await super().send(call)
        status, error = ("completed", None) if len(self.ledger) > 1 else ("failed", {"code": "x"})
        answer = {"object": "response", "status": status, "error": error, "output": []}
        return Answer(200, {}, json.dumps(answer).encode())


async def done(
    world: World, texts: list[str], options: Mapping[str, Any] | None = DAY, tenant: str = TENANT
) -> tuple[Batch, list[Any]]:
    """A batch of these texts when it has ended, and its results in the order of the lines."""
    assert world.engine is not None
    file_id = await world.upload(chat_lines_saying(texts), tenant)
    batch = await world.engine.create_batch(
        tenant,
        endpoint="/v1/chat/completions",
        input_file_id=file_id,
        completion_window="24h",
        options=options,
    )
    await world.engine.wait(batch.id)
    batch = await world.engine.get_batch(tenant, batch.id)
    return batch, await results_of(world, batch)


async def results_of(world: World, batch: Batch) -> list[Any]:
    data = [
        await world.read_file(file_id, batch.tenant)
        for file_id in (batch.output_file_id, batch.error_file_id)
    ]
    results = [json.loads(line) for line in b"".join(data).splitlines()]
    return sorted(results, key=lambda result: int(result["id"].rpartition("_")[2]))


def cached_from(results: list[Any]) -> list[tuple[str, int] | None]:
    found = [result["batchwright"].get("cached_from") for result in results]
    return [None if each is None else (each["batch"], each["line"]) for each in found]


def said(results: list[Any]) -> list[str]:
    return [
        result["response"]["body"]["choices"][0]["message"]["content"].removeprefix("echo: ")
        for result in results
    ]


def test_what_an_earlier_batch_has_answered_is_not_sent_and_says_where_it_is_from() -> None:
    async def cached() -> None:
        world = World(1)
        await world.boot()
        first, _ = await done(world, ["a", "b", "c"])
        await asyncio.sleep(3_600)
        second, results = await done(world, ["d", "c", "a"])
        assert sorted(world.network.ledger) == ["a", "b", "c", "d"]
        assert said(results) == ["d", "c", "a"]
        assert [each["custom_id"] for each in results] == ["r-0", "r-1", "r-2"]
        assert cached_from(results) == [None, (first.id, 3), (first.id, 1)]
        ours = results[1]["batchwright"]
        assert (ours["attempts"], ours["cost_usd"], ours["route"]) == (0, 0, "upstream/m")
        assert EPOCH_AT <= ours["cached_from"]["at"] <= EPOCH_AT + 60
        assert second.closing.usage.input_tokens == 5
        assert second.closing.savings.requests == 2
        assert second.closing.savings.usage.input_tokens == 10

    simulate(cached())


@pytest.mark.parametrize("options", [(None, DAY), (DAY, None)])
def test_both_batches_must_have_opted_in(options: tuple[Any, Any]) -> None:
    async def one_only() -> None:
        world = World(1)
        await world.boot()
        await done(world, ["a"], options[0])
        _, results = await done(world, ["a"], options[1])
        assert world.network.ledger == ["a", "a"]
        assert cached_from(results) == [None]

    simulate(one_only())


def test_an_answer_of_another_tenant_is_never_given() -> None:
    async def two_tenants() -> None:
        world = World(1)
        await world.boot()
        await done(world, ["a"], tenant="one")
        _, results = await done(world, ["a"], tenant="two")
        assert world.network.ledger == ["a", "a"]
        assert cached_from(results) == [None]

    simulate(two_tenants())


def test_an_answer_is_as_old_as_when_it_was_bought_however_often_it_was_copied() -> None:
    async def aging() -> None:
        world = World(1)
        await world.boot()
        first, _ = await done(world, ["a"])
        await asyncio.sleep(50_000)
        _, copied = await done(world, ["a"])
        await asyncio.sleep(50_000)
        third, bought = await done(world, ["a"])
        _, again = await done(world, ["a"])
        assert cached_from(copied) == [(first.id, 1)]
        assert cached_from(bought) == [None]
        assert cached_from(again) == [(third.id, 1)]
        assert world.network.ledger == ["a", "a"]

    simulate(aging())


def test_a_copy_hands_its_answer_on_with_the_time_at_which_it_was_bought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nightly() -> None:
        world = World(1)
        await world.boot()
        nights = [await done(world, ["a", "b"])]
        for _ in range(3):
            await asyncio.sleep(10_000)
            nights.append(await done(world, ["a", "b"]))
        assert world.network.ledger == ["a", "b"]
        assert [cached_from(results)[0] for _, results in nights] == [
            None,
            *((batch.id, 1) for batch, _ in nights[:-1]),
        ]
        times = [results[0]["batchwright"]["cached_from"]["at"] for _, results in nights[1:]]
        assert len(dict.fromkeys(times)) == 1
        assert EPOCH_AT <= times[0] <= EPOCH_AT + 60

    monkeypatch.setattr(answer_cache, "LOOK_BACK_REQUESTS", 2)
    simulate(nightly())


def test_the_youngest_answer_is_taken() -> None:
    async def twice() -> None:
        world = World(1)
        await world.boot()
        await done(world, ["a"])
        await asyncio.sleep(1_000)
        recent = {"cache": {"max_age_s": 100}}
        second, _ = await done(world, ["a"], recent)
        _, results = await done(world, ["a"])
        assert cached_from(results) == [(second.id, 1)]

    simulate(twice())


@pytest.mark.parametrize("gone", ["output_file_id", "input_file_id"])
def test_an_entry_ends_with_the_files_of_its_batch(gone: str) -> None:
    async def deleted() -> None:
        world = World(1)
        await world.boot()
        first, _ = await done(world, ["a"])
        await world.store.delete_file(TENANT, getattr(first, gone))
        _, results = await done(world, ["a"])
        assert world.network.ledger == ["a", "a"]
        assert cached_from(results) == [None]

    simulate(deleted())


def test_only_answers_of_success_are_kept() -> None:
    async def failing() -> None:
        world = World(1)
        world.network = RefusingNetwork(world.random)
        await world.boot()
        await done(world, ["bad", "a"])
        batch, results = await done(world, ["bad", "a"])
        assert world.network.ledger.count("bad") == 2
        assert [each is not None for each in cached_from(results)] == [False, True]
        assert batch.closing.codes == {"400": 1}

    simulate(failing())


def test_a_response_that_says_of_itself_that_it_failed_is_no_source() -> None:
    async def asked(world: World) -> Any:
        request = {
            "custom_id": "r",
            "method": "POST",
            "url": "/v1/responses",
            "body": {"model": "m", "input": "a"},
        }
        data = json.dumps(request).encode()
        batch = await world.create_batch(data, endpoint="/v1/responses", options=DAY)
        assert world.engine is not None
        await world.engine.wait(batch.id)
        (result,) = await results_of(world, await world.get_batch(batch.id))
        return result["response"]["body"]["status"], cached_from([result]) != [None]

    async def failing() -> None:
        world = World(1)
        world.network = FailedResponseNetwork(world.random)
        await world.boot()
        assert [await asked(world) for _ in range(3)] == [
            ("failed", False),
            ("completed", False),
            ("completed", True),
        ]

    simulate(failing())


def test_an_answer_that_came_another_way_than_it_would_now_is_not_taken() -> None:
    async def rerouted() -> None:
        world = World(1)
        engine = await world.boot()
        await done(world, ["a"])
        await engine.stop()
        world.provider_name = "another"
        await world.boot()
        _, results = await done(world, ["a"])
        assert world.network.ledger == ["a", "a"]
        assert cached_from(results) == [None]

    simulate(rerouted())


def test_an_answer_that_came_from_another_place_under_the_same_name_is_not_taken() -> None:
    async def moved() -> None:
        world = World(1)
        world.upstream = "http://first.invalid/v1"
        await world.boot()
        await done(world, ["a"])
        for upstream in ("http://second.invalid/v1", "http://second.invalid/v1"):
            assert world.engine is not None
            await world.engine.stop()
            world.upstream = upstream
            await world.boot()
            _, results = await done(world, ["a"])
        assert world.network.ledger == ["a", "a"]
        assert cached_from(results) != [None]  # a restart alone changes nothing

    simulate(moved())


def loading_until(at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the provider say only then what it serves, in seconds of the virtual clock."""

    async def list_models(_: ScriptedProvider) -> list[str]:
        if asyncio.get_running_loop().time() < at:
            raise NotSent("connection refused")
        return ["m"]

    monkeypatch.setattr(ScriptedProvider, "list_models", list_models)


def test_answers_of_a_provider_that_still_loads_its_models_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def loading() -> None:
        world = World(1)
        engine = await world.boot()
        first, _ = await done(world, ["a"])
        await engine.stop()
        world.models = ()
        loading_until(engine.runtime.monotonic() + 300, monkeypatch)
        await world.boot()
        _, results = await done(world, ["a", "b"])
        assert world.network.ledger == ["a", "b"]
        assert cached_from(results) == [(first.id, 1), None]

    simulate(loading())


def test_a_stop_ends_the_wait_for_a_provider_that_still_loads_its_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stopped() -> None:
        world = World(1)
        engine = await world.boot()
        await done(world, ["a"])
        await engine.stop()
        world.models = ()
        loading_until(1e9, monkeypatch)
        engine = await world.boot()
        batch = await world.create_batch(chat_lines_saying(["a"]), options=DAY)
        await asyncio.sleep(60)
        await engine.stop()
        world.models = ("m",)
        engine = await world.boot()
        await engine.wait(batch.id)
        assert (await world.get_batch(batch.id)).counts.completed == 1
        assert world.network.ledger == ["a"]

    simulate(stopped())


def serve_also(engine: Engine, world: World, model: str) -> None:
    """A second provider, which is known to serve `model`."""
    provider = ScriptedProvider(world.network)
    provider.name = "another"
    lane = Lane("another", limits=world.limits, runtime=world.runtime)
    engine.router._accounts["another"] = Account(provider, lane, models=(model,))
    engine.router.learn("another", [model])


def lines_for(*models: str) -> bytes:
    """A line for each model, which says its name."""
    lines = [json.loads(chat_lines_saying([model], model)) for model in models]
    named = [{**line, "custom_id": f"r-{number}"} for number, line in enumerate(lines)]
    return b"".join(json.dumps(line).encode() + b"\n" for line in named)


@pytest.mark.parametrize(("loads_s", "bought"), [(200, 1), (2_000, 2)])
def test_requests_for_other_models_wait_a_bounded_time_for_a_provider_that_still_loads(
    loads_s: float, bought: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def loading() -> None:
        world = World(1)
        engine = await world.boot()
        await done(world, ["m"])
        await engine.stop()
        world.models = ()
        started_at = world.runtime.monotonic()
        loading_until(started_at + loads_s, monkeypatch)
        engine = await world.boot()
        serve_also(engine, world, "n")
        batch = await world.create_batch(lines_for("m", "n"), options=DAY)
        while "n" not in world.network.ledger:
            await asyncio.sleep(1)
        waited_s = world.runtime.monotonic() - started_at
        await engine.wait(batch.id)
        results = await results_of(world, await world.get_batch(batch.id))
        assert waited_s < answer_cache.UNHEARD_WAIT_S + 30
        assert said(results) == ["m", "n"]
        assert world.network.ledger.count("m") == bought  # again, where it came too late

    simulate(loading())


def test_a_damaged_answer_is_bought_again() -> None:
    async def damaged() -> None:
        world = World(1)
        await world.boot()
        first, _ = await done(world, ["a", "b"])
        (extent,) = await world.store.get_extents(TENANT, first.output_file_id or "")
        world.blobs._files[extent.key].data[-40] ^= 1
        _, results = await done(world, ["a", "b"])
        assert said(results) == ["a", "b"]
        assert world.network.ledger.count("a") + world.network.ledger.count("b") > 2

    simulate(damaged())


@pytest.mark.parametrize(
    ("method", "which"),
    [("read", "input"), ("read", "account"), ("read_ranges", "account"), ("read_ranges", "output")],
)
def test_what_cannot_be_read_of_an_earlier_batch_is_bought_again(
    method: str, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreadable() -> None:
        world = World(1)
        engine = await world.boot()
        first, _ = await done(world, ["a"])
        (asked,) = await world.store.get_extents(TENANT, first.input_file_id)
        key = asked.key if which == "input" else f"batches/{first.id}/1/{which}"
        read = getattr(world.blobs, method)

        def refuse(name: str, *args: Any) -> Any:
            if name == key:
                raise StorageError(f"{name}: Input/output error")
            return read(name, *args)

        monkeypatch.setattr(world.blobs, method, refuse)
        batch, results = await done(world, ["a"])
        assert (batch.status, said(results)) == (Status.COMPLETED, ["a"])
        assert world.network.ledger == ["a", "a"]
        assert engine.failure is None

    simulate(unreadable())


def test_with_dedupe_a_line_is_a_copy_of_an_earlier_batch_or_of_its_leader() -> None:
    async def both() -> None:
        world = World(1)
        await world.boot()
        options = {**DAY, "dedupe": True}
        first, _ = await done(world, ["a", "a"], options)
        _, results = await done(world, ["b", "a", "b", "a"], options)
        assert world.network.ledger == ["a", "b"]
        assert said(results) == ["b", "a", "b", "a"]
        assert cached_from(results) == [None, (first.id, 1), None, (first.id, 1)]
        assert results[2]["batchwright"]["copied_from"] == {"line": 1}

    simulate(both())


def test_with_dedupe_the_input_is_hashed_once_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []

    class Counted(Bodies):
        def add(self, body: bytes, line: int) -> None:
            hashed.append(line)
            super().add(body, line)

    monkeypatch.setattr(bodies, "Bodies", Counted)

    async def both() -> None:
        world = World(1)
        await world.boot()
        await done(world, ["a", "b"], DAY)
        assert hashed == []
        _, results = await done(world, ["a", "c", "c"], {**DAY, "dedupe": True})
        assert sorted(world.network.ledger) == ["a", "b", "c"]
        assert said(results) == ["a", "c", "c"]
        assert hashed == [1, 2, 3, 1, 2]  # its own, then those of the earlier batch

    simulate(both())


def test_no_more_is_looked_at_than_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def many() -> None:
        world = World(1)
        await world.boot()
        for text in ("a", "b", "c"):
            await done(world, [text])
        _, results = await done(world, ["a", "b", "c"])
        assert [each is not None for each in cached_from(results)] == [False, True, True]

    monkeypatch.setattr(answer_cache, "LOOK_BACK_REQUESTS", 2)
    simulate(many())


def test_batches_without_the_option_take_no_room_in_the_look_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ordinary() -> None:
        world = World(1)
        await world.boot()
        first, _ = await done(world, ["a"])
        for _ in range(3):
            await done(world, ["b"], None)
        _, results = await done(world, ["a"])
        assert cached_from(results) == [(first.id, 1)]

    monkeypatch.setattr(answer_cache, "LOOK_BACK_BATCHES", 2)
    simulate(ordinary())


def test_a_batch_that_is_answered_whole_sends_nothing() -> None:
    async def whole() -> None:
        world = World(1)
        await world.boot()
        texts = [f"text {number}" for number in range(5_000)]
        await done(world, texts)
        batch, results = await done(world, texts[::-1])
        assert batch.status is Status.COMPLETED
        assert said(results) == texts[::-1]
        assert len(world.network.ledger) == 5_000
        assert batch.closing.attempts == 0

    simulate(whole())


@pytest.mark.parametrize("seed", range(8))
def test_crashes_while_answers_are_copied_lose_and_double_nothing(seed: int) -> None:
    async def killed() -> None:
        world, random = World(seed, fault_rate=0.1), Random(seed)
        engine = await world.boot()
        known = [f"text {number}" for number in range(3_000)]
        await done(world, known)
        texts = [*random.sample(known, 2_000), *(f"new {number}" for number in range(500))]
        random.shuffle(texts)
        engine = world.engine or engine
        file_id = await world.upload(chat_lines_saying(texts))
        batch = await engine.create_batch(
            TENANT,
            endpoint="/v1/chat/completions",
            input_file_id=file_id,
            completion_window="24h",
            options=DAY,
        )
        for _ in range(3):
            await asyncio.sleep(random.choice([0.005, 0.02, 0.1, 1.0]))
            await world.crash(power_cut=random.random() < 0.5)
            engine = await world.boot()
        await engine.wait(batch.id)
        batch = await engine.get_batch(TENANT, batch.id)
        results = await results_of(world, batch)
        assert len(results) == 2_500
        answered = [result for result in results if result["response"] is not None]
        succeeded = [each for each in answered if each["response"]["status_code"] == 200]
        by_name = {f"r-{number}": text for number, text in enumerate(texts)}
        assert said(succeeded) == [by_name[each["custom_id"]] for each in succeeded]
        assert batch.closing.savings.requests > 1_900

    simulate(killed())


def test_what_was_found_of_earlier_batches_is_kept_no_longer_than_it_is_copied() -> None:
    async def sending() -> None:
        world = World(1)
        engine = await world.boot()
        await done(world, ["a"])
        batch = await world.create_batch(chat_lines_saying(["a", "b"]), options=DAY)
        while not world.network.in_flight:
            await asyncio.sleep(0.01)
        supervisor = engine.supervisor(batch.id)
        assert supervisor is not None
        assert supervisor.current is not None
        assert supervisor.current._copier is not None
        assert supervisor.current._copier._cache is None

    simulate(sending())


def test_a_stop_while_answers_are_copied_leaves_the_rest_to_the_next_start() -> None:
    async def stopped() -> None:
        world = World(3)
        engine = await world.boot()
        texts = [f"text {number}" for number in range(8_000)]
        await done(world, texts)
        data = chat_lines_saying(texts)
        batch_id = (await world.create_batch(data, options=DAY)).id
        while (await world.get_batch(batch_id)).counts.completed == 0:
            await asyncio.sleep(0.001)
        await engine.stop()
        engine = await world.boot()
        assert (await world.get_batch(batch_id)).counts.completed < 8_000
        await engine.wait(batch_id)
        batch = await world.get_batch(batch_id)
        assert (batch.counts.completed, len(world.network.ledger)) == (8_000, 8_000)

    simulate(stopped())
